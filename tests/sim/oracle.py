# SPDX-License-Identifier: GPL-2.0-or-later
"""What each node's data is bound to hold, kept without a look at the product's own generations.

For every node a ledger: which writes may stand on its disk, which must (acknowledged and promised there), which it lost
by right (power), and whether its data is worth anything at all. The product's states are only believed where they are a
claim that can be held against the ledgers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.state.names import Conn, Disk, Role
from tests.sim.answers import TARGET
from tests.sim.deaths import Deaths
from tests.sim.ledger import DISCARDING, Ledger, Mark, sorted_marks

if TYPE_CHECKING:
    from tests.sim.node import Node

RESYNC = frozenset({Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T})
MIRROR = {Conn.WF_BITMAP_S: Conn.WF_BITMAP_T, Conn.WF_BITMAP_T: Conn.WF_BITMAP_S}


class Oracle(Deaths):
    """Watches both nodes."""

    def state_changed(self, node: Node, old: Any, new: Any) -> None:
        if old == new:
            return
        ledger = self.ledger(node)
        self.seen[node.name] = new
        if old.role != new.role:
            ledger.judged_from = ledger.promoting = None
        if old.role != Role.PRIMARY and new.role == Role.PRIMARY:
            self._promoted(node, new)
        if new.pdsk == Disk.UP_TO_DATE != old.pdsk:
            ledger.peer_good = self.tick()
            if new.conn >= Conn.CONNECTED and new.disk == Disk.UP_TO_DATE:
                self._also_there(node)
        self._disk_fails(node, old, new)
        if new.conn in TARGET and new.disk == Disk.UP_TO_DATE:
            self.fail(3, f"{node.name} calls itself UpToDate in {new.conn.label}: the peer's data is newer")
        if new.conn == Conn.WF_REPORT_PARAMS != old.conn:
            self.last_decision[node.name] = node.resource.sync.decision  # of an older connection, maybe a refused one
        if new.disk == Disk.INCONSISTENT and not ledger.void:
            self._made_inconsistent(node, old, new)
        elif new.conn in RESYNC and old.conn not in RESYNC:
            self._resync_begins(node)  # its data was worth nothing before, by order or as half of an earlier resync
        if new.disk == Disk.UP_TO_DATE and old.disk != Disk.UP_TO_DATE:
            self._up_to_date(node, old, new)
        if new.conn >= Conn.CONNECTED > old.conn:
            self.met_life[node.name] = node.peer.life
            self._met(node)
        if new.conn == Conn.CONNECTED and new.disk == new.pdsk == Disk.UP_TO_DATE and (
            old.conn < Conn.CONNECTED or old.disk == Disk.NEGOTIATING
        ):
            self._agreed(node)
        if new.conn == Conn.CONNECTED and new.disk == new.pdsk == Disk.UP_TO_DATE:
            self.last_role.pop(node.name, None)
        if new.conn == Conn.CONNECTED and new.disk == Disk.UP_TO_DATE and (old.conn, old.disk) != (new.conn, new.disk):
            self.gives_up.discard(node.name)  # else the order is still on its way

    def _also_there(self, node: Node) -> None:
        """It was answered while the peer's copy was not known to be a good one; from now on it counts."""
        peer, theirs = node.peer, self.ledger(node.peer)
        for mark in self.ledger(node).acked - theirs.acked if not theirs.void else ():
            if self.holds(peer, mark):
                theirs.acked.add(mark)
            elif theirs.lost_power > mark.submitted:
                theirs.dropped.add(mark)

    def _promoted(self, node: Node, new: Any) -> None:
        mine = self.ledger(node)
        own = new.disk == Disk.UP_TO_DATE
        mine.promoting = own, (node if own else node.peer).port
        if new.disk != Disk.UP_TO_DATE and new.pdsk != Disk.UP_TO_DATE:
            self.fail(3, f"{node.name} was promoted without UpToDate data")
        if self._alone(new):
            mine.judged_from = max(mine.promoted, mine.forced, mine.synced_since)
            mine.promoted = self.tick()
            mine.forgiven |= mine.dropped
            mine.dropped = set()
        if node.name in self.forcing:
            self._gone_by_force(node)

    def promotion_done(self, node: Node) -> None:
        """The answer to `primary` says yes: protocols A and B speak about the survivor now.

        Not if it was Primary all the time: then nobody has taken over. Where it has lost its disk since, B's writes may
        still be on their way to the peer's, whose process has them; a read waits for them (`_served`).
        """
        if self.ledger(node).promoting is not None:
            self._survives(node)
            self.stands(node)
        self.ledger(node).promoting = None

    def said(self, node: Node, rule: str) -> None:
        """What the product logs."""
        self.rules.add(rule)
        if rule == "diskless-peer-promoted":
            self.ledger(node).agreed = self.tick()
            self.never_answered(node.peer)

    def _survives(self, node: Node) -> None:
        mine = self.ledger(node)
        since, mine.judged_from = mine.judged_from, None
        keeper = node
        if node.state.disk < Disk.INCONSISTENT and node.state.conn >= Conn.CONNECTED:
            keeper = node.peer
            mine = self.ledger(keeper)
            self._on_the_peers_copy(node, self.tick())
        elif mine.void or not self._alone(node.state) or node.state.disk != Disk.UP_TO_DATE:
            return
        # not before: of a promotion that a crash or a failed disk ended in between nothing need be durable, and nobody
        # was told; then the other node is the source by rule 40 as if it had not been tried
        self.ledger(keeper.peer).forgiven -= mine.acked
        for mark, life in mine.received.items():
            if life == keeper.life:
                if not self.holds(keeper, mark):
                    self.fail(1, f"protocol B: {keeper.name} acknowledged to have {mark}, and serves without it")
                mine.acked.add(mark)
        mine.received.clear()
        if self.protocol == "A" and keeper is node and since is not None:
            self._prefix(node, mine, since)

    def _prefix(self, node: Node, ledger: Ledger, since: int) -> None:
        """Of what the peer acknowledged since the two last were one (resync), or parted (an earlier promotion).

        What was missing then is settled: whoever builds on this disk goes on without it.
        """
        peer = node.peer.name
        newest = 0
        for sector, marks in ledger.at.items():
            found = node.platter.stamps((sector,))[0]
            theirs = [m for m in marks if found and m.number == found and m.weak and m.node == peer]
            newest = max([newest, *(m.submitted for m in theirs)])
        lost = ledger.dropped | ledger.forgiven
        # of what was under way when its engine died or its disk failed, only the order of flushes holds; a kernel peer
        # ends an epoch before every write that follows a completed one
        ordered = node.settings.offer_ordered and node.peer.settings.offer_ordered
        ended = max(ledger.died, ledger.lost_cache) if ordered else -1
        for mark in {m for marks in ledger.at.values() for m in marks}:
            if mark.weak and mark.node == peer and mark.acked is not None and since < mark.acked < newest:
                before = mark.acked if mark.acked > ended else self._flushed_after(mark)
                if before < newest and mark not in lost and not self.holds(node, mark):
                    self.fail(1, f"protocol A: {node.name} was promoted without {mark}, but with later ones")

    def _flushed_after(self, mark: Mark) -> int:
        """When the first flush was answered that was handed in after the answer of this write."""
        flushes = self.ledgers[mark.node].flushes
        return min((answered for handed_in, answered in flushes if handed_in > (mark.acked or 0)), default=self.clock)

    def _lost_by(self, target: Node, twice: bool = False) -> set[Mark]:
        """Acknowledged on the target, unknown to the source, and not lost by right. `twice`: by two losses, too."""
        mine, theirs = self.ledger(target), self.ledger(target.peer)
        void, acked = theirs.offered(mine.met)
        lost = mine.acked - acked - theirs.forgiven
        lost = {m for m in lost if not (m.weak and self._taken_over(target, m))}
        lost = {m for m in lost if twice or not (m.weak and self._twice_lost(target, m))}
        decision = target.resource.sync.decision
        if decision and decision.rules[0] == "target-peer-missed-the-end" and not target.settings.offer_ordered:
            # by DRBD's table (a kernel peer) a Primary that dies before the source knew of the end of its resync is the
            # target again: what it answered alone (A, B), or what that one had when it lost power, too, is lost
            lost = {m for m in lost if not m.weak} - theirs.dropped
        if decision and decision.split_brain:
            lost -= theirs.unnoticed
        if mine.disk_failed:
            lost -= theirs.dropped  # this disk failed and that node lost power: two losses
        if mine.metadata_failed and theirs.disk_failed:
            # one disk failed, and the other one's metadata before the generation that would tell so was durable: two
            # disks are lost. Which one has more stands on neither of them
            lost = {m for m in lost if m.node == target.name and not theirs.metadata_failed}
        return {m for m in lost if void or not self.holds(target.peer, m)}

    def _taken_over(self, node: Node, mark: Mark) -> bool:
        """Was the peer promoted without this node since the connection began in which this was acknowledged?

        Maybe before the acknowledgement, because this node still took itself for connected. Under B the peer has it
        all the same: only if it died since, what it had received may be gone.
        """
        theirs, acked = self.ledger(node.peer), mark.acked or 0
        if max(theirs.promoted, theirs.forced) > acked:
            return True
        return theirs.promoted > mark.link and (self.protocol == "A" or theirs.died > mark.submitted)

    def _twice_lost(self, node: Node, mark: Mark) -> bool:
        """Acknowledged with this disk, which failed before this node knew that the connection was dead.

        Two losses: the Primary goes on with the peer's copy, and the next flush fails (docs/promises.md; see
        Ledger.untold). A disk that fails after the connection is known to be lost is another matter: such a node
        does not go on with older data.
        """
        mine, acked = self.ledger(node), mark.acked or 0
        return mark.node == node.name and acked < mine.failed_connected and mine.met > mark.link

    def _made_inconsistent(self, node: Node, old: Any, new: Any) -> None:
        ledger = self.ledger(node)
        if new.conn in TARGET - RESYNC:
            if self._policy_gave_up(node):
                self.gives_up.add(node.name)  # it stands in the metadata: the next connection goes by the disks' states
            return  # nothing was copied yet: a disk that dies before it is told so comes back whole
        if new.conn in TARGET:
            if self.ledger(node.peer).offered(ledger.met)[0]:
                self.fail(7, f"{node.name} becomes the target of an Inconsistent node")
            lost = self._lost_by(node)
            if lost and node.name not in self.gives_up and not self._policy_gave_up(node):
                self.fail(6, f"{node.name} becomes the target, and nobody ordered to discard {sorted_marks(lost)}")
        else:
            if old.conn in TARGET and self._policy_gave_up(node):
                self.gives_up.add(node.name)  # the source's disk went away before the resync: the verdict stands
            return  # on-io-error pass_on, or an invalidate that is not answered yet: the data is what it was
        ledger.whole = (ledger.acked, ledger.synced_since)
        ledger.worthless()
        self._resync_begins(node)

    def _resync_begins(self, target: Node) -> None:
        """From here on the two are one: what the source lacks now the target is not asked for any more."""
        self.ledger(target).synced_since = self.ledger(target.peer).synced_since = self.tick()

    def overwritten(self, node: Node) -> None:
        """A write begins. The first one on a target makes its data half of something: its disk must say so already."""
        ledger = self.ledger(node)
        if ledger.whole is not None and ledger.void:
            if node.platter.says_consistent:
                self.fail(3, f"{node.name} writes over its data before its disk says that it is Inconsistent")
            ledger.whole = None

    def invalidated(self, node: Node) -> None:
        """`invalidate` was answered with yes, alone: whatever happens, this data is never used again."""
        if node.state.conn == Conn.STANDALONE and node.state.disk == Disk.INCONSISTENT:
            self.ledger(node).ordered_away(self.tick())

    def metadata_created(self, node: Node) -> None:
        """create-md --force: whatever stands on the disk is worth nothing any more, by order."""
        self.ledger(node).ordered_away(self.tick())

    def _policy_gave_up(self, node: Node) -> bool:
        decision = node.resource.sync.decision
        s = node.settings
        asked = {s.after_sb_0pri, s.after_sb_1pri, s.after_sb_2pri}
        return decision is not None and decision.split_brain and bool(asked & DISCARDING)

    def _up_to_date(self, node: Node, old: Any, new: Any) -> None:
        ledger = self.ledger(node)
        if node.name in self.forcing and old.role == Role.PRIMARY:
            self._gone_by_force(node)
        if not ledger.void:
            self.check(node, "it calls itself UpToDate")
            return
        peer = self.ledger(node.peer)
        if node.name in self.forcing:
            self._forced(node)
            return
        if old.conn not in TARGET:
            self.fail(3, f"{node.name} calls itself UpToDate in {new.conn.label}, but its data is half of something")
        void, acked = peer.offered(ledger.met)
        if void:
            self.fail(7, f"{node.name} was synchronized from an Inconsistent node")
        ledger.adopt(peer)
        ledger.became_good = self.tick()
        for _, what, sender, _, _ in self.pending.values():
            if isinstance(what, Mark) and sender is node.peer:
                ledger.may(what)
        self.check(node, "after the resync")
        for mark in acked:
            if self.holds(node, mark):
                ledger.acked.add(mark)
                if mark.acked is not None and mark.acked < ledger.synced_since:
                    mark.durable.add(node.name)
                    mark.unsure.discard(node.name)
            elif not mark.weak and not self._after_the_link(node, mark):
                self.fail(4, f"{node.name} is UpToDate after a resync without {mark}")

    def _after_the_link(self, node: Node, mark: Mark) -> bool:
        """Acknowledged by a source that had given the connection up already."""
        return not node.peer.on or node.peer.state.conn < Conn.CONNECTED

    def _met(self, node: Node) -> None:
        """What was handed in before the connection stood goes to the peer too."""
        mine = self.ledger(node)
        mine.met = self.tick()
        self.asked = {order for order in self.asked if order[0] != node.name or order[1] == node.life}
        # of an earlier life no application is left that a flush could tell: no engine takes such a device back
        lost = {m for m in self._lost_by(node, twice=True) if (m.acked or 0) > mine.died}
        mine.untold.update(m for m in lost if m.weak and self._twice_lost(node, m))
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
            if mark.weak and (mark.acked or 0) > theirs.peer_good:
                continue  # on its way
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
            ledger.forgiven, ledger.dropped, ledger.unnoticed, ledger.stood = set(), set(), set(), set()
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
