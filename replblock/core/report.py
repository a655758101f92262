# SPDX-License-Identifier: GPL-2.0-or-later
"""What a resource looks like from outside: the dictionary that status, events and metrics are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.state.names import Conn
from replblock.state.text import pausing

if TYPE_CHECKING:
    from replblock.core.resource import Resource

SCHEMA = "replblock/1"
_CONNECTION_NAMES = {Conn.WF_CONNECTION: "Connecting", Conn.WF_REPORT_PARAMS: "Connected"}


def connection_word(conn: Conn) -> str:
    """The connection part of DRBD 8.4's one state: everything from the handshake on is Connected."""
    if conn >= Conn.CONNECTED:
        return "Connected"
    return _CONNECTION_NAMES.get(conn, conn.label)


def replication_word(conn: Conn) -> str:
    """The replication part: Off, Established, or the resync's name."""
    if conn < Conn.CONNECTED:
        return "Off"
    return "Established" if conn == Conn.CONNECTED else conn.label


def report(r: Resource) -> dict[str, Any]:
    """The status of one resource; the keys are described in the status room's model."""
    state, s = r.state, r.settings
    now = r.host.now_ms()
    r.sync.mark_progress()
    configured = state.conn != Conn.STANDALONE or r.links.wanted or bool(r.reasons)
    last_error = next((w["text"] for w in reversed(r.reasons)), "")
    return {
        "schema": SCHEMA,
        "name": s.resource,
        "node-id": 0,
        "role": state.role.label,
        "suspended": state.suspended,
        "suspended-user": state.susp,
        "suspended-no-data": state.susp_nod,
        "suspended-fencing": state.susp_fen,
        "suspended-quorum": False,
        "force-io-failures": False,
        "write-ordering": "flush" if s.disk_flushes else "drain",
        "devices": [_device(r)],
        "connections": [_connection(r, now)] if configured else [],
        "replblock-protocol": s.protocol,
        "replblock-last-error": last_error,
        "replblock-why": [{"rule": w["rule"], "text": w["text"], "time-ms": w["time"] * 1000} for w in r.reasons],
        "replblock-generations": r.remembered.facts(),
        "replblock-degraded-start": r.attachment.was_degraded,
        "replblock-unused-options": [],
    }


def _counters(r: Resource) -> dict[str, int]:
    meta, activity = r.meta, r.attachment.activity
    path, secondary, sync = r.primary, r.secondary, r.sync
    counters = dict(path.counters)
    counters.update(
        ns=(path.sent_sectors + sync.source.sent_sectors) // 2,
        nr=(secondary.received_sectors + sync.target.received_sectors) // 2,
        dw=(path.written_sectors + secondary.written_sectors + sync.target.received_sectors) // 2,
        dr=(path.read_sectors + r.read_beside() + sync.source.sent_sectors + sync.checksums.read_sectors) // 2,
        al=activity.transactions if activity is not None else 0,
        bm=meta.bitmap_writes if meta is not None else 0,
        ua=secondary.unacked,
        oos=meta.bitmap.count * 4 if meta is not None else 0,
    )
    return counters


def _device(r: Resource) -> dict[str, Any]:
    s, counters = r.settings, _counters(r)
    meta = r.meta
    waiting = bool(r.primary.frozen)
    return {
        "volume": s.volume,
        "minor": s.minor,
        "disk-state": r.state.disk.label,
        "client": False,
        "open": r.device_open,
        "quorum": True,
        "size": r.size_sectors // 2,
        "read": counters["dr"],
        "written": counters["dw"],
        "al-writes": counters["al"],
        "bm-writes": counters["bm"],
        "upper-pending": counters["ap"],
        "lower-pending": counters["lo"],
        "replblock-blocked": "upper" if waiting else "no",
        "replblock-al-suspended": False,
        "replblock-congestion": "-",
        "replblock-counters": counters,
        "replblock-device": s.device,
        "replblock-kernel-device": "",
        "replblock-nbd": "",
        "replblock-disk": s.disk_path,
        "replblock-meta-disk": "internal",
        "replblock-io": "buffered",
        "replblock-barriers": "on" if s.disk_flushes else "off",
        "replblock-uuids": [f"{u:016X}" for u in meta.uuids] if meta is not None else [],
        "replblock-in-sync-since-ms": r.sync.last_in_sync_s * 1000 or None,
    }


def _connection(r: Resource, now: int) -> dict[str, Any]:
    s, state, link = r.settings, r.state, r.links.link
    return {
        "peer-node-id": 0,
        "name": "peer",
        "connection-state": connection_word(state.conn),
        "congested": False,
        "peer-role": state.peer.label,
        "tls": False,
        "ap-in-flight": r.primary.log.unconfirmed_bytes,
        "rs-in-flight": 0,
        "paths": [
            {
                "this_host": _address(s.own_address),
                "remote_host": _address(s.peer_address),
                "established": link is not None,
            }
        ],
        "peer_devices": [_peer_device(r, now)],
        "replblock-peer-host": s.peer_node,
        "replblock-attempts": r.links.rendezvous.attempts,
        "replblock-last-error": next((w["text"] for w in reversed(r.reasons)), ""),
        "replblock-agreed-version": link.version if link is not None else 0,
        "replblock-features": link.features if link is not None else 0,
        "replblock-compression": r.links.compression.facts(),
    }


def _address(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    return {"address": host, "port": int(port or 0), "family": "ipv6" if ":" in host else "ipv4"}


def _peer_device(r: Resource, now: int) -> dict[str, Any]:
    state, meta, verify = r.state, r.meta, r.sync.verify
    counters = _counters(r)
    return {
        "volume": r.settings.volume,
        "replication-state": replication_word(state.conn),
        "peer-disk-state": state.pdsk.label,
        "peer-client": False,
        "resync-suspended": pausing(state) or "no",
        "received": counters["nr"],
        "sent": counters["ns"],
        "out-of-sync": counters["oos"],
        "pending": counters["pe"],
        "unacked": counters["ua"],
        "replblock-sync": {
            "rs_total_blocks": r.sync.progress.total_blocks,
            "rs_left_blocks": verify.left_blocks if verify.running else meta.bitmap.count,
            "rs_failed_blocks": 0 if verify.running else r.sync.target.failed_blocks,
            "marks": [list(mark) for mark in r.sync.progress.marks],
            "want_kib_s": verify.source.want_kib if verify.running else r.sync.target.want_kib,
            "started_ms": r.sync.progress.started_ms,
            "paused_ms": r.sync.progress.paused_ms,
            "now_ms": now,
        } if (r.sync.running or verify.running) and meta is not None else None,
    }  # fmt: skip
