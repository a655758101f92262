# SPDX-License-Identifier: GPL-2.0-or-later
"""A history as data: settings, and a list of events. One seed makes one history."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from tests.sim.crossings import CROSSINGS
from tests.sim.scenes import SCENES, SHARPER, crowd, once, scene

BLOCKS_PER_EXTENT = 1024
LONG_EVENTS = 200
BATCHING_SEEDS = 10_000_000
"""From this seed on, a wake-up may handle several events, as the engine's do; older seeds stay what they were."""
RICHER_SEEDS = 20_000_000
"""From this seed on, scenes and more kinds of events stand among the single ones, and a resync may last."""
SHARPER_SEEDS = 30_000_000
"""From this seed on there are scenes for what those of before hardly ever came to."""
CROSSING_SEEDS = 60_000_000
"""From this seed on also those in which an order, a failure and a death cross each other within milliseconds."""

THIN_SEEDS = 70_000_000
"""From this seed on a resync may tell zeroes with a word."""
THIN = 0b10

LZ4_SEEDS = 80_000_000
"""From this seed on, in every other history what travels is compressed."""

ASIDE_SEEDS = 90_000_000
"""From this seed on a resync may step aside for the application."""
MIN_RATES_KIB = (0, 1, 4, 40)


class Event(NamedTuple):
    """Something that happens to a node; afterwards time passes. `salt` seeds all chance until the next event.

    Node "p" is whoever is Primary then, or was last; "s" its peer.
    """

    kind: str
    node: str
    arg: Any = None
    wait_ms: int = 0
    salt: int = 0

    def __str__(self) -> str:
        arg = "" if self.arg is None else f" {self.arg}"
        return f"{self.kind} {self.node}{arg}, then {self.wait_ms} ms [{self.salt}]"


class History(NamedTuple):
    """Everything that decides what happens."""

    setup: dict[str, Any]
    events: tuple[Event, ...]

    def __str__(self) -> str:
        lines = ["setup " + " ".join(f"{k}={v!r}" for k, v in sorted(self.setup.items()))]
        return "\n".join([*lines, *(f"{n:4} {event}" for n, event in enumerate(self.events))])


# kind, weight, makes the argument
LONG: tuple[tuple[str, float], ...] = (
    ("write", 40), ("zero", 2), ("trim", 2), ("flush", 6), ("read", 8), ("wait", 8),
    ("cut", 2), ("cut_one_way", 2), ("heal", 6), ("forget", 1.5),
    ("kill", 1.5), ("power", 1.5), ("fuse", 3), ("up", 8),
    ("stall", 1), ("slow", 1), ("clock", 0.5), ("delay", 0.5),
    ("fail", 1.5), ("repair", 3),
    ("primary", 6), ("force", 0.4), ("secondary", 2), ("disconnect", 1.5), ("connect", 3), ("discard", 1),
    ("invalidate", 0.7), ("invalidate_remote", 0.7), ("detach", 1), ("attach", 2), ("down", 0.8),
    ("pause", 0.5), ("resume", 1), ("outdate", 0.4), ("mend", 2.5),
)  # fmt: skip
MORE: tuple[tuple[str, float], ...] = (("fail_once", 3), ("crowd", 3), ("detach_force", 0.4))
WAITS = (0, 0, 0, 1, 1, 2, 3, 5, 8, 15, 40)
STEADY = frozenset({"write", "flush", "read", "zero", "trim", "up", "heal", "mend", "wait", "primary"})
"""As likely in calm histories as in others."""
LONG_WAITS = (100, 300, 700, 1500, 4000, 12000)
AFTER_SB_0 = (
    "disconnect", "disconnect", "disconnect", "discard-younger-primary", "discard-older-primary",
    "discard-zero-changes", "discard-zero-changes", "discard-least-changes", "discard-local", "discard-remote",
)  # fmt: skip
AFTER_SB_1 = ("disconnect", "disconnect", "consensus", "violently-as0p", "discard-secondary", "call-pri-lost-after-sb")
AFTER_SB_2 = ("disconnect", "disconnect", "violently-as0p", "call-pri-lost-after-sb")


def setup(rng: random.Random) -> dict[str, Any]:
    """The settings of one history: those of the nodes, and those of the world around them."""
    choice = rng.choice
    fencing = choice(["dont-care"] * 5 + ["resource-only", "resource-and-stonith"])
    return {
        "protocol": choice("ABCCC"),
        "after_sb_0pri": choice(AFTER_SB_0),
        "after_sb_1pri": choice(AFTER_SB_1),
        "after_sb_2pri": choice(AFTER_SB_2),
        "always_asbp": rng.random() < 0.2,
        "rr_conflict": choice(["disconnect", "disconnect", "call-pri-lost", "violently"]),
        "fencing": fencing,
        "on_io_error": choice(["detach", "detach", "detach", "pass_on"]),
        "on_no_data_accessible": choice(["io-error", "suspend-io"]),
        "offer_ordered": rng.random() < 0.65,
        "offer_features": choice([0b1101, 0b1101, 0b1101, 0, 1]),
        "data_integrity_alg": choice(["", "", "crc32c"]),
        "csums_alg": choice(["", "", "sha256"]),
        "cram_hmac_alg": choice(["", "", "sha256"]),
        "use_rle": rng.random() < 0.5,
        "al_extents": choice([2, 7, 67]),
        "al_updates": rng.random() < 0.93,
        "max_epoch_size": choice([3, 100, 2048]),
        "c_plan_ahead": choice([0, 0, 20]),
        "resync_rate_kib": choice([4 << 20, 4 << 20, 20000]),
        "ping_int_ms": choice([10_000, 3_000, 700]),
        "connect_int_ms": choice([10_000, 3_000, 500]),
        "max_in_flight_bytes": choice([64 << 20, 64 << 20, 20_000]),
        "blocks": choice([2, 16, 16, 16, 40, 2 * BLOCKS_PER_EXTENT + 16]),
        "delay_ms": choice([1, 2, 2, 15]),
        "sndbuf_bytes": choice([1 << 20, 1 << 20, 30_000, 3_000]),
        "slow_share": choice([0.0, 0.3, 0.3, 1.0]),
        "slow_ms": choice([2, 4, 30]),
        "created": rng.random() < 0.04,
        "start": choice(["primary"] * 5 + ["secondary"]),
    }


