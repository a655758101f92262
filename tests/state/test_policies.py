# SPDX-License-Identifier: GPL-2.0-or-later
"""From comparison to decision: DRBD's own course against a second coding, ours for symmetry and the invariants."""

from __future__ import annotations

import itertools
import random

import pytest

from replblock.state import splitbrain
from replblock.state.describe import RULES, describe
from replblock.state.generations import RESYNC_OFFSET, Generations
from replblock.state.names import Conn, Disk, Role
from replblock.state.policies import Decision, Handshake, Policies, decide, drbd_course
from replblock.state.safety import STALE
from replblock.state.splitbrain import AFTER_SB_0PRI, AFTER_SB_1PRI, AFTER_SB_2PRI, MIRRORED_POLICY, Split, after_sb
from replblock.state.uuids import Side, compare
from tests.state import oracle

P, S = Role.PRIMARY, Role.SECONDARY
X, Y, Z = 0x10000, 0x20000, 0x30000
G = Generations
DISKS = (Disk.INCONSISTENT, Disk.OUTDATED, Disk.CONSISTENT, Disk.UP_TO_DATE)
PAIRS = [  # one pair of generations for every kind of verdict, the contradictory ones last
    (G(4, 0, 0, 0), G(4, 0, 0, 0)), (G(4, 0, 0, 0), G(X, 4, 0, 0)), (G(X, Y, Z, 0), G(X, 0, Y, Z)),
    (G(X, Y, Z, 0), G(X, 0, Z, 0)), (G(X, 0, Y, Z), G(X, 0, Y, Z)), (G(X, 0, 0, 0), G(Y, X, 0, 0)),
    (G(X, 0, Z, 0), G(Y, X + RESYNC_OFFSET, X, Z)), (G(X, 0, 0, 0), G(Y, Z, X, 0)),
    (G(Y, X, 0, 0), G(Z, X, 0, 0)), (G(Y, X | 1, 0, 0), G(Z, X, 0, 0)), (G(Y, 4, 0, 0), G(Z, 4, 0, 0)),
    (G(Y, 0, X, 0), G(Z, 4, X, 0)), (G(Y, 0, X, 2), G(Z, 0, 8, 10)),
    (G(X, Y, 0, 0), G(Y, X, 0, 0)), (G(X, Y, 0, Y), G(Y, 0, X, 0)), (G(0, 0, 0, 0), G(0, 0, 0, 0)),
    (G(X, Y, 0, 0), G(Z, X, Y, 0)), (G(X, Y | 1, 0, 0), G(Z, X, Y, 0)),
]
CRASHES = ((False, False), (True, False), (True, True))


class Both:
    """One situation, seen from each of its two ends."""

    def __init__(self, pair, crashes, roles, disks, bits, discards=(False, False), policies=None, rc=False,
                 obeys=False, demotable=(True, True), went_on=None, lost=(False, False), attaches=None):
        policies = policies or Policies()
        went_on = went_on or tuple(bool(g.bitmap & 1) for g in pair)    # any two flags will do
        sides = [Side(g, c, r) for g, c, r in zip(pair, crashes, roles)]

        def seen_by(i: int) -> Handshake:
            j = 1 - i
            tie = rc if i == 0 else not rc
            return Handshake(
                compare(sides[i], sides[j], resolve_conflicts=tie), roles[i], roles[j],
                Disk.NEGOTIATING if attaches == i else disks[i], disks[j],
                my_disk_from_metadata=disks[i],
                under_users=attaches is not None and roles[attaches] == P and disks[1 - attaches] == Disk.UP_TO_DATE,
                my_bits=bits[i], peer_bits=bits[j], discard_mine=discards[i], discard_peers=discards[j],
                policies=policies if i == 0 else policies.mirrored(), resolve_conflicts=tie,
                can_demote=demotable[i], peer_obeys_safety=obeys,
                i_went_on=went_on[i], peer_went_on=went_on[j], i_lost=lost[i], peer_lost=obeys and lost[j],
                i_crashed=crashes[i], peer_crashed=crashes[j])

        self.views = (seen_by(0), seen_by(1))
        self.decisions = tuple(decide(h) for h in self.views)


