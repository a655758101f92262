# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes live through writes, cuts, crashes, promotions and broken resyncs; the tables must never merge or lose.

A model of two nodes without I/O: data is a version per block, `acked` the writes a node's lineage holds. The model
knows what really differs; the tables only see generations, flags and bits. Invariants 4 to 7.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from replblock.state.generations import Generations
from replblock.state.losses import mints_new_uuid
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.policies import Handshake, Policies, decide
from replblock.state.uuids import Side, compare

BLOCKS = range(3)
FIRST = Generations(0x1000, 0, 0, 0)
COMPLETE, START_LOST, BROKEN, END_MISSED = "complete", "start-lost", "broken", "end-missed"


@dataclass
class Node:
    gens: Generations = FIRST
    disk: Disk = Disk.UP_TO_DATE
    role: Role = Role.SECONDARY
    crashed: bool = False
    went_on: bool = False
    bits: set[int] = field(default_factory=set)
    data: list[int] = field(default_factory=lambda: [0 for _ in BLOCKS])
    acked: set[int] = field(default_factory=set)

    @property
    def primary(self) -> bool:
        return self.role == Role.PRIMARY


class World:
    def __init__(self, obeys: bool) -> None:
        self.nodes = (Node(), Node())
        self.connected = True
        self.obeys = obeys
        self.version = 0
        self.random = 0x10_0000
        self.split_brain = False

    def fresh(self) -> int:
        self.random += 0x100
        return self.random

    def state(self, i: int, conn: Conn) -> State:
        me, peer = self.nodes[i], self.nodes[1 - i]
        known = conn >= Conn.CONNECTED
        return State(me.role, peer.role if known else Role.UNKNOWN, conn, me.disk,
                     peer.disk if known else Disk.DUNKNOWN)

    def mint(self, i: int, old: State, new: State) -> None:
        me = self.nodes[i]
        if mints_new_uuid(old, new, me.gens.bitmap):
            me.gens = me.gens.new_current(self.fresh(), me.primary)

    # --- events: each is a no-op where it cannot happen -------------------------------------------------------

    def write(self, i: int, block: int = 0) -> None:
        me, peer = self.nodes[i], self.nodes[1 - i]
        if not me.primary:
            return
        self.version += 1
        me.data[block] = self.version
        me.acked.add(self.version)
        if self.connected:
            peer.data[block] = self.version
            peer.acked.add(self.version)
        else:
            assert me.gens.bitmap != 0, "a write alone without a generation of its own"
            me.bits.add(block)
            me.went_on = True

    def cut(self) -> None:
        if not self.connected:
            return
        before = [self.state(i, Conn.CONNECTED) for i in (0, 1)]
        self.connected = False
        for i in (0, 1):
            self.mint(i, before[i], self.state(i, Conn.WF_CONNECTION))

    def crash(self, i: int, writing: int | None = None) -> None:
        """Power loss; with `writing`, a write to that block had reached the local disk only and was not acked."""
        me = self.nodes[i]
        if writing is not None and me.primary:
            self.version += 1
            me.data[writing] = self.version
            me.bits.add(writing)        # by the activity log, at the next attach
        was_primary = me.primary
        if self.connected:
            peer_before = self.state(1 - i, Conn.CONNECTED)
            self.connected = False
            self.mint(1 - i, peer_before, self.state(1 - i, Conn.WF_CONNECTION))
        me.role = Role.SECONDARY
        me.gens = me.gens.as_primary(False)
        me.crashed = me.crashed or was_primary

    def promote(self, i: int) -> None:
        me, peer = self.nodes[i], self.nodes[1 - i]
        if me.primary or me.disk != Disk.UP_TO_DATE or (self.connected and peer.primary):
            return
        conn = Conn.CONNECTED if self.connected else Conn.WF_CONNECTION
        old = self.state(i, conn)
        me.role = Role.PRIMARY
        self.mint(i, old, self.state(i, conn))
        me.gens = me.gens.as_primary(True)

    def demote(self, i: int) -> None:
        self.nodes[i].role = Role.SECONDARY
        self.nodes[i].gens = self.nodes[i].gens.as_primary(False)

    def connect(self, ending: str) -> None:
        if self.connected:
            return
        sides = [Side(n.gens, n.crashed, n.role) for n in self.nodes]
        views = []
        for i in (0, 1):
            me, peer = self.nodes[i], self.nodes[1 - i]
            rc = i == 0
            views.append(Handshake(
                compare(sides[i], sides[1 - i], resolve_conflicts=rc), me.role, peer.role, me.disk, peer.disk,
                my_bits=len(me.bits), peer_bits=len(peer.bits), policies=Policies(rr_conflict="disconnect"),
                resolve_conflicts=rc, peer_obeys_safety=self.obeys,
                i_went_on=me.went_on, peer_went_on=peer.went_on, i_crashed=me.crashed, peer_crashed=peer.crashed))
        decisions = [decide(v) for v in views]
        if any(d.refused for d in decisions):
            diverged = all(not a.acked <= b.acked for a, b in itertools.permutations(self.nodes, 2))
            if diverged:
                assert all(d.split_brain for d in decisions) or Role.PRIMARY in (n.role for n in self.nodes)
            return
        self.check_no_merge(views, decisions)
        for node, view in zip(self.nodes, views):
            node.gens = view.verdict.mine
        if decisions[0].conn == Conn.CONNECTED:
            different = {b for b in BLOCKS if self.nodes[0].data[b] != self.nodes[1].data[b]}
            assert different <= self.nodes[0].bits | self.nodes[1].bits, "an unmarked difference while connected"
            self.connected = True
            self.both_up_to_date()
            return
        source = 0 if decisions[0].conn == Conn.WF_BITMAP_S else 1
        self.resync(source, decisions[0].full_sync, views[1 - source].verdict.peers, ending)

    def check_no_merge(self, views: list[Handshake], decisions: list) -> None:
        a, b = decisions
        assert {a.conn, b.conn} in ({Conn.CONNECTED}, {Conn.WF_BITMAP_S, Conn.WF_BITMAP_T})
        for node, other, d in ((*self.nodes, a), (*reversed(self.nodes), b)):
            if d.conn == Conn.WF_BITMAP_T and node.disk > Disk.INCONSISTENT:
                assert node.acked <= other.acked, "the target held acknowledged writes the source never saw"
            if d.conn == Conn.WF_BITMAP_S:
                assert node.disk == Disk.UP_TO_DATE

    def resync(self, s: int, full: bool, sources_uuids: Generations, ending: str) -> None:
        source, target = self.nodes[s], self.nodes[1 - s]
        todo = set(BLOCKS) if full else source.bits | target.bits
        different = {b for b in BLOCKS if source.data[b] != target.data[b]}
        assert different <= todo, f"blocks {different - todo} differ and nobody marked them"
        source.bits, target.bits = set(todo), set(todo)
        target.disk = Disk.OUTDATED     # between the bitmaps and the first block
        source.gens, uuid = source.gens.resync_start_source(self.fresh())
        source.went_on = False
        if ending == START_LOST:
            return
        target.gens = target.gens.resync_start_target(uuid, target.primary)
        target.disk = Disk.INCONSISTENT
        target.acked = set()
        if ending == BROKEN:
            for block in sorted(todo)[:1]:
                self.copy(source, target, block)
            return
        for block in sorted(todo):
            self.copy(source, target, block)
        assert source.data == target.data
        target.acked = set(source.acked)
        target.gens = target.gens.resync_done_target(sources_uuids, target.primary)
        target.disk = Disk.UP_TO_DATE
        target.crashed = False
        if ending == END_MISSED:
            return
        source.gens = source.gens.resync_done_source()
        assert source.gens.plain() == target.gens.plain()
        self.connected = True
        self.both_up_to_date()

    @staticmethod
    def copy(source: Node, target: Node, block: int) -> None:
        target.data[block] = source.data[block]
        source.bits.discard(block)
        target.bits.discard(block)

    def both_up_to_date(self) -> None:
        for node in self.nodes:
            node.disk = Disk.UP_TO_DATE
            node.crashed = False


EVENTS = [
    ("write", 0), ("write", 1), ("cut",), ("crash", 0), ("crash", 1), ("crash", 0, 1), ("crash", 1, 2),
    ("promote", 0), ("promote", 1), ("demote", 0), ("demote", 1),
    ("connect", COMPLETE), ("connect", START_LOST), ("connect", BROKEN), ("connect", END_MISSED),
]


def live(events: list[tuple], obeys: bool) -> World:
    world = World(obeys)
    for name, *args in events:
        getattr(world, name)(*args)
    return world


@pytest.mark.parametrize("obeys", [False, True])
def test_all_short_lives(obeys):
    """Every life of three events after the nodes parted with a Primary at work."""
    for parting, *events in itertools.product((("cut",), ("crash", 0, 1), ("crash", 1)), *[EVENTS] * 3):
        live([("promote", 0), ("write", 0), parting, *events, ("connect", COMPLETE)], obeys)


@pytest.mark.parametrize("seed", range(20))
def test_random_long_lives(seed):
    rng = random.Random(seed)
    for _ in range(60):
        events = rng.choices(EVENTS, k=25)
        try:
            live(events, obeys=seed % 2 == 1)
        except AssertionError as error:
            raise AssertionError(f"{error}; life: {events}") from error
