# SPDX-License-Identifier: GPL-2.0-or-later
"""Short sequences of events that belong together: what single events, thrown at random, hardly ever come to.

A step is kind, node, argument, wait. Its node is "p", whoever is Primary at that moment or was last, or "s", its peer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Step = tuple[str, str, Any, int]
Argument = Callable[[str], Any]
SOON = (0, 0, 0, 1, 1, 2, 3, 5, 8, 20)
LATER = (2, 8, 20, 60, 300)
NOTICED = (0, 5, 100, 1100, 4000)
"""Long enough for a barrier, or for a dead peer to be noticed."""


def burst(rng: random.Random, argument: Argument, least: int, most: int) -> list[Step]:
    """The application at work."""
    steps = []
    for _ in range(rng.randrange(least, most + 1)):
        kind = rng.choice(("write", "write", "write", "write", "write", "write", "write", "zero", "flush", "read"))
        steps.append((kind, "p", argument(kind), rng.choice((0, 0, 0, 0, 1, 2, 5))))
    return steps


def once(rng: random.Random, kind: str | None = None) -> Any:
    """A failure that goes away by itself after one call; sometimes the node dies soon after it."""
    kind = kind or rng.choice(("write", "write", "write", "flush", "flush", "meta", "read"))
    return kind, rng.choice((None, None, None, 0, 1, 2, 3, 5, 8)), rng.random() < 0.4


def end(rng: random.Random, node: str) -> Step:
    """A death, now or before one of the next actions."""
    kind = rng.choice(("kill", "power", "fuse", "fuse"))
    return kind, node, (rng.choice((0, 1, 2, 3, 5, 8, 13)), rng.random() < 0.5) if kind == "fuse" else None, 0


def slow(rng: random.Random, node: str) -> list[Step]:
    return [("slow", node, rng.choice((30, 300, 300, 2000)), 0)] if rng.random() < 0.4 else []


def trouble(rng: random.Random) -> list[Step]:
    """In the middle of something."""
    node, wait = rng.choice("ps"), rng.choice(SOON)
    what = rng.randrange(7)
    if what < 2:
        return [("fail_once", "s", once(rng, "write"), wait)]
    if what == 2:
        return [("fail_once", node, once(rng), wait)]
    if what == 3:
        return [(*end(rng, node)[:3], wait)]
    if what == 4:
        return [(rng.choice(("pause", "resume", "disconnect", "forget", "detach", "detach_force")), node, None, wait)]
    if what == 5:
        return [("flush", "p", None, wait)]
    return []


def back_again(rng: random.Random, argument: Argument) -> list[Step]:
    """The peer goes, the application writes on; the peer comes back, and the writes meet the resync."""
    away, back, node = rng.choice((
        ("disconnect", "connect", "s"), ("disconnect", "connect", "s"), ("disconnect", "connect", "p"),
        ("kill", "up", "s"), ("power", "up", "s"), ("down", "up", "s"), ("detach", "attach", "s"), ("cut", "heal", "p"),
        ("detach", "attach", "p"), ("detach_force", "attach", "p"), ("invalidate", "wait", "p"),
        ("invalidate", "wait", "s"), ("invalidate_remote", "wait", "p"),
    ))  # fmt: skip
    steps = [*slow(rng, rng.choice("ps")), *burst(rng, argument, 0, 4)]
    steps += [(away, node, None, rng.choice(LATER)), *burst(rng, argument, 1, 8)]
    steps += [(back, node, None, rng.choice(LATER)), *burst(rng, argument, 1, 6), *trouble(rng)]
    steps += [*burst(rng, argument, 0, 6), *trouble(rng)]
    return [*steps, ("repair", "p", None, rng.choice(SOON)), ("repair", "s", None, 0)]


def takeover(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary is gone, or leaves; its peer is promoted, and perhaps gone soon after."""
    away = rng.choice(("kill", "power", "cut", "secondary", "secondary", "down", "fuse"))
    first = rng.choice("ps")
    arg = (rng.choice((0, 2, 5, 13)), True) if away == "fuse" else None
    steps = [*slow(rng, first), *burst(rng, argument, 1, 6), (away, "p", arg, rng.choice(LATER))]
    steps += [("primary", "s", None, rng.choice(SOON)), *burst(rng, argument, 0, 3)]
    steps += [end(rng, rng.choice("ps")), ("wait", "p", None, rng.choice(SOON))]
    steps += [("up", "a", None, rng.choice(SOON)), ("up", "b", None, rng.choice(LATER)), ("heal", "a", None, 0)]
    return steps