MIRRORED_CONN = {Conn.CONNECTED: Conn.CONNECTED, Conn.WF_BITMAP_S: Conn.WF_BITMAP_T,
                 Conn.WF_BITMAP_T: Conn.WF_BITMAP_S, Conn.DISCONNECTING: Conn.DISCONNECTING}
ONE_SIDED = {"rr-conflict-disconnect", "rr-conflict-call-pri-lost", "loser-stays-primary"}


def check_symmetry(b: Both) -> None:
    """Both ends reach mirror images. Only a local refusal (rr-conflict, a loser that cannot demote) is one-sided."""
    d0, d1 = b.decisions
    if not (set(d0.rules) | set(d1.rules)) & ONE_SIDED:
        assert d1.conn == MIRRORED_CONN[d0.conn], (b.views, d0, d1)
        assert d0.full_sync == d1.full_sync and d0.split_brain == d1.split_brain
        assert d0.resync_left_over == d1.resync_left_over
    else:
        assert Conn.DISCONNECTING in (d0.conn, d1.conn)


def check_invariants(h: Handshake, d: Decision) -> None:
    """Invariants 5, 6, 7 on one end's decision, whoever the peer is."""
    # where no generation names a source Consistent is better than Outdated, too, unless a flag or an order speaks
    unnamed = h.verdict.result == 0 or h.verdict.number == 40
    flagged = bool(WENT_ON.intersection(d.rules))
    plain = unnamed and not flagged and h.discard_mine == h.discard_peers
    good = Disk.CONSISTENT if plain else Disk.UP_TO_DATE
    if plain and h.verdict.result:
        good = Disk.OUTDATED  # only a crash names the source
    if d.conn == Conn.WF_BITMAP_S:
        assert not (h.disk in STALE and h.peer_disk >= good), "the stale side as source"
        assert h.disk > Disk.INCONSISTENT
    if d.conn == Conn.WF_BITMAP_T:
        assert not (h.peer_disk in STALE and h.disk >= good), "from the stale side"
        assert h.peer_disk > Disk.INCONSISTENT
    if d.conn == Conn.CONNECTED and h.my_bits + h.peer_bits:
        assert d.keep_bits and d.left_over_kib == 4 * (h.my_bits + h.peer_bits)
    both_have_data = min(h.disk, h.peer_disk) > Disk.INCONSISTENT
    if abs(h.verdict.result) == 100 and both_have_data and d.conn != Conn.DISCONNECTING:
        ordered = h.discard_mine != h.discard_peers
        assert ordered or h.policies[:3] != ("disconnect",) * 3, "divergence merged without order or policy"
    if d.conn in (Conn.WF_BITMAP_S, Conn.WF_BITMAP_T) and not h.peer_obeys_safety:
        same_way = d.result * d.drbd_result > 0
        assert same_way, "a kernel peer goes DRBD's way; any other direction is no connection"
    for rule in (*d.rules, d.rule, d.drbd_rule):
        assert describe(rule)


def situations():
    bits = [(0, 0), (3, 0), (0, 3), (3, 5)]
    discards = [(False, False), (True, False), (False, True)]
    for pair, crash in itertools.product(PAIRS, CRASHES):
        if crash != (False, False) and (pair[0].current | 1) != (pair[1].current | 1):
            continue
        for roles, disks, b, discard, rc, obeys in itertools.product(
                itertools.product((S, P), repeat=2), itertools.product(DISKS, repeat=2), bits, discards,
                (False, True), (False, True)):
            yield pair, crash, roles, disks, b, discard, None, rc, obeys


def test_all_situations_with_default_policies():
    """Invariants 5-7 and mirror images over 80,000 handshakes; DRBD's own course equals the second coding."""
    seen = set()
    for args in situations():
        b = Both(*args)
        check_symmetry(b)
        for h, d in zip(b.views, b.decisions):
            check_invariants(h, d)
            assert (d.drbd_result, d.drbd_conn == Conn.DISCONNECTING) == second_coding(h)
            seen.update(d.rules)
    elsewhere = {"bits-left", "redirected-primary", "order-against-policy", "served-data-stays", *LOST, *WENT_ON}
    assert {r.name for r in RULES.values() if r.table in ("safety", "left-over-bits")} - seen <= elsewhere


