# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundle of a resource with several volumes, running: a loop of its own in the process of the first volume."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from replblock.core.bundle import Bundle
from replblock.core.settings import Settings
from replblock.engine.inside import BundleSide, Ends
from replblock.engine.loop import Loop
from replblock.engine.network import Addresses, Network
from replblock.engine.securing import Securing
from replblock.engine.tls import Tls

LOOK_MS = 200
"""How often it looks whether the engines of all volumes wait for the peer."""
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

    def start(self) -> None:
        """Look for the peer whenever all engines wait for it."""
        self.loop.start(_Shell(self.bundle, self._inner))
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

    def _look(self) -> None:
        self.loop.timer_call("volumes", LOOK_MS)
        if self._side.all_wait:
            self.bundle.seek()
        elif self.bundle.links.link is None:
            self.bundle.leave("volumes-not-there", "not every volume waits for its peer")


class _Shell:
    """The bundle as the loop's core: at the end of a wake-up what is meant for the engines leaves, too."""

    def __init__(self, bundle: Bundle, inner: Network) -> None:
        self._inner = inner
        for name in ("on_dialed", "on_accepted", "on_bytes", "on_closed", "on_sent", "on_timer"):
            setattr(self, name, getattr(bundle, name))

    def end_wakeup(self) -> None:
        for _ in range(ROUNDS):
            if not self._inner.flush():
                break

    def submit(self, requests: list[Any]) -> None:
        raise AssertionError("nobody has a device here")
