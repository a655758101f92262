# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories near those that once failed: the same schedule, a little different each time, among other ones.

Where one bug was there are others, and what took two faults within a millisecond is hardly ever thrown again by chance.
"""

from __future__ import annotations

import random
from typing import Any

from tests.sim.false_alarms import FALSE_ALARMS, Found
from tests.sim.history import LONG, LONG_WAITS, MORE, WAITS, Event, History, argument, setup
from tests.sim.once_failed import FOUND
from tests.sim.once_failed_too import FOUND as FOUND_TOO

KNOWN = (*FOUND[:62], *FOUND_TOO[:47], *FALSE_ALARMS[:10])
"""How many of each is fixed: a seed must stay the history that it was. What is found later is for later seeds."""
LIKE = (
    ("kill", "power", "fuse", "down", "stall"), ("disconnect", "forget", "cut", "cut_one_way"),
    ("detach", "detach_force"), ("up", "connect", "attach", "heal"), ("primary", "force"), ("write", "zero", "trim"),
    ("invalidate", "invalidate_remote", "discard", "outdate"), ("wait", "flush", "read"), ("fail", "fail_once"),
    ("secondary", "down"),
)  # fmt: skip
"""What may stand for what."""
OTHER = {"a": "b", "b": "a", "p": "s", "s": "p"}
SCALES = (0.5, 0.8, 1.2, 1.5, 2.0)


def nearby_history(seed: int) -> History:
    """One to three of them in a row, each a little different."""
    return near(random.Random(seed), KNOWN)


def near(rng: random.Random, known: tuple[Found, ...]) -> History:
    base = rng.choice(known)
    world = _world(rng, base.setup)
    blocks = world.get("blocks", 2)
    made = _changed(rng, base.events, blocks)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        made += [Event("mend", "a", None, 0, rng.getrandbits(32)), Event("primary", "a", None, 60)]
        made += _changed(rng, rng.choice(known).events, blocks)
    return History(world, tuple(made))


def _world(rng: random.Random, base: dict[str, Any]) -> dict[str, Any]:
    """The settings of the schedule, mostly; some others now and then."""
    others = setup(rng)
    keys = sorted(others.keys() - {"created", "start", "blocks"})
    strange = rng.sample(keys, rng.choice((0, 0, 0, 1, 2, 5)))
    return {**base, **{key: others[key] for key in strange}}


def _changed(rng: random.Random, events: tuple[tuple[Any, ...], ...], blocks: int) -> list[Event]:
    """The same events, but for some."""
    share = rng.choice((0.0, 0.03, 0.1, 0.25))
    swapped = rng.random() < 0.15
    made: list[Event] = []
    for each in events:
        event = Event(*each)
        event = event._replace(arg=_within(event.kind, event.arg, blocks * 8))
        if swapped:
            event = event._replace(node=OTHER[event.node])
        made += _varied(rng, event, blocks) if rng.random() < share else [event]
        if rng.random() < share:
            made.append(_single(rng, blocks))
    if not share:
        at = rng.randrange(len(made))
        made[at : at + 1] = _varied(rng, made[at], blocks)
    return made


def _within(kind: str, arg: Any, sectors: int) -> Any:
    """The argument, for a device of this size."""
    if kind == "crowd":
        verb, *parts = arg
        return (verb, *(tuple((each, _within(each, of, sectors)) for each, of in part) for part in parts))
    if kind == "when":
        field, value, (then, here, more, after_ms) = arg
        return field, value, (then, here, _within(then, more, sectors), after_ms)
    if kind not in ("write", "zero", "trim", "read") or arg is None:
        return arg
    first, count, fua = arg
    first %= sectors
    return first, min(count, sectors - first), fua


def _varied(rng: random.Random, event: Event, blocks: int) -> list[Event]:
    """The event with one thing about it changed; or twice, or not at all."""
    what = rng.randrange(10)
    if what < 2:
        return [event._replace(wait_ms=rng.choice(WAITS if rng.random() < 0.8 else LONG_WAITS))]
    if what < 4:
        return [event._replace(wait_ms=max(0, round(event.wait_ms * rng.choice(SCALES)) + rng.choice((-1, 0, 0, 1))))]
    if what < 6:
        return [event._replace(salt=rng.getrandbits(32))]
    if what == 6:
        return [_of_kind(rng, rng.choice(_alike(event.kind)), event, blocks)]
    if what == 7:
        return [_of_kind(rng, event.kind, event, blocks)]
    if what == 8:
        return [event._replace(node=OTHER[event.node])]
    return [] if rng.random() < 0.5 else [event, event]


def _alike(kind: str) -> tuple[str, ...]:
    return next((kinds for kinds in LIKE if kind in kinds), (kind,))


def _of_kind(rng: random.Random, kind: str, event: Event, blocks: int) -> Event:
    if kind == "when":
        field, value, (then, here, more, _) = event.arg
        return event._replace(arg=(field, value, (then, here, more, rng.choice(WAITS))))
    return event._replace(kind=kind, arg=argument(kind, rng, list(range(blocks)), blocks))


def _single(rng: random.Random, blocks: int) -> Event:
    """Any event."""
    kind = rng.choices([kind for kind, _ in LONG + MORE], [weight for _, weight in LONG + MORE])[0]
    wait = rng.choice(LONG_WAITS) if kind == "wait" else rng.choice(WAITS)
    arg = argument(kind, rng, list(range(min(blocks, 40))), blocks)
    return Event(kind, rng.choice("ab"), arg, wait, rng.getrandbits(32))