WENT_ON = {"went-on-in-the-same-generation", "who-went-on-is-the-source", "who-went-on-gives-way"}
LOST = {"source-lost-writes", "target-gives-up-what-source-lost", "who-lost-writes-gives-way"}


def test_no_source_that_lost_writes_without_an_order():
    """A failed flush on either disk, or on both: mirror images between our nodes, and never DRBD's way unasked."""
    seen = set()
    for number, args in enumerate(situations()):
        if number % 7:
            continue
        for lost in ((True, False), (False, True), (True, True)):
            b = Both(*args, lost=lost)
            if args[-1]:
                check_symmetry(b)
            for h, d in zip(b.views, b.decisions):
                check_invariants(h, d)
                seen.update(d.rules)
                if d.conn == Conn.WF_BITMAP_S and h.i_lost and h.peer_disk > Disk.INCONSISTENT and not h.discard_mine:
                    assert h.discard_peers
                if d.conn == Conn.CONNECTED and h.disk > Disk.INCONSISTENT:
                    assert not h.i_lost and not h.peer_lost
    assert seen >= LOST


def test_no_target_that_went_on_in_the_same_generation():
    """Whoever wrote on alone on a bitmap in use is overwritten by order only, also if a kernel peer says it crashed."""
    seen = set()
    pair = (G(X, Y, 0, 0), G(X, Z, 0, 0))
    bits, discards = [(3, 0), (0, 3), (3, 5)], [(False, False), (True, False), (False, True)]
    for crash, went_on, roles, disks, b, discard, rc, obeys in itertools.product(
            [*CRASHES, (False, True)], [(True, False), (False, True), (True, True)],
            itertools.product((S, P), repeat=2), itertools.product(DISKS[1:], repeat=2), bits, discards,
            (False, True), (False, True)):
        both = Both(pair, crash, roles, disks, b, discard, None, rc, obeys, went_on=went_on)
        if obeys:
            check_symmetry(both)
        for h, d in zip(both.views, both.decisions):
            check_invariants(h, d)
            seen.update(d.rules)
            if h.i_went_on and h.my_bits:
                assert d.conn != Conn.CONNECTED
                assert d.conn != Conn.WF_BITMAP_T or h.discard_mine
    assert seen >= WENT_ON


def test_what_a_primarys_users_work_on_is_not_replaced_under_them():
    """Whatever generations and policies say of the disk that comes: mirror images, and no source under a Primary."""
    rng = random.Random(85)
    seen = 0
    for _ in range(30000):
        policies = Policies(*rng.choices(list(splitbrain.POLICY_NUMBERS), k=3), rng.random() < 0.5,
                            rng.choice(("disconnect", "call-pri-lost", "violently")))
        args = (rng.choice(PAIRS), rng.choice(CRASHES), rng.choices((S, P), k=2), rng.choices(DISKS, k=2),
                rng.choices((0, 3, 5), k=2), (False, False), policies, rng.random() < 0.5, rng.random() < 0.5)
        late = rng.randrange(2)
        b, fresh = Both(*args, attaches=late), Both(*args)
        check_symmetry(b)
        for h, d in zip(b.views, b.decisions):
            check_invariants(h, d)
            source = late if (d.conn == Conn.WF_BITMAP_S) == (h is b.views[late]) else 1 - late
            if d.conn in (Conn.WF_BITMAP_S, Conn.WF_BITMAP_T) and source == late:
                assert args[2][late] == S or args[3][1 - late] != Disk.UP_TO_DATE
            seen += d.rule == "served-data-stays"
        assert "served-data-stays" not in {rule for d in fresh.decisions for rule in d.rules}
    assert seen > 100


