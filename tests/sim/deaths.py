# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node loses by right when it dies, or when its disk does, and what it is bound to have when it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.state.names import Conn, Disk, Role
from tests.sim.answers import TARGET, Answers
from tests.sim.ledger import Mark
from tests.sim.marked import unmarked

if TYPE_CHECKING:
    from tests.sim.node import Node


class Deaths(Answers):
    """The end of an engine, a machine or a disk."""

    def flush_failed(self, node: Node) -> None:
        ledger = self.ledger(node)
        for mark in {m for marks in ledger.at.values() for m in marks}:
            if node.name not in mark.durable and not self._never_came(node, mark):
                mark.unsure.add(node.name)
        state = node.state
        ledger.flush_failed, ledger.failed_ms = self.tick(), self.sim.now
        ledger.failed_apart = state.conn < Conn.CONNECTED
        if state.disk > Disk.FAILED or state.disk == Disk.ATTACHING:  # else it had failed before
            ledger.alone_at_failure = self._fails_alone(node, state)

    def _never_came(self, node: Node, mark: Mark) -> bool:
        """A write of the peer that never came here, and is answered only when it has: it will be written anew."""
        waits = self.protocol == "C" or node.peer.state.disk != Disk.UP_TO_DATE
        return mark.node != node.name and mark.acked is None and waits and not self.holds(node, mark)

    def _fails_alone(self, node: Node, state: Any) -> bool:
        """Does this disk go where only its own application need be told, as with a power loss of its Primary?"""
        # a crashed Primary's disk that fails before the peer was met again lost what a power loss would have taken:
        # by DRBD's table (rule 40) it is the source all the same, and nobody there knows what the peer has
        role = self._serves(node)
        crashed = self.last_role.get(node.name) == Role.PRIMARY and state.role != Role.PRIMARY
        # an attach notes it; that means nothing to a kernel peer that calls its own disk Inconsistent meanwhile, which
        # one that is in use has no reason to
        deaf = not node.settings.offer_ordered and not (node.peer.on and node.peer.state.disk == Disk.UP_TO_DATE)
        crashed = crashed and (state.disk != Disk.ATTACHING or deaf)
        # without the peer's disk nobody was there who has more; that this one lost writes a kernel peer is not told
        left = self._alone(state) or state.conn in (Conn.STARTING_SYNC_S, Conn.WF_BITMAP_S)  # it ends the connection
        alone = bool(state.conn < Conn.CONNECTED or (left and not node.settings.offer_ordered))
        return (role == Role.PRIMARY or crashed) and alone

    def metadata_written(self, node: Node, well: bool) -> None:
        """A write of metadata ended."""
        self.ledger(node).untellable = not well

    def cache_dropped(self, node: Node) -> None:
        """The disk is opened again after a failed flush: only now it shows what the medium holds."""
        ledger = self.ledger(node)
        gone = self._not_flushed(node)
        ledger.acked -= gone
        for mark in [m for m in ledger.received if node.name in m.unsure]:
            del ledger.received[mark]  # its Primary died, and its disk failed: B promises one of the two
        (ledger.forgiven if ledger.alone_at_failure else ledger.dropped).update(gone)
        ledger.dropped_cache = gone
        if ledger.failed_apart:
            ledger.lost_cache = self.tick()  # nobody was there to take over from: it comes back as after a power loss
        self.check(node, "after its cache was dropped")

    def _not_flushed(self, node: Node) -> set[Mark]:
        return {m for m in self.ledger(node).acked if node.name in m.unsure and node.name not in m.durable}

    def dies(self, node: Node, power: bool, was_on: bool) -> None:
        seen = self.seen.pop(node.name, None)
        if was_on and node.state.disk != Disk.ATTACHING:  # an attach that did not end makes no difference
            # of a promotion in this very moment nobody was told
            told = seen is None or seen.role == Role.PRIMARY
            self.last_role[node.name] = self._serves(node) if told or node.state.role != Role.PRIMARY else seen.role
        self.never_answered(node)
        ledger = self.ledger(node)
        ledger.judged_from = ledger.promoting = None
        if was_on and seen is not None and seen != node.state:
            # in the middle of a change, which may stand on disk already
            if node.state.role == Role.PRIMARY != seen.role and self._alone(node.state):
                ledger.promoted = self.tick()
            self._disk_fails(node, seen, node.state)
        ledger.only_in_memory = was_on and node.state.disk == Disk.UP_TO_DATE
        # also what it had written before, and its next attach cannot make durable
        primary = was_on and Role.PRIMARY in (node.state.role, self.last_role.get(node.name))
        alone = was_on and (primary or not self._under_a_primary(node)) and ledger.flush_failed > ledger.answered
        untold = node.platter.spoiled or (was_on and node.resource.meta is None)
        if alone and untold and (ledger.failed_ms == self.sim.now or node.metadata_under_way):
            # it died before its metadata could say that a flush had failed, and had answered nothing since: for whoever
            # waits for an answer that is a power loss, of the Primary or of a node without one
            ledger.alone_at_failure = True
            ledger.forgiven |= ledger.dropped & ledger.dropped_cache
            ledger.dropped -= ledger.dropped_cache
        # a target that was done before its source heard so counts with what it has acknowledged since
        ledger.had = {m for m in self.ledger(node.peer).acked - ledger.acked if power and self.holds(node, m)}
        self.pending = {k: v for k, v in self.pending.items() if v[2] is not node}
        self.decisions.pop(node.name, None)

    def _disk_fails(self, node: Node, old: Any, new: Any) -> None:
        ledger = self.ledger(node)
        if new.disk == Disk.FAILED < old.disk and not node.platter.spoiled:
            # whatever it was: a flush that is on its way, and fails only then, finds no disk to speak for
            ledger.alone_at_failure = self._fails_alone(node, old)
        if new.disk == Disk.FAILED and node.platter.failing:
            ledger.only_a_read = not ledger.disk_failed and node.platter.failing == {"read"}
            ledger.disk_failed = True
            ledger.metadata_failed |= "meta" in node.platter.failing
            if new.conn >= Conn.CONNECTED:
                ledger.failed_connected = self.tick()
        if old.disk == Disk.UP_TO_DATE and new.disk == Disk.INCONSISTENT and new.conn >= Conn.CONNECTED and (
            new.conn not in TARGET and node.platter.failing and node.settings.on_io_error == "pass_on"
        ):
            # the peer's copy is the only good one now; what was answered before and is not for good on the peer's disk
            # was promised together with this disk only (docs/promises.md: the next flush fails)
            ledger.disk_failed = True
            ledger.failed_connected = self.tick()

    def _serves(self, node: Node) -> Role:
        """A promotion alone that was not answered is none yet: nothing of it need be durable."""
        return node.state.role if self.ledger(node).judged_from is None else Role.SECONDARY

    def _under_a_primary(self, node: Node) -> bool:
        """Is, or was, its peer Primary?"""
        peer = node.peer
        return (self._serves(peer) if peer.on else self.last_role.get(peer.name)) == Role.PRIMARY

    def died(self, node: Node, power: bool, was_on: bool) -> None:
        ledger = self.ledger(node)
        ledger.received.clear()
        ledger.untold.clear()
        ledger.died = self.tick()
        if ledger.only_a_read and ledger.met < ledger.failed_connected and node.platter.says_consistent:
            ledger.disk_failed = False  # nothing has taken its place: the next attach finds it as good as before
        self.comes_back(node)
        if ledger.only_in_memory and not node.platter.says_consistent and not ledger.void:
            # the end of a resync that its metadata does not say yet: it comes back as the target that it was; unless an
            # application has been answered since, which would have been a promise on this disk
            if ledger.answered < ledger.became_good:
                ledger.worthless()
        if node.name in self.forcing:
            self.forcing.discard(node.name)
            if ledger.void and node.platter.says_consistent:
                self._forced(node)  # the order was durable before anybody was told
                self._gone_by_force(node)
        if power:
            ledger.lost_power = self.tick()
            gone = {m for m in ledger.acked if node.name not in m.durable}
            ledger.acked -= gone
            if self._under_a_primary(node):
                if self.last_role.get(node.name) == Role.PRIMARY:
                    ledger.unnoticed |= gone  # of two Primaries: a policy that counts changes knows nothing of it
                ledger.dropped |= gone | {m for m in ledger.had if not (ledger.void or self.holds(node, m))}
            else:
                # what no flush was answered for goes with the Primary's power, wherever else it is
                gone |= {m for m in ledger.stood if not m.durable}
                ledger.forgiven |= gone
                ledger.unnoticed |= gone  # also where the peer, promoted since, shows them to its users
        if ledger.untellable and was_on and node.platter.says_primary:
            # of two failures, of its data and of its metadata, it died before anybody could be told: unless the peer
            # has moved on meanwhile it is the source by rule 40. What a failed flush lost may show only after its death
            ledger.unnoticed |= (self.ledger(node.peer).acked - ledger.acked) | ledger.dropped_cache
            ledger.unnoticed |= self._not_flushed(node) if node.platter.spoiled else set()
            there = node.peer.state
            told = node.peer.on and there.conn >= Conn.CONNECTED and there.pdsk < Disk.INCONSISTENT
            if not told or there.disk == Disk.DISKLESS:  # what it is told counts with a disk to note it on
                ledger.forgiven |= ledger.unnoticed
        self.check(node, "after it died")
        block = unmarked(*self.sim.nodes)
        if block is not None:
            found = [n.platter.stamps(range(block * 8, block * 8 + 8)) for n in self.sim.nodes]
            self.fail(5, f"{node.name} died; block {block} differs and is marked nowhere: {found}")

    def comes_back(self, node: Node) -> None:
        """Nobody runs on this disk: if nothing of a resync is on it, nor that there is one, it is what it was."""
        ledger = self.ledger(node)
        whole, ledger.whole = ledger.whole, None
        if whole is not None and ledger.void and node.platter.says_consistent:
            ledger.void = False
            ledger.acked, ledger.synced_since = whole

    def promotion_unanswered(self, node: Node) -> None:
        """The operator is told, or has to guess, that the peer may have agreed: then its copy counts, as ordered."""
        theirs = self.ledger(node.peer)
        if theirs.agreed > theirs.promoted:
            self._on_the_peers_copy(node, theirs.agreed)

    def never_answered(self, node: Node) -> None:
        """It died while it was being promoted. Its question may still be on its way to the peer."""
        if any(name == node.name and life < node.life for name, life, _ in self.asked):
            self.promotion_unanswered(node)

    def _on_the_peers_copy(self, node: Node, when: int) -> None:
        """Without a disk it is Primary on the peer's copy.

        For what was acknowledged in an earlier life of this node that is the same as if the peer had been promoted
        alone: it serves without what it had lost with its power before they met.
        """
        theirs, mine = self.ledger(node.peer), self.ledger(node)
        theirs.promoted = when
        if theirs.lost_power < mine.met:
            given_up = {m for m in theirs.dropped if (m.acked or 0) < mine.died}
            theirs.forgiven |= given_up
            theirs.dropped -= given_up

    def _alone(self, state: Any) -> bool:
        """Without the peer's disk, be that out of reach or gone."""
        return bool(state.conn < Conn.CONNECTED or state.pdsk < Disk.INCONSISTENT)

    def _gone_by_force(self, node: Node) -> None:
        mine, theirs = self.ledger(node), self.ledger(node.peer)
        mine.forgiven |= theirs.acked - mine.acked
        mine.forced = self.tick()

    def _forced(self, node: Node) -> None:
        """The operator takes whatever stands there."""
        ledger = self.ledger(node)
        for mark in self.every:
            ledger.may(mark)
        ledger.void = False
        ledger.judged_from = None  # half of a resync is no prefix of anything

    @property
    def every(self) -> set[Mark]:
        return {m for ledger in self.ledgers.values() for marks in ledger.at.values() for m in marks}
