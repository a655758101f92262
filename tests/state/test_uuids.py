# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison table: total, equal to an independent second coding, mirror-symmetric except where documented."""

from __future__ import annotations

import itertools
import random

import pytest

from replblock.state.generations import JUST_CREATED, RESYNC_OFFSET, Generations
from replblock.state.names import Role
from replblock.state.uuids import FEATURE_WSAME, RULES, Side, compare
from tests.state.oracle import uuid_compare

X = 0x12C3_D6A6_021F_3F8E
Y = 0xDC3C_D8FA_DDB9_DF62
Z = 0x7777_0000_1111_2222
CURRENTS = (0, JUST_CREATED, X, X + RESYNC_OFFSET, Y)
BITMAPS = (0, JUST_CREATED, X, X + RESYNC_OFFSET, Y)
HISTORIES = (0, X, X + RESYNC_OFFSET, Z)
SMALL = [Generations(*g) for g in itertools.product(CURRENTS, BITMAPS, HISTORIES, HISTORIES)]
UNDIRECTED = (100, -100, -1000)


def mirror(result: int) -> int:
    return result if result in UNDIRECTED else -result


def has_contradiction(a: Generations, b: Generations) -> bool:
    """The only pairs DRBD's table treats asymmetrically: each current is in the other's past, or both are 0."""
    a, b = a.plain(), b.plain()
    if a.current == b.current == 0:
        return True
    return a.current != b.current and a.current in b[1:] and b.current in a[1:]


def both(a: Side, b: Side, **kw: object) -> tuple[object, object]:
    rc = bool(kw.pop("resolve_conflicts", False))
    return compare(a, b, resolve_conflicts=rc, **kw), compare(b, a, resolve_conflicts=not rc, **kw)


def test_every_pair_of_small_generations_is_total_mirrored_and_as_in_the_second_coding():
    """Invariants 6 and 7: 400 x 400 generations, no crash. Asymmetric pairs are exactly the contradictory ones."""
    asymmetric = 0
    for i, a in enumerate(SMALL):
        for b in SMALL[i:]:
            va, vb = both(Side(a), Side(b))
            assert (va.result, va.number) == uuid_compare(a, b, False, False, False, False, False)
            assert (vb.result, vb.number) == uuid_compare(b, a, False, False, False, False, True)
            assert va.peers_result == vb.result and vb.peers_result == va.result
            assert va.mirrored == vb.mirrored == (va.result == mirror(vb.result))
            if not va.mirrored:
                asymmetric += 1
                assert has_contradiction(a, b), (a, b, va, vb)
                assert va.result < 0 and vb.result < 0, "both nodes believe they are the target, never the source"
    assert asymmetric > 0, "the documented flaw of DRBD's table must stay visible here"


def test_drbd_table_flaw_both_targets():
    """DRBD's own asymmetry, documented: A's current is B's bitmap base and B's current is A's: both say target."""
    a, b = Generations(X, Y, 0, 0), Generations(Y, X, 0, 0)
    va, vb = both(Side(a), Side(b))
    assert (va.result, va.rule) == (vb.result, vb.rule) == (-1, "peer-moved-on")
    assert not va.mirrored and not vb.mirrored


@pytest.mark.parametrize("version", [86, 90, 91, 95, 96, 101])
@pytest.mark.parametrize("features", [0, FEATURE_WSAME])
def test_same_generation_with_all_crashes_roles_and_versions(version, features):
    """Rules 34-41: all bitmap and history pairs, crash flags, roles, tie-breaker, versions."""
    short = [Generations(X, *rest) for rest in itertools.product((0, Y, Z), (0, Y), (0, Z))]
    flags = list(itertools.product((False, True), (Role.SECONDARY, Role.PRIMARY)))
    for a, b in itertools.product(short, short):
        for (ca, ra), (cb, rb), rc in itertools.product(flags, flags, (False, True)):
            va, vb = both(Side(a, ca, ra), Side(b, cb, rb), version=version, features=features, resolve_conflicts=rc)
            want, number = uuid_compare(a, b, ca, cb, ra == Role.PRIMARY, rb == Role.PRIMARY, rc, version,
                                        bool(features & FEATURE_WSAME))
            assert va.number == number
            assert va.result == (-1000 if want is None else want)
            assert bool(va.needs_version or va.needs_features) == (want is None)
            assert va.mirrored and vb.mirrored


@pytest.mark.parametrize("version", [86, 91, 95, 96])
def test_lost_start_of_a_resync_in_every_version(version):
    """Rules 51/71 decide by offset since 96, by history before; both sides mirror unless contradictory."""
    values = (X, X + RESYNC_OFFSET, Y)
    some = [Generations(*g) for g in itertools.product(values, (0, *values), (0, *values), (0, Y, Z))]
    rng = random.Random(version)
    for a, b in (rng.choices(some, k=2) for _ in range(12000)):
        va, vb = both(Side(a), Side(b), version=version)
        want, number = uuid_compare(a, b, False, False, False, False, False, version)
        assert (va.result, va.number) == (-1000 if want is None else want, number)
        if va.mirrored and not va.needs_version:
            assert va.result == mirror(vb.result)
        else:
            assert va.needs_version or has_contradiction(a, b) or vb.needs_version


def test_primary_bits_never_matter():
    """Whoever was Primary: comparison ignores bit 0 of all eight values."""
    rng = random.Random(7)
    for _ in range(4000):
        a, b = rng.choices(SMALL, k=2)
        a2 = Generations(*(u | rng.getrandbits(1) if u else u for u in a))
        b2 = Generations(*(u | rng.getrandbits(1) if u else u for u in b))
        assert compare(Side(a), Side(b))[:3] == compare(Side(a2), Side(b2))[:3]


