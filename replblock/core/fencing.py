# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's handlers that follow from a change of state, fence-peer above all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.state.handlers import BLOCKING, handlers_for
from replblock.state.losses import Fenced, calls_fence_peer, fenced
from replblock.state.names import Conn, Disk
from replblock.state.packed import State

if TYPE_CHECKING:
    from replblock.core.resource import Resource

FencingDone = Callable[[bool], None]


class Fencing:
    """Runs handlers and takes over what fence-peer says."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._running: tuple[int, list[FencingDone]] | None = None
        """Since which handshake fence-peer runs, and who waits for it."""
        self.gave_up = False
        """I/O was frozen for a fencing that makes no sense: it goes on at the end of this wake-up."""

    def call_handlers(self, old: State, new: State) -> None:
        """All that this change calls; none of them is waited for."""
        s = self._r.settings
        found = self._r.sync.verify.found_bits
        for name in handlers_for(old, new, fencing=s.fencing, on_io_error=s.on_io_error, out_of_sync_bits=found):
            if name == "fence-peer":
                if calls_fence_peer(old, new, s.fencing):
                    self.fence_peer(lambda ok: None)
            elif name not in BLOCKING and name in s.handlers:
                self._r.host.run_handler(name, {}, lambda code: None)

    def guard(self, name: str, go: Callable[[], None]) -> None:
        """Run a before-resync handler first, if there is one; a bad exit code costs the connection."""
        r = self._r
        if name not in r.settings.handlers:
            go()
            return
        link = r.links.link

        def ended(code: int) -> None:
            if r.links.link is not link:
                return
            if code in BLOCKING[name]:
                go()
                return
            text = f"handler {name} ended with exit code {code}: no resync; once it succeeds, run: replctl connect"
            r.links.drop(Conn.DISCONNECTING, name, f"{text} {r.settings.resource}", "error")

        r.host.run_handler(name, {}, ended)

    # --- fence-peer ---

    def fence_peer(self, done: FencingDone) -> None:
        """Run fence-peer and take over what its exit code says; done(is the peer's disk known to be outdated?).

        Two that ask at the same time share one run of the handler.
        """
        r = self._r
        if r.state.conn >= Conn.WF_REPORT_PARAMS:
            done(False)  # the peer is here: the handshake decides
            return
        if r.state.disk < Disk.CONSISTENT:
            text = "not fencing the peer: the data here is not even Consistent"
            r.why("warning", "nothing-to-fence-for", text)
            self.gave_up = r.state.susp_fen
            done(False)
            return
        if "fence-peer" not in r.settings.handlers:
            text = "fencing is configured, but no handler fence-peer: the peer stays unfenced" + self._way_out()
            r.why("error", "no-fence-peer-handler", text)
            done(False)
            return
        now = r.handshake.exchanges
        if self._running is not None and self._running[0] == now:
            self._running[1].append(done)
            return
        self._running = (now, [done])
        r.host.run_handler("fence-peer", {}, self._ended_of(self._running))

    def _ended_of(self, run: tuple[int, list[FencingDone]]) -> Callable[[int], None]:
        def ended(code: int) -> None:
            if self._running is run:
                self._running = None
            begun, waiting = run
            self._take_over(code, begun)
            known = self._r.state.pdsk <= Disk.OUTDATED
            for done in waiting:
                done(known)

        return ended

    def _take_over(self, code: int, begun: int) -> None:
        r = self._r
        if r.handshake.exchanges != begun or r.state.conn >= Conn.WF_REPORT_PARAMS:
            text = f"fence-peer exit {code}: ignored, the peer has been connected meanwhile"
            r.host.log("info", "fence-peer-too-late", text)
            return
        meaning = fenced(code, r.state.disk)
        wanted: dict[str, Any] = {}
        if meaning.pdsk is not None:
            wanted["pdsk"] = meaning.pdsk
            wanted["susp_fen"] = False
        if meaning.disk is not None:
            wanted["disk"] = meaning.disk
        refusal = r.change(meaning.name, **wanted) if wanted else None
        text = f"fence-peer exit {code}: {meaning.explain}"
        if refusal is not None:
            text += f" Not done: {refusal.code.text} [{refusal.rule}]"
        r.why("notice" if meaning.success else "error", meaning.name, text + self._advice(meaning))

    def _advice(self, meaning: Fenced) -> str:
        return "" if meaning.success else self._way_out()

    def _way_out(self) -> str:
        """What the operator may do about a peer that is not fenced."""
        name = self._r.settings.resource
        if self._r.state.susp_fen:
            return f"; I/O is frozen until the peer is back; if you know that it is down: replctl resume-io {name}"
        return f"; see: replctl status {name}"