def argument(kind: str, rng: random.Random, spots: list[int], blocks: int) -> Any:
    """What an event of this kind says more: blocks, a failure, a number of ms."""
    if kind in ("write", "zero", "trim", "read"):
        block = rng.choice(spots)
        count = rng.choice([1, 1, 2, 8, 8, 8, 8, 16, 40])
        first = block * 8 + (rng.choice([0, 0, 0, 1, 5]) if count < 40 else 0)
        count = max(1, min(count, blocks * 8 - first))
        return (first, count, rng.random() < 0.08)
    if kind == "fuse":
        return (rng.choice([0, 1, 2, 3, 5, 8, 13, 30, 80]), rng.random() < 0.5)
    if kind == "fail":
        return rng.choice(["write", "read", "flush", "meta"])
    if kind == "stall":
        return rng.choice([50, 400, 900, 7000, 50_000])
    if kind == "slow":
        return rng.choice([2, 30, 300])
    if kind == "delay":
        return rng.choice([1, 15, 120])
    if kind == "clock":
        return rng.choice([-86_400, -5, 3, 4000, 10**7])
    if kind == "fail_once":
        return once(rng)
    if kind == "crowd":
        verb = rng.choice([None, None, "secondary", "detach", "disconnect", "connect", "attach", "invalidate"])
        return crowd(rng, lambda each: argument(each, rng, spots, blocks), verb)
    return None


def long_history(seed: int, events: int = LONG_EVENTS) -> History:
    """A long random history."""
    if seed >= RICHER_SEEDS:
        return _richer_history(seed, events)
    rng = random.Random(seed)
    world = setup(rng)
    if seed >= BATCHING_SEEDS:
        world["batch"] = rng.choice([0.0, 0.05, 0.3])
    blocks = world["blocks"]
    spots = [0, blocks - 1, *(rng.randrange(blocks) for _ in range(rng.choice([1, 4])))]
    kinds = [kind for kind, _ in LONG]
    calm = rng.choice([0.3, 1.0, 1.0, 2.0])
    weights = [w if kind in STEADY else w * calm for kind, w in LONG]
    made = []
    for kind in rng.choices(kinds, weights, k=events + rng.randrange(40)):
        wait = rng.choice(LONG_WAITS) if kind == "wait" or rng.random() < 0.05 else rng.choice(WAITS)
        made.append(Event(kind, rng.choice("ab"), argument(kind, rng, spots, blocks), wait, rng.getrandbits(32)))
    return History(world, tuple(made))


def _richer_history(seed: int, events: int) -> History:
    """Single events and scenes."""
    rng = random.Random(seed)
    choice = rng.choice
    world = setup(rng)
    blocks = world["blocks"]
    world["batch"] = choice([0.0, 0.05, 0.3])
    world["on_io_error"] = choice(["detach", "detach", "pass_on"])
    world["resync_rate_kib"] = choice([4 << 20, 4 << 20, 20000, 400, 400 if blocks > BLOCKS_PER_EXTENT else 40])
    spots = [0, blocks - 1, *(rng.randrange(blocks) for _ in range(choice([1, 4, 30])))]
    kinds = [kind for kind, _ in LONG + MORE]
    calm = choice([0.3, 1.0, 1.0, 2.0])
    weights = [w if kind in STEADY else w * calm for kind, w in LONG + MORE]
    scenes = choice([0.02, 0.06, 0.15])
    sharper = seed >= SHARPER_SEEDS
    if sharper:
        world["batch"] = choice([0.0, 0.05, 0.3, 0.6])
        world["al_extents"] = choice([2, 2, 7, 67])
    if seed >= THIN_SEEDS and world["offer_features"]:
        world["offer_features"] |= THIN
    if seed >= LZ4_SEEDS and seed % 2:
        world["compression"] = "lz4"
    if seed >= ASIDE_SEEDS:
        world["c_min_rate_kib"] = MIN_RATES_KIB[seed // 2 % 4]
    known = (*SHARPER, *CROSSINGS) if seed >= CROSSING_SEEDS else SHARPER if sharper else SCENES
    made: list[Event] = []
    upto = events + rng.randrange(40)
    while len(made) < upto:
        if rng.random() < scenes:
            steps = scene(rng, lambda kind: argument(kind, rng, spots, blocks), known)
            made += [Event(*step, rng.getrandbits(32)) for step in steps]
            continue
        kind = rng.choices(kinds, weights)[0]
        wait = choice(LONG_WAITS) if kind == "wait" or rng.random() < 0.05 else choice(WAITS)
        made.append(Event(kind, choice("ab"), argument(kind, rng, spots, blocks), wait, rng.getrandbits(32)))
    return History(world, tuple(made))
