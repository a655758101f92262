# SPDX-License-Identifier: GPL-2.0-or-later
"""What the peer's P_STATE does to us: named outcomes, then one new state.

Two steps, because the sync handshake stands between them: `peer_state()` says whether the report is to be ignored,
ends a resync or verify, or is to be taken over (with or without handshake); `take_over()` makes the new state from
the report and the handshake's result.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from replblock.state.generations import JUST_CREATED, plain
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.transitions import Rules, check, check_connection, sanitize

# Flags of P_UUIDS.
UUIDS_DISCARD_MY_DATA, UUIDS_CRASHED_PRIMARY, UUIDS_INCONSISTENT, UUIDS_SKIP_INITIAL_SYNC = 1, 2, 4, 8
UUIDS_OUTDATED = 1 << 26  # between replblock nodes
SKIP_SYNC_SINCE_VERSION = 90


class Action(IntEnum):
    """What to do with the report."""

    IGNORE = 0              # the connection is on its way down: drop the packet, and the connection with it
    FINISH_RESYNC = 1       # the target says it has everything: finish if no bits are left; nothing else changes
    FINISH_VERIFY = 2
    TAKE_OVER = 3
    DISAGREE = 4            # both nodes want to be the source (or the target): drop the connection, nothing is copied
    END_INCOMPLETE = 5      # the target ended without some blocks: this node ends too, if it knows of failed ones


class Reaction(NamedTuple):
    """The outcome of one P_STATE. With TAKE_OVER: peer_disk as it counts, whether to run the sync handshake first."""

    action: Action
    rule: str
    peer_disk: Disk
    handshake: bool = False
    handshake_rule: str = ""


def real_peer_disk(disk: Disk, uuid_flags: int) -> Disk:
    """While the peer attaches (Negotiating), a flag of its P_UUIDS says what its disk is worth."""
    if disk != Disk.NEGOTIATING:
        return disk
    if uuid_flags & UUIDS_OUTDATED:
        return Disk.OUTDATED  # a kernel peer does not say so
    return Disk.INCONSISTENT if uuid_flags & UUIDS_INCONSISTENT else Disk.CONSISTENT


class ReportRule(NamedTuple):
    """own state, report, real peer disk -> does it apply; what then; which disk counts (None: as reported)."""

    name: str
    when: Callable[[State, State, Disk], bool]
    action: Action
    counts_as: Disk | None
    explain: str


def _end_of_resync(own: State, report: State, disk: Disk) -> bool:
    return (
        own.pdsk in (Disk.INCONSISTENT, Disk.CONSISTENT)
        and disk == Disk.UP_TO_DATE
        and own.conn > Conn.CONNECTED
        and own.disk == Disk.UP_TO_DATE
    )


REPORT_RULES: tuple[ReportRule, ...] = (
    ReportRule("connection-going-down", lambda own, report, disk: own.conn <= Conn.TEAR_DOWN, Action.IGNORE, None,
               "The connection is being closed: reports that still arrive change nothing."),
    ReportRule("both-would-be-source",
               lambda own, report, disk: own.conn == report.conn == Conn.WF_BITMAP_S, Action.DISAGREE, None,
               "Both nodes came out of the handshake as source: their policies differ, or their generations contradict "
               "each other."),
    ReportRule("both-would-be-target",
               lambda own, report, disk: own.conn == report.conn == Conn.WF_BITMAP_T, Action.DISAGREE, None,
               "Both nodes came out of the handshake as target: their policies differ, or their generations contradict "
               "each other."),
    ReportRule("target-not-started",
               lambda own, report, disk: _end_of_resync(own, report, disk)
               and Conn.CONNECTED < report.conn < Conn.SYNC_SOURCE,
               Action.TAKE_OVER, Disk.INCONSISTENT,
               "The peer still prepares to be the target; that it calls itself UpToDate does not count yet."),
    ReportRule("target-finished",
               lambda own, report, disk: _end_of_resync(own, report, disk)
               and own.conn >= Conn.SYNC_SOURCE and report.conn == Conn.CONNECTED,
               Action.FINISH_RESYNC, None,
               "The target reports the end of the resync: this node ends it too, if no bits are left."),
    ReportRule("target-gave-up",
               lambda own, report, disk: own.conn in (Conn.SYNC_SOURCE, Conn.PAUSED_SYNC_S)
               and own.disk == Disk.UP_TO_DATE and disk == Disk.INCONSISTENT and report.conn == Conn.CONNECTED,
               Action.END_INCOMPLETE, None,
               "The target ended the resync without blocks that could not be read or written: they stay marked. DRBD "
               "8.4 stays SyncSource here for ever."),
    ReportRule("verify-finished",
               lambda own, report, disk: own.conn == Conn.VERIFY_T and own.disk == Disk.UP_TO_DATE
               and disk == Disk.UP_TO_DATE and report.conn == Conn.CONNECTED,
               Action.FINISH_VERIFY, None,
               "The peer reports the end of the online verify."),
    ReportRule("late-inconsistent",
               lambda own, report, disk: own.conn == Conn.CONNECTED and own.pdsk == Disk.UP_TO_DATE
               and disk == Disk.INCONSISTENT and report.conn > Conn.SYNC_SOURCE,
               Action.TAKE_OVER, Disk.UP_TO_DATE,
               "The peer has not noticed yet that the resync is over: its Inconsistent is a late echo."),
    ReportRule("peer-reports", lambda own, report, disk: True, Action.TAKE_OVER, None,
               "The peer's role, disk and pause are taken over."),
)


class HandshakeRule(NamedTuple):
    """When a report starts the sync handshake (both disks being at least Negotiating and P_UUIDS known)."""

    name: str
    when: Callable[[State, State, bool], bool]
    explain: str


HANDSHAKE_RULES: tuple[HandshakeRule, ...] = (
    HandshakeRule("new-connection", lambda own, report, consider: own.conn < Conn.CONNECTED,
                  "A new connection: the generations decide who has newer data."),
    HandshakeRule("disk-newly-attached",
                  lambda own, report, consider: own.conn == Conn.CONNECTED
                  and Disk.NEGOTIATING in (own.disk, report.disk),
                  "A disk was attached while connected: the generations decide what it needs."),
    HandshakeRule("peer-was-forced", lambda own, report, consider: consider,
                  "Both disks were Inconsistent and the peer was forced to Primary: its data counts now."),
    HandshakeRule("resync-requested",
                  lambda own, report, consider: own.conn == Conn.CONNECTED
                  and Conn.STARTING_SYNC_S <= report.conn <= Conn.WF_BITMAP_T,
                  "The peer has begun to prepare a resync."),
)


def peer_state(own: State, report: State, *, uuid_flags: int | None, consider_resync: bool = False) -> Reaction:
    """First step. `report`: the peer's P_STATE in its own view; uuid_flags: of its P_UUIDS, None if none came."""
    disk = real_peer_disk(report.disk, uuid_flags or 0)
    row = next(r for r in REPORT_RULES if r.when(own, report, disk))
    counts = disk if row.counts_as is None else row.counts_as
    both_have_disks = own.disk >= Disk.NEGOTIATING and report.disk >= Disk.NEGOTIATING
    if row.action != Action.TAKE_OVER or uuid_flags is None or not both_have_disks:
        return Reaction(row.action, row.name, counts)
    why = next((r.name for r in HANDSHAKE_RULES if r.when(own, report, consider_resync)), "")
    return Reaction(row.action, row.name, counts, bool(why), why)


