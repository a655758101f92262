# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of generations against the kernel's own: the same pairs, written by drbdmeta, on both; what each says.

Each pair is one connection. The kernel logs its result and rule number; ours must be the mirror image, and the pure
function must have foretold both. Then either both end without a connection, or with the same data and generations.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

import pytest

from replblock.state.generations import Generations
from replblock.state.uuids import Side, compare
from tests.e2e.waiting import wait_until
from tests.kernel.mixed import GENERATIONS, KernelMachine, MixedPair
from tests.kernel.pair import DISK, Machine

OFFSET = 0x0001000000000000
A, B, C, D = 0xA1A2A3A4A5A6A700, 0xB1B2B3B4B5B6B700, 0xC1C2C3C4C5C6C700, 0xD1D2D3D4D5D6D700
VERDICT = re.compile(r"uuid_compare\(\)=(-?\d+) by rule (\d+)")


class Planned(NamedTuple):
    """What drbdmeta writes on one node."""

    generations: tuple[int, int, int, int]
    crashed: bool = False

    @property
    def words(self) -> str:
        return ":".join(f"{g:016X}" for g in self.generations) + f":1:1:0:0:0:0:{int(self.crashed)}"


DIRECTED: dict[str, tuple[Planned, Planned]] = {
    "10": (Planned((4, 0, 0, 0)), Planned((4, 0, 0, 0))),
    "20": (Planned((4, 0, 0, 0)), Planned((A, 0, 0, 0))),
    "30": (Planned((A, 0, B, C)), Planned((4, 0, 0, 0))),
    "34": (Planned((A, B, C, 0)), Planned((A, 0, B, C))),
    "36": (Planned((A, B, 0, 0)), Planned((A, 0, 0, 0))),
    "37": (Planned((A, 0, C, D)), Planned((A, B, C, D))),
    "40": (Planned((A, 0, B, 0)), Planned((A, 0, B, 0))),
    "40-crash": (Planned((A, 0, B, 0), True), Planned((A, 0, B, 0))),
    "40-peer": (Planned((A, 0, B, 0)), Planned((A, 0, B, 0), True)),
    "40-both": (Planned((A, 0, B, 0), True), Planned((A, 0, B, 0), True)),
    "50": (Planned((B, 0, C, D)), Planned((A, B, C, D))),
    "51": (Planned((B, 0, C, D)), Planned((A, B + OFFSET, B, C))),
    "60": (Planned((C, 0, D, 0)), Planned((A, B, C, D))),
    "70": (Planned((A, B, C, D)), Planned((B, 0, C, D))),
    "71": (Planned((A, B + OFFSET, B, C)), Planned((B, 0, C, D))),
    "80": (Planned((A, 0, B, C)), Planned((C, 0, 0, 0))),
    "90": (Planned((A, C, D, 0)), Planned((B, C, D, 0))),
    "100": (Planned((A, 0, C, D)), Planned((B, 0, D, 0))),
    "100-zeros": (Planned((A, 0, 0, 0)), Planned((B, 0, 0, 0))),
    "unrelated": (Planned((A, 0, C, 1 << 60)), Planned((B, 0, D, 1 << 61))),
}


def drawn(number: int) -> tuple[Planned, Planned]:
    """A pair of which few have a history that made them."""
    dice = random.Random(number)

    def one() -> Planned:
        few = (A, B, C, D)
        current = dice.choice(few[:3])
        bitmap = dice.choice((0, 0, *few, B + OFFSET))
        return Planned((current | dice.randrange(2), bitmap, dice.choice((0, *few)), dice.choice((0, *few))),
                       dice.random() < 0.2)  # fmt: skip

    return one(), one()


class Met(NamedTuple):
    """What one node logged: both generations, and its verdict."""

    mine: Generations
    peers: Generations
    result: int
    number: int


def met(machine: Machine) -> Met | None:
    """Of the first connection in its log: before its repairs, which the kernel prints in the same form."""
    said = machine.log()
    verdict = VERDICT.search(said)
    if verdict is None:
        return None
    logged = [re.search(rf"\b{who} " + GENERATIONS.pattern, said) for who in ("self", "peer")]
    mine, peers = (Generations(*(int(group, 16) for group in line.groups())) for line in logged if line is not None)
    return Met(mine, peers, int(verdict[1]), int(verdict[2]))


def connect_with(mixed: MixedPair, planned: tuple[Planned, Planned]) -> tuple[Met, Met]:
    """dados', backup's verdict on disks that say this of themselves."""
    for machine, plan in zip(mixed.machines, planned, strict=True):
        machine.do("down", "r0")
        if isinstance(machine, KernelMachine):
            machine.sh("dmesg --clear")
        else:
            machine.sh("rm -f /run/replblock/r0.log")
        machine.sh(f"drbdmeta --force 0 v08 {DISK} internal set-gi {plan.words} >/dev/null")
    for machine in mixed.machines:
        machine.do("up", "r0")
    wait_until(lambda: all(met(machine) for machine in mixed.machines),
               lambda: mixed.ours.log()[-3000:] + mixed.kernel.log()[-3000:])  # fmt: skip
    one, other = (met(machine) for machine in mixed.machines)
    assert one is not None and other is not None
    return one, other


def end(mixed: MixedPair) -> str:
    """How the connection ended: parted, or in sync with nothing different left."""
    def ended() -> str:
        lines = [machine.proc for machine in mixed.machines]
        if all("cs:Connected" in line for line in lines):
            return "in sync" if all("ds:UpToDate/UpToDate" in line for line in lines) else "connected"
        return "parted" if "cs:StandAlone" in "".join(lines) else ""

    wait_until(lambda: ended() != "", lambda: "".join(machine.proc for machine in mixed.machines))
    return ended()


def check(mixed: MixedPair, planned: tuple[Planned, Planned]) -> list[str]:
    """What is wrong with this pair, for the report."""
    verdicts = connect_with(mixed, planned)
    wrong = []
    for machine, plan, peers, said in zip(mixed.machines, planned, planned[::-1], verdicts, strict=True):
        foretold = {
            (v.drbd_result, v.number) for way in (True, False)
            for v in [compare(Side(said.mine, plan.crashed), Side(said.peers, peers.crashed), resolve_conflicts=way)]
        }
        if (said.result, said.number) not in foretold:
            wrong.append(f"{type(machine).__name__}: {said}, foretold {foretold}")
    how = end(mixed)
    if how == "in sync":
        try:
            # connected without a resync, each keeps what it had of older generations
            mixed.assert_agree() if verdicts[0].result else mixed.assert_same_data()
        except AssertionError as problem:
            wrong.append(f"{verdicts}: {problem}")
    return wrong


@pytest.mark.long
@pytest.mark.parametrize("rule", DIRECTED)
def test_every_rule(mixed: MixedPair, rule: str) -> None:
    if not mixed.config:
        mixed.begin()
    assert not check(mixed, DIRECTED[rule])


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_drawn_pairs(mixed: MixedPair, first: int) -> None:
    if not mixed.config:
        mixed.begin()
    wrong = {number: problems for number in range(first, first + 10) if (problems := check(mixed, drawn(number)))}
    assert not wrong, "\n".join(f"{number}: {drawn(number)}: {problems}" for number, problems in wrong.items())
