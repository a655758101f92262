# SPDX-License-Identifier: GPL-2.0-or-later
"""More scenes: an order, a failure and a death that cross each other within a few milliseconds.

With `when` something happens in the very moment in which a node's state changes, or a few ms later.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Step = tuple[str, str, Any, int]
Argument = Callable[[str], Any]
Scene = Callable[[random.Random, Argument], list[Step]]
AFTER = (0, 0, 0, 0, 1, 2, 4, 8, 16)
AWHILE = (0, 2, 8, 20, 60, 300)
ORDERS = (
    "invalidate", "invalidate_remote", "detach", "detach_force", "attach", "attach", "disconnect", "connect", "connect",
    "primary", "secondary", "outdate", "pause", "resume", "discard",
)  # fmt: skip
VALUES = {
    "disk": (None, None, "FAILED", "NEGOTIATING", "INCONSISTENT", "OUTDATED", "UP_TO_DATE"),
    "pdsk": (None, None, "FAILED", "DISKLESS", "INCONSISTENT", "UP_TO_DATE"),
    "conn": (None, None, "CONNECTED", "WF_BITMAP_T", "WF_SYNC_UUID", "SYNC_SOURCE", "SYNC_TARGET", "WF_CONNECTION"),
    "role": (None,),
}


def writes(rng: random.Random, argument: Argument, least: int, most: int) -> list[Step]:
    """Mostly at once."""
    waits = (0, 0, 0, 1, 3)
    return [("write", "p", argument("write"), rng.choice(waits)) for _ in range(rng.randrange(least, most + 1))]


def at(node: str, field: str, value: str | None, what: tuple[str, bool, Any, int]) -> Step:
    """When the state of the node changes there, then that: kind, here or there, argument, so many ms later."""
    return ("when", node, (field, value, what), 0)


def dying(rng: random.Random, here: bool, most_ms: int = 16) -> tuple[str, bool, Any, int]:
    """A death, before the n-th next action or some ms later."""
    if rng.random() < 0.4:
        return ("fuse", here, (rng.choice((0, 1, 2, 3, 5, 8, 13, 20)), rng.random() < 0.5), 0)
    return (rng.choice(("kill", "power")), here, None, rng.randrange(most_ms))


def back(rng: random.Random) -> list[Step]:
    """Whoever is dead comes back, in any order."""
    first, second = rng.choice(("ps", "sp"))
    steps: list[Step] = [("heal", "a", None, 0), ("up", first, None, rng.choice((0, 20, 60, 300)))]
    return [*steps, ("up", second, None, rng.choice((20, 60, 300))), ("repair", "p", None, 0), ("repair", "s", None, 0)]


def ordered_away(rng: random.Random, argument: Argument) -> list[Step]:
    """A Primary is told to give up its data while both disks lag behind; it dies before long, and maybe its peer."""
    steps: list[Step] = [("write", "p", argument("write"), 60)]
    steps += [("slow", "p", rng.choice((100, 300, 1000)), 0), ("slow", "s", rng.choice((4, 30, 100, 300)), 0)]
    steps += [*writes(rng, argument, 0, 2), ("wait", "p", None, rng.choice((0, 4, 20)))]
    order, node = rng.choice((("invalidate", "p"), ("invalidate", "p"), ("invalidate_remote", "s")))
    soon = rng.choice((4, 8, 12, 16, 24, 40, 60))
    steps += [at("p", "disk", None, (rng.choice(("kill", "power")), True, None, soon))]
    if rng.random() < 0.7:
        steps += [at("p", "disk", None, ("kill", False, None, max(0, soon + rng.choice((-4, 0, 2, 4)))))]
    steps += [(order, node, None, rng.choice((1, 2, 4)))]
    for _ in range(rng.randrange(1, 5)):
        steps += [("write", "p", argument("write"), rng.choice((0, 1, 2, 4)))]
    return [*steps, ("wait", "p", None, 60), ("repair", "p", None, 0), ("up", "p", None, 60), *back(rng)]


def missed_end(rng: random.Random, argument: Argument) -> list[Step]:
    """The end of a resync to a Primary: it dies before its source knows, and the source loses power."""
    steps = writes(rng, argument, 0, 2)
    order = rng.choice(("invalidate", "invalidate", "detach"))
    steps += [("slow", rng.choice("ps"), rng.choice((2, 30)), 0)]
    steps += [(order, "p", None, 60)] + ([("attach", "p", None, 0)] if order == "detach" else [])
    steps += [at("p", "conn", "CONNECTED", dying(rng, True, 8))]
    steps += [at("p", "conn", "CONNECTED", ("power", False, None, rng.choice((1, 3, 8, 16, 30))))]
    for _ in range(rng.randrange(3, 9)):
        steps += [("write", "p", argument("write"), rng.choice((5, 15, 30, 60)))]
    return [*steps, *back(rng)]


def bad_start(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary is gone; the flush of its peer's promotion fails."""
    steps = writes(rng, argument, 1, 5)
    steps += [("wait", "p", None, rng.choice((0, 5, 15, 60)))]
    steps += [(rng.choice(("kill", "kill", "power", "down", "cut")), "p", None, rng.choice((5, 20, 20, 60, 1500)))]
    failing = (rng.choice(("flush", "flush", "meta")), None, False)
    steps += [("fail_once", "s", failing, 0), ("primary", "s", None, rng.choice((5, 30, 100, 300)))]
    return [*steps, ("kill", "p", None, 0), ("repair", "s", None, 0), *back(rng), ("attach", "s", None, 60)]


