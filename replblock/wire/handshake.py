# SPDX-License-Identifier: GPL-2.0-or-later
"""The bodies of the packets with which two nodes introduce themselves."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from replblock.wire.errors import ProtocolError
from replblock.wire.limits import MAX_NAME_BYTES, VERSION_MAX, VERSION_MIN

Buffer = bytes | bytearray | memoryview

FEATURES_BODY: Final = struct.Struct(">III4x56x")       # protocol_min, feature_flags, protocol_max
PROTOCOL_BODY: Final = struct.Struct(">IIIIII")         # … then the name of data-integrity-alg
SYNC_RATE_BODY: Final = struct.Struct(">I")
SYNC_PARAM89_BODY: Final = struct.Struct(">I64s64s")    # rate, verify_alg, csums_alg
SYNC_PLAN_BODY: Final = struct.Struct(">IIII")          # plan_ahead, delay_target, fill_target, max_rate
SIZES_BODY: Final = struct.Struct(">QQQIHH")
LIMITS_BODY: Final = struct.Struct(">IIIIIBBBx")
UUIDS_BODY: Final = struct.Struct(">QQQQQQ")


def pack_name(name: str) -> bytes:
    """An algorithm's name with its final NUL, 64 bytes at most; ValueError for one that cannot be sent."""
    raw = name.encode("ascii") + b"\0"
    if len(raw) > MAX_NAME_BYTES or b"\0" in raw[:-1]:
        raise ValueError(f"'{name}' is too long for an algorithm's name, or holds a NUL")
    return raw


def unpack_name(raw: Buffer, packet: str, option: str) -> str:
    """The name before the first NUL; ProtocolError if there is none or the name is not printable ASCII."""
    name, nul, _ = bytes(raw).partition(b"\0")
    if not nul or not all(0x21 <= byte < 0x7F for byte in name):
        raise ProtocolError(f"{packet}: the name of the peer's {option} is not a NUL-terminated word")
    return name.decode("ascii")


class Features(NamedTuple):
    """P_CONNECTION_FEATURES: the protocols and features a node speaks."""

    protocol_min: int = VERSION_MIN
    feature_flags: int = 0
    protocol_max: int = VERSION_MAX

    def pack(self) -> bytes:
        return FEATURES_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> Features:
        """A protocol_max of 0 is how the oldest peers say that they know only protocol_min."""
        low, flags, high = FEATURES_BODY.unpack_from(body)
        return cls(low, flags, high or low)


class Protocol(NamedTuple):
    """P_PROTOCOL, P_PROTOCOL_UPDATE: what must be the same on both nodes. protocol: 1 A, 2 B, 3 C."""

    protocol: int
    after_sb_0p: int = 0
    after_sb_1p: int = 0
    after_sb_2p: int = 0
    conn_flags: int = 0
    two_primaries: int = 0
    integrity_alg: str = ""

    def pack(self, version: int = VERSION_MAX) -> bytes:
        """Below 87 the integrity algorithm is not said."""
        fixed = PROTOCOL_BODY.pack(*self[:6])
        return fixed + pack_name(self.integrity_alg) if version >= 87 else fixed

    @classmethod
    def unpack(cls, body: Buffer) -> Protocol:
        raw = body[PROTOCOL_BODY.size :]
        name = unpack_name(raw, "P_PROTOCOL", "data-integrity-alg") if raw else ""
        return cls._make((*PROTOCOL_BODY.unpack_from(body), name))


class SyncParam(NamedTuple):
    """P_SYNC_PARAM and P_SYNC_PARAM89. A kernel peer adopts the rate and the four controller settings it is sent."""

    resync_rate_kib: int
    verify_alg: str = ""
    csums_alg: str = ""
    c_plan_ahead_ds: int = 20               # tenths of a second, as is the next
    c_delay_target_ds: int = 10
    c_fill_target_sectors: int = 100
    c_max_rate_kib: int = 102400

    def pack(self, version: int = VERSION_MAX) -> bytes:
        """As P_SYNC_PARAM up to 88, as P_SYNC_PARAM89 after."""
        if version <= 87:
            return SYNC_RATE_BODY.pack(self.resync_rate_kib)
        if version == 88:
            return SYNC_RATE_BODY.pack(self.resync_rate_kib) + pack_name(self.verify_alg)
        names = SYNC_PARAM89_BODY.pack(self.resync_rate_kib, pack_name(self.verify_alg), pack_name(self.csums_alg))
        return names + SYNC_PLAN_BODY.pack(*self[3:]) if version >= 95 else names

    @classmethod
    def unpack(cls, body: Buffer) -> SyncParam:
        """The length tells the form; what it does not say keeps its default."""
        if len(body) < SYNC_PARAM89_BODY.size:
            (rate,) = SYNC_RATE_BODY.unpack_from(body)
            name = body[SYNC_RATE_BODY.size :]
            return cls(rate, unpack_name(name, "P_SYNC_PARAM", "verify-alg") if name else "")
        rate, verify, csums = SYNC_PARAM89_BODY.unpack_from(body)
        plan = body[SYNC_PARAM89_BODY.size :]
        return cls(
            rate,
            unpack_name(verify, "P_SYNC_PARAM89", "verify-alg"),
            unpack_name(csums, "P_SYNC_PARAM89", "csums-alg"),
            *(SYNC_PLAN_BODY.unpack_from(plan) if plan else ()),
        )


class Limits(NamedTuple):
    """The queue limits at the end of P_SIZES, if WSAME was agreed. A kernel stacks logical_block_bytes into its own."""

    physical_block_bytes: int = 4096
    logical_block_bytes: int = 512
    alignment_offset_bytes: int = 0
    io_min_bytes: int = 4096
    io_opt_bytes: int = 0
    discard_enabled: int = 0
    discard_zeroes_data: int = 0
    write_same_capable: int = 0             # for us always 0: kernels in the tree no longer take P_WSAME


class Sizes(NamedTuple):
    """P_SIZES. d_size: most this node could offer, 0 without disk; u_size: as configured; c_size: the device's now."""

    d_size_sectors: int
    u_size_sectors: int
    c_size_sectors: int
    max_bio_bytes: int
    queue_order_type: int = 0
    dds_flags: int = 0
    limits: Limits | None = None

    def pack(self) -> bytes:
        """56 bytes with limits, 32 without: whether they must be there is decided by the feature WSAME."""
        fixed = SIZES_BODY.pack(*self[:6])
        return fixed if self.limits is None else fixed + LIMITS_BODY.pack(*self.limits)

    @classmethod
    def unpack(cls, body: Buffer) -> Sizes:
        tail = body[SIZES_BODY.size :]
        limits = Limits(*LIMITS_BODY.unpack_from(tail)) if tail else None
        return cls._make((*SIZES_BODY.unpack_from(body), limits))


class Uuids(NamedTuple):
    """P_UUIDS: the four generations, the bits set in the bitmap now, and the UUID_* flags."""

    current: int
    bitmap: int
    history0: int
    history1: int
    dirty_bits: int
    flags: int = 0

    def pack(self) -> bytes:
        return UUIDS_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> Uuids:
        return cls(*UUIDS_BODY.unpack_from(body))