def comes_under_users(own: State, report: State, peer_disk: Disk) -> bool:
    """Was a disk attached to a Primary that is Connected, and whose users work on the other one's UpToDate data?

    A Primary without good data within reach is served by nobody: the disk it gets may be what its users had seen. A
    kernel peer that has decided already may report its disk as Outdated: what it was before counts as well.
    """
    if own.conn != Conn.CONNECTED:
        return False
    if own.disk == Disk.NEGOTIATING:
        return own.role == Role.PRIMARY and Disk.UP_TO_DATE in (own.pdsk, peer_disk)
    return report.disk == Disk.NEGOTIATING and report.role == Role.PRIMARY and own.disk == Disk.UP_TO_DATE


def awaits_answer(own: State, report: State) -> bool:
    """Has a peer without a disk not heard of the one here when it said this? What becomes of the disk is open yet.

    A Primary refuses one that is not what its users have seen. Taken for its answer, an older word would make that one
    UpToDate, and begin a generation on it: the Primary's own disk, the better one, would look like the older one.
    """
    return own.disk == Disk.NEGOTIATING and max(report.disk, report.pdsk) < Disk.NEGOTIATING


class TakeOver(NamedTuple):
    """Second step's result: the new state, or why the connection (or the attach) ends instead.

    announce: send P_UUIDS and P_STATE, so that the peer runs its handshake too.
    """

    rule: str
    state: State | None = None
    announce: bool = False


TAKE_OVER_OUTCOMES: dict[str, str] = {
    "taken-over": "The peer's report became part of the state.",
    "attach-unheard-of": "The peer, without a disk, said this before it heard of the disk that is being attached here: "
                         "what becomes of that waits for its answer.",
    "own-attach-aborted": "The handshake refused the disk this node was attaching: the attach fails; the connection "
                          "stays, but with a kernel peer, which may prepare to be its target, it is made anew.",
    "own-attach-older-than-exposed": "The users of this Primary have seen newer data than the disk holds that it is "
                                     "attaching, and the peer has no disk to bring it up to date: the attach fails.",
    "peers-attach-aborted": "The handshake refused the disk the peer was attaching: it counts as diskless.",
    "handshake-refused": "The handshake refused the connection: this node disconnects and stays StandAlone.",
    "rebooted-peer-while-frozen": "I/O is frozen and the peer comes back only Consistent, so it was down: what is in "
                                  "flight cannot simply be sent again; the connection is dropped and a new generation "
                                  "made.",
    "marked-while-frozen": "I/O is frozen and the peer comes back in the same generation, but blocks are marked that "
                           "it may not have for good, and no resync would bring them (a kernel peer): no flush could "
                           "stand for them. The connection is made anew in a new generation, which brings them.",
    "state-not-allowed": "The resulting state is against the rules of this node: it disconnects.",
}


