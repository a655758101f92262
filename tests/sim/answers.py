# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers to the application: each one is a promise, and is held against the disks when it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk, Role
from tests.sim.ledger import Ledger, Mark
from tests.sim.watch import SECTOR, Watch

if TYPE_CHECKING:
    from tests.sim.node import Node


TARGET = frozenset({
    Conn.STARTING_SYNC_T, Conn.WF_BITMAP_T, Conn.WF_SYNC_UUID, Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T,
})  # fmt: skip


class Answers(Watch):
    """Requests, from the moment they are handed in until they are answered."""

    def submitted(self, node: Node, request: Request) -> Any:
        """A request is about to be handed in; returns what it is remembered as."""
        seq = self.tick()
        what: Any = seq
        if request.op in (Op.WRITE, Op.ZERO, Op.TRIM):
            number = int.from_bytes(request.data[:8], "big") if request.op == Op.WRITE else 0
            what = Mark(node.name, number, request.offset_bytes // SECTOR, request.length_bytes // SECTOR, seq)
            what.advice = request.op == Op.TRIM
            self.sectors.update(range(what.first, what.first + what.sectors))
            self.ledger(node).may(what)
            if node.state.conn >= Conn.WF_REPORT_PARAMS:
                self.ledger(node.peer).may(what)
        self.pending[id(request)] = (request, what, node, node.life, node.state)
        return what

    def answered(self, request: Request) -> None:
        entry = self.pending.pop(id(request), None)
        if entry is None:
            self.fail(1, f"{request.op.name} was answered twice")
            return
        _, what, node, _, before = entry
        if request.errno:
            if request.op == Op.FLUSH:
                self.ledger(node).refused_flushes.append((what, self.tick()))
            return
        self.ledger(node).answered = self.tick()
        if isinstance(what, Mark):
            self._acked(node, what, request.fua, before)
        elif request.op == Op.FLUSH:
            self.ledger(node).flushes.append((what, self.clock))
            self._flushed(node, what, before)
        elif request.op == Op.READ:
            self._read(node, request, what, before)

    def write_refused(self, node: Node, offset: int, length: int) -> None:
        """A write to this node's disk fails."""
        for sector in range(offset >> 9, (offset + length) >> 9):
            for mark in self.ledger(node).at.get(sector, ()):
                self.ledger(node).received.pop(mark, None)  # and says so; by force it is taken without
                if mark.acked is None:
                    mark.refused.add(node.name)

    def _acked(self, node: Node, mark: Mark, fua: bool, before: Any) -> None:
        mark.acked = self.tick()
        if mark.advice:
            return
        state, peer = node.state, node.peer
        mine, theirs = self.ledger(node), self.ledger(peer)
        local = state.disk == Disk.UP_TO_DATE
        if local:
            if not self.holds(node, mark):
                self.fail(1, f"{node.name} acknowledged {mark}, but its own disk does not hold it")
            mine.acked.add(mark)
            if fua and node.name not in mark.unsure:
                mark.durable.add(node.name)
        elif state.disk == Disk.FAILED < before.disk and node.resource.meta is not None and self.holds(node, mark):
            mine.acked.add(mark)  # held back until a detach may begin: until that ends, this disk counts as before
        elif self.holds(node, mark):
            mine.stood.add(mark)
        if state.conn < Conn.CONNECTED or state.pdsk != Disk.UP_TO_DATE:
            if theirs.lost_power > mark.submitted and not theirs.void:
                self._lost_there(theirs, mark)  # as it saw it, its resync had ended
            elif not local and not theirs.void:
                if self.holds(peer, mark):
                    theirs.acked.add(mark)
                elif mark not in mine.acked and peer.name not in mark.unsure:
                    self.fail(1, f"{node.name} acknowledged {mark} with no good disk, and {peer.name} lacks it")
            return
        held = self.holds(peer, mark)
        # which this node does not know yet: what comes there now counts for nothing, or is refused without a try
        gave_up = peer.on and (peer.state.disk != Disk.UP_TO_DATE or peer.state.conn in TARGET)
        if self.protocol == "C" or not local:
            # a disk that failed a flush since has lost what a power loss takes; the next flush must fail
            flush_failed = peer.name in mark.unsure
            if flush_failed and not local:
                mine.untold.add(mark)
            excused = theirs.lost_power > mark.submitted or theirs.void or flush_failed
            # refused there (maybe by a disk that was being detached, which never saw it), it is marked and acknowledged
            # with the copy here, whatever became of the peer since
            excused = excused or (local and (peer.name in mark.refused or self.marked(node, mark))) or gave_up
            if held and not theirs.void:
                theirs.acked.add(mark)
            elif theirs.lost_power > mark.submitted:
                self._lost_there(theirs, mark)
            elif not excused:
                self.fail(1, f"{node.name} acknowledged {mark} under {self.protocol}, but {peer.name} does not hold it")
            return
        mark.weak, mark.link = True, mine.met
        if theirs.void:
            return
        if held and self.shows(peer, mark):
            theirs.acked.add(mark)
        elif self.protocol == "B" and peer.name not in mark.refused and not gave_up:
            theirs.received[mark] = self.met_life[node.name]  # its ack may come after that one's death

    def _lost_there(self, theirs: Ledger, mark: Mark) -> None:
        """The peer's ack was on its way: lost with its power like those that had been read before."""
        (theirs.forgiven if theirs.promoted > theirs.lost_power else theirs.dropped).add(mark)

    def _flushed(self, node: Node, seq: int, before: Any) -> None:
        state, mine = node.state, self.ledger(node)
        for mark in mine.untold:
            # a flush that was handed in before the refusal of another must be refused as well
            told = max((handed_in for handed_in, answered in mine.refused_flushes if answered < seq), default=-1)
            here = state.disk == Disk.UP_TO_DATE and self.holds(node, mark)  # that disk is back
            if told < (mark.acked or 0) < seq and not here and not self.holds(node.peer, mark):
                self.fail(2, f"{node.name} answered a flush after it had lost {mark} with its disk and the connection")
        self._durable(node, seq, before, self.protocol == "C")

    def _durable(self, node: Node, seq: int, before: Any, everywhere: bool) -> None:
        state = node.state
        both = [s.conn >= Conn.CONNECTED and s.pdsk == Disk.UP_TO_DATE for s in (state, before)]
        diskless = state.disk < Disk.INCONSISTENT and before.disk < Disk.INCONSISTENT
        for name, there in ((node.name, state.disk == before.disk == Disk.UP_TO_DATE),
                            (node.peer.name, all(both) and (everywhere or diskless))):  # fmt: skip
            if there:
                self._for_good(name, seq, node.name)

    def _for_good(self, name: str, seq: int, whose: str) -> None:
        """All on its own disk; on the peer's, what was written from here.

        What that one's own application wrote is for its own flush: this node, which may not even know that it was left,
        sends no barrier where it has written nothing.
        """
        for mark in self.ledgers[name].acked:
            if mark.acked is not None and mark.acked < seq and name not in mark.unsure and whose in (name, mark.node):
                mark.durable.add(name)

    def left(self, node: Node, verb: str, before: Any, warned: bool) -> None:
        """A demotion, `detach` or `down` is answered with yes: data comes before metadata, and before this answer."""
        mine, now = self.ledger(node), self.tick()
        mine.answered = now  # who gave the order may end the engine
        if warned:
            return
        if verb == "secondary" and before.role == Role.PRIMARY:
            self._durable(node, now, before, True)
        elif verb == "down" and before.disk == Disk.UP_TO_DATE and not mine.disk_failed:
            self._for_good(node.name, now, node.name)

    def stands(self, node: Node) -> None:
        """A promotion is answered with yes: what the new Primary builds on is durable."""
        promoting = self.ledger(node).promoting
        if promoting is None:
            return
        own, disk = promoting
        keeper, state = (node, node.state.disk) if own else (node.peer, node.state.pdsk)
        if disk is not None and disk is keeper.port and state == Disk.UP_TO_DATE:
            self._for_good(keeper.name, self.clock, node.name)

    def _read(self, node: Node, request: Request, seq: int, before: Any) -> None:
        states = (before, node.state)
        first = request.offset_bytes // SECTOR
        sectors = range(first, first + request.length_bytes // SECTOR)
        data = bytes(request.data)
        if len(data) != request.length_bytes:
            self.fail(1, f"a read of {request.length_bytes} bytes got {len(data)}")
        stamps = [int.from_bytes(data[n * SECTOR : n * SECTOR + 8], "big") for n in range(len(sectors))]
        if all(s.disk == Disk.UP_TO_DATE for s in states):
            self.compare(self.ledger(node), sectors, stamps, f"{node.name}: a read", seq)
        elif all(s.disk <= Disk.INCONSISTENT and s.conn not in TARGET and s.pdsk == Disk.UP_TO_DATE for s in states):
            self.compare(self._served(node.peer), sectors, stamps, f"{node.name}: a read of the peer's disk", seq)

    def _served(self, node: Node) -> Ledger:
        """What its peer, which works on this disk, must read: under B also what only the process here has yet."""
        ledger = self.ledger(node)
        served = Ledger()
        served.at = ledger.at
        served.acked = ledger.acked | {mark for mark, life in ledger.received.items() if life == node.life}
        return served
