# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that a P_STATE shows to be no match for what this node's users have seen: the connection ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblock.meta.superblock import Flag
from replblock.state.generations import plain
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.peer import lost_data_refusal
from replblock.wire.flags import FEATURE_ORDERED
from replblock.wire.handshake import Uuids

if TYPE_CHECKING:
    from replblock.core.resource import Resource

ABOUT_TO_BE_SOURCE = frozenset({Conn.WF_BITMAP_S, Conn.STARTING_SYNC_S})


_WHILE_FROZEN = {
    "rebooted-peer-while-frozen": "the peer comes back only Consistent: it was down",
    "marked-while-frozen": "the peer is back, but may have lost, or lose, what is marked, and would not resync it",
}


def part_while_frozen(r: Resource, rule: str) -> bool:
    """The frozen requests cannot simply go on: what the peer lacks, or has not flushed, it gets by resync first."""
    if rule not in _WHILE_FROZEN:
        return False
    if r.meta is not None and r.meta.uuids.bitmap == 0:
        r.aftermath.force_new_generation(rule)
        r.meta.save()
    r.mint_postponed = False
    text = f"I/O is frozen and {_WHILE_FROZEN[rule]}; connecting anew in a new generation"
    r.links.drop(Conn.PROTOCOL_ERROR, rule, text)
    return True


class Served:
    """What the users of a Primary whose own disk is Inconsistent (or Outdated) have seen: the peer's data.

    Kept while the peer is out of reach. What it wrote meanwhile must not get our unflushed writes on top.
    """

    def __init__(self) -> None:
        self.generation = 0

    def state_changed(self, r: Resource, old: State, new: State) -> None:
        if _serves(old) and not _serves(new) and r.remembered.generations is not None:
            self.generation = r.remembered.generations.current
        if _serves(new) or new.disk == Disk.UP_TO_DATE or new.role != Role.PRIMARY:
            self.generation = 0

    def is_gone(self, own: State, theirs: Uuids) -> bool:
        """Has the peer moved on? (A kernel does so without a new generation where its bitmap is in use already.)"""
        known = bool(self.generation) and own.disk >= Disk.INCONSISTENT
        return known and plain(self.generation) != plain(theirs.current)


def _serves(state: State) -> bool:
    mine = state.role == Role.PRIMARY and Disk.INCONSISTENT <= state.disk < Disk.UP_TO_DATE
    return mine and state.conn >= Conn.CONNECTED and state.pdsk == Disk.UP_TO_DATE


def part_from_source_without_disk(r: Resource, peer_disk: Disk) -> bool:
    """A Primary lost the source's disk before anything of the resync was written: connected, we would be Inconsistent.

    This disk is what it was: an older version, but whole, and maybe the only one that holds what the source's has lost.
    A Primary of our kind does not go on with the older data. Where an order made us the target, the order counts.
    """
    own, link = r.state, r.links.link
    found_older = own.conn in (Conn.WF_BITMAP_T, Conn.WF_SYNC_UUID) and not r.sync.by_order
    if peer_disk > Disk.FAILED or not found_older or own.disk != Disk.OUTDATED:
        return False
    knows_better = link is not None and bool(link.features & FEATURE_ORDERED)
    if not knows_better or own.peer != Role.PRIMARY or own.role == Role.PRIMARY:
        return False
    text = "the source's disk went away before the resync began: connecting anew, with this disk as it was"
    r.links.drop(Conn.NETWORK_FAILURE, "source-without-disk", text)
    return True


def part_from_target_to_be(r: Resource, rule: str, text: str) -> None:
    """A disk goes that should overwrite nobody, unasked, and a peer without the safety rules has heard of it.

    That one may have decided to be the target. Connected, it would call its own disk Inconsistent, whole as it is, when
    it hears that ours is gone; the next connection would overwrite it. Where this one ends first it stays what it was.
    """
    link = r.links.link
    if link is not None and not link.features & FEATURE_ORDERED:
        r.links.drop(Conn.NETWORK_FAILURE, rule, f"{text}: the connection ends first")


def part_before_lost_writes_go(r: Resource) -> None:
    """The disk that goes is one on which writes were lost; what is missing may be on the peer's disk."""
    own = r.state
    undecided = own.conn in (Conn.CONNECTED, *ABOUT_TO_BE_SOURCE) and own.pdsk < Disk.UP_TO_DATE
    if r.meta is not None and r.meta.flags & Flag.LOST_WRITES and undecided:
        part_from_target_to_be(r, "lost-writes-go", "the disk goes, and the peer may be about to be its target")


def crosses_attach(r: Resource, own: State, report: State) -> bool:
    """A Primary lost its disk before it heard of what became of the one here: it is asked what its users have seen.

    Taken for its answer, a disk that is being attached would be UpToDate and begin a generation, however much it lacks:
    then that Primary refuses it, and its own disk, the better one, looks like the older one. And where it still counts
    on the disk that was here before, its writes are meant for that one: none that comes later may take them.
    """
    gone = own.conn >= Conn.CONNECTED and report.disk < Disk.INCONSISTENT <= own.pdsk and report.role == Role.PRIMARY
    counts_on_the_last = own.disk in (Disk.DISKLESS, Disk.ATTACHING) and report.pdsk >= Disk.INCONSISTENT
    if not gone or not (own.disk == Disk.NEGOTIATING or counts_on_the_last):
        return False
    text = "the Primary lost its disk before it heard of the one here: connecting anew, to learn what its users saw"
    r.links.drop(Conn.NETWORK_FAILURE, "attach-crossed-a-lost-disk", text)
    return True


def would_lose_exposed_data(r: Resource, own: State) -> bool:
    """A Primary without good data of its own meets other data than its users have seen: it disconnects."""
    theirs = r.handshake.peer_uuids
    if theirs is not None and r.served.is_gone(own, theirs):
        text = "this Primary's own disk is no good copy, and the peer has moved on from the data its users have seen: "
        text += f"not connecting; stop them, then run: replctl secondary {r.settings.resource}; "
        text += f"replctl connect {r.settings.resource}"
        r.links.drop(Conn.DISCONNECTING, "served-data-gone", text, "error")
        return True
    alone = own._replace(conn=Conn.WF_REPORT_PARAMS)  # a disk the peer attaches now is as new as a new peer
    if theirs is None or not lost_data_refusal(alone, r.exposed_uuid, theirs.current):
        return False
    if own.conn >= Conn.CONNECTED and own.pdsk == Disk.INCONSISTENT:
        # a target when our disk went: its generation, as we know it, is older than the resync that it may have ended
        text = "this Primary lost its disk in mid-resync, and the peer calls its own one good now: connecting anew, to "
        r.links.drop(Conn.NETWORK_FAILURE, "ask-for-its-generation", text + "learn whose data that is")
        return True
    text = "this diskless Primary worked on data of another generation than the peer offers: not connecting"
    text += f"; attach the disk with the newer data first: replctl attach {r.settings.resource}"
    r.links.drop(Conn.DISCONNECTING, "exposed-data-lost", text, "error")
    return True