def losing(rng: random.Random) -> tuple[str, bool, Any]:
    """Ways to lose a disk."""
    kind = rng.choice(("detach", "detach_force", "write", "flush", "meta", "read"))
    return (kind, True, None) if kind.startswith("detach") else ("fail_once", True, (kind, None, False))


def crossing(rng: random.Random, argument: Argument) -> list[Step]:
    """A disk that was to be a target is lost, and comes back in the moment in which the other one goes."""
    steps = writes(rng, argument, 1, 3)
    steps += [("wait", "p", None, rng.choice((15, 60))), ("slow", "s", rng.choice((4, 30, 100)), 0)]
    order, node = rng.choice((("invalidate", "s"), ("invalidate_remote", "p"), ("invalidate_remote", "p")))
    if rng.random() < 0.7:
        steps += [("fail_once", "s", ("meta", None, False), 0)]
    else:
        steps += [at("s", "conn", None, (*losing(rng), rng.choice((0, 0, 2, 8))))]
    steps += [(order, node, None, rng.choice((20, 60, 100))), *writes(rng, argument, 1, 3)]
    steps += [("wait", "p", None, rng.choice((5, 20, 60))), ("repair", "s", None, 0)]
    steps += [("delay", "a", rng.choice((2, 15, 15, 30)), 0)]
    kind = rng.choice(("read", "read", "write", "flush"))
    soon = rng.choice((0, 0, 1, 2, 4, 8, 15))
    steps += [at("s", "disk", "NEGOTIATING", ("fail_once", False, (kind, None, False), 0))]
    steps += [at("s", "disk", "NEGOTIATING", (kind, False, argument("read"), soon))]
    steps += [("attach", "s", None, rng.choice((2, 8, 20))), *writes(rng, argument, 0, 2), ("wait", "p", None, 60)]
    steps += [(rng.choice(("kill", "kill", "power", "secondary")), "p", None, 60), ("attach", "p", None, 60)]
    return [*steps, *back(rng)]


