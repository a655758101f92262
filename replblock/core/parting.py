# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that a P_STATE shows to be no match for what this node's users have seen: the connection ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblock.state.names import Conn
from replblock.state.packed import State
from replblock.state.peer import lost_data_refusal

if TYPE_CHECKING:
    from replblock.core.resource import Resource


def part_from_rebooted(r: Resource) -> None:
    """The frozen writes cannot be sent again to a peer that lost what it had unflushed: it gets them by resync."""
    text = "I/O is frozen and the peer comes back only Consistent: it was down; connecting anew in a new generation"
    if r.meta is not None and r.meta.uuids.bitmap == 0:
        r.aftermath.force_new_generation("rebooted-peer-while-frozen")
        r.meta.save()
    r.mint_postponed = False
    r.links.drop(Conn.PROTOCOL_ERROR, "rebooted-peer-while-frozen", text)


def would_lose_exposed_data(r: Resource, own: State) -> bool:
    """A diskless Primary meets other data than its users have seen: it disconnects."""
    theirs = r.handshake.peer_uuids
    alone = own._replace(conn=Conn.WF_REPORT_PARAMS)  # a disk the peer attaches now is as new as a new peer
    if theirs is None or not lost_data_refusal(alone, r.exposed_uuid, theirs.current):
        return False
    text = "this diskless Primary worked on data of another generation than the peer offers: not connecting"
    text += f"; attach the disk with the newer data first: replctl attach {r.settings.resource}"
    r.links.drop(Conn.DISCONNECTING, "exposed-data-lost", text, "error")
    return True
