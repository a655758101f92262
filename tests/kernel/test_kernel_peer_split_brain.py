# SPDX-License-Identifier: GPL-2.0-or-later
"""A split brain between replblock and the kernel's DRBD 8.4: both come to the same verdict, by every policy."""

from __future__ import annotations

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.mixed import MixedPair, scribble

pytestmark = pytest.mark.long


def part(mixed: MixedPair, net: dict[str, object], first_writes: int, second_writes: int) -> None:
    """Both were Primary while nothing was plugged in; dados first. Both Secondary again, the cable back."""
    mixed.begin(net)
    first, second = mixed.machines
    scribble(first, "common", 30)
    second.guest.cut()
    for machine in mixed.machines:
        machine.wait_state("cs:WFConnection")
    if first_writes:
        scribble(first, "first", first_writes)
    first.do("secondary", "r0")
    second.do("primary", "r0")
    if second_writes:
        scribble(second, "second", second_writes)


def meet(mixed: MixedPair) -> None:
    mixed.backup.guest.heal()


def standing_alone(mixed: MixedPair) -> None:
    """Neither has a connection any more; replblock says why."""
    wait_until(lambda: mixed.ours.proc and "cs:Connected" not in mixed.ours.proc
               and "StandAlone" in mixed.ours.proc + mixed.kernel.proc, lambda: mixed.ours.proc + mixed.kernel.proc)
    wait_until(lambda: "split brain" in mixed.ours.log().lower(), mixed.ours.log)


@pytest.mark.parametrize(("policy", "writes", "winner"), [
    ("disconnect", (10, 10), None),
    ("discard-younger-primary", (10, 10), "dados"),
    ("discard-older-primary", (10, 10), "backup"),
    ("discard-zero-changes", (0, 10), "backup"),
    ("discard-zero-changes", (10, 0), "dados"),
    ("discard-zero-changes", (10, 10), None),
    ("discard-least-changes", (5, 30), "backup"),
    ("discard-least-changes", (30, 5), "dados"),
    ("discard-node-dados", (10, 10), "backup"),
    ("discard-node-backup", (10, 10), "dados"),
])  # fmt: skip
def test_nobody_primary(mixed: MixedPair, policy: str, writes: tuple[int, int], winner: str | None) -> None:
    """after-sb-0pri."""
    part(mixed, {"after-sb-0pri": policy}, *writes)
    mixed.backup.do("secondary", "r0")
    meet(mixed)
    settle_for(mixed, winner)


@pytest.mark.parametrize(("policy", "winner"), [
    ("disconnect", None), ("consensus", None), ("discard-secondary", "backup"),
    ("violently-as0p", None),       # the loser is Primary: rr-conflict disconnect
    ("call-pri-lost-after-sb", None),
])  # fmt: skip
def test_one_primary(mixed: MixedPair, policy: str, winner: str | None) -> None:
    """after-sb-1pri, with discard-younger-primary for nobody: backup, the younger one, is Primary."""
    part(mixed, {"after-sb-0pri": "discard-younger-primary", "after-sb-1pri": policy}, 10, 10)
    meet(mixed)
    settle_for(mixed, winner)


@pytest.mark.parametrize("policy", ["disconnect", "violently-as0p", "call-pri-lost-after-sb"])
@pytest.mark.parametrize("writes", [(30, 5), (5, 30)], ids=["dados-has-more", "backup-has-more"])
def test_two_primaries(mixed: MixedPair, policy: str, writes: tuple[int, int]) -> None:
    """after-sb-2pri, on a pair that may not have two Primaries: none of them becomes a target under its users.

    Both stay Primary, but for a loser told to give up its role that is free to.
    """
    part(mixed, {"after-sb-0pri": "discard-least-changes", "after-sb-2pri": policy}, *writes)
    mixed.dados.do("primary", "r0")
    meet(mixed)
    standing_alone(mixed)
    more = mixed.dados if writes[0] > writes[1] else mixed.backup
    assert "ro:Primary" in more.proc


@pytest.mark.parametrize("loser", ["dados", "backup"])
def test_order_of_the_operator(mixed: MixedPair, loser: str) -> None:
    """connect --discard-my-data."""
    part(mixed, {}, 10, 10)
    mixed.backup.do("secondary", "r0")
    meet(mixed)
    standing_alone(mixed)
    victim = next(m for m in mixed.machines if m.name == loser)
    for machine in mixed.machines:
        machine.try_("disconnect", "r0")
    victim.do("connect", "--discard-my-data", "r0")
    mixed.other(victim).do("connect", "r0")
    mixed.assert_agree()


def settle_for(mixed: MixedPair, winner: str | None) -> None:
    if winner is None:
        standing_alone(mixed)
        return
    mixed.settle()
    mixed.assert_agree()
    source = next(m for m in mixed.machines if m.name == winner)
    assert "as SyncSource" in source.log().rpartition("Began resync")[2].splitlines()[0]
