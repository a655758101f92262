# SPDX-License-Identifier: GPL-2.0-or-later
"""A refused promotion and its remedies, as DRBD tries them: a table from refusal to what to try next."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from replblock.state.codes import Code
from replblock.state.names import Disk, Role
from replblock.state.packed import state_mask

MAX_TRIES = 4


class Remedy(Enum):
    """What to do before asking again."""

    FORCE_DISK = "ask again with disk=UpToDate; if that succeeds the promotion was forced"
    FENCE_FOR_DISK = "run fence-peer; if it succeeds ask again with disk=UpToDate"
    FENCE_FOR_PEER = "run fence-peer; if it succeeds pdsk is Outdated: ask again"
    FORCE_SPLIT = "run fence-peer; whether it succeeds or not, ask again with pdsk=Outdated"
    FORGET_FENCING = "ask again without pdsk=Outdated"
    WAIT_PING_TIMEOUT = "wait ping-timeout, then ask once more"
    GIVE_UP = "report the refusal"


class Attempt(NamedTuple):
    """The promotion so far. `disk`: our disk now; disk_asked, pdsk_asked: already part of the request.

    flushed: how many connections had been lost when a flush of this disk, alone, began that ended: a peer that was here
    since may have written more. unanswered: the connection broke while the peer was asked.
    """

    disk: Disk
    force: bool = False
    disk_asked: bool = False
    pdsk_asked: bool = False
    tries: int = 1
    waited: bool = False
    flushed: int | None = None
    unanswered: bool = False


class RemedyRule(NamedTuple):
    """First match decides; the last row matches everything."""

    name: str
    when: Callable[[Code, Attempt], bool]
    remedy: Remedy
    explain: str


REMEDIES: tuple[RemedyRule, ...] = (
    RemedyRule("enough-tried", lambda code, a: a.tries >= MAX_TRIES, Remedy.GIVE_UP,
               "Four tries are enough: report the last refusal."),
    RemedyRule("peer-is-back", lambda code, a: code == Code.CW_FAILED_BY_PEER and a.pdsk_asked, Remedy.FORGET_FENCING,
               "The peer was outdated for this promotion, and now it is connected and refuses: ask it plainly."),
    RemedyRule("force-own-disk",
               lambda code, a: code == Code.NO_UP_TO_DATE_DISK and a.force and not a.disk_asked
               and Disk.INCONSISTENT <= a.disk < Disk.UP_TO_DATE, Remedy.FORCE_DISK,
               "--force: this disk is declared UpToDate, whatever it lacks."),
    RemedyRule("consistent-after-fencing",
               lambda code, a: code == Code.NO_UP_TO_DATE_DISK and a.disk == Disk.CONSISTENT and not a.pdsk_asked
               and not a.disk_asked,
               Remedy.FENCE_FOR_DISK,
               "The disk is Consistent: once the peer is fenced it is UpToDate (with fencing dont-care at once)."),
    RemedyRule("force-into-split-brain",
               lambda code, a: code == Code.PRIMARY_NOP and a.force and not a.pdsk_asked, Remedy.FORCE_SPLIT,
               "--force: Primary even if the peer cannot be fenced; this may become a split brain."),
    RemedyRule("fence-the-peer", lambda code, a: code == Code.PRIMARY_NOP and not a.pdsk_asked, Remedy.FENCE_FOR_PEER,
               "Fencing is configured and the peer unknown: fence it first."),
    RemedyRule("peer-may-be-dead", lambda code, a: code == Code.TWO_PRIMARIES and not a.waited,
               Remedy.WAIT_PING_TIMEOUT,
               "The peer is Primary, but perhaps dead and not noticed yet: wait for the next ping."),
    RemedyRule("peer-came-during-the-flush", lambda code, a: code == Code.IN_TRANSIENT_STATE and a.flushed is not None,
               Remedy.WAIT_PING_TIMEOUT,
               "It began without the peer, which came while this disk was flushed: the handshake is over soon."),
    RemedyRule("no-remedy", lambda code, a: True, Remedy.GIVE_UP, "There is no remedy for this refusal."),
)


def remedy(code: Code, attempt: Attempt) -> RemedyRule:
    """What to try after this refusal."""
    return next(rule for rule in REMEDIES if rule.when(code, attempt))


def promotion_request(*, disk: bool = False, pdsk: bool = False) -> tuple[int, int]:
    """(mask, val) of a promotion; disk: claim an UpToDate disk, pdsk: claim the peer is Outdated."""
    fields: dict[str, int] = {"role": Role.PRIMARY}
    if disk:
        fields["disk"] = Disk.UP_TO_DATE
    if pdsk:
        fields["pdsk"] = Disk.OUTDATED
    return state_mask(**fields)
