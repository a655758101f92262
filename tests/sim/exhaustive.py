# SPDX-License-Identifier: GPL-2.0-or-later
"""All short schedules over a device of two blocks: every sequence of events of an alphabet, up to a length.

Between two events the world runs long enough for what was begun to end, or not long enough, by the event's own wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tests.sim.history import Event, History

SETUP: dict[str, Any] = {
    "protocol": "C", "blocks": 2, "delay_ms": 1, "slow_share": 0.3, "slow_ms": 2, "connect_int_ms": 3000,
    "last_power_cut": False, "al_extents": 7,
}  # fmt: skip
SHORT_MS, LONG_MS = 4, 8000
"""In the middle of things; and long enough for a dead peer to be noticed."""

_COMMANDS = (
    "primary", "force", "secondary", "disconnect", "connect", "discard", "invalidate", "invalidate_remote", "detach",
    "attach", "down", "up", "pause", "resume", "outdate",
)  # fmt: skip
_BOTH = (
    ("kill", None), ("power", None), ("fuse", (1, False)), ("fuse", (1, True)), ("fuse", (4, True)),
    ("fail", "write"), ("fail", "read"), ("fail", "flush"), ("fail", "meta"), ("repair", None), ("cut_one_way", None),
    ("stall", 700), ("clock", -86400),
)  # fmt: skip
_ONCE = (
    ("write", (0, 8, False)), ("write", (8, 8, True)), ("write", (5, 2, False)), ("zero", (0, 8, False)),
    ("trim", (8, 8, False)), ("read", (0, 8, False)), ("flush", None), ("cut", None), ("heal", None),
    ("forget", None), ("wait", None),
)  # fmt: skip
EVERYTHING: tuple[Event, ...] = (
    *(Event(kind, node, None, SHORT_MS, 7) for kind in _COMMANDS for node in "ab"),
    *(Event(kind, node, arg, SHORT_MS, 7) for kind, arg in _BOTH for node in "ab"),
    *(Event(kind, "a", arg, LONG_MS if kind == "wait" else SHORT_MS, 7) for kind, arg in _ONCE),
)
"""Every operation and fault, on either node."""
CHOSEN: tuple[Event, ...] = (
    Event("write", "a", (0, 8, False), SHORT_MS, 7),
    Event("cut", "a", None, LONG_MS, 7),
    Event("heal", "a", None, LONG_MS, 7),
    Event("power", "a", None, SHORT_MS, 7),
    Event("power", "b", None, SHORT_MS, 7),
    Event("kill", "a", None, SHORT_MS, 7),
    Event("up", "a", None, 40, 7),
    Event("up", "b", None, 40, 7),
    Event("primary", "b", None, 40, 7),
    Event("secondary", "a", None, 40, 7),
    Event("discard", "b", None, 40, 7),
    Event("invalidate", "b", None, 3, 7),
)
"""A dozen of which the longest schedules are made."""
SETS = {"3": (EVERYTHING, 3), "2": (EVERYTHING, 2), "1": (EVERYTHING, 2), "5": (CHOSEN, 5), "4": (CHOSEN, 4)}


def count(name: str) -> int:
    """How many schedules there are."""
    alphabet, most = SETS[name]
    return int(sum(len(alphabet) ** n for n in range(1, most + 1)))


def schedules(name: str, first: int = 0, step: int = 1, protocol: str = "C") -> Iterator[History]:
    """Every `step`-th of them, beginning with number `first`; short ones come first."""
    alphabet, most = SETS[name]
    setup = {**SETUP, "protocol": protocol, "offer_features": 0b1111}
    every = itertools.chain.from_iterable(itertools.product(alphabet, repeat=n) for n in range(1, most + 1))
    for events in itertools.islice(every, first, None, step):
        yield History(setup, tuple(events))
