# SPDX-License-Identifier: GPL-2.0-or-later
"""What verbs of the control socket take: whoever may open it may do harm by order, but not by a wrong type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

MAX_TIMEOUT_S = 1 << 31
MAX_SECTORS = 1 << 55
SHOWN_CHARACTERS = 40


class Kind(NamedTuple):
    """Whether a value is right, and the words for it."""

    right: Callable[[Any], bool]
    expected: str


SWITCH = Kind(lambda value: isinstance(value, bool), "true or false")
NUMBER = Kind(lambda value: type(value) is int and 0 <= value < 1 << 63, "a whole number")
SECTORS = Kind(lambda value: type(value) is int and 0 <= value <= MAX_SECTORS, "a number of sectors")
SECONDS = Kind(
    lambda value: type(value) in (int, float) and 0 <= value <= MAX_TIMEOUT_S, f"seconds, at most {MAX_TIMEOUT_S}"
)
TEXT = Kind(lambda value: isinstance(value, str) and "\0" not in value, "a text")
PLAIN = Kind(
    lambda value: SWITCH.right(value) or TEXT.right(value) or SECONDS.right(value) or NUMBER.right(value),
    "true, false, a number or a text",
)

ARGUMENTS: dict[str, Kind] = {
    **dict.fromkeys(
        ("force", "discard_my_data", "tentative", "clear_bitmap", "dry_run", "device_open", "assume_clean",
         "assume_peer_has_space"), SWITCH),
    **dict.fromkeys(("size_sectors", "start", "stop"), SECTORS),
    "timeout_s": SECONDS,
    "volume": NUMBER,
    "level": TEXT,
    "config": TEXT,
}  # fmt: skip
"""Name → kind, the same for every verb; other names may have any plain value. None is as good as not given."""


def wrong_argument(args: dict[str, Any]) -> str:
    """Why a verb cannot take these, or nothing."""
    for name, value in args.items():
        kind = ARGUMENTS.get(name, PLAIN)
        if value is not None and not kind.right(value):
            return f"the argument '{name[:SHOWN_CHARACTERS]}' must be {kind.expected}"
    return ""
