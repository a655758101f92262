# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has newer data: DRBD 8.4's UUID comparison as one table of named rules.

`number` is DRBD's own rule number, as its log prints it ("uuid_compare()=R by rule N"). First match decides; the last
row matches everything. All comparisons ignore the Primary bit.

The table is antisymmetric except for pairs that no history produces, where two rows claim the same direction for
both nodes: each current generation in the other's bitmap or history slots, or 0 as both current generations. DRBD
decides "target" on both sides there; `Verdict.peers_result` carries what the same table gives the peer, and
`Verdict.mirrored` is False. The safety rules refuse such a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.generations import JUST_CREATED, NONE, Generations, next_resync_uuid, plain
from replblock.state.names import Role

__all__ = [
    "FEATURE_WSAME", "Generations", "NO_SYNC", "RULES", "SOURCE_BITMAP", "SOURCE_FULL", "SPLIT_BRAIN",
    "SPLIT_BRAIN_AMBIGUOUS", "Side", "TARGET_BITMAP", "TARGET_FULL", "UNRELATED", "UuidRule", "Verdict", "compare",
]

NO_SYNC = 0
SOURCE_BITMAP, TARGET_BITMAP = 1, -1
SOURCE_FULL, TARGET_FULL = 2, -2
SPLIT_BRAIN = 100               # automatic policies apply
SPLIT_BRAIN_AMBIGUOUS = -100    # they apply only with always-asbp
UNRELATED = -1000

FEATURE_WSAME = 4               # a kernel offers rule 41 only together with this feature bit
FIXES_SINCE_VERSION = 91        # rules that repair a half-finished resync
OFFSET_SINCE_VERSION = 96       # a resync's generation is its base plus a fixed offset
NEWEST_VERSION = 101


class Side(NamedTuple):
    """One node at the handshake. `crashed_primary`: it was Primary when it went down and has not resynced since."""

    generations: Generations
    crashed_primary: bool = False
    role: Role = Role.SECONDARY


class Verdict(NamedTuple):
    """What the comparison found, as seen from this node.

    result: 0 none, +1/-1 we are source/target by bitmap, +2/-2 the same for everything, +100/-100 split brain,
    -1000 unrelated (or a peer too old to decide: then needs_version or needs_features say what is missing).
    mine, peers: the generations after the repairs of rules 34, 35, 51, 71.
    """

    result: int
    rule: str
    number: int
    mine: Generations
    peers: Generations
    peers_result: int
    peers_rule: str
    needs_version: int = 0
    needs_features: int = 0

    @property
    def mirrored(self) -> bool:
        """Does the peer's own table give the mirror image?"""
        undirected = abs(self.result) >= abs(SPLIT_BRAIN)
        return self.peers_result == (self.result if undirected else -self.result)

    @property
    def drbd_result(self) -> int:
        """The number DRBD logs: as `result`, or the code for a peer that is too old."""
        if self.needs_features:
            return -(0x10000 | NEWEST_VERSION | self.needs_features << 8)
        return -1000 - self.needs_version if self.needs_version else self.result


class Pair(NamedTuple):
    """Both sides as the rules see them: m = my, p = the peer's generations, without Primary bits."""

    m: Generations
    p: Generations
    mine: Side
    peers: Side
    version: int
    resolve_conflicts: bool

    @property
    def same(self) -> bool:
        return self.m.current == self.p.current

    @property
    def i_hold_a_bitmap_alone(self) -> bool:
        return self.same and self.m.bitmap != NONE and self.p.bitmap == NONE

    @property
    def peer_holds_a_bitmap_alone(self) -> bool:
        return self.same and self.m.bitmap == NONE and self.p.bitmap != NONE

    @property
    def crash(self) -> bool:
        return self.same and (self.mine.crashed_primary or self.peers.crashed_primary)

    @property
    def primaries(self) -> tuple[bool, bool]:
        return self.mine.role == Role.PRIMARY, self.peers.role == Role.PRIMARY


class UuidRule(NamedTuple):
    """One row. Numbers are DRBD's; `fix_mine` and `fix_peers` repair what a lost packet left behind."""

    name: str
    number: int
    when: Callable[[Pair], bool]
    result: int | Callable[[Pair], int]
    explain: str
    fix_mine: Callable[[Generations], Generations] | None = None
    fix_peers: Callable[[Generations], Generations] | None = None
    needs_version: int = 0
    needs_features: int = 0


