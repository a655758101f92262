# SPDX-License-Identifier: GPL-2.0-or-later
"""Short histories that aim: one scene of `crossings`, once to thrice, under settings that let it come to the crossing.

They begin with both nodes well and a Primary, so that nothing stands in the way; waits and all else are left to chance.
One in four is near what once failed instead (`nearby`), also what was found after that module's own list was closed.
"""

from __future__ import annotations

import random
from typing import Any

from tests.sim import crossings
from tests.sim.false_alarms import FALSE_ALARMS
from tests.sim.history import Event, History, argument, setup
from tests.sim.nearby import KNOWN, near
from tests.sim.once_failed_since import FOUND

ALSO_KNOWN = (*KNOWN, *FALSE_ALARMS[10:12], *FOUND[:20])
"""The numbers are fixed, as those of KNOWN are."""
NEAR_SHARE = 0.25
QUICK = (1, 2)
DETACH = {"on_io_error": ("detach",)}
BEATEN = {
    "after_sb_0pri": ("discard-older-primary", "discard-older-primary", "discard-local", "discard-least-changes"),
    "after_sb_1pri": ("violently-as0p", "consensus", "call-pri-lost-after-sb"),
    "after_sb_2pri": ("violently-as0p", "call-pri-lost-after-sb"),
}
COUNTED = {
    "after_sb_0pri": ("discard-zero-changes",), "after_sb_1pri": ("disconnect",), "after_sb_2pri": ("disconnect",),
    "protocol": ("A", "A", "B", "C"),
}  # fmt: skip

AIMS: tuple[tuple[crossings.Scene, int, dict[str, tuple[Any, ...]]], ...] = (
    (crossings.ordered_away, 3, {"protocol": ("C",), "delay_ms": QUICK}),
    (crossings.missed_end, 1, {}),
    (crossings.bad_start, 2, {}),
    (crossings.crossing, 2, {**DETACH, "slow_ms": (2, 4)}),
    (crossings.spoken_of, 1, DETACH),
    (crossings.late_answers, 3, {"resync_rate_kib": (40, 400, 4 << 20)}),
    (crossings.refused_again, 3, {"offer_ordered": (False,)}),
    (crossings.out_again, 1, DETACH),
    (crossings.given_up, 2, {**DETACH, "delay_ms": QUICK, "slow_share": (0.3, 1.0)}),
    (crossings.uncounted, 2, {**DETACH, **COUNTED}),
    (crossings.beaten, 4, BEATEN),
    (crossings.whatever, 7, {}),
)
"""A scene, its weight, and what of the settings it needs: one of these each."""


def aimed_history(seed: int) -> History:
    """One scene, or near what once failed."""
    rng = random.Random(seed)
    if rng.random() < NEAR_SHARE:
        return near(rng, ALSO_KNOWN)
    make, _, wanted = rng.choices(AIMS, [weight for _, weight, _ in AIMS])[0]
    return aimed(rng, make, wanted)


def aimed(rng: random.Random, make: crossings.Scene, wanted: dict[str, tuple[Any, ...]]) -> History:
    """This scene."""
    world = setup(rng)
    world["batch"] = rng.choice((0.0, 0.0, 0.05, 0.3))
    world["created"] = False
    world["start"] = "primary"
    world["blocks"] = blocks = rng.choice((2, 16, 16, 40))
    if rng.random() < 0.7:
        world["fencing"] = "dont-care"
    for key, values in sorted(wanted.items()):
        world[key] = rng.choice(values)
    spots = [0, *(rng.randrange(blocks) for _ in range(rng.choice((1, 4))))]
    made: list[Event] = []
    for number in range(rng.choice((1, 2, 2, 3))):
        if number:
            made += [Event("mend", "a", None, 0, rng.getrandbits(32)), Event("primary", "a", None, 60)]
        steps = make(rng, lambda kind: argument(kind, rng, spots, blocks))
        made += [Event(*step, rng.getrandbits(32)) for step in steps]
    return History(world, tuple(made))
