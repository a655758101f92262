# SPDX-License-Identifier: GPL-2.0-or-later
"""The forecast: total, mirror-symmetric, and never more is discarded than it said could be lost."""

from __future__ import annotations

import itertools

import pytest

from replblock.state.describe import describe
from replblock.state.forecast import ROLES, VALUES, Forecast, Party, Terms, by_policy, forecast, losses, order
from replblock.state.handshake import Policies
from replblock.state.names import Disk
from replblock.status.explain import explain, party_of
from tests.state.test_policies import CRASHES, DISKS, PAIRS

STEP = 11                   # coprime to the number of values of each part: all pairs of values are still met


def situations():
    yield from itertools.islice(everything(), 0, None, STEP)


def everything():
    for pair, crash, roles in itertools.product(PAIRS, CRASHES, ROLES):
        for disks, bits in itertools.product(itertools.product(DISKS, repeat=2), [(0, 0), (3, 0), (3, 5)]):
            yield tuple(Party(*each) for each in zip(pair, bits, disks, roles, crash))


def ends(found: Forecast) -> set[tuple[int | None, int, bool]]:
    return {(one.direction, one.loser, one.full_sync) for one in (found.outcome, found.otherwise or found.outcome)}


def mirrored(found: set[tuple[int | None, int, bool]]) -> set[tuple[int | None, int, bool]]:
    return {(None if way is None else -way, -loser, full) for way, loser, full in found}


@pytest.mark.parametrize("policies", [
    Policies(), Policies("discard-least-changes", "consensus", "violently-as0p"),
    Policies("discard-local", "call-pri-lost-after-sb", "disconnect", True, "violently"),
], ids=lambda policies: policies.after_sb_0pri)
@pytest.mark.parametrize("obeys", [True, False])
def test_both_ends_see_the_same(policies: Policies, obeys: bool) -> None:
    """What happens is the same seen from either end; its rules have a meaning."""
    terms = Terms(policies, obeys_safety=obeys)
    for mine, peers in situations():
        here, there = forecast(mine, peers, terms), forecast(peers, mine, terms.mirrored())
        assert ends(here) == mirrored(ends(there)), (mine, peers)
        assert describe(here.outcome.rule)
        bounds = losses(mine, peers, here.verdict)
        for one in (here.outcome, here.otherwise or here.outcome):
            if one.loser:
                loss = bounds[0 if one.loser < 0 else 1]
                discarded = max(one.mine.discarded_kib, one.peers.discarded_kib) // 4
                assert loss.bound in ("at-least", "everything") or discarded <= (loss.blocks or 0), (mine, peers, one)


def test_an_order_discards_the_side_that_was_told() -> None:
    """Wherever the order leads to a resync of a split brain, the side that was told is the target."""
    solved = 0
    for mine, peers in situations():
        base = forecast(mine, peers, Terms())
        if not base.outcome.mine.split_brain or min(mine.disk, peers.disk) <= Disk.INCONSISTENT:
            continue
        for side, direction in ((0, -1), (1, 1)):
            for one in ends(order(mine, peers, Terms(), side)):
                if one[1]:
                    assert one[0] == direction
                    solved += 1
    assert solved > 100


def test_every_policy_of_every_class_is_listed() -> None:
    mine, peers = (Party(generations, 3) for generations in PAIRS[8])
    for roles in ROLES:
        rows = by_policy(mine, peers, Terms(two_primaries=True), roles)
        primaries = rows[0].primaries
        assert {row.value for row in rows} == set(VALUES[primaries])
        for row in rows:
            zero = row.zero or "disconnect"
            policies = [zero, "disconnect", "disconnect"]
            policies[primaries] = row.value
            again = forecast(mine._replace(role=roles[0]), peers._replace(role=roles[1]),
                             Terms(Policies(*policies), two_primaries=True))
            assert ends(again) == ends(row.forecast)


def node(name: str = "alfa", **changes: object) -> dict[str, object]:
    blank = {"name": name, "uuids": ["000000000000000A"] * 4, "marked-blocks": 0, "disk": "UpToDate",
             "role": "Secondary", "crashed-primary": False}
    return {**blank, **changes}


@pytest.mark.parametrize(("here", "there", "said"), [
    (None, node(), "no disk attached"),
    (node(), None, "not known"),
    (node(), node(disk="Diskless"), "has no disk"),
    (node(disk="Attaching"), node(), "not in use yet"),
])
def test_what_cannot_be_told_is_said(here: object, there: object, said: str) -> None:
    """No forecast from half of the facts."""
    facts = {"here": here, "there": there, "blocks": 1, "version": None, "peer-is-replblock": None,
             "rule-41-feature": None, "options": None}
    made = explain(facts, "r0", "live")
    assert made["forecast"] is None and said in made["notes"][0] and made["ways-out"] == []


def test_an_unknown_role_counts_as_secondary() -> None:
    assert party_of(node(role="Unknown")).role.label == "Secondary"