def step_down(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary is demoted while its application still writes, alone or not, and dies at once."""
    steps = slow(rng, rng.choice("ps"))
    if rng.random() < 0.5:
        steps += [(rng.choice(("disconnect", "kill", "cut")), "s", None, rng.choice(LATER))]
    steps += burst(rng, argument, 1, 5)
    dying = [end(rng, "p")] if rng.random() < 0.4 else []
    order = rng.choice(("secondary", "down", "crowd", "crowd"))
    arg = crowd(rng, argument, "secondary") if order == "crowd" else None
    steps += [*dying, (order, "p", arg, rng.choice((0, 1, 2, 3, 5, 8, 15, 30, 60)))]
    steps += [end(rng, "p"), ("heal", "p", None, 0), ("up", "p", None, rng.choice(SOON))]
    steps += [("up", "s", None, rng.choice(LATER)), ("connect", "s", None, 0)]
    return steps


def refused(rng: random.Random, argument: Argument) -> list[Step]:
    """The peer's disk refuses a write and goes on; the peer, or the Primary, is lost before it could tell anybody."""
    steps: list[Step] = [("fail_once", "s", once(rng, "write"), 0), *burst(rng, argument, 1, 4)]
    steps += [("flush", "p", None, rng.choice(NOTICED)), *burst(rng, argument, 0, 2)]
    gone = rng.choice("ssp")
    steps += [end(rng, gone), ("wait", "p", None, rng.choice(SOON)), ("up", gone, None, rng.choice(LATER))]
    return steps


def lagging(rng: random.Random, argument: Argument) -> list[Step]:
    """One disk lags behind the other; the peer's engine is lost, and then its power."""
    lame = rng.choice("pps")
    steps: list[Step] = [("slow", lame, rng.choice((300, 300, 2000)), 0), *burst(rng, argument, 1, 5)]
    steps += [("wait", "p", None, rng.choice((1, 3, 8, 20)))]
    steps += [(rng.choice(("kill", "disconnect", "forget")), "s", None, 5)]
    steps += [("power", "s", None, rng.choice(LATER)), ("up", "s", None, rng.choice(LATER))]
    return [*steps, *burst(rng, argument, 0, 4), ("repair", lame, None, 0)]


def last_copy(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary's disk fails or is taken away under load, one of the two dies, and the disk comes back."""
    steps = [*slow(rng, rng.choice("ps")), *burst(rng, argument, 0, 3)]
    kind = rng.choice(("fail_once", "fail_once", "fail_once", "detach", "detach_force", "crowd"))
    arg = once(rng) if kind == "fail_once" else crowd(rng, argument, "detach") if kind == "crowd" else None
    steps += [(kind, "p", arg, rng.choice((0, 0, 0, 2, 8))), *burst(rng, argument, 1, 5)]
    if kind == "fail_once":
        steps += [(rng.choice(("flush", "detach", "down", "secondary")), "p", None, rng.choice(SOON))]
    gone = rng.choice("ps")
    if rng.random() < 0.6:
        steps += [(*end(rng, gone)[:3], rng.choice(SOON)), ("up", gone, None, rng.choice(LATER))]
    return [*steps, ("attach", "p", None, rng.choice(SOON)), *burst(rng, argument, 0, 5), ("repair", "p", None, 0)]


def storm(rng: random.Random, argument: Argument) -> list[Step]:
    """An operator, or two, who connect and disconnect without waiting; one node stays away for a while."""
    steps: list[Step] = []
    for _ in range(rng.randrange(3, 9)):
        kind = rng.choice(("connect", "disconnect", "connect", "disconnect", "down", "up", "forget"))
        steps += [(kind, rng.choice("ps"), None, rng.choice(SOON)), *burst(rng, argument, 0, 2)]
    gone = rng.choice("ps")
    steps += [(rng.choice(("kill", "disconnect")), gone, None, rng.choice(NOTICED)), ("wait", "p", None, 4000)]
    return [*steps, ("up", "a", None, 0), ("up", "b", None, rng.choice(LATER))]


def crowd(rng: random.Random, argument: Argument, verb: str | None) -> Any:
    """What a busy engine finds in one wake-up: requests, an order, requests that were handed in just after it."""
    take = lambda most: tuple((step[0], step[2]) for step in burst(rng, argument, 0, most))  # noqa: E731
    return verb, take(3), take(3)


def follows(rng: random.Random, kind: str) -> Any:
    """A failure that goes away by itself; the node dies a few ms after it, if at all."""
    return kind, rng.choice((None, -1, -1, -2, -4, -10, -30)), rng.random() < 0.5


def overtaken(rng: random.Random, argument: Argument) -> list[Step]:
    """An old write lies about in the peer's disk while its blocks are written anew, and resynced."""
    writes = [("write", "p", argument("write"), 0) for _ in range(rng.randrange(1, 4))]
    steps: list[Step] = [("slow", "s", 2000, 0), *writes, ("wait", "p", None, rng.choice((3, 8, 20)))]
    steps += [("slow", "s", 2, 0)]
    away = (("disconnect", "connect", "s"), ("disconnect", "connect", "p"), ("forget", "wait", "p"))
    gone, back, node = rng.choice(away)
    steps += [(gone, node, None, rng.choice((5, 10))), *writes, (back, node, None, rng.choice(LATER))]
    return [*steps, ("wait", "p", None, 2000), ("repair", "s", None, 0)]


def settled(rng: random.Random, argument: Argument) -> list[Step]:
    """Everything is flushed; in the wake-up of a demotion the same blocks are written once more, and power fails."""
    writes = [("write", "p", argument("write"), 0) for _ in range(rng.randrange(1, 3))]
    steps: list[Step] = [("disconnect", "s", None, 60)] if rng.random() < 0.7 else []
    steps += [*writes, ("wait", "p", None, 60), ("flush", "p", None, 60)]
    late = tuple((kind, arg) for kind, _, arg, _ in writes)
    steps += [("crowd", "p", ("secondary", (), late), rng.choice((8, 30, 60, 100))), ("power", "p", None, 20)]
    return [*steps, ("up", "p", None, 60), ("connect", "s", None, 60)]


def hiccup(rng: random.Random, argument: Argument) -> list[Step]:
    """In the middle of a resync the target's disk is slow for a moment; flushes go by; then it dies."""
    steps: list[Step] = [("disconnect", "s", None, 50)]
    steps += [("write", "p", argument("write"), 0) for _ in range(rng.randrange(4, 16))]
    steps += [("connect", "s", None, rng.choice((60, 250, 400))), ("slow", "s", 2000, rng.choice((5, 30, 110)))]
    steps += [("slow", "s", 2, 0)]
    for _ in range(rng.randrange(1, 4)):
        steps += [("write", "p", argument("write"), 5), ("flush", "p", None, 40)]
    gone = rng.choice(("disconnect", "forget", "kill"))
    return [*steps, (gone, "s", None, 10), (rng.choice(("kill", "power")), "s", None, 60), ("up", "s", None, 60),
            ("repair", "s", None, 0)]  # fmt: skip


def reattached(rng: random.Random, argument: Argument) -> list[Step]:
    """A Primary without a disk gets it back under load: writes begin as their extents become hot, amid the resync."""
    writes = [("write", "p", argument("write"), 0) for _ in range(rng.randrange(3, 12))]
    steps: list[Step] = [("detach", "p", None, 60), *writes, ("wait", "p", None, 60)]
    steps += [("attach", "p", None, rng.choice((0, 5, 12, 20)))]
    for _ in range(3):
        waits = rng.choice(((0, 1), (2, 5), (5, 15)))
        steps += [(kind, node, arg, rng.choice(waits)) for kind, node, arg, _ in writes]
    return [*steps, ("wait", "p", None, 300)]


def failing(rng: random.Random, argument: Argument) -> list[Step]:
    """The Primary's disk fails when the peer has the write already, or when nobody hears of it; soon it is dead."""
    steps: list[Step] = burst(rng, argument, 1, 4)
    blind = rng.choice((None, "cut", "cut_one_way", "cut_one_way"))
    steps += [("slow", "p", rng.choice((2, 30, 300)), 0)]
    if rng.random() < 0.5:
        steps += [("write", "p", argument("write"), rng.choice((5, 15, 31)))]
    steps += [(blind, "p", None, 0)] if blind else []
    kind = rng.choice(("write", "flush"))
    steps += [("fail_once", "p", follows(rng, kind), 0), ("write", "p", argument("write"), 0), ("flush", "p", None, 0)]
    steps += [("wait", "p", None, rng.choice((10, 60, 330))), ("write", "p", argument("write"), rng.choice(SOON))]
    steps += [(rng.choice(("kill", "power", "wait")), "p", None, rng.choice(SOON)), ("heal", "p", None, 0)]
    return [*steps, ("repair", "p", None, 0), ("up", "p", None, 300), ("up", "s", None, 300), ("attach", "p", None, 60)]


SCENES = (
    (back_again, 5), (takeover, 3), (step_down, 3), (refused, 2), (lagging, 2), (last_copy, 3), (storm, 1),
)  # fmt: skip


SHARPER = (
    *SCENES, (overtaken, 1), (settled, 1), (hiccup, 2), (reattached, 2), (failing, 3),
)  # fmt: skip


def scene(rng: random.Random, argument: Argument, scenes: tuple[tuple[Any, int], ...]) -> list[Step]:
    """One of them, mostly begun with both nodes well and a Primary."""
    made = rng.choices([make for make, _ in scenes], [weight for _, weight in scenes])[0]
    order: list[Step] = [("mend", "p", None, 0), ("primary", "p", None, 40)]
    return [*(order if rng.random() < 0.7 else []), *made(rng, argument)]
