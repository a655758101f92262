# SPDX-License-Identifier: GPL-2.0-or-later
"""Which part of a resource takes which packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.core import netoptions
from replblock.wire.commands import Cmd

if TYPE_CHECKING:
    from replblock.core.resource import Resource

Table = dict[int, Callable[[memoryview], None]]


def data_table(r: Resource) -> Table:
    """Of the data connection."""
    h, s, y, p = r.handshake, r.secondary, r.sync, r.primary
    return {
        Cmd.CONNECTION_FEATURES: h.greeting.on_features,
        Cmd.AUTH_CHALLENGE: h.greeting.on_challenge,
        Cmd.AUTH_RESPONSE: h.greeting.on_response,
        Cmd.PROTOCOL: h.on_protocol,
        Cmd.PROTOCOL_UPDATE: lambda body: netoptions.on_update(r, body),
        Cmd.SYNC_PARAM: h.on_sync_param,
        Cmd.SYNC_PARAM89: h.on_sync_param,
        Cmd.SIZES: h.on_sizes,
        Cmd.UUIDS: h.on_uuids,
        Cmd.STATE: y.on_peer_state,
        Cmd.STATE_CHG_REQ: r.consent.on_state_request,
        Cmd.CONN_ST_CHG_REQ: r.consent.on_connection_request,
        Cmd.TRIM: s.on_trim,
        Cmd.ZEROES: s.on_zeroes,
        Cmd.BARRIER: s.epoch.on_barrier,
        Cmd.OUT_OF_SYNC: y.bitmaps.on_out_of_sync,
        Cmd.DATA_REQUEST: s.reads.on_data_request,
        Cmd.DATA_REPLY: p.on_data_reply,
        Cmd.UNPLUG_REMOTE: _ignore,
        Cmd.DELAY_PROBE: _ignore,
        Cmd.BITMAP: y.bitmaps.on_plain,
        Cmd.COMPRESSED_BITMAP: y.bitmaps.on_compressed,
        Cmd.SYNC_UUID: r.admin.on_sync_uuid,
        Cmd.RS_DATA_REQUEST: y.source.on_request,
        Cmd.RS_THIN_REQ: y.source.on_thin_request,
        Cmd.CSUM_RS_REQUEST: y.source.on_request,
        Cmd.RS_DATA_REPLY: y.target.on_reply,
        Cmd.RS_DEALLOCATED: y.target.on_deallocated,
        Cmd.OV_REQUEST: y.verify.target.on_request,
        Cmd.OV_REPLY: y.verify.source.on_reply,
        Cmd.LZ4: r.links.compression.on_packet,
    }


def meta_table(r: Resource) -> Table:
    """Of the meta connection."""
    p, y = r.primary, r.sync
    return {
        Cmd.PING: lambda body: r.links.on_ping(),
        Cmd.PING_ACK: lambda body: r.links.on_ping_ack(),
        Cmd.RECV_ACK: p.on_ack,
        Cmd.WRITE_ACK: p.on_ack,
        Cmd.RS_WRITE_ACK: p.on_rs_write_ack,
        Cmd.NEG_ACK: p.on_neg_ack,
        Cmd.NEG_DREPLY: p.on_neg_data_reply,
        Cmd.NEG_RS_DREPLY: y.on_neg_reply,
        Cmd.OV_RESULT: y.verify.target.on_result,
        Cmd.RS_IS_IN_SYNC: y.checksums.on_in_sync,
        Cmd.BARRIER_ACK: p.on_barrier_ack,
        Cmd.STATE_CHG_REPLY: r.admin.on_state_reply,
        Cmd.CONN_ST_CHG_REPLY: r.admin.on_state_reply,
        Cmd.DELAY_PROBE: _ignore,
    }


def _ignore(body: memoryview) -> None:
    """Hints that change nothing."""
