# SPDX-License-Identifier: GPL-2.0-or-later
"""A history for every policy of a split brain, and for the orders and settings that decide besides them."""

from __future__ import annotations

from typing import Any

from tests.sim.named import Named

IDLE = {"start": "secondary"}
SPLIT = ("Split-Brain detected", "Split-Brain detected")
NOBODY = "secondary a, secondary b, heal a"
ONLY_A, ONLY_B = "secondary b, heal a", "secondary a, heal a"
PARTED = "write a 1, cut a, write a 2, primary b, write b 5"
"""a was Primary when they parted: b is the younger Primary, and changed fewer blocks."""
MISPLACED = "the configuration refuses the word there; a peer may send it"
APART = "cut a, primary a, primary b"
"""Neither was Primary when they parted."""
TWICE = "cut a, write a 1, disconnect a, new_uuid a, connect a, primary b, write b 5"


def zero(value: str, *rules: str) -> tuple[str, ...]:
    return tuple(f"after-sb-0pri {value}: {rule}" for rule in rules)


def one(value: str, *rules: str) -> tuple[str, ...]:
    return tuple(f"after-sb-1pri {value}: {rule}" for rule in rules)


def two(value: str, *rules: str) -> tuple[str, ...]:
    return tuple(f"after-sb-2pri {value}: {rule}" for rule in rules)


def as0(value: str, **more: Any) -> dict[str, Any]:
    return {"after_sb_0pri": value, **more}


YOUNGER, OLDER, ZERO, LEAST = (
    "discard-younger-primary", "discard-older-primary", "discard-zero-changes", "discard-least-changes",
)
CALL = "call-pri-lost-after-sb"

WITHOUT_PRIMARIES = (
    Named(zero(YOUNGER, "i-am-the-younger-primary", "peer-is-the-younger-primary"), f"{PARTED}, {NOBODY}", "a",
          as0(YOUNGER)),
    Named(zero(YOUNGER, "neither-changed"), f"{APART}, {NOBODY}", "one", as0(YOUNGER, **IDLE)),
    Named(zero(YOUNGER, "peer-changed-nothing", "i-changed-nothing"), f"{APART}, write b 1, {NOBODY}", "b",
          as0(YOUNGER, **IDLE)),
    Named(zero(YOUNGER, "i-changed-less", "peer-changed-less"), f"{APART}, write a 1, write b 1+3, {NOBODY}", "b",
          as0(YOUNGER, **IDLE)),
    Named(zero(YOUNGER, "changed-equally"), f"{APART}, write a 1, write b 5, {NOBODY}", "one",
          as0(YOUNGER, **IDLE)),
    Named(zero(OLDER, "peer-is-the-older-primary", "i-am-the-older-primary"), f"{PARTED}, {NOBODY}", "b",
          as0(OLDER)),
    Named(zero(OLDER, "neither-changed"), f"{APART}, {NOBODY}", "one", as0(OLDER, **IDLE)),
    Named(zero(OLDER, "peer-changed-nothing", "i-changed-nothing"), f"{APART}, write a 1, {NOBODY}", "a",
          as0(OLDER, **IDLE)),
    Named(zero(OLDER, "i-changed-less", "peer-changed-less"), f"{APART}, write a 1+3, write b 1, {NOBODY}", "a",
          as0(OLDER, **IDLE)),
    Named(zero(OLDER, "changed-equally"), f"{APART}, write a 1, write b 5, {NOBODY}", "one", as0(OLDER, **IDLE)),
    Named(zero(ZERO, "neither-changed"), f"{APART}, {NOBODY}", "one", as0(ZERO, **IDLE)),
    Named(zero(ZERO, "peer-changed-nothing", "i-changed-nothing"), f"{APART}, write b 1, {NOBODY}", "b",
          as0(ZERO, **IDLE)),
    Named(zero(ZERO, "policy-finds-no-loser"), f"{PARTED}, {NOBODY}", "StandAlone", as0(ZERO), SPLIT),
    Named(zero(LEAST, "i-changed-less", "peer-changed-less"), f"{PARTED}, {NOBODY}", "a", as0(LEAST)),
    Named(zero(LEAST, "changed-equally"), f"{APART}, write a 1, write b 5, {NOBODY}", "one", as0(LEAST, **IDLE)),
    Named((*zero("discard-local", "discard-local"), *zero("discard-remote", "discard-remote")),
          f"{PARTED}, {NOBODY}", "b", as0("discard-local")),
    Named(("after-sb-0pri: policy-not-valid-here",), f"{PARTED}, {NOBODY}", "StandAlone", as0("consensus"), SPLIT,
          prepared=MISPLACED),
)