G = Generations
CASES = [
    # rule,                        mine,                               peer's,                              result
    ("both-just-created",          G(4, 0, 0, 0),                      G(4, 0, 0, 0),                       0),
    ("i-just-created",             G(4, 0, 0, 0),                      G(X | 1, 0, 0, 0),                   -2),
    ("i-just-created",             G(0, 0, 0, 0),                      G(X, 0, 0, 0),                       -2),
    ("peer-just-created",          G(X, 0, 0, 0),                      G(4, 0, 0, 0),                       2),
    ("peer-just-created",          G(0, 0, 0, 0),                      G(4, 0, 0, 0),                       2),
    ("source-missed-the-end",      G(X, Y, Z, 0),                      G(X, 0, Y, Z),                       1),
    ("peer-missed-the-start",      G(X, Y, Z, 0),                      G(X, 0, Z, 0),                       1),
    ("target-peer-missed-the-end", G(X, 0, Y, Z),                      G(X, Y, Z, 0),                       -1),
    ("i-missed-the-start",         G(X, 0, Z, 0),                      G(X, Y, Z, 0),                       -1),
    ("same-generation",            G(X, 0, Y, Z),                      G(X | 1, 0, Y, Z),                   0),
    ("peer-moved-on",              G(X, 0, Z, 0),                      G(Y | 1, X | 1, Z, 0),               -1),
    ("i-lost-the-start",           G(X, 0, Z, 0),                      G(Y, X + RESYNC_OFFSET, X, Z),       -1),
    ("peer-moved-on-far",          G(X, 0, 0, 0),                      G(Y, Z, X, 0),                       -2),
    ("i-moved-on",                 G(Y | 1, X | 1, Z, 0),              G(X, 0, Z, 0),                       1),
    ("peer-lost-the-start",        G(Y, X + RESYNC_OFFSET, X, Z),      G(X, 0, Z, 0),                       1),
    ("i-moved-on-far",             G(Y, Z, 0, X),                      G(X, 0, 0, 0),                       2),
    ("both-moved-on",              G(Y, X | 1, 0, 0),                  G(Z, X, 0, 0),                       100),
    ("common-ancestor",            G(Y, 0, X, 0),                      G(Z, 4, 0, X),                       -100),
    ("common-ancestor",            G(Y, 4, 0, 0),                      G(Z, 0, 0, 0),                       -100),
    ("unrelated",                  G(Y, 0, X, X),                      G(Z, 0, 2, 2),                       -1000),
]


@pytest.mark.parametrize(("rule", "mine", "peers", "result"), CASES)
def test_rule_by_name(rule, mine, peers, result):
    verdict, mirrored = both(Side(mine), Side(peers))
    assert (verdict.rule, verdict.result) == (rule, result)
    assert mirrored.result == mirror(result)
    assert verdict.peers_rule == mirrored.rule


CRASHES = [
    ("crash-but-both-primary", (True, Role.PRIMARY), (False, Role.PRIMARY), False, -100),
    ("crash-i-am-primary", (False, Role.PRIMARY), (True, Role.SECONDARY), False, 1),
    ("crash-peer-is-primary", (True, Role.SECONDARY), (False, Role.PRIMARY), False, -1),
    ("i-crashed", (True, Role.SECONDARY), (False, Role.SECONDARY), False, 1),
    ("peer-crashed", (False, Role.SECONDARY), (True, Role.SECONDARY), False, -1),
    ("both-crashed", (True, Role.SECONDARY), (True, Role.SECONDARY), False, 1),
    ("both-crashed", (True, Role.SECONDARY), (True, Role.SECONDARY), True, -1),
]


@pytest.mark.parametrize(("rule", "mine", "peers", "rc", "result"), CRASHES)
def test_crash_rule_by_name(rule, mine, peers, rc, result):
    g = Generations(X, 0, Y, 0)
    verdict = compare(Side(g, *mine), Side(g, *peers), resolve_conflicts=rc)
    assert (verdict.rule, verdict.result) == (rule, result)


def test_every_row_has_a_test_by_name():
    assert {r.name for r in RULES} == {c[0] for c in CASES} | {c[0] for c in CRASHES}
    assert len({r.name for r in RULES}) == len(RULES)


def test_repairs():
    """Rules 34/71 repair our generations, 35/51 what we know of the peer's; nothing else touches either."""
    for _rule, mine, peers, _ in CASES:
        v = compare(Side(mine), Side(peers))
        expected_mine, expected_peers = mine, peers
        if v.number == 34:
            expected_mine = G(mine[0], 0, mine[1], mine[2])
        if v.number == 71:
            expected_mine = G(mine[0], mine[2], mine[3], mine[3])
        if v.number == 35:
            expected_peers = G(peers[0], 0, peers[1], peers[2])
        if v.number == 51:
            expected_peers = G(peers[0], peers[2], peers[3], peers[3])
        assert (v.mine, v.peers) == (expected_mine, expected_peers)


def test_too_old_a_peer_is_told_and_changes_nothing():
    mine = Generations(X, Y, Z, 0)
    v = compare(Side(mine), Side(Generations(X, 0, Y, Z)), version=90)
    assert (v.result, v.rule, v.needs_version, v.drbd_result) == (-1000, "needs-protocol-91", 91, -1091)
    assert v.mine == mine
    g = Generations(X, 0, 0, 0)
    v = compare(Side(g, True), Side(g, False, Role.PRIMARY), features=0)
    assert (v.result, v.rule, v.needs_features) == (-1000, "needs-rule-41-feature", FEATURE_WSAME)
