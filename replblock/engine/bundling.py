# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundle of a resource with several volumes, running: a loop of its own in the process of the first volume."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from replblock.core.bundle import Bundle
from replblock.core.settings import Settings
from replblock.engine.client import call
from replblock.engine.inside import BundleSide, Ends
from replblock.engine.loop import Loop
from replblock.engine.network import Addresses, Network
from replblock.engine.securing import Securing
from replblock.engine.tls import Tls

LOOK_MS = 200
"""How often it looks whether the engines of all volumes wait for the peer."""
STAND_ALONE_S = 20.0
ROUNDS = 16
"""Of telling both sides of room before the next wake-up."""


class Bundling:
    """Started and stopped with the engine that it lives beside."""

    def __init__(
        self, settings: Settings, addresses: Addresses, paths: Mapping[int, Path],
        log: Callable[[str, str, str], None], fatal: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self.loop = Loop(addresses, log, lambda name, env, done: done(0), lambda old, new: None, fatal)
        self._inner = self.loop.another_network(Network, Addresses(socket.AF_UNIX))
        self._side = BundleSide(dict(paths), self._inner)
        self.bundle = Bundle(settings, self.loop, sorted(paths), self._side)
        self._inner.core = Ends(self.bundle)
        self._paths = dict(paths)
        self.bundle.when_refused = self._refused

    def start(self) -> None:
        """Look for the peer whenever all engines wait for it."""
        self.loop.start(_Shell(self.bundle, self._inner, lambda: self.loop.post(_nothing)))
        self.loop.post(self.loop.timer_call, "volumes", 0, self._look)

    def stop(self) -> None:
        """From another thread."""
        self.loop.stop()

    def secure(self, tls: Tls | None) -> None:
        """Encrypt the link to the peer from now on, or do not."""
        network = self.loop.network
        network.secure_with(Securing(tls, self.loop.post, self.loop.log, network.notes) if tls is not None else None)

    def adjust(self, settings: Settings, addresses: Addresses) -> None:
        """For the next connection."""
        self.bundle.settings = self.bundle.links.rendezvous.settings = settings
        self.loop.network.set_addresses(addresses)

    def _refused(self, why: str) -> None:
        """Every engine stands alone, until its operator has read why and says `connect`."""
        self.loop.network.notes["connection-refused"] = why
        threading.Thread(target=self._stand_alone, name="replblock-refused", daemon=True).start()

    def _stand_alone(self) -> None:
        for path in self._paths.values():
            try:
                call(path.parent, path.stem, "disconnect", {"force": True}, STAND_ALONE_S)
            except OSError as error:
                self.loop.log("warning", "volume-not-told", f"{path.stem}: {error}")
        self.loop.post(self.bundle.leave, "told-to-stand-alone", "")  # whoever waits from now on was told to

    def _look(self) -> None:
        self.loop.timer_call("volumes", LOOK_MS)
        if self._side.all_wait:
            if not self.bundle.refused:
                self.loop.network.notes.pop("connection-refused", None)
            self.bundle.seek()
        elif self.bundle.links.link is None:
            self.bundle.leave("volumes-not-there", "not every volume waits for its peer")


def _nothing() -> None:
    """Another wake-up is all that is wanted."""


class _Shell:
    """The bundle as the loop's core: at the end of a wake-up what is meant for the engines leaves, too."""

    def __init__(self, bundle: Bundle, inner: Network, again: Callable[[], None]) -> None:
        self._inner = inner
        self._again = again
        for name in ("on_dialed", "on_accepted", "on_bytes", "on_filled", "room", "on_closed", "on_sent", "on_timer"):
            setattr(self, name, getattr(bundle, name))

    def end_wakeup(self) -> None:
        for _ in range(ROUNDS):
            if not self._inner.flush():
                return
        self._again()

    def submit(self, requests: list[Any]) -> None:
        raise AssertionError("nobody has a device here")