WITH_ONE_PRIMARY = (
    Named(one("disconnect", "policy-disconnect"), f"{PARTED}, {ONLY_A}", "StandAlone", as0(LEAST), SPLIT),
    Named(one("consensus", "consensus-reached"), f"{PARTED}, {ONLY_A}", "a", as0(LEAST, after_sb_1pri="consensus")),
    Named(one("consensus", "consensus-refused"), f"{PARTED}, {ONLY_B}", "StandAlone",
          as0(LEAST, after_sb_1pri="consensus"), SPLIT),
    Named(one("consensus", "policy-disconnect"), f"{PARTED}, {ONLY_A}", "StandAlone", {"after_sb_1pri": "consensus"},
          SPLIT),
    Named(one("consensus", "policy-finds-no-loser"), f"{PARTED}, {ONLY_A}", "StandAlone",
          as0(ZERO, after_sb_1pri="consensus"), SPLIT),
    Named(one("violently-as0p", "as-without-primaries"), f"{PARTED}, {ONLY_A}", "a",
          as0(LEAST, after_sb_1pri="violently-as0p")),
    Named(one("discard-secondary", "i-am-primary", "i-am-secondary"), f"{PARTED}, {ONLY_B}", "b",
          {"after_sb_1pri": "discard-secondary"}),
    Named(one(CALL, "as-without-primaries"), f"{PARTED}, {ONLY_A}", "a", as0(LEAST, after_sb_1pri=CALL)),
    Named(one(CALL, "loser-gives-up-primary"), f"{PARTED}, {ONLY_B}", "a", as0(LEAST, after_sb_1pri=CALL)),
    Named(one(CALL, "loser-stays-primary"), f"{PARTED}, hold b, {ONLY_B}", "StandAlone b",
          as0(LEAST, after_sb_1pri=CALL), SPLIT),
    Named(("after-sb-1pri: policy-not-valid-here",), f"{PARTED}, {ONLY_A}", "StandAlone",
          {"after_sb_1pri": LEAST}, SPLIT, prepared=MISPLACED),
)

WITH_TWO_PRIMARIES = (
    Named(two("disconnect", "policy-disconnect"), f"{PARTED}, heal a", "StandAlone", as0(LEAST), SPLIT),
    Named(two("violently-as0p", "as-without-primaries"), f"{PARTED}, heal a", "a",
          as0(LEAST, after_sb_2pri="violently-as0p", rr_conflict="violently", allow_two_primaries=True)),
    Named(two(CALL, "as-without-primaries", "loser-gives-up-primary"), f"{PARTED}, heal a", "a",
          as0(LEAST, after_sb_2pri=CALL, allow_two_primaries=True)),
    Named(two(CALL, "loser-stays-primary"), f"{PARTED}, hold b, heal a", "StandAlone b",
          as0(LEAST, after_sb_2pri=CALL, allow_two_primaries=True), SPLIT),
    Named(("after-sb-2pri: policy-not-valid-here",), f"{PARTED}, heal a", "StandAlone",
          {"after_sb_2pri": "consensus"}, SPLIT, prepared=MISPLACED),
)

LOSES = as0(LEAST, after_sb_1pri="violently-as0p")
ORDERS = (
    Named(("discard-my-data",), f"{PARTED}, {NOBODY}, disconnect a, disconnect b, discard a, connect b", "b"),
    Named(("always-asbp",), f"{TWICE}, {NOBODY}", "one", as0(LEAST, always_asbp=True)),
    Named(("rr-conflict-disconnect", "role-resync-conflict"), f"{PARTED}, {ONLY_B}", "StandAlone b", LOSES,
          ("", "replctl secondary")),
    Named(("rr-conflict-call-pri-lost",), f"{PARTED}, {ONLY_B}", "StandAlone b",
          {**LOSES, "rr_conflict": "call-pri-lost"}, ("", "replctl secondary")),
    Named(("rr-conflict-violently",), f"{PARTED}, {ONLY_B}", "a", {**LOSES, "rr_conflict": "violently"}),
    Named(("dry-run",), "cut a, write a 1, disconnect a, disconnect b, heal a, tentative a, connect b",
          "StandAlone", {}, ("dry run", "dry run")),
)

POLICIES = WITHOUT_PRIMARIES + WITH_ONE_PRIMARY + WITH_TWO_PRIMARIES + ORDERS