def second_coding(h: Handshake) -> tuple[int, bool]:
    facts = (h.verdict.mine.bitmap & 1, h.verdict.peers.bitmap & 1, h.my_bits, h.peer_bits, h.resolve_conflicts)
    return oracle.handshake(
        h.verdict.result, h.disk, h.peer_disk, h.my_role == P, h.primaries, h.discard_mine, h.discard_peers,
        h.policies.always_asbp, h.policies.rr_conflict, h.policies[:3], facts, h.can_demote)


def test_random_situations_with_all_policies():
    """As above with every policy, always-asbp, rr-conflict and demotability drawn at random."""
    rng = random.Random(84)
    for _ in range(15000):
        policies = Policies(
            rng.choice(list(splitbrain.POLICY_NUMBERS)), rng.choice(list(splitbrain.POLICY_NUMBERS)),
            rng.choice(list(splitbrain.POLICY_NUMBERS)), rng.random() < 0.5,
            rng.choice(("disconnect", "call-pri-lost", "violently")))
        b = Both(rng.choice(PAIRS), rng.choice(CRASHES), rng.choices((S, P), k=2), rng.choices(DISKS, k=2),
                 rng.choices((0, 3, 5), k=2), rng.choice(((False, False), (True, False), (False, True))), policies,
                 rng.random() < 0.5, rng.random() < 0.5, rng.choices((True, False), k=2))
        check_symmetry(b)
        for h, d in zip(b.views, b.decisions):
            check_invariants(h, d)
            assert (d.drbd_result, d.drbd_conn == Conn.DISCONNECTING) == second_coding(h)


@pytest.mark.parametrize("zero", [*AFTER_SB_0PRI, "consensus"])
@pytest.mark.parametrize("primaries", [0, 1, 2])
def test_after_sb_tables(zero, primaries):
    """Every policy with all bits 0, bit counts, tie-breakers and roles: as in the second coding, and mirrored."""
    table = {0: [""], 1: [*AFTER_SB_1PRI, "discard-local"], 2: [*AFTER_SB_2PRI, "consensus"]}[primaries]
    for policy, was, bits, rc, i_primary, can_demote in itertools.product(
            table, itertools.product((False, True), repeat=2), itertools.product((0, 3, 5), repeat=2),
            (False, True), (False, True), (False, True)):
        if (primaries == 0 and i_primary) or (primaries == 2 and not i_primary):
            continue
        peer_primary = primaries == 2 or (primaries == 1 and not i_primary)
        mine = Split(*was, *bits, rc, P if i_primary else S, can_demote)
        peers = Split(was[1], was[0], bits[1], bits[0], not rc, P if peer_primary else S, can_demote)
        ruling = after_sb(primaries, (zero, policy, policy), mine)
        mirrored = after_sb(primaries, (MIRRORED_POLICY.get(zero, zero), policy, policy), peers)
        want = oracle.asb(primaries, zero, policy, policy, i_primary, *was, *bits, rc, can_demote=can_demote)
        assert ruling.result == want
        assert all(describe(name) for name in ruling.rules)
        if policy == "call-pri-lost-after-sb" and not can_demote:
            continue    # the loser cannot do what the winner expects of it: it drops the connection
        assert mirrored.result == (want if want == -100 else -want)


def test_call_pri_lost_after_sb_demotes_or_calls():
    lost = Policies("discard-least-changes", "call-pri-lost-after-sb")
    pair = (G(Y, X, 0, 0), G(Z, X, 0, 0))
    good = (Disk.UP_TO_DATE, Disk.UP_TO_DATE)
    d = Both(pair, (False, False), (P, S), good, (1, 9), policies=lost).decisions[0]
    assert d.demote and d.conn == Conn.WF_BITMAP_T and d.rule == "loser-gives-up-primary"
    d = Both(pair, (False, False), (P, S), good, (1, 9), policies=lost, demotable=(False, True)).decisions[0]
    assert not d.demote and d.refused and "pri-lost-after-sb" in d.handlers


