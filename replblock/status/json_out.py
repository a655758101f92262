# SPDX-License-Identifier: GPL-2.0-or-later
"""`status --json`: the keys of `drbdsetup status --json`, ours beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from replblock.status.model import SCHEMA, Status, compression
from replblock.status.progress import BLOCK_KIB, VERIFYING, Sync, rates
from replblock.status.words import ratio

KIB_PER_MIB = 1024


def render(statuses: Iterable[Status]) -> str:
    """A list with one object per resource."""
    return json.dumps([complete(status) for status in statuses], indent=2)


def complete(status: Status) -> dict[str, Any]:
    """The status with what drbdsetup derives from it: percentages, and the details of a resync or verify."""
    sizes = {device["volume"]: device["size"] for device in status["devices"]}
    links = [{**link, "peer_devices": [_peer_device(item, sizes.get(item["volume"], 0))
                                       for item in link["peer_devices"]],
              "replblock-compression": _compression(compression(link))}
             for link in status["connections"]]
    return {"schema": SCHEMA, **status, "connections": links}


def _compression(table: Status) -> dict[str, Any]:
    """With how many times less travelled than without, to three digits; 1 where nothing did."""
    return {**table, **{f"{way}-ratio": round(ratio(table, way), 3) for way in ("sent", "received")}}


def _peer_device(item: Status, size_kib: int) -> dict[str, Any]:
    percent = 100.0 * (1 - item["out-of-sync"] / size_kib) if size_kib else 100.0
    made: dict[str, Any] = {**item, "has-sync-details": False, "has-online-verify-details": False,
                            "percent-in-sync": round(percent, 2)}
    if item["replblock-sync"] is None:
        return made
    sync = Sync.of(item["replblock-sync"])
    figures = rates(sync)
    verifying = item["replication-state"] in VERIFYING
    made["has-online-verify-details" if verifying else "has-sync-details"] = True
    done = 100.0 * (1 - sync.left_blocks / sync.total_blocks) if sync.total_blocks else 100.0
    return made | {
        "rs-total": sync.total_blocks * BLOCK_KIB * 2,                  # sectors, as drbdsetup counts
        "rs-failed": item["replblock-sync"]["rs_failed_blocks"] * BLOCK_KIB * 2,
        "rs-dt-start-ms": sync.now_ms - sync.started_ms,
        "rs-paused-ms": sync.paused_ms,
        "want": sync.want_kib_s,
        "db/dt [MiB/s]": round(figures.speed_kib_s / KIB_PER_MIB, 2),
        "estimated-seconds-to-finish": figures.remaining_s,
        "percent-resync-done": round(done, 2),
    }
