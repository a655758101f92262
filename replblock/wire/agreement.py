# SPDX-License-Identifier: GPL-2.0-or-later
"""What two nodes must have in common before they replicate; every difference is named by the option that makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from replblock.wire.errors import NotAgreed
from replblock.wire.flags import CF_DISCARD_MY_DATA
from replblock.wire.handshake import Features, Protocol, SyncParam


class Agreement(NamedTuple):
    """What both nodes speak."""

    version: int
    features: int


class Disagreement(NamedTuple):
    """An option that keeps two nodes apart, with both values as they stand (or would stand) in drbd.conf.

    wanted_text: what the peer would have to say instead, where that is not the same as here.
    """

    option: str
    mine_text: str
    peers_text: str
    wanted_text: str = ""

    @property
    def sentence(self) -> str:
        """For the log line and the operator."""
        wanted = f" where it must have {self.wanted_text}" if self.wanted_text else ""
        return f"{self.option} differs: {self.mine_text} here, the peer has {self.peers_text}{wanted}"


def agree(mine: Features, peers: Features) -> Agreement:
    """The highest protocol both speak, and the features both offer; NotAgreed if there is no common protocol."""
    if peers.protocol_max < mine.protocol_min or mine.protocol_max < peers.protocol_min:
        raise NotAgreed(
            f"P_CONNECTION_FEATURES: incompatible DRBD dialects: protocols {mine.protocol_min} to {mine.protocol_max} "
            f"here, the peer speaks {peers.protocol_min} to {peers.protocol_max}"
        )
    return Agreement(min(mine.protocol_max, peers.protocol_max), mine.feature_flags & peers.feature_flags)


PROTOCOL_NAMES: Final = {1: "A", 2: "B", 3: "C"}
AFTER_SB_NAMES: Final = (
    "disconnect",
    "discard-younger-primary",
    "discard-older-primary",
    "discard-zero-changes",
    "discard-least-changes",
    "discard-local",
    "discard-remote",
    "consensus",
    "discard-secondary",
    "call-pri-lost-after-sb",
    "violently-as0p",
)
AFTER_SB: Final = {name: number for number, name in enumerate(AFTER_SB_NAMES)}
# The same wish seen from the other node.
_MIRRORED: Final = {
    AFTER_SB["discard-local"]: AFTER_SB["discard-remote"],
    AFTER_SB["discard-remote"]: AFTER_SB["discard-local"],
}


def _protocol_text(number: int) -> str:
    return PROTOCOL_NAMES.get(number, f"unknown ({number})")


def _after_sb_text(number: int) -> str:
    return AFTER_SB_NAMES[number] if number < len(AFTER_SB_NAMES) else f"unknown ({number})"


def _yes_no(value: int) -> str:
    return "yes" if value else "no"


def _name_text(name: str) -> str:
    return name or "none"


def mirrored_after_sb(number: int) -> int:
    """An after-sb number as the other node would say it: discard-local and discard-remote change places."""
    return _MIRRORED.get(number, number)


def _same(number: int) -> int:
    return number


class _Compared(NamedTuple):
    option: str
    field: str
    text: Callable[[int], str]
    mirror: Callable[[int], int] = _same


_COMPARED: Final = (
    _Compared("protocol", "protocol", _protocol_text),
    _Compared("after-sb-0pri", "after_sb_0p", _after_sb_text, mirrored_after_sb),
    _Compared("after-sb-1pri", "after_sb_1p", _after_sb_text, mirrored_after_sb),
    _Compared("after-sb-2pri", "after_sb_2p", _after_sb_text, mirrored_after_sb),
    _Compared("allow-two-primaries", "two_primaries", _yes_no),
)


def disagreements(mine: Protocol, peers: Protocol, version: int = 101) -> list[Disagreement]:
    """Everything in the peer's P_PROTOCOL that does not fit ours; empty if the nodes may go on.

    Not for P_PROTOCOL_UPDATE, whose values are adopted without comparison.
    """
    found = []
    for option, field, text, mirror in _COMPARED:
        here, there = getattr(mine, field), getattr(peers, field)
        wanted = mirror(here)
        if there != wanted:
            found.append(Disagreement(option, text(here), text(there), text(wanted) if wanted != here else ""))
    if mine.conn_flags & peers.conn_flags & CF_DISCARD_MY_DATA:
        found.append(Disagreement("discard-my-data", "yes", "yes too", "no, because one of the two must keep its data"))
    if version >= 87 and mine.integrity_alg != peers.integrity_alg:
        texts = _name_text(mine.integrity_alg), _name_text(peers.integrity_alg)
        found.append(Disagreement("data-integrity-alg", *texts))
    return found


def sync_param_disagreements(mine: SyncParam, peers: SyncParam, version: int = 101) -> list[Disagreement]:
    """The algorithms of P_SYNC_PARAM that must be equal while handshaking; once connected they are simply adopted."""
    pairs = (
        ("verify-alg", mine.verify_alg, peers.verify_alg, 88),
        ("csums-alg", mine.csums_alg, peers.csums_alg, 89),
    )
    return [
        Disagreement(option, _name_text(here), _name_text(there))
        for option, here, there, since in pairs
        if version >= since and here != there
    ]
