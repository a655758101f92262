# SPDX-License-Identifier: GPL-2.0-or-later
"""What each node's data is bound to hold, kept without a look at the product's own generations.

For every node a ledger: which writes may stand on its disk, which must (acknowledged and promised there), which it lost
by right (power), and whether its data is worth anything at all. The product's states are only believed where they are a
claim that can be held against the ledgers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk, Role
from tests.sim.ledger import DISCARDING, Ledger, Mark, sorted_marks

if TYPE_CHECKING:
    from tests.sim.node import Node, Sim

SECTOR = 512
TARGET = frozenset({
    Conn.STARTING_SYNC_T, Conn.WF_BITMAP_T, Conn.WF_SYNC_UUID, Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T,
})  # fmt: skip
MIRROR = {Conn.WF_BITMAP_S: Conn.WF_BITMAP_T, Conn.WF_BITMAP_T: Conn.WF_BITMAP_S}


class Broken(AssertionError):
    """A promise is broken."""


class Oracle:
    """Watches both nodes."""

    def __init__(self, sim: Sim, protocol: str) -> None:
        self.sim = sim
        self.protocol = protocol
        self.clock = 0
        self.numbers = 0
        self.ledgers: dict[str, Ledger] = {}
        self.pending: dict[int, tuple[Request, Any, Node, int, Any]] = {}
        self.rules: set[str] = set()
        self.sectors: set[int] = set()
        self.forcing: set[str] = set()
        self.gives_up: set[str] = set()
        """Nodes whose operator ordered their data away."""
        self.decisions: dict[str, tuple[Any, Any]] = {}
        self.last_role: dict[str, Role] = {}
        self.last_decision: dict[str, Any] = {}

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def ledger(self, node: Node) -> Ledger:
        return self.ledgers[node.name]

    def fail(self, invariant: int, text: str) -> None:
        raise Broken(f"invariant {invariant}: {text}")

    # --- what stands on a disk ---

    def fits(self, marks: list[Mark], found: int, floor: int) -> bool:
        """A write that was answered before a promised one was submitted is older than it."""
        return any(m.number == found and (m.acked is None or m.advice or m.acked > floor) for m in marks)

    def holds(self, node: Node, mark: Mark) -> bool:
        """Does the disk carry this write, or something that is not older?"""
        at = self.ledger(node).at
        sectors = range(mark.first, mark.first + mark.sectors)
        for sector, found in zip(sectors, node.platter.stamps(sectors), strict=True):
            if not self.fits(at.get(sector, []), found, mark.submitted):
                return False
        return True

    def marked(self, node: Node, mark: Mark) -> bool:
        """Is every block of it marked as different, on one of the nodes?"""
        bitmaps = [n.resource.meta.bitmap for n in (node, node.peer) if n.on and n.resource.meta is not None]
        blocks = range(mark.first // 8, (mark.first + mark.sectors + 7) // 8)
        return all(any(bitmap.count_range(b, b + 1) for bitmap in bitmaps) for b in blocks)

    def check(self, node: Node, what: str) -> None:
        """The disk holds what it must, and nothing it may not."""
        ledger = self.ledger(node)
        if ledger.void:
            return
        self.compare(ledger, self.sectors, node.platter.stamps(self.sectors), f"{node.name}: {what}")

    def compare(self, ledger: Ledger, sectors: Any, stamps: list[int], what: str, before: int | None = None) -> None:
        for sector, found in zip(sectors, stamps, strict=True):
            marks = ledger.at.get(sector, [])
            floor = max((m.submitted for m in marks if m in ledger.acked and not m.advice
                         and (before is None or (m.acked or 0) < before)), default=0)  # fmt: skip
            if not floor and not found:
                continue
            if not self.fits(marks, found, floor):
                known = any(m.number == found for m in marks)
                text = "an outdated write" if known else "a write that does not belong there"
                self.fail(1 if known else 6, f"{what}: sector {sector} carries {text}, {found}; ledger {marks}")

    # --- the application ---

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
            return
        if isinstance(what, Mark):
            self._acked(node, what, request.fua, before)
        elif request.op == Op.FLUSH:
            self._flushed(node, what, before)
        elif request.op == Op.READ:
            self._read(node, request, what, before)

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
        if state.conn < Conn.CONNECTED or state.pdsk != Disk.UP_TO_DATE:
            if not local and theirs.lost_power < mark.submitted and not theirs.void and self.holds(peer, mark):
                theirs.acked.add(mark)
            return
        held = self.holds(peer, mark)
        ordered_away = before.disk == Disk.UP_TO_DATE and node.name in self.gives_up
        if not local and ordered_away and self.protocol != "C":
            local = True  # promised for this disk, which the operator gave up while the write was under way
        if self.protocol == "C" or not local:
            excused = theirs.lost_power > mark.submitted or theirs.void or (
                peer.on and (peer.state.disk != Disk.UP_TO_DATE or peer.state.conn in TARGET))
            if held and not theirs.void:
                theirs.acked.add(mark)
            elif not excused:
                self.fail(1, f"{node.name} acknowledged {mark} under {self.protocol}, but {peer.name} does not hold it")
            return
        mark.weak = True
        if theirs.void:
            return
        if held:
            theirs.acked.add(mark)
        elif self.protocol == "B":
            theirs.received[mark] = peer.life

    def _flushed(self, node: Node, seq: int, before: Any) -> None:
        state = node.state
        both = [s.conn >= Conn.CONNECTED and s.pdsk == Disk.UP_TO_DATE for s in (state, before)]
        diskless = state.disk < Disk.INCONSISTENT and before.disk < Disk.INCONSISTENT
        for name, there in ((node.name, state.disk == before.disk == Disk.UP_TO_DATE),
                            (node.peer.name, all(both) and (self.protocol == "C" or diskless))):  # fmt: skip
            if there:
                for mark in self.ledgers[name].acked:
                    if mark.acked is not None and mark.acked < seq and name not in mark.unsure:
                        mark.durable.add(name)

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
        elif all(s.disk < Disk.INCONSISTENT and s.pdsk == Disk.UP_TO_DATE for s in states):
            self.compare(self.ledger(node.peer), sectors, stamps, f"{node.name}: a read of the peer's disk", seq)

    def flush_failed(self, node: Node) -> None:
        ledger = self.ledger(node)
        for mark in {m for marks in ledger.at.values() for m in marks}:
            if node.name not in mark.durable:
                mark.unsure.add(node.name)
        state = node.state
        # a crashed Primary's disk that fails before the peer was met again lost what a power loss would have taken:
        # by DRBD's table (rule 40) it is the source all the same, and nobody there knows what the peer has
        crashed = self.last_role.get(node.name) == Role.PRIMARY and state.role != Role.PRIMARY
        ledger.alone_at_failure = (state.role == Role.PRIMARY or crashed) and state.conn < Conn.CONNECTED

    def cache_dropped(self, node: Node) -> None:
        """The disk is opened again after a failed flush: only now it shows what the medium holds."""
        ledger = self.ledger(node)
        gone = {m for m in ledger.acked if node.name in m.unsure and node.name not in m.durable}
        ledger.acked -= gone
        (ledger.forgiven if ledger.alone_at_failure else ledger.dropped).update(gone)
        self.check(node, "after its cache was dropped")

    # --- life and death ---

    def dies(self, node: Node, power: bool, was_on: bool) -> None:
        if was_on:
            self.last_role[node.name] = node.state.role
        self.pending = {k: v for k, v in self.pending.items() if v[2] is not node}
        self.forcing.discard(node.name)
        self.decisions.pop(node.name, None)

    def died(self, node: Node, power: bool, was_on: bool) -> None:
        ledger = self.ledger(node)
        ledger.received.clear()
        if power:
            ledger.lost_power = self.tick()
            gone = {m for m in ledger.acked if node.name not in m.durable}
            ledger.acked -= gone
            peer = node.peer
            if (peer.state.role if peer.on else self.last_role.get(peer.name)) == Role.PRIMARY:
                ledger.dropped |= gone
            else:
                ledger.forgiven |= gone
        self.check(node, "after it died")

    # --- claims ---

    def state_changed(self, node: Node, old: Any, new: Any) -> None:
        if old == new:
            return
        if old.role != Role.PRIMARY and new.role == Role.PRIMARY:
            self._promoted(node, new)
        ledger = self.ledger(node)
        if new.disk == Disk.FAILED and node.platter.failing:
            ledger.disk_failed = True
            ledger.metadata_failed |= "meta" in node.platter.failing
        if old.disk == Disk.UP_TO_DATE and new.disk == Disk.INCONSISTENT and new.conn >= Conn.CONNECTED and (
            new.conn not in TARGET and node.platter.failing and node.settings.on_io_error == "pass_on"
        ):
            # the peer's copy is the only good one now; what was answered before and is not for good on the peer's disk
            # was promised together with this disk only (docs/promises.md: the next flush fails)
            ledger.disk_failed = True
        if new.conn == Conn.WF_REPORT_PARAMS != old.conn:
            self.last_decision[node.name] = node.resource.sync.decision  # of an older connection, maybe a refused one
        if new.disk == Disk.INCONSISTENT and not ledger.void:
            self._made_inconsistent(node, new)
        if new.disk == Disk.UP_TO_DATE and old.disk != Disk.UP_TO_DATE:
            self._up_to_date(node, old, new)
        if new.conn >= Conn.CONNECTED > old.conn:
            self._met(node)
        if new.conn == Conn.CONNECTED and new.disk == new.pdsk == Disk.UP_TO_DATE and (
            old.conn < Conn.CONNECTED or old.disk == Disk.NEGOTIATING
        ):
            self._agreed(node)
        if new.conn == Conn.CONNECTED and new.disk == new.pdsk == Disk.UP_TO_DATE:
            self.last_role.pop(node.name, None)
        if new.conn == Conn.CONNECTED and new.disk == Disk.UP_TO_DATE:
            self.gives_up.discard(node.name)

    def _promoted(self, node: Node, new: Any) -> None:
        mine, theirs = self.ledger(node), self.ledger(node.peer)
        if new.disk != Disk.UP_TO_DATE and new.pdsk != Disk.UP_TO_DATE:
            self.fail(3, f"{node.name} was promoted without UpToDate data")
        if new.conn < Conn.CONNECTED:
            mine.promoted = self.tick()
            mine.forgiven |= mine.dropped
            mine.dropped = set()
            theirs.forgiven -= mine.acked
        if node.name in self.forcing:
            mine.forgiven |= theirs.acked - mine.acked
            mine.promoted = self.tick()

    def promotion_done(self, node: Node) -> None:
        """The answer to `primary` says yes: protocols A and B speak about the survivor now."""
        mine = self.ledger(node)
        if mine.void or node.state.conn >= Conn.CONNECTED or node.state.disk != Disk.UP_TO_DATE:
            return
        for mark, life in mine.received.items():
            if life == node.life:
                if not self.holds(node, mark):
                    self.fail(1, f"protocol B: {node.name} acknowledged to have {mark}, and was promoted without it")
                mine.acked.add(mark)
        mine.received.clear()
        if self.protocol == "A":
            self._prefix(node, mine)

    def _prefix(self, node: Node, ledger: Ledger) -> None:
        newest = 0
        for sector, marks in ledger.at.items():
            found = node.platter.stamps((sector,))[0]
            newest = max([newest, *(m.submitted for m in marks if found and m.number == found and m.weak)])
        every = {m for marks in ledger.at.values() for m in marks}
        for mark in every:
            if mark.weak and mark.acked is not None and ledger.synced_since < mark.acked < newest:
                if mark.acked > ledger.lost_power and mark not in ledger.dropped and not self.holds(node, mark):
                    self.fail(1, f"protocol A: {node.name} was promoted without {mark}, but with later ones")

    def _lost_by(self, target: Node) -> set[Mark]:
        """Acknowledged on the target, unknown to the source, and not lost by right."""
        mine, theirs = self.ledger(target), self.ledger(target.peer)
        lost = mine.acked - theirs.acked - theirs.forgiven
        lost = {m for m in lost if not (m.weak and theirs.promoted > (m.acked or 0))}
        if mine.disk_failed:
            lost -= theirs.dropped  # this disk failed and that node lost power: two losses
        if mine.metadata_failed and theirs.disk_failed:
            # one disk failed, and the other one's metadata before the generation that would tell so was durable: two
            # disks are lost. Which one has more stands on neither of them
            lost = {m for m in lost if m.node == target.name}
        return {m for m in lost if theirs.void or not self.holds(target.peer, m)}

    def _made_inconsistent(self, node: Node, new: Any) -> None:
        ledger = self.ledger(node)
        if new.conn in TARGET - {Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T}:
            return  # nothing was copied yet: a disk that dies before it is told so comes back whole
        if new.conn in TARGET:
            if self.ledger(node.peer).void:
                self.fail(7, f"{node.name} becomes the target of an Inconsistent node")
            lost = self._lost_by(node)
            if lost and node.name not in self.gives_up and not self._policy_gave_up(node):
                self.fail(6, f"{node.name} becomes the target, and nobody ordered to discard {sorted_marks(lost)}")
        else:
            return  # on-io-error pass_on, or an invalidate that is not answered yet: the data is what it was
        ledger.void = True
        ledger.acked = set()
        ledger.received.clear()
        ledger.synced_since = self.tick()

    def invalidated(self, node: Node) -> None:
        """`invalidate` was answered with yes, alone: whatever happens, this data is never used again."""
        if node.state.conn == Conn.STANDALONE and node.state.disk == Disk.INCONSISTENT:
            ledger = self.ledger(node)
            ledger.void, ledger.acked = True, set()

    def _policy_gave_up(self, node: Node) -> bool:
        decision = node.resource.sync.decision
        s = node.settings
        asked = {s.after_sb_0pri, s.after_sb_1pri, s.after_sb_2pri}
        return decision is not None and decision.split_brain and bool(asked & DISCARDING)

    def _up_to_date(self, node: Node, old: Any, new: Any) -> None:
        ledger = self.ledger(node)
        if not ledger.void:
            self.check(node, "it calls itself UpToDate")
            return
        peer = self.ledger(node.peer)
        if node.name in self.forcing:
            for name in self.ledgers:
                ledger.merge(self.ledgers[name])
            self._everything_may_be(ledger)
            ledger.void = False
            return
        if old.conn not in TARGET:
            self.fail(3, f"{node.name} calls itself UpToDate in {new.conn.label}, but its data is half of something")
        if peer.void:
            self.fail(7, f"{node.name} was synchronized from an Inconsistent node")
        ledger.adopt(peer)
        for _, what, sender, _, _ in self.pending.values():
            if isinstance(what, Mark) and sender is node.peer:
                ledger.may(what)
        self.check(node, "after the resync")
        for mark in peer.acked:
            if self.holds(node, mark):
                ledger.acked.add(mark)
                if mark.acked is not None and mark.acked < ledger.synced_since:
                    mark.durable.add(node.name)
                    mark.unsure.discard(node.name)
            elif not mark.weak and not self._after_the_link(node, mark):
                self.fail(4, f"{node.name} is UpToDate after a resync without {mark}")

    def _everything_may_be(self, ledger: Ledger) -> None:
        """Forced: the operator takes whatever stands there."""
        for mark in self.every:
            ledger.may(mark)

    @property
    def every(self) -> set[Mark]:
        return {m for ledger in self.ledgers.values() for marks in ledger.at.values() for m in marks}

    def _after_the_link(self, node: Node, mark: Mark) -> bool:
        """Acknowledged by a source that had given the connection up already."""
        return not node.peer.on or node.peer.state.conn < Conn.CONNECTED

    def _met(self, node: Node) -> None:
        """What was handed in before the connection stood goes to the peer too."""
        for _, what, sender, _, _ in self.pending.values():
            if isinstance(what, Mark) and sender is node:
                self.ledger(node.peer).may(what)
        decision = node.resource.sync.decision
        if decision is None or self.last_decision.get(node.name) is decision:
            return  # nothing was decided for this connection
        self.last_decision[node.name] = decision
        link = node.resource.links.link
        key = node.sim.network.key(node, link.data) if link is not None else None
        self.decisions[node.name] = (decision, key)
        other = self.decisions.get(node.peer.name)
        if other is not None and other[1] is key and key is not None:
            here, there = decision.conn, other[0].conn
            if MIRROR.get(here, here) != there:
                self.fail(6, f"verdicts are no mirror images: {node.name} {decision.rules}, peer {other[0].rules}")

    def _agreed(self, node: Node) -> None:
        """Connected without a resync: what the other one holds is here, or its blocks are marked."""
        peer = node.peer
        mine, theirs = self.ledger(node), self.ledger(peer)
        for mark in theirs.acked - mine.acked:
            if not self.holds(node, mark) and not self.marked(node, mark):
                if mark.acked is not None and peer.on and peer.state.conn >= Conn.WF_REPORT_PARAMS:
                    self.fail(6, f"{node.name} is Connected and UpToDate without {mark} of {peer.name}")

    # --- rest ---

    def quiet(self) -> None:
        """Connected, UpToDate, idle: both hold the same, byte for byte."""
        a, b = self.sim.nodes
        for node in (a, b):
            self.check(node, "at rest")
        self.differences()
        la, lb = self.ledger(a), self.ledger(b)
        la.merge(lb)
        lb.merge(la)
        la.acked = {m for m in la.acked | lb.acked if self.holds(a, m)}
        lb.acked = set(la.acked)
        for node in (a, b):
            ledger = self.ledger(node)
            ledger.forgiven, ledger.dropped = set(), set()
            ledger.synced_since = self.clock
            self.check(node, "at rest, after both ledgers were made one")

    def differences(self) -> None:
        """Every block that differs is marked."""
        a, b = self.sim.nodes
        if a.platter.content == b.platter.content:
            return
        for block in range(a.platter.size_bytes // 4096):
            where = slice(block * 4096, block * 4096 + 4096)
            if a.platter.content[where] != b.platter.content[where]:
                if not any(n.resource.meta.bitmap.count_range(block, block + 1) for n in (a, b)):
                    found = [n.platter.stamps(range(block * 8, block * 8 + 8)) for n in (a, b)]
                    self.fail(4, f"block {block} differs and nobody has it marked: {found}")
