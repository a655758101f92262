# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's handlers that follow from a change of state, fence-peer above all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.state.handlers import BLOCKING, handlers_for
from replblock.state.losses import calls_fence_peer, fenced
from replblock.state.names import Conn
from replblock.state.packed import State

if TYPE_CHECKING:
    from replblock.core.resource import Resource


class Fencing:
    """Runs handlers and takes over what fence-peer says."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource

    def call_handlers(self, old: State, new: State) -> None:
        s = self._r.settings
        for name in handlers_for(old, new, fencing=s.fencing, on_io_error=s.on_io_error):
            if name == "fence-peer":
                if calls_fence_peer(old, new, s.fencing):
                    self.fence_peer(lambda ok: None)
            elif name not in BLOCKING and name in s.handlers:
                self._r.host.run_handler(name, {}, lambda code: None)

    def fence_peer(self, done: Callable[[bool], None]) -> None:
        """Run fence-peer and take over what its exit code says."""
        if "fence-peer" not in self._r.settings.handlers:
            text = "fencing is configured, but no fence-peer handler: the peer stays unfenced"
            self._r.why("warning", "no-fence-peer-handler", text)
            done(False)
            return

        def ended(code: int) -> None:
            meaning = fenced(code, self._r.state.disk)
            level = "notice" if meaning.success else "error"
            self._r.why(level, meaning.name, f"fence-peer exit {code}: {meaning.explain}")
            wanted: dict[str, Any] = {}
            if meaning.pdsk is not None and self._r.state.conn < Conn.CONNECTED:
                wanted["pdsk"] = meaning.pdsk
            if meaning.disk is not None:
                wanted["disk"] = meaning.disk
            if meaning.success and self._r.state.susp_fen:
                wanted["susp_fen"] = False
            if wanted:
                self._r.change(meaning.name, forced=True, **wanted)
            done(meaning.success)

        self._r.host.run_handler("fence-peer", {}, ended)
