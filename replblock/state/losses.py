# SPDX-License-Identifier: GPL-2.0-or-later
"""Lost peers, lost disks, fencing: when the data moves on to a new generation, and what an error makes of a disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State


def lost_contact(old_pdsk: Disk, new_pdsk: Disk) -> bool:
    """Did contact with the peer's data get lost in this step?

    From data that may count (Inconsistent, Consistent, UpToDate) to none, Outdated or unknown; or from unknown to
    certainly none.
    """
    if old_pdsk in (Disk.INCONSISTENT, Disk.CONSISTENT, Disk.UP_TO_DATE):
        return new_pdsk < Disk.INCONSISTENT or new_pdsk in (Disk.OUTDATED, Disk.DUNKNOWN)
    return old_pdsk == Disk.DUNKNOWN and new_pdsk in (Disk.DISKLESS, Disk.FAILED, Disk.OUTDATED)


class MintRule(NamedTuple):
    """A step after which the data must carry a new current generation."""

    name: str
    when: Callable[[State, State, int, bool, bool, bool], bool]
    # old, new, bitmap generation, promotion was forced, the source has not confirmed the end of our resync,
    # a Primary without a good disk was working on this one when the connection broke
    postponed: bool
    explain: str


def _lost(old: State, new: State, bitmap_uuid: int) -> bool:
    in_use = Role.PRIMARY in (new.role, new.peer)
    # a peer whose disk has just failed a write may die before its metadata says so: it comes back as good as this one
    lost = lost_contact(old.pdsk, new.pdsk) or (old.pdsk == Disk.INCONSISTENT and old.conn == Conn.CONNECTED > new.conn)
    return bitmap_uuid == 0 and in_use and new.disk >= Disk.UP_TO_DATE and lost


def _back_alone(old: State, new: State, bitmap_uuid: int) -> bool:
    peer_has_none = new.pdsk < Disk.INCONSISTENT or new.pdsk in (Disk.OUTDATED, Disk.DUNKNOWN)
    back = old.disk < Disk.UP_TO_DATE <= new.disk and old.role == Role.PRIMARY == new.role
    return back and bitmap_uuid == 0 and peer_has_none


def serves_diskless(state: State) -> bool:
    """Does a diskless Primary work on this disk alone?"""
    return state.peer == Role.PRIMARY and state.pdsk < Disk.INCONSISTENT and state.disk >= Disk.UP_TO_DATE


def _ahead_by_order(state: State) -> bool:
    return state.conn == Conn.STARTING_SYNC_S and state.role == Role.PRIMARY and state.disk >= Disk.UP_TO_DATE


def _promoted(old: State, new: State) -> bool:
    return old.role != Role.PRIMARY and new.role == Role.PRIMARY and new.disk >= Disk.INCONSISTENT


def _declared_good(old: State, new: State) -> bool:
    return _promoted(old, new) or old.disk < Disk.UP_TO_DATE <= new.disk


BESIDE_ITS_USER = "promoted-beside-its-user"
DETACHED_AHEAD = "detached-ahead-of-the-peer"
"""A Primary detaches what it has answered and the peer may lack, before a generation told so: now one does."""

AHEAD_BY_ORDER = "ahead-by-order"

MINT_RULES: tuple[MintRule, ...] = (
    MintRule("promotion-forced",
             lambda old, new, bitmap, forced, unsure, used: forced and _declared_good(old, new), False,
             "The disk was forced to be UpToDate: from here on it is data of its own."),
    MintRule("promoted-alone",
             lambda old, new, bitmap, forced, unsure, used: _promoted(old, new) and bitmap == 0
             and (new.conn < Conn.CONNECTED or new.pdsk <= Disk.FAILED), False,
             "Became Primary without the peer's disk: what is written now, the peer will not have."),
    MintRule(BESIDE_ITS_USER,
             lambda old, new, bitmap, forced, unsure, used: _promoted(old, new) and used and new.conn < Conn.CONNECTED,
             False,
             "Became Primary while a Primary without a good disk, out of reach, may still wait for this one: what is "
             "written now must not get that one's older writes on top."),
    MintRule("lost-peers-data-frozen",
             lambda old, new, bitmap, forced, unsure, used: _lost(old, new, bitmap) and new.suspended, True,
             "The peer's data is out of reach, but I/O is frozen: the new generation waits until it is thawed."),
    MintRule("lost-peers-data",
             lambda old, new, bitmap, forced, unsure, used: _lost(old, new, bitmap), False,
             "The peer's data is out of reach while this disk is in use: what is written now, the peer will not have."),
    MintRule("disk-back-alone",
             lambda old, new, bitmap, forced, unsure, used: _back_alone(old, new, bitmap), False,
             "A diskless Primary has its disk back while the peer's is out of reach: the peer's data may have got a "
             "generation of its own meanwhile, and what is written now, the peer will not have."),
    MintRule("diskless-peer-promoted",
             lambda old, new, bitmap, forced, unsure, used: bitmap == 0 and serves_diskless(new)
             and not serves_diskless(old), False,
             "A diskless peer became Primary on this disk, or this disk came to a diskless Primary: the peer's own "
             "disk will not have what it writes."),
    MintRule("source-failed-at-the-end",
             lambda old, new, bitmap, forced, unsure, used: unsure and bitmap == 0 and new.disk >= Disk.UP_TO_DATE
             and new.conn >= Conn.CONNECTED and new.pdsk < Disk.INCONSISTENT <= old.pdsk, False,
             "The resync to here is complete, but its source lost its disk before it said so: by its generations that "
             "disk would be the source again, and it may have lost what is here."),
    MintRule(AHEAD_BY_ORDER,
             lambda old, new, bitmap, forced, unsure, used: _ahead_by_order(new) and not _ahead_by_order(old), False,
             "The peer's data is to be overwritten by order: what a Primary here writes from now on, the peer will not "
             "have, and until its metadata says so, its data looks like this disk's."),
)
POSTPONED = frozenset(rule.name for rule in MINT_RULES if rule.postponed)


def mints_new_uuid(
    old: State, new: State, bitmap_uuid: int, *, forced: bool = False, end_unconfirmed: bool = False,
    peers_last_copy: bool = False,
) -> str | None:  # fmt: skip
    """Name of the rule by which this step needs a new current generation, or None.

    `end_unconfirmed`: a resync to here ended, and its source has not said yet that it recorded the end.
    `peers_last_copy`: when last connected, a Primary without a good disk of its own worked on this one.
    A name in POSTPONED means: not now; remember it and ask `settle_pending()` on later steps.
    """
    facts = (old, new, bitmap_uuid, forced, end_unconfirmed, peers_last_copy)
    return next((r.name for r in MINT_RULES if r.when(*facts)), None)


class Settling(NamedTuple):
    """What becomes of a postponed generation: mint it now, or forget it."""

    rule: str
    mint: bool


SETTLINGS: dict[str, str] = {
    "back-before-thaw": "The peer came back while I/O was frozen: the frozen writes are sent again, both nodes stay in "
                        "the same generation.",
    "thawed-alone": "I/O goes on without the peer (it is fenced, or the user said so): now the new generation is made, "
                    "before anything is written.",
}


def settle_pending(old: State, new: State) -> Settling | None:
    """For a generation that was postponed: does this step settle it?"""
    if not old.suspended or new.suspended:
        return None
    return Settling("back-before-thaw", False) if new.conn >= Conn.CONNECTED else Settling("thawed-alone", True)


def may_mint_lazily(rule: str, *, requests_in_flight: int, bits: int) -> bool:
    """May the new generation wait for the first write made alone?

    Only after a plain loss of the peer, and only if nothing was on its way and nothing was marked: otherwise the
    nodes may differ already, and two nodes that both go on would not notice.
    """
    return rule == "lost-peers-data" and requests_in_flight == 0 and bits == 0


class Fenced(NamedTuple):
    """What the exit code of the fence-peer handler means: the disk states it establishes (None: no change)."""

    name: str
    success: bool
    pdsk: Disk | None
    disk: Disk | None
    explain: str


FENCE_EXITS: dict[int, Fenced] = {
    3: Fenced("peer-is-inconsistent", True, Disk.INCONSISTENT, None, "The peer's disk is Inconsistent or worse."),
    4: Fenced("peer-is-outdated", True, Disk.OUTDATED, None, "The peer outdated itself."),
    5: Fenced("peer-is-down", True, Disk.OUTDATED, None, "The peer cannot be reached; our data is UpToDate, so its is "
                                                         "outdated from now on."),
    6: Fenced("peer-is-primary", False, None, Disk.OUTDATED, "The peer is Primary: this node outdates itself."),
    7: Fenced("peer-was-stonithed", True, Disk.OUTDATED, None, "The peer was shot."),
}
PEER_DOWN_UNSURE = Fenced("peer-is-down-unsure", False, None, None,
                          "The peer cannot be reached and our own data is not UpToDate: nothing is established.")
FENCE_BROKEN = Fenced("fence-peer-broken", False, None, None,
                      "The fence-peer handler failed: nothing is established, frozen I/O stays frozen.")


def fenced(exit_code: int, disk: Disk) -> Fenced:
    """Meaning of a fence-peer exit code, `disk` being our own disk."""
    if exit_code == 5 and disk != Disk.UP_TO_DATE:
        return PEER_DOWN_UNSURE
    return FENCE_EXITS.get(exit_code, FENCE_BROKEN)


def calls_fence_peer(old: State, new: State, fencing: str) -> bool:
    """A Primary just lost a peer whose disk is not known to be worse, and fencing is configured."""
    lost = old.conn >= Conn.CONNECTED > new.conn
    return lost and fencing != "dont-care" and new.role == Role.PRIMARY and new.pdsk >= Disk.DUNKNOWN


class IoError(NamedTuple):
    """What an I/O error makes of the disk: the disk state (None: unchanged), a handler to call first."""

    name: str
    disk: Disk | None
    handler: str | None
    explain: str


_PASS_ON = IoError("io-error-passed-on", Disk.INCONSISTENT, None,
                   "on-io-error pass_on: the disk is Inconsistent now; the peer's copy serves where it can.")
_STAYS = IoError("io-error-on-bad-disk", None, None,
                 "on-io-error pass_on: the disk was not better than Inconsistent before.")
_DETACH = IoError("io-error-detaches", Disk.FAILED, None,
                  "The disk failed and is detached: only a good copy at a connected peer serves from now on.")
_CALL = IoError("io-error-calls-handler", Disk.FAILED, "local-io-error",
                "on-io-error call-local-io-error: the handler is called, then the disk is detached.")
IO_ERRORS: tuple[IoError, ...] = (_PASS_ON, _STAYS, _DETACH, _CALL)


def io_error(policy: str, disk: Disk, *, metadata: bool = False) -> IoError:
    """A read or write on the backing device failed; with `metadata`, pass_on detaches too."""
    if policy == "call-local-io-error":
        return _CALL
    if policy == "pass_on" and not metadata:
        return _PASS_ON if disk > Disk.INCONSISTENT else _STAYS
    return _DETACH


# What ended a connection -> the state it passes through on the way to Unconnected.
CAUSES: dict[str, Conn] = {
    "send-timeout": Conn.TIMEOUT,
    "closed": Conn.BROKEN_PIPE,
    "ping-timeout": Conn.NETWORK_FAILURE,
    "bad-packet": Conn.PROTOCOL_ERROR,
    "peer-asked": Conn.TEAR_DOWN,
}
