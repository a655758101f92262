# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes that crashed and are called Outdated: the crash makes no source of them."""

from __future__ import annotations

from replblock.state.generations import Generations as G
from replblock.state.names import Conn, Disk, Role
from tests.state.test_policies import Both, check_symmetry

S = Role.SECONDARY
X, Y, Z = 0x10000, 0x20000, 0x30000


def one(pair, crashes, disks, bits, **kw):
    both = Both(pair, crashes, (S, S), disks, bits, **kw)
    check_symmetry(both)
    return both.decisions[0]


def test_an_outdated_node_is_not_the_source_because_it_crashed():
    """Its operator, or the peer's, had said that the other data counts: only a crash speaks for it."""
    same = (G(X, 0, Y, Z), G(X, 0, Y, Z))
    for obeys in (False, True):
        both = Both(same, (True, False), (S, S), (Disk.OUTDATED, Disk.CONSISTENT), (9, 0), obeys=obeys)
        check_symmetry(both)
        for d in both.decisions:
            assert d.refused and d.rule == "stale-side-never-source" and abs(d.drbd_result) == 1
    d = one((G(X, Y, Z, 0), G(Y, 0, Z, 0)), (False, False), (Disk.OUTDATED, Disk.CONSISTENT), (9, 0))
    assert d.conn == Conn.WF_BITMAP_S, "an older generation is older, whatever its disk is called"


def test_that_the_other_one_is_outdated_too_makes_no_source_of_the_one_that_crashed():
    """Which of them was better is known to nobody; an order says it."""
    same, bad = (G(X, 0, Y, Z), G(X, 0, Y, Z)), (Disk.OUTDATED, Disk.OUTDATED)
    for obeys in (False, True):
        both = Both(same, (True, False), (S, S), bad, (9, 9), obeys=obeys)
        check_symmetry(both)
        assert all(d.refused and d.rule == "stale-side-never-source" for d in both.decisions)
    for discards, conn in (((True, False), Conn.WF_BITMAP_T), ((False, True), Conn.WF_BITMAP_S)):
        d = one(same, (True, False), bad, (9, 9), obeys=True, discards=discards)
        assert d.conn == conn and d.rule == "stale-side-gives-up"
    d = one((G(X, Y, 0, 0), G(X, Z, 0, 0)), (False, True), bad, (9, 9), obeys=True, went_on=(True, False))
    assert d.conn == Conn.WF_BITMAP_S, "it is known to have written alone"


def test_a_target_that_crashed_since_the_end_and_was_called_outdated_is_not_overwritten():
    """`outdate` forbids its use, and discards nothing: what it answered may be nowhere else."""
    pair = (G(X, Y, Z, 0), G(X, 0, Y, Z))
    for source in (Disk.UP_TO_DATE, Disk.CONSISTENT, Disk.OUTDATED):
        both = Both(pair, (False, True), (S, S), (source, Disk.OUTDATED), (4, 4), obeys=True)
        check_symmetry(both)
        assert all(d.refused and d.rule == "stale-side-never-source" for d in both.decisions)
        d = one(pair, (False, True), (source, Disk.OUTDATED), (4, 4), obeys=True, discards=(False, True))
        assert d.conn == Conn.WF_BITMAP_S and d.rule == "stale-side-gives-up"