def test_loser_that_stays_primary_never_becomes_a_second_source():
    """DRBD's table lets --discard-my-data overrule it here, and both nodes become source; ours refuses."""
    policies = Policies("discard-least-changes", "call-pri-lost-after-sb")
    b = Both((G(Y, X, 0, 0), G(Z, X, 0, 0)), (False, False), (P, S), (Disk.UP_TO_DATE,) * 2, (1, 9),
             discards=(False, True), policies=policies, demotable=(False, True))
    assert [d.drbd_conn for d in b.decisions] == [Conn.WF_BITMAP_S, Conn.WF_BITMAP_S]
    assert b.decisions[0].refused and b.decisions[0].rule == "order-against-policy"


def one(pair, roles=(S, S), disks=(Disk.UP_TO_DATE, Disk.UP_TO_DATE), bits=(0, 0), **kw) -> Decision:
    b = Both(pair, (False, False), roles, disks, bits, **kw)
    check_symmetry(b)
    return b.decisions[0]


def test_split_brain_calls_handlers_and_discards_nothing():
    d = one((G(Y, X, 0, 0), G(Z, X, 0, 0)), bits=(32768, 1024))
    assert d.conn == Conn.DISCONNECTING and d.split_brain and d.discarded_kib == 0
    assert d.handlers == ("initial-split-brain", "split-brain")
    assert "here 131072 KiB changed, there 4096 KiB; nothing was discarded" in d.text and "both-moved-on" in d.text


def test_split_brain_solved_by_order_names_the_loss():
    d = one((G(Y, X, 0, 0), G(Z, X, 0, 0)), bits=(7, 2), discards=(True, False))
    assert (d.conn, d.rule, d.discarded_kib) == (Conn.WF_BITMAP_T, "discard-my-data", 28)
    assert "what changed on this node is discarded" in d.text


def test_always_asbp_doubles_to_a_full_sync():
    pair = (G(Y, 0, X, 0), G(Z, 0, X, 0))
    policies = Policies("discard-least-changes")
    assert one(pair, bits=(5, 2), policies=policies).refused
    d = one(pair, bits=(5, 2), policies=policies._replace(always_asbp=True))
    assert d.conn == Conn.WF_BITMAP_S and d.full_sync and d.result == 2


def test_dry_run_says_what_would_be_and_changes_nothing():
    b = Both((G(X, 0, 0, 0), G(Y, X, 0, 0)), (False, False), (S, S), (Disk.UP_TO_DATE,) * 2, (0, 4))
    d = decide(b.views[0]._replace(dry_run=True))
    assert (d.conn, d.rule, d.dry_run, d.full_sync, d.result) == (Conn.DISCONNECTING, "dry-run", True, False, -1)
    assert "would be resync from the peer" in d.text


def test_rr_conflict():
    pair = (G(X, 0, 0, 0), G(Y, X, 0, 0))
    d = one(pair, roles=(P, S))
    assert d.refused and d.rule == "rr-conflict-disconnect"
    d = one(pair, roles=(P, S), policies=Policies(rr_conflict="call-pri-lost"))
    assert d.refused and d.handlers == ("pri-lost",)
    d = one(pair, roles=(P, S), policies=Policies(rr_conflict="violently"))
    assert d.conn == Conn.WF_BITMAP_T and d.rule == "rr-conflict-violently"


def test_a_diskless_primary_that_attaches_may_be_target():
    """rr-conflict looks at the real disk state: while Negotiating the Primary's users work on the peer's data."""
    pair = (G(X, 0, 0, 0), G(Y, X, 0, 0))
    h = Both(pair, (False, False), (P, S), (Disk.NEGOTIATING, Disk.UP_TO_DATE), (0, 4)).views[0]
    d = decide(h._replace(my_disk_from_metadata=Disk.OUTDATED))
    assert d.conn == Conn.WF_BITMAP_T