def take_over(
    own: State,
    report: State,
    reaction: Reaction,
    rules: Rules,
    handshake: Conn | None = None,
    *,
    new_uuid_pending: bool = False,
    marks_stay: bool = False,
) -> TakeOver:
    """Second step. `handshake`: Decision.conn where the reaction asked for one (DISCONNECTING: refused).

    new_uuid_pending: a Primary lost its peer while I/O was frozen and has not minted a generation yet.
    marks_stay: the handshake would connect without a resync, and leave blocks marked as different.
    The state comes sanitized; `own-attach-…` leaves it to the caller to fail the disk.
    """
    conn: Conn = Conn.CONNECTED if own.conn == Conn.WF_REPORT_PARAMS else own.conn
    if report.conn == Conn.AHEAD:
        conn = Conn.BEHIND
    peer_disk, rule, disk = reaction.peer_disk, "taken-over", own.disk
    if handshake is not None:
        conn = handshake
    if handshake == Conn.DISCONNECTING:
        conn = Conn.CONNECTED
        if own.disk == Disk.NEGOTIATING:
            rule, disk = "own-attach-aborted", Disk.FAILED
        elif report.disk == Disk.NEGOTIATING:
            rule, peer_disk = "peers-attach-aborted", Disk.DISKLESS
        else:
            return TakeOver("handshake-refused")
    if awaits_answer(own, report):
        rule = "attach-unheard-of"
    elif disk == Disk.NEGOTIATING and conn in (Conn.CONNECTED, Conn.WF_BITMAP_S) and rules.negotiated is not None:
        disk = rules.negotiated[0]
        if handshake is None and not rules.data_is_what_we_exposed:
            rule, disk = "own-attach-older-than-exposed", Disk.FAILED
    elif disk == Disk.NEGOTIATING and conn == Conn.WF_BITMAP_T and rules.negotiated is not None:
        # whole until the resync begins, as with a new connection: the source's disk may fail before (DRBD 8.4 calls it
        # Inconsistent, by the least that a target's disk may be)
        disk = min(rules.negotiated[0], Disk.OUTDATED)
    fresh = own.conn < Conn.CONNECTED
    if fresh and conn == Conn.CONNECTED and own.suspended and new_uuid_pending:
        if peer_disk == Disk.CONSISTENT:
            return TakeOver("rebooted-peer-while-frozen")
        if marks_stay and disk == peer_disk == Disk.UP_TO_DATE and report.role != Role.PRIMARY:
            return TakeOver("marked-while-frozen")
    wanted = own._replace(
        conn=conn, peer=report.role, disk=disk, pdsk=peer_disk, peer_isp=report.aftr_isp or report.user_isp
    )
    new = sanitize(own, wanted, rules)
    soft = fresh and new.conn >= Conn.CONNECTED
    if (check(own, new, rules) if soft else check_connection(own, new)) is not None:
        return TakeOver("state-not-allowed")
    announce = (
        own.conn > Conn.WF_REPORT_PARAMS and new.conn > Conn.CONNECTED
        and report.conn <= Conn.CONNECTED and report.disk != Disk.NEGOTIATING
    )
    return TakeOver(rule, new, announce)


def considers_resync(old: State, new: State) -> bool:
    """Did the peer just become Primary while both disks were Inconsistent? Then its next P_STATE starts a handshake."""
    return (
        old.disk == Disk.INCONSISTENT and old.pdsk == Disk.INCONSISTENT
        and old.peer == Role.SECONDARY and new.peer == Role.PRIMARY
    )


def skips_initial_sync(own: State, my_current: int, uuid_flags: int, version: int) -> bool:
    """May we take P_UUIDS as "both fresh disks are equal"? Then bitmap zeroed, its generation, both UpToDate."""
    return (
        own.conn == Conn.CONNECTED and plain(my_current) == JUST_CREATED
        and version >= SKIP_SYNC_SINCE_VERSION and bool(uuid_flags & UUIDS_SKIP_INITIAL_SYNC)
    )


def lost_data_refusal(own: State, exposed: int, current: int) -> bool:
    """A diskless Primary has shown data of generation `exposed` to its users: other data must not take its place.

    True: refuse the connection to (or the attach of) a disk whose current generation is `current`.
    """
    serving = own.role == Role.PRIMARY and own.conn < Conn.CONNECTED and own.disk < Disk.INCONSISTENT
    return serving and exposed != 0 and plain(exposed) != plain(current)
