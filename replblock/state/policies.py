# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole decision of a handshake: DRBD 8.4's steps, the safety rules, the dry run, and the sentence that says why.

Pure: what a Decision asks for (demote, call handlers, set all bits, change the connection) the caller does.
"""

from __future__ import annotations

from typing import NamedTuple

from replblock.state.handshake import RR_CONFLICT, STEPS, Course, Handshake, Policies, drbd_course
from replblock.state.names import Conn, Disk
from replblock.state.safety import SAFETY_RULES, left_over_bits, review
from replblock.state.splitbrain import AFTER_SB_0PRI, AFTER_SB_1PRI, AFTER_SB_2PRI, MIRRORED_POLICY, POLICY_NUMBERS

__all__ = [
    "AFTER_SB_0PRI", "AFTER_SB_1PRI", "AFTER_SB_2PRI", "MIRRORED_POLICY", "POLICY_NUMBERS", "RR_CONFLICT",
    "SAFETY_RULES", "STEPS", "Course", "Decision", "Handshake", "Policies", "decide", "drbd_course", "review",
]

BLOCK_KIB = 4


class Decision(NamedTuple):
    """What this node does with the connection, and why.

    conn: CONNECTED, WF_BITMAP_S, WF_BITMAP_T, or DISCONNECTING (refused: StandAlone, no retry by itself).
    result: the direction as in the UUID table after policies and safety; drbd_result, drbd_conn: what DRBD's rules
    alone give, which is what a kernel peer does the mirror image of.
    keep_bits: connected without resync, yet bits are set here or there and must stay; left_over_kib: how much.
    resync_left_over: the resync that follows exists only for such bits.
    discarded_kib: upper bound of what the loser of a split brain changed and loses (0 where nothing is discarded).
    """

    conn: Conn
    result: int
    full_sync: bool
    rule: str
    text: str
    rules: tuple[str, ...]
    handlers: tuple[str, ...] = ()
    demote: bool = False
    split_brain: bool = False
    refused: bool = False
    dry_run: bool = False
    drbd_result: int = 0
    drbd_conn: Conn = Conn.CONNECTED
    drbd_rule: str = ""
    keep_bits: bool = False
    resync_left_over: bool = False
    left_over_kib: int = 0
    discarded_kib: int = 0


def decide(h: Handshake) -> Decision:
    """What becomes of the connection. Total: every Handshake gets a Decision with the rules that led to it."""
    drbd = drbd_course(h)
    course = review(h, drbd)
    stays = not course.refused and course.result == 0
    left_over = sum(left_over_bits(h)) if stays or course.resync_left_over else 0
    rehearsal = h.dry_run and not course.refused
    return Decision(
        conn=Conn.DISCONNECTING if rehearsal else course.conn,
        result=course.result,
        full_sync=course.full_sync and not rehearsal,
        rule="dry-run" if rehearsal else course.rules[-1],
        text=_sentence(h, course, rehearsal),
        rules=course.rules,
        handlers=course.handlers,
        demote=course.demote and not rehearsal and not course.refused,
        split_brain=course.split_brain,
        refused=course.refused or rehearsal,
        dry_run=rehearsal,
        drbd_result=drbd.result,
        drbd_conn=drbd.conn,
        drbd_rule=drbd.rules[-1],
        keep_bits=stays and left_over > 0,
        resync_left_over=course.resync_left_over,
        left_over_kib=left_over * BLOCK_KIB,
        discarded_kib=_discarded_kib(h, course),
    )


def _discarded_kib(h: Handshake, course: Course) -> int:
    if course.refused or not course.split_brain or course.result == 0:
        return 0
    loser_bits = h.my_bits if course.result < 0 else h.peer_bits
    return loser_bits * BLOCK_KIB


def _sentence(h: Handshake, course: Course, rehearsal: bool) -> str:
    rule = course.rules[-1]
    mine, peers = h.my_bits * BLOCK_KIB, h.peer_bits * BLOCK_KIB
    if course.refused and course.split_brain:
        return (f"split brain (rule {', '.join(course.rules)}): here {mine} KiB changed, there {peers} KiB; "
                "nothing was discarded")
    if course.refused:
        return f"refused (rule {rule}): {_disks(h)}; nothing was changed"
    outcome = _outcome(h, course, mine, peers)
    if rehearsal:
        return f"dry run (rule {rule}): would be {outcome}"
    return f"{outcome} (rule {', '.join(course.rules) if course.split_brain else rule})"


def _disks(h: Handshake) -> str:
    return f"disk {h.disk.label} here, {h.peer_disk.label} there"


def _outcome(h: Handshake, course: Course, mine: int, peers: int) -> str:
    if course.result == 0:
        left = sum(left_over_bits(h)) * BLOCK_KIB
        if left and min(h.disk, h.peer_disk) > Disk.INCONSISTENT:
            return f"connected without resync, but {left} KiB are still marked as different and stay marked"
        return "connected without resync"
    direction = "resync from this node to the peer" if course.result > 0 else "resync from the peer to this node"
    extent = "everything" if course.full_sync else f"marked here {mine} KiB, there {peers} KiB"
    loser = "this node" if course.result < 0 else "the peer"
    if course.split_brain and course.solved:
        extent += f"; split brain, solved: what changed on {loser} is discarded"
    return f"{direction}: {extent}"