def spoken_of(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary's disk is taken away; its peer begins a generation and loses power, and the Primary dies, too."""
    steps = writes(rng, argument, 1, 6)
    steps += [("wait", "p", None, rng.choice((5, 15, 60))), ("slow", rng.choice("ps"), rng.choice((4, 30)), 0)]
    steps += [at("s", "pdsk", "FAILED", ("power", True, None, rng.choice((2, 4, 8, 16, 30))))]
    steps += [at("s", "pdsk", "FAILED", ("kill", False, None, rng.choice((0, 2, 5, 10, 30))))]
    failed = ("fail_once", True, ("read", None, False))
    kind, _, arg = rng.choice((("detach_force", True, None), losing(rng), failed, failed))
    steps += [(kind, "p", arg, 0), ("read", "p", argument("read"), 0), *writes(rng, argument, 0, 4)]
    steps += [("wait", "p", None, 60)]
    return [*steps, *back(rng), ("attach", "p", None, 60)]


def late_answers(rng: random.Random, argument: Argument) -> list[Step]:
    """The disk of a target goes and comes back while what it asked for is on its way, and is written anew."""
    places = [argument("write") for _ in range(rng.randrange(3, 8))]
    steps: list[Step] = [("disconnect", "s", None, 20)]
    steps += [("write", "p", place, 0) for place in places]
    steps += [("delay", "a", rng.choice((15, 40, 40)), 20)]
    away = rng.choice(("detach", "detach_force"))
    steps += [at("s", "conn", "SYNC_TARGET", (away, True, None, rng.choice((0, 10, 30, 60, 90, 120, 200))))]
    steps += [at("s", "disk", "DISKLESS", ("attach", True, None, rng.choice((0, 0, 2, 10))))]
    for place in (*places, *places[:3]):
        seen = rng.choice(("FAILED", "FAILED", "DISKLESS"))
        steps += [at("p", "pdsk", seen, ("write", True, place, rng.choice((0, 1, 2, 4, 8))))]
    steps += [("connect", "s", None, rng.choice((300, 600, 1000)))]
    return [*steps, ("wait", "p", None, 300), ("delay", "a", 2, 0)]


def refused_again(rng: random.Random, argument: Argument) -> list[Step]:
    """A killed Primary comes back and cannot flush; its disk is attached again and again."""
    steps = writes(rng, argument, 1, 3)
    steps += [(rng.choice(("kill", "kill", "power")), "p", None, rng.choice((0, 5, 60)))]
    steps += [("fail_once", "p", ("flush", None, False), 0), ("up", "p", None, rng.choice((5, 20, 60)))]
    for _ in range(rng.randrange(1, 4)):
        steps += [("attach", "p", None, rng.choice((5, 20, 60)))]
    return [*steps, *back(rng)]


def unheard(rng: random.Random, delays_ms: tuple[int, ...] = (0, 1, 2, 4, 8)) -> list[Step]:
    """The peer does not hear of the Primary's failing disk, or dies before it has moved on."""
    if rng.random() < 0.5:
        return [at("p", "disk", "FAILED", (rng.choice(("cut", "cut_one_way")), True, None, rng.choice((0, 0, 0, 2))))]
    return [at("s", "pdsk", None, (rng.choice(("kill", "kill", "power")), True, None, rng.choice(delays_ms)))]


def out_again(rng: random.Random, argument: Argument) -> list[Step]:
    """A disk goes by order while writes are on their way to it, and fails one; the node dies before it is all told."""
    steps: list[Step] = [("write", "p", argument("write"), 60), ("slow", "p", rng.choice((30, 30, 100)), 0)]
    steps += writes(rng, argument, 2, 5)
    death = rng.choice((None, None, -1, -4, -10))
    failing = (rng.choice(("write", "write", "write", "flush")), death, rng.random() < 0.3)
    steps += [at("p", "disk", "FAILED", ("fail_once", True, failing, 0)), *unheard(rng)]
    if rng.random() < 0.5:
        steps += [at("p", "disk", "FAILED", dying(rng, True, 40))]
    steps += [(rng.choice(("detach", "detach_force", "detach_force")), "p", None, rng.choice(AFTER))]
    return [*steps, *writes(rng, argument, 0, 3), ("wait", "p", None, 60), ("kill", "p", None, 20), *back(rng)]


def given_up(rng: random.Random, argument: Argument) -> list[Step]:
    """A read fails while writes are on their way; the peer, which has them, hears nothing, or dies."""
    steps: list[Step] = [("write", "p", argument("write"), 60), ("slow", "p", rng.choice((15, 30, 60)), 0)]
    steps += [*writes(rng, argument, 2, 6), ("wait", "p", None, rng.choice((1, 2, 4)))]
    steps += [("slow", "s", rng.choice((300, 1000)), 0), *unheard(rng, (8, 16, 30, 50))]
    steps += [("fail_once", "p", ("read", None, False), 0)]
    steps += [("read", "p", argument("read"), rng.choice((0, 5))), *writes(rng, argument, 0, 1)]
    steps += [("wait", "p", None, rng.choice((15, 60, 60))), ("kill", "p", None, 20), ("kill", "s", None, 0)]
    return [*steps, *back(rng)]


def uncounted(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary's disk fails the last write, which the peer has; then each has a generation of its own."""
    steps = writes(rng, argument, 0, 2)
    death = rng.choice((None, -4, -8, -12, -20))
    steps += [("wait", "p", None, 60), ("fail_once", "p", ("write", death, rng.random() < 0.5), 0)]
    steps += [("write", "p", argument("write"), rng.choice((10, 20, 40)))]
    steps += [(rng.choice(("kill", "power")), "p", None, 20)]
    steps += [("cut", "p", None, 0), ("up", "p", None, rng.choice((60, 300)))]
    steps += [(rng.choice(("primary", "primary", "force")), "p", None, rng.choice((20, 60)))]
    if rng.random() < 0.3:
        steps += writes(rng, argument, 1, 1)
    steps += [("secondary", "p", None, 60), ("heal", "a", None, 0)]
    return [*steps, ("up", "p", None, 300), ("up", "s", None, 300)]


def beaten(rng: random.Random, argument: Argument) -> list[Step]:
    """Both are Primary apart, and meet again while the loser's writes still wait for its disk."""
    steps: list[Step] = [*writes(rng, argument, 1, 3), ("wait", "p", None, 60)]
    steps += [("slow", "p", rng.choice((300, 2000, 2000)), 0), *writes(rng, argument, 1, 4)]
    steps += [("disconnect", "s", None, rng.choice((8, 15, 15, 30))), *writes(rng, argument, 0, 2)]
    steps += [("primary", "s", None, rng.choice((8, 15, 30)))]
    for _ in range(rng.randrange(0, 3)):
        steps += [("write", rng.choice("ab"), argument("write"), rng.choice((0, 2, 5)))]
    steps += [("connect", "s", None, rng.choice((0, 10, 20))), *writes(rng, argument, 0, 2)]
    return [*steps, ("wait", "a", None, rng.choice((60, 500, 2000)))]


def whatever(rng: random.Random, argument: Argument) -> list[Step]:
    """Orders under load; in the very moment in which something changes, something else happens, here or there."""
    steps = [("slow", rng.choice("ps"), rng.choice((2, 30, 100)), 0)] if rng.random() < 0.7 else []
    steps += writes(rng, argument, 0, 3)
    for _ in range(rng.randrange(1, 5)):
        field = rng.choice(("disk", "pdsk", "conn", "conn", "role"))
        value = rng.choice(VALUES[field])
        chance = rng.random()
        if chance < 0.35:
            what = dying(rng, rng.random() < 0.5, 40)
        elif chance < 0.6:
            what = (*losing(rng), rng.choice(AFTER))
        else:
            kind = rng.choice((*ORDERS, "cut", "forget", "heal", "write", "flush", "read"))
            arg = argument(kind) if kind in ("write", "read") else None
            what = (kind, rng.random() < 0.5, arg, rng.choice(AFTER))
        kind, here, *rest = what
        steps += [at(rng.choice("ps"), field, value, (kind, here != (rng.random() < 0.3), *rest))]
    for _ in range(rng.randrange(1, 4)):
        steps += [(rng.choice(ORDERS), rng.choice("ps"), None, rng.choice(AWHILE)), *writes(rng, argument, 0, 3)]
    return [*steps, ("wait", "p", None, rng.choice((20, 60, 300))), *back(rng), ("connect", "s", None, 60)]


CROSSINGS: tuple[tuple[Scene, int], ...] = (
    (ordered_away, 3), (missed_end, 2), (bad_start, 2), (crossing, 1), (spoken_of, 1), (late_answers, 3),
    (refused_again, 2), (out_again, 1), (given_up, 2), (uncounted, 2), (beaten, 2), (whatever, 8),
)  # fmt: skip