def test_missed_end_with_outdated_source_is_refused_on_both_sides():
    """LINBIT/drbd#143: the Outdated node as source of an UpToDate one is refused, not tried for ever."""
    for obeys in (False, True):
        d = one((G(X, Y, Z, 0), G(X, 0, Y, Z)), disks=(Disk.OUTDATED, Disk.UP_TO_DATE), bits=(9, 0), obeys=obeys)
        assert d.refused and d.rule == "stale-side-never-source"
        assert d.drbd_result == 1 and d.drbd_conn == Conn.WF_BITMAP_S
    d = one((G(X, Y, Z, 0), G(X, 0, Y, Z)), disks=(Disk.OUTDATED, Disk.UP_TO_DATE), bits=(9, 0), obeys=True,
            discards=(True, False))
    assert d.conn == Conn.WF_BITMAP_T and d.rule == "stale-side-gives-up"


def test_a_target_that_was_primary_since_the_end_and_crashed_is_the_source():
    """What it answered is on its disk; the source died before it knew of the end, maybe with what was not flushed."""
    pair, good = (G(X, Y, Z, 0), G(X, 0, Y, Z)), Disk.UP_TO_DATE
    cases = [  # crashes, roles, the target's disk, went on, from the source?
        ((False, True), (S, S), good, (False, False), False),
        ((True, True), (S, S), good, (False, False), False),    # it has not resynced since its own crash
        ((True, False), (S, S), good, (False, False), True),
        ((False, False), (S, S), good, (False, False), True),
        ((False, True), (P, S), good, (False, False), True),    # its users go on with its data
        ((False, True), (S, S), good, (True, False), True),     # or did
        ((False, True), (S, S), Disk.OUTDATED, (True, False), True),
        ((False, True), (S, S), Disk.INCONSISTENT, (False, False), True),
    ]
    for crashes, roles, disk, went_on, from_source in cases:
        for obeys in (True, False):
            both = Both(pair, crashes, roles, (good, disk), (4, 4), obeys=obeys, went_on=went_on)
            check_symmetry(both)
            here = both.decisions[0]
            assert here.conn == (Conn.WF_BITMAP_S if from_source or not obeys else Conn.WF_BITMAP_T)
            assert here.drbd_result == 1
            assert both.views[0].verdict.mine.plain() == both.views[1].verdict.mine.plain()


def test_left_over_bits_of_a_surviving_primary_are_not_forgotten():
    """LINBIT/drbd#145: same generation, 16 bits left on the Primary, both UpToDate. DRBD: no resync."""
    pair = (G(X, 0, Y, Z), G(X, 0, Y, Z))
    d = one(pair, roles=(P, S), bits=(16, 0))
    assert (d.conn, d.drbd_conn, d.keep_bits, d.left_over_kib) == (Conn.CONNECTED, Conn.CONNECTED, True, 64)
    assert d.rule == "bits-left-kept" and "stay marked" in d.text
    d = one(pair, roles=(P, S), bits=(16, 0), obeys=True)
    assert (d.conn, d.resync_left_over, d.drbd_result) == (Conn.WF_BITMAP_S, True, 0)
    d = one(pair, bits=(16, 16), obeys=True)
    assert d.conn == Conn.CONNECTED and d.keep_bits, "after a verify nobody knows which side is right"


def test_left_over_bits_of_an_outdated_primary_come_from_a_consistent_peer():
    """Told to be the target it is Outdated; with fencing a peer that died meanwhile is only Consistent."""
    pair = (G(X, 0, Y, Z), G(X, 0, Y, Z))
    for roles in ((P, S), (S, S)):
        both = Both(pair, (False, False), roles, (Disk.OUTDATED, Disk.CONSISTENT), (16, 0), obeys=True)
        check_symmetry(both)
        assert both.decisions[0].conn == Conn.WF_BITMAP_T


def test_bits_that_appeared_after_p_uuids_are_kept_and_told():
    same = (G(X, 0, 0, 0), G(X, 0, 0, 0))
    h = Both(same, (False, False), (P, S), (Disk.UP_TO_DATE,) * 2, (0, 0), obeys=True).views[0]
    d = decide(h._replace(my_bits_now=2))
    assert (d.conn, d.keep_bits, d.left_over_kib, d.rule) == (Conn.CONNECTED, True, 8, "bits-left-kept")