def _i_lost_the_start(x: Pair) -> bool:
    if x.m.current != x.p.history0:
        return False
    if x.version < OFFSET_SINCE_VERSION:
        return x.m.history0 == x.p.history1
    return plain(next_resync_uuid(x.p.history0)) == x.p.bitmap


def _peer_lost_the_start(x: Pair) -> bool:
    if x.m.history0 != x.p.current:
        return False
    if x.version < OFFSET_SINCE_VERSION:
        return x.m.history1 == x.p.history0
    return plain(next_resync_uuid(x.m.history0)) == x.m.bitmap


RULES: tuple[UuidRule, ...] = (
    UuidRule("both-just-created", 10,
             lambda x: x.m.current == JUST_CREATED and x.p.current == JUST_CREATED, NO_SYNC,
             "Both disks are fresh: there is no data to prefer; make one node primary with --force."),
    UuidRule("i-just-created", 20,
             lambda x: x.m.current in (JUST_CREATED, NONE) and x.p.current != JUST_CREATED, TARGET_FULL,
             "This node's disk is fresh, the peer has data: everything is copied here."),
    UuidRule("peer-just-created", 30,
             lambda x: x.p.current in (JUST_CREATED, NONE), SOURCE_FULL,
             "The peer's disk is fresh, this node has data: everything is copied there."),
    UuidRule("source-missed-the-end", 34,
             lambda x: x.i_hold_a_bitmap_alone and x.m.bitmap == x.p.history0 and x.m.history0 == x.p.history1,
             SOURCE_BITMAP,
             "The last resync from here ended on the peer, but this node did not hear of it: what is still marked "
             "is sent once more.",
             fix_mine=Generations.finish_missed, needs_version=FIXES_SINCE_VERSION),
    UuidRule("peer-missed-the-start", 36,
             lambda x: x.i_hold_a_bitmap_alone, SOURCE_BITMAP,
             "This node began to be the source, the peer never recorded it: the resync starts again.",
             needs_version=FIXES_SINCE_VERSION),
    UuidRule("target-peer-missed-the-end", 35,
             lambda x: x.peer_holds_a_bitmap_alone and x.m.history0 == x.p.bitmap and x.m.history1 == x.p.history0,
             TARGET_BITMAP,
             "The last resync to here ended, but the peer did not hear of it: what it still has marked is sent "
             "once more.",
             fix_peers=Generations.finish_missed, needs_version=FIXES_SINCE_VERSION),
    UuidRule("i-missed-the-start", 37,
             lambda x: x.peer_holds_a_bitmap_alone, TARGET_BITMAP,
             "The peer began to be the source, this node never recorded it: the resync starts again.",
             needs_version=FIXES_SINCE_VERSION),
    UuidRule("same-generation", 40,
             lambda x: x.same and not x.crash, NO_SYNC,
             "Both nodes hold the same generation and no Primary crashed: nothing to copy."),
    UuidRule("crash-but-both-primary", 41,
             lambda x: x.crash and x.primaries == (True, True), SPLIT_BRAIN_AMBIGUOUS,
             "Same generation, a Primary crashed, and both nodes are Primary now: nobody can tell whose writes count.",
             needs_features=FEATURE_WSAME),
    UuidRule("crash-i-am-primary", 41,
             lambda x: x.crash and x.primaries == (True, False), SOURCE_BITMAP,
             "Same generation, a Primary crashed; this node is Primary now, so its data counts.",
             needs_features=FEATURE_WSAME),
    UuidRule("crash-peer-is-primary", 41,
             lambda x: x.crash and x.primaries == (False, True), TARGET_BITMAP,
             "Same generation, a Primary crashed; the peer is Primary now, so its data counts.",
             needs_features=FEATURE_WSAME),
    UuidRule("i-crashed", 40,
             lambda x: x.crash and not x.peers.crashed_primary, SOURCE_BITMAP,
             "This node crashed as Primary: its disk may be ahead in the extents it was writing, they are sent over."),
    UuidRule("peer-crashed", 40,
             lambda x: x.crash and not x.mine.crashed_primary, TARGET_BITMAP,
             "The peer crashed as Primary: its disk may be ahead in the extents it was writing, they come here."),
    UuidRule("both-crashed", 40,
             lambda x: x.crash, lambda x: TARGET_BITMAP if x.resolve_conflicts else SOURCE_BITMAP,
             "Both nodes crashed as Primary with the same generation: the extents either was writing are made equal; "
             "the node that opened the meta connection is the source."),
    UuidRule("peer-moved-on", 50,
             lambda x: x.m.current == x.p.bitmap, TARGET_BITMAP,
             "The peer went on alone from exactly this node's data: its changes come here."),
    UuidRule("i-lost-the-start", 51, _i_lost_the_start, TARGET_BITMAP,
             "The peer went on alone from this node's data and began a resync this node never heard of: it starts "
             "again.",
             fix_peers=Generations.undo_resync_start, needs_version=FIXES_SINCE_VERSION),
    UuidRule("peer-moved-on-far", 60,
             lambda x: x.m.current in (x.p.history0, x.p.history1), TARGET_FULL,
             "This node's data is an ancestor of the peer's, too old for its bitmap: everything is copied here."),
    UuidRule("i-moved-on", 70,
             lambda x: x.m.bitmap == x.p.current, SOURCE_BITMAP,
             "This node went on alone from exactly the peer's data: its changes are sent over."),
    UuidRule("peer-lost-the-start", 71, _peer_lost_the_start, SOURCE_BITMAP,
             "This node went on alone from the peer's data and began a resync the peer never heard of: it starts "
             "again.",
             fix_mine=Generations.undo_resync_start, needs_version=FIXES_SINCE_VERSION),
    UuidRule("i-moved-on-far", 80,
             lambda x: x.p.current in (x.m.history0, x.m.history1), SOURCE_FULL,
             "The peer's data is an ancestor of this node's, too old for its bitmap: everything is copied there."),
    UuidRule("both-moved-on", 90,
             lambda x: x.m.bitmap == x.p.bitmap != NONE, SPLIT_BRAIN,
             "Both nodes went on alone from the same data: split brain."),
    UuidRule("common-ancestor", 100,
             lambda x: bool({x.m.history0, x.m.history1} & {x.p.history0, x.p.history1}), SPLIT_BRAIN_AMBIGUOUS,
             "Both nodes went on from a common ancestor (or neither has a history): split brain, and the bitmaps do "
             "not tell all of it."),
    UuidRule("unrelated", 100,
             lambda x: True, UNRELATED,
             "The two disks have no generation in common: they hold unrelated data."),
)

