# SPDX-License-Identifier: GPL-2.0-or-later
"""Two disks and two nodes held against each other: what the tables of the state room make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from replblock.meta.superblock import Flag
from replblock.state.generations import Generations
from replblock.state.handshake import Handshake, Policies
from replblock.state.names import Conn, Disk
from replblock.state.packed import State
from replblock.state.peer import comes_under_users
from replblock.state.policies import Decision, decide
from replblock.state.text import generations_line, verdict_line
from replblock.state.uuids import Side, Verdict, compare
from replblock.wire import flags

if TYPE_CHECKING:
    from replblock.core.resource import Resource


class Judged(NamedTuple):
    """What was found, what follows, and the peer's generations that it was found with."""

    verdict: Verdict
    decision: Decision
    peers: Generations


def judge(r: Resource, report: State, peer_disk: Disk) -> Judged:
    """Changes nothing. `report`: the peer's state; `peer_disk`: as it counts."""
    meta, link, theirs = r.meta, r.links.link, r.handshake.peer_uuids
    assert meta is not None and link is not None and theirs is not None
    s = r.settings
    peers = Generations(theirs.current, theirs.bitmap, theirs.history0, theirs.history1)
    crashed = bool(meta.flags & Flag.CRASHED_PRIMARY)
    peer_crashed = bool(theirs.flags & flags.UUID_CRASHED_PRIMARY)
    verdict = compare(
        Side(meta.uuids, crashed, r.state.role),
        Side(peers, peer_crashed, report.role),
        version=link.version,
        features=link.features,
        resolve_conflicts=link.resolve_conflicts,
    )
    r.host.log("info", verdict.rule, generations_line("self", meta.uuids, r.last_sent_bits, int(meta.flags)))
    r.host.log("info", verdict.rule, generations_line("peer", peers, theirs.dirty_bits, theirs.flags))
    r.host.log("info", verdict.rule, verdict_line(verdict))
    decision = decide(
        Handshake(
            verdict,
            r.state.role,
            report.role,
            r.state.disk,
            peer_disk,
            r.disk_after_negotiation,
            r.last_sent_bits,
            theirs.dirty_bits,
            meta.bitmap.count,
            r.handshake.discard_my_data,
            bool(theirs.flags & flags.UUID_DISCARD_MY_DATA),
            Policies(s.after_sb_0pri, s.after_sb_1pri, s.after_sb_2pri, s.always_asbp, s.rr_conflict),
            link.resolve_conflicts,
            r.handshake.dry_run or bool(r.handshake.peer_conn_flags & flags.CF_DRY_RUN),
            not r.in_use(),
            bool(link.features & flags.FEATURE_ORDERED),
            bool(meta.flags & Flag.WENT_ON_ALONE),
            bool(theirs.flags & flags.UUID_WENT_ON_ALONE),
            bool(meta.flags & Flag.LOST_WRITES),
            bool(theirs.flags & flags.UUID_LOST_WRITES),
            comes_under_users(r.state, report, peer_disk),
            crashed,
            peer_crashed,
        )
    )
    return Judged(verdict, decision, peers)


def adopt(r: Resource, judged: Judged) -> None:
    """What a verdict changes in the metadata, as soon as its connection is sure to stand.

    Not before: where the states forbid it, both nodes go on as they are. Who is Primary writes on, and nothing but the
    generations and flags of before tells that these are changes of its own.
    """
    verdict, decision, peers = judged
    meta, theirs = r.meta, r.handshake.peer_uuids
    assert meta is not None and theirs is not None
    before = meta.superblock
    mine = verdict.mine._replace(current=meta.uuids.current)  # a loser has given up its role meanwhile
    fell_behind = decision.conn == Conn.WF_BITMAP_T and mine.plain().current == peers.plain().bitmap
    if fell_behind and not decision.split_brain:
        # what the peer marks here now must not look like changes of our own; those that there are, given up by order,
        # stay our own until the resync has begun: the connection may break before
        mine = mine.set_bitmap(0)
        meta.put_flags(0, Flag.WENT_ON_ALONE)
    meta.put(mine)
    if meta.superblock != before:
        meta.save()
    # repairs of a half-finished resync hold for our copy of the peer's generations too
    r.handshake.peer_uuids = theirs._replace(**verdict.peers._asdict())
    r.remembered.repaired(verdict.peers)


def refused_unheard(r: Resource) -> Decision | None:
    """Why the disk that is being attached cannot stay, before a peer hears of it that follows DRBD's table alone.

    Such a peer would prepare to be the target where we refuse to be its source; what becomes of its disk when this
    one goes away again is its own affair.
    """
    own, link = r.state, r.links.link
    deaf = link is not None and not link.features & flags.FEATURE_ORDERED
    if not deaf or own.conn != Conn.CONNECTED or own.pdsk < Disk.NEGOTIATING or r.handshake.peer_uuids is None:
        return None
    report = own._replace(role=own.peer, peer=own.role, disk=own.pdsk, pdsk=own.disk)
    decision = judge(r, report, own.pdsk).decision
    return decision if decision.refused else None
