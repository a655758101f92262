# SPDX-License-Identifier: GPL-2.0-or-later
"""Flag bits and magic cookies inside packet bodies."""

from __future__ import annotations

from typing import Final

# P_CONNECTION_FEATURES: what both sides set is agreed.
FEATURE_TRIM: Final = 1
FEATURE_THIN_RESYNC: Final = 2
FEATURE_WSAME: Final = 4                # P_SIZES then carries the queue limits, on pain of a dropped connection
FEATURE_WZEROES: Final = 8
FEATURE_ORDERED: Final = 1 << 31        # ours: a replblock peer, which applies writes in the order they arrive
FEATURE_LZ4: Final = 1 << 30            # ours, too: `compression lz4` is configured, P_LZ4 may come
FEATURE_NAMES: Final = {
    FEATURE_TRIM: "TRIM",
    FEATURE_THIN_RESYNC: "THIN_RESYNC",
    FEATURE_WSAME: "WSAME",
    FEATURE_WZEROES: "WZEROES",
    FEATURE_ORDERED: "ORDERED",
    FEATURE_LZ4: "LZ4",
}

# dp_flags of P_DATA, P_TRIM, P_ZEROES. Below 95 a peer knows only RW_SYNC and MAY_SET_IN_SYNC.
DP_HARDBARRIER: Final = 1               # dead
DP_RW_SYNC: Final = 2
DP_MAY_SET_IN_SYNC: Final = 4
DP_UNPLUG: Final = 8                    # dead
DP_FUA: Final = 16
DP_FLUSH: Final = 32
DP_DISCARD: Final = 64
DP_SEND_RECEIVE_ACK: Final = 128        # since 100: protocol B
DP_SEND_WRITE_ACK: Final = 256          # since 100: protocol C, and every write during a resync
DP_WSAME: Final = 512
DP_ZEROES: Final = 1024

_DP_BELOW_95: Final = DP_RW_SYNC | DP_MAY_SET_IN_SYNC
_DP_BELOW_100: Final = _DP_BELOW_95 | DP_FUA | DP_FLUSH | DP_DISCARD
_DP_ALL: Final = _DP_BELOW_100 | DP_SEND_RECEIVE_ACK | DP_SEND_WRITE_ACK | DP_WSAME | DP_ZEROES


def dp_mask(version: int) -> int:
    """The dp_flags a peer of the agreed version understands."""
    return _DP_ALL if version >= 100 else _DP_BELOW_100 if version >= 95 else _DP_BELOW_95


# P_PROTOCOL conn_flags
CF_DISCARD_MY_DATA: Final = 1
CF_DRY_RUN: Final = 2                   # since 92

# P_SIZES dds_flags
DDS_FORCED: Final = 1
DDS_NO_RESYNC: Final = 2                # resize --assume-clean

# P_UUIDS flags
UUID_DISCARD_MY_DATA: Final = 1
UUID_CRASHED_PRIMARY: Final = 2
UUID_INCONSISTENT: Final = 4            # only meaningful while the sender's disk is Negotiating
UUID_SKIP_INITIAL_SYNC: Final = 8       # since 90
UUID_WENT_ON_ALONE: Final = 1 << 24     # ours, between replblock nodes
UUID_LOST_WRITES: Final = 1 << 25       # ours, too
UUID_OUTDATED: Final = 1 << 26          # ours, too; like UUID_INCONSISTENT

# block_id values that are not a sender's private cookie
ID_SYNCER: Final = b"\xff" * 8          # resync and verify traffic; never the id of an application's write
OV_IN_SYNC: Final = (4711).to_bytes(8, "big")           # P_OV_RESULT
OV_OUT_OF_SYNC: Final = (4712).to_bytes(8, "big")