def test_an_outdated_side_with_bits_left_is_not_lifted_by_a_kernel_peer():
    d = one((G(X, 0, 0, 0), G(X, 0, 0, 0)), disks=(Disk.UP_TO_DATE, Disk.OUTDATED), bits=(0, 3))
    assert d.refused and d.rule == "outdated-with-bits-left" and d.drbd_conn == Conn.CONNECTED


def test_contradictory_generations():
    pair = (G(X, Y, 0, 0), G(Y, X, 0, 0))
    d = one(pair)
    assert d.refused and d.split_brain and d.rule == "contradictory-generations" and d.drbd_conn == Conn.WF_BITMAP_T
    d = one(pair, disks=(Disk.INCONSISTENT, Disk.UP_TO_DATE))
    assert d.conn == Conn.WF_BITMAP_T and d.full_sync
    d = one(pair, discards=(False, True), obeys=True)
    assert d.conn == Conn.WF_BITMAP_S and d.full_sync


def test_redirected_primary_still_obeys_rr_conflict():
    pair = (G(X, Y, 0, 0), G(Y, X, 0, 0))
    b = Both(pair, (False, False), (P, S), (Disk.UP_TO_DATE,) * 2, (1, 1), discards=(True, False), obeys=True,
             policies=Policies(rr_conflict="violently"))
    assert b.decisions[0].conn == Conn.WF_BITMAP_T
    assert decide(b.views[0]._replace(policies=Policies())).refused


def test_fresh_pair_just_connects_and_keeps_its_bits():
    d = one((G(4, 0, 0, 0), G(4, 0, 0, 0)), disks=(Disk.INCONSISTENT, Disk.INCONSISTENT), bits=(99, 99))
    assert (d.conn, d.rule, d.keep_bits) == (Conn.CONNECTED, "both-just-created", True)
    assert drbd_course(Both((G(4, 0, 0, 0), G(4, 0, 0, 0)), (False, False), (S, S),
                            (Disk.INCONSISTENT,) * 2, (9, 9)).views[0]).result == 0


def test_target_that_went_on_writing_after_a_missed_end_is_split_brain():
    """DRBD's table flaw, found by test_lives: the source of a resync missed its end and wrote on, the finished target
    was promoted meanwhile. Same current as the other's bitmap base: DRBD discards the old source's writes unasked."""
    old_source, promoted = G(X, Y, 0, 0), G(Z, X, Y, 0)
    d = one((old_source, promoted), bits=(5, 2))
    assert d.refused and d.split_brain and d.rule == "target-has-own-changes"
    assert (d.drbd_result, d.drbd_conn, d.drbd_rule) == (-1, Conn.WF_BITMAP_T, "peer-moved-on")
    assert one((old_source, promoted), bits=(0, 2)).conn == Conn.WF_BITMAP_T, "it wrote nothing: it only fell behind"
    given_up = one((old_source, promoted), bits=(5, 2), discards=(True, False))
    assert (given_up.conn, given_up.discarded_kib) == (Conn.WF_BITMAP_T, 20)
    # a replblock node notes by a flag that it went on alone; without it, it did not
    pair, went_on = (old_source, promoted), {"obeys": True, "went_on": (True, False)}
    assert one(pair, bits=(5, 2), obeys=True).conn == Conn.WF_BITMAP_T
    assert one(pair, bits=(5, 2), **went_on).rule == "target-has-own-changes"
    assert one(pair, bits=(5, 2), discards=(False, True), **went_on).conn == Conn.WF_BITMAP_S
    assert one((old_source, promoted), bits=(5, 2), discards=(False, True)).refused
    # so it does where the repair of the missed end has retired its bitmap; of a kernel peer only our own flag is known
    repaired = (G(X, 0, Y, 0), promoted)
    assert one(repaired, bits=(5, 2), **went_on).rule == "target-has-own-changes"
    assert one(repaired, bits=(0, 2), **went_on).conn == Conn.WF_BITMAP_T
    view = Both(repaired, (False, False), (S, S), (Disk.UP_TO_DATE,) * 2, (5, 2)).views[0]
    assert decide(view).conn == Conn.WF_BITMAP_T
    assert decide(view._replace(i_went_on=True)).rule == "target-has-own-changes"