TOO_OLD: dict[str, str] = {
    "needs-protocol-91": "Deciding this needs protocol 91 or newer on both nodes.",
    "needs-rule-41-feature": "Deciding this needs a peer that offers the feature flag for rule 41.",
}


def _first(x: Pair, features: int) -> tuple[UuidRule, int, str, int, int]:
    """(row, result, rule name, missing version, missing features)"""
    for rule in RULES:
        if not rule.when(x):
            continue
        if x.version < rule.needs_version:
            return rule, UNRELATED, "needs-protocol-91", rule.needs_version, 0
        if rule.needs_features & ~features:
            return rule, UNRELATED, "needs-rule-41-feature", 0, rule.needs_features
        result = rule.result if isinstance(rule.result, int) else rule.result(x)
        return rule, result, rule.name, 0, 0
    raise AssertionError("the last rule matches everything")


def compare(
    mine: Side,
    peers: Side,
    *,
    version: int = NEWEST_VERSION,
    features: int = FEATURE_WSAME,
    resolve_conflicts: bool = False,
) -> Verdict:
    """Compare both sides' generations. `version`, `features`: as agreed; `resolve_conflicts`: of this node.

    Pure and total: every pair gets a verdict. `rule` is also the key for `describe()`.
    """
    m, p = mine.generations.plain(), peers.generations.plain()
    here = Pair(m, p, mine, peers, version, resolve_conflicts)
    there = Pair(p, m, peers, mine, version, not resolve_conflicts)
    row, result, name, needs_version, needs_features = _first(here, features)
    _, peers_result, peers_name, _, _ = _first(there, features)
    decided = not needs_version and not needs_features
    return Verdict(
        result=result,
        rule=name,
        number=row.number,
        mine=row.fix_mine(mine.generations) if row.fix_mine and decided else mine.generations,
        peers=row.fix_peers(peers.generations) if row.fix_peers and decided else peers.generations,
        peers_result=peers_result,
        peers_rule=peers_name,
        needs_version=needs_version,
        needs_features=needs_features,
    )
