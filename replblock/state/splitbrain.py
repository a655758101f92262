# SPDX-License-Identifier: GPL-2.0-or-later
"""The after-split-brain policies: who gives up his changes, if the configuration says that somebody may.

Every policy is a row of named rules, first match decides. Results as in the UUID table: +1 this node's data stays,
-1 it is discarded, UNDECIDED. Policies a situation does not know count as a configuration error: undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.names import Role

UNDECIDED = -100
KEEP_MINE, DISCARD_MINE = 1, -1

# Numbers as in P_PROTOCOL. They must be equal on both nodes (local and remote swapped).
POLICY_NUMBERS: dict[str, int] = {
    "disconnect": 0,
    "discard-younger-primary": 1,
    "discard-older-primary": 2,
    "discard-zero-changes": 3,
    "discard-least-changes": 4,
    "discard-local": 5,
    "discard-remote": 6,
    "consensus": 7,
    "discard-secondary": 8,
    "call-pri-lost-after-sb": 9,
    "violently-as0p": 10,
}
MIRRORED_POLICY: dict[str, str] = {"discard-local": "discard-remote", "discard-remote": "discard-local"}


class Split(NamedTuple):
    """What the policies look at. `was_primary`: bit 0 of the bitmap generation; bits as sent in P_UUIDS."""

    i_was_primary: bool
    peer_was_primary: bool
    my_bits: int
    peer_bits: int
    resolve_conflicts: bool
    my_role: Role = Role.SECONDARY
    can_demote: bool = True         # would `secondary` succeed on this node now?


class Ruling(NamedTuple):
    """What a policy says: result, the names of the rules that led there, and what must be done besides."""

    result: int
    rules: tuple[str, ...]
    demote: bool = False
    handlers: tuple[str, ...] = ()


class AsbRule(NamedTuple):
    """One step of an after-sb-0pri policy."""

    name: str
    when: Callable[[Split], bool]
    result: int | Callable[[Split], int]
    explain: str


def _tie(split: Split) -> int:
    return DISCARD_MINE if split.resolve_conflicts else KEEP_MINE


_YOUNGER = (
    AsbRule("i-am-the-younger-primary", lambda s: not s.i_was_primary and s.peer_was_primary, DISCARD_MINE,
            "The peer was Primary when the nodes parted, this node became so later: its changes are discarded."),
    AsbRule("peer-is-the-younger-primary", lambda s: s.i_was_primary and not s.peer_was_primary, KEEP_MINE,
            "This node was Primary when the nodes parted, the peer became so later: the peer's changes are "
            "discarded."),
)
_OLDER = (
    AsbRule("peer-is-the-older-primary", lambda s: not s.i_was_primary and s.peer_was_primary, KEEP_MINE,
            "The peer was Primary when the nodes parted: its changes are discarded."),
    AsbRule("i-am-the-older-primary", lambda s: s.i_was_primary and not s.peer_was_primary, DISCARD_MINE,
            "This node was Primary when the nodes parted: its changes are discarded."),
)
_ZERO = (
    AsbRule("neither-changed", lambda s: s.my_bits == 0 and s.peer_bits == 0, _tie,
            "Neither node changed anything: the node that opened the meta connection is the source."),
    AsbRule("peer-changed-nothing", lambda s: s.peer_bits == 0, KEEP_MINE,
            "Only this node changed anything: its changes stay."),
    AsbRule("i-changed-nothing", lambda s: s.my_bits == 0, DISCARD_MINE,
            "Only the peer changed anything: its changes stay."),
)
CHANGED_NOTHING = frozenset(rule.name for rule in _ZERO)
"""Rules by which nothing is discarded, if the marks tell of every difference."""
_LEAST = (
    AsbRule("i-changed-less", lambda s: s.my_bits < s.peer_bits, DISCARD_MINE,
            "This node changed fewer blocks than the peer: its changes are discarded."),
    AsbRule("peer-changed-less", lambda s: s.my_bits > s.peer_bits, KEEP_MINE,
            "The peer changed fewer blocks than this node: its changes are discarded."),
    AsbRule("changed-equally", lambda s: True, _tie,
            "Both nodes changed the same number of blocks: the node that opened the meta connection is the source."),
)
_LOCAL = AsbRule("discard-local", lambda s: True, DISCARD_MINE, "The configuration discards this node's changes.")
_REMOTE = AsbRule("discard-remote", lambda s: True, KEEP_MINE, "The configuration discards the peer's changes.")

AFTER_SB_0PRI: dict[str, tuple[AsbRule, ...]] = {
    "disconnect": (),
    "discard-younger-primary": _YOUNGER + _ZERO + _LEAST,
    "discard-older-primary": _OLDER + _ZERO + _LEAST,
    "discard-zero-changes": _ZERO,
    "discard-least-changes": _LEAST,
    "discard-local": (_LOCAL,),
    "discard-remote": (_REMOTE,),
}

# Names of outcomes that are not one row of a table.
OUTCOMES: dict[str, str] = {
    "policy-disconnect": "The policy for this number of Primaries is disconnect: nobody's changes are discarded.",
    "policy-finds-no-loser": "The policy does not decide this case: nobody's changes are discarded.",
    "policy-not-valid-here": "The configured policy does not exist for this number of Primaries; it is ignored.",
    "consensus-reached": "consensus: the policy for no Primary would discard the Secondary's changes, so it may.",
    "consensus-refused": "consensus: the policy for no Primary would discard the Primary's changes, so it may not.",
    "as-without-primaries": "The policy for no Primary decides here too.",
    "i-am-secondary": "discard-secondary: this node is the Secondary, its changes are discarded.",
    "i-am-primary": "discard-secondary: this node is the Primary, its changes stay.",
    "loser-gives-up-primary": "The loser is Primary here: it gives the role up, then its changes are discarded.",
    "loser-stays-primary": "The loser is Primary here and cannot give the role up (the device is open): nothing is "
                           "discarded, the handler pri-lost-after-sb is called.",
}


def after_sb_0pri(policy: str, split: Split) -> Ruling:
    """No Primary at the moment of the handshake."""
    rows = AFTER_SB_0PRI.get(policy)
    if rows is None:
        return Ruling(UNDECIDED, ("policy-not-valid-here",))
    for row in rows:
        if row.when(split):
            return Ruling(row.result if isinstance(row.result, int) else row.result(split), (row.name,))
    return Ruling(UNDECIDED, ("policy-finds-no-loser" if rows else "policy-disconnect",))


class RoleRule(NamedTuple):
    """A policy for one or two Primaries: gets the ruling of after-sb-0pri and the situation."""

    name: str
    decide: Callable[[Ruling, Split], Ruling]
    explain: str


def _then(ruling: Ruling, name: str) -> Ruling:
    return ruling._replace(rules=ruling.rules + (name,))


def _disconnect(zero: Ruling, split: Split) -> Ruling:
    return Ruling(UNDECIDED, ("policy-disconnect",))


def _consensus(zero: Ruling, split: Split) -> Ruling:
    loser = {DISCARD_MINE: Role.SECONDARY, KEEP_MINE: Role.PRIMARY}
    if loser.get(zero.result) == split.my_role:
        return _then(zero, "consensus-reached")
    return _then(zero, "consensus-refused")._replace(result=UNDECIDED) if zero.result != UNDECIDED else zero


def _as_zero(zero: Ruling, split: Split) -> Ruling:
    return _then(zero, "as-without-primaries")


def _discard_secondary(zero: Ruling, split: Split) -> Ruling:
    if split.my_role == Role.PRIMARY:
        return Ruling(KEEP_MINE, ("i-am-primary",))
    return Ruling(DISCARD_MINE, ("i-am-secondary",))


def _call_pri_lost(zero: Ruling, split: Split) -> Ruling:
    if zero.result != DISCARD_MINE or split.my_role != Role.PRIMARY:
        return _as_zero(zero, split)
    if split.can_demote:
        return _then(zero, "loser-gives-up-primary")._replace(demote=True)
    return _then(zero, "loser-stays-primary")._replace(result=UNDECIDED, handlers=("pri-lost-after-sb",))


AFTER_SB_1PRI: dict[str, RoleRule] = {r.name: r for r in (
    RoleRule("disconnect", _disconnect, "Never discard anything by itself."),
    RoleRule("consensus", _consensus, "Do what after-sb-0pri says if that discards the Secondary's changes."),
    RoleRule("violently-as0p", _as_zero, "Do what after-sb-0pri says, even to the Primary."),
    RoleRule("discard-secondary", _discard_secondary, "Discard the Secondary's changes."),
    RoleRule("call-pri-lost-after-sb", _call_pri_lost,
             "Do what after-sb-0pri says; a losing Primary gives up its role first."),
)}
AFTER_SB_2PRI: dict[str, RoleRule] = {
    name: AFTER_SB_1PRI[name] for name in ("disconnect", "violently-as0p", "call-pri-lost-after-sb")
}


def after_sb(primaries: int, policies: tuple[str, str, str], split: Split) -> Ruling:
    """The policy for this number of Primaries; `policies` = (after-sb-0pri, after-sb-1pri, after-sb-2pri)."""
    zero = after_sb_0pri(policies[0], split)
    if primaries == 0:
        return zero
    row = (AFTER_SB_1PRI if primaries == 1 else AFTER_SB_2PRI).get(policies[primaries])
    return row.decide(zero, split) if row else Ruling(UNDECIDED, ("policy-not-valid-here",))
