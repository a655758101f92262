# SPDX-License-Identifier: GPL-2.0-or-later
"""One right body for every packet, with the fields tshark must find in it; and hypothesis strategies for streams."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from replblock.wire import packets as p
from replblock.wire.commands import COMMANDS, OPENING, Cmd, Stream, allowed_lengths
from replblock.wire.compression import compress, pack
from replblock.wire.headers import H95, MAGIC_95, pack_packet

ALL_FEATURES = 0xF
COOKIE = bytes.fromhex("0123456789abcdef")


class Sample(NamedTuple):
    cmd: int
    body: bytes
    fields: dict[str, int]                  # tshark's field name → number
    opaque: dict[str, bytes] = {}           # … → bytes on the wire: tshark shows their numbers byte-swapped
    strings: dict[str, str] = {}


def _data(cmd: int, payload: bytes) -> Sample:
    body = p.Data(0x1122334455, COOKIE, 7, p.DP_RW_SYNC | p.DP_SEND_WRITE_ACK | p.DP_FUA)
    fields = {"sector": body.sector, "seq_num": 7, "dp_flags": body.dp_flags, "size": len(payload),
              "dp_flag.rw_sync": 1, "dp_flag.fua": 1, "dp_flag.send_write_ack": 1, "dp_flag.discard": 0}
    return Sample(cmd, body.pack() + payload, fields, {"block_id": COOKIE, "data": payload})


def _trim(cmd: int, flags: int) -> Sample:
    body = p.Trim(4096, COOKIE, 8, flags, 4 << 20)
    return Sample(cmd, body.pack(), {"sector": 4096, "seq_num": 8, "dp_flags": flags, "size": 4 << 20})


def _ack(cmd: int) -> Sample:
    body = p.BlockAck(1 << 40, COOKIE, 65536, 0xFFFFFFFE)
    fields = {"sector": 1 << 40, "size": 65536, "seq_num": 0xFFFFFFFE}
    return Sample(cmd, body.pack(), fields, {"block_id": COOKIE})


def _req(cmd: int, digest: bytes = b"") -> Sample:
    body = p.BlockReq(24, p.ID_SYNCER, 126976)
    return Sample(cmd, body.pack() + digest, {"sector": 24, "size": 126976}, {"block_id": p.ID_SYNCER})


def _protocol(cmd: int, version: int) -> Sample:
    body = p.Protocol(3, 3, 8, 0, p.CF_DISCARD_MY_DATA, 1, "crc32c")
    fields = {"protocol": 3, "after_sb_0p": 3, "after_sb_1p": 8, "after_sb_2p": 0, "conn_flags": 1, "two_primaries": 1}
    return Sample(cmd, body.pack(version), fields, strings={"integrity_alg": "crc32c"} if version >= 87 else {})


def _sync_param(cmd: int, version: int) -> Sample:
    body = p.SyncParam(40960, "sha1", "md5", 21, 11, 101, 102401)
    fields = {"resync_rate": 40960}
    if version >= 95:
        fields |= {"c_plan_ahead": 21, "c_delay_target": 11, "c_fill_target": 101, "c_max_rate": 102401}
    strings = {"verify_alg": "sha1", "csums_alg": "md5"} if version >= 89 else {}   # tshark does not know the one of 88
    return Sample(cmd, body.pack(version), fields, strings=strings)


def _sizes(features: int) -> Sample:
    limits = p.Limits(4096, 512, 0, 8192, 16384, 1, 1, 0) if features & p.FEATURE_WSAME else None
    body = p.Sizes(2048000, 1024, 2047999, 1 << 20, 0, p.DDS_NO_RESYNC, limits)
    fields = {"d_size": 2048000, "u_size": 1024, "c_size": 2047999, "max_bio_size": 1 << 20, "queue_order_type": 0,
              "dds_flags": 2}
    if limits:
        fields |= {"physical_block_size": 4096, "logical_block_size": 512, "alignment_offset": 0, "io_min": 8192,
                   "io_opt": 16384, "discard_enabled": 1, "discard_zeroes_data": 1, "write_same_capable": 0}
    return Sample(Cmd.SIZES, body.pack(), fields)


def samples(version: int, features: int) -> list[Sample]:
    """A sample of every packet that may be sent under the agreed version and features."""
    uuids = p.Uuids(0x12C3D6A6021F3F8F, 0x1111, 0x2222, 0x3333, 51189, p.UUID_CRASHED_PRIMARY)
    ask = p.StateChangeRequest(0x1E03, 0x1001)
    digest = bytes(range(20))
    several = [
        _data(Cmd.DATA, b"\xa5" * 4096), _data(Cmd.DATA_REPLY, b"\x5a" * 512), _data(Cmd.RS_DATA_REPLY, bytes(32768)),
        Sample(Cmd.BARRIER, p.Barrier(b"\x00\x00\x01\x02").pack(), {}, {"barrier": b"\x00\x00\x01\x02"}),
        Sample(Cmd.BITMAP, bytes(range(240)) * 17 if version >= 100 else bytes(4088), {}),
        Sample(Cmd.BITMAP, b"", {}),
        Sample(Cmd.UNPLUG_REMOTE, b"", {}),
        _req(Cmd.DATA_REQUEST), _req(Cmd.RS_DATA_REQUEST),
        _sync_param(Cmd.SYNC_PARAM, version),
        _protocol(Cmd.PROTOCOL, version),
        Sample(Cmd.UUIDS, uuids.pack(), {
            "current_uuid": uuids.current, "bitmap_uuid": 0x1111, "dirty_bits": 51189, "uuid_flags": 2}),
        _sizes(features),
        Sample(Cmd.STATE, p.StateWord(0x000110A5).pack(), {"state": 0x000110A5}),
        Sample(Cmd.SYNC_UUID, p.SyncUuid(0x12C4D6A6021F3F8F).pack(), {"uuid": 0x12C4D6A6021F3F8F}),
        Sample(Cmd.AUTH_CHALLENGE, bytes(range(64)), {}, {"auth_nonce": bytes(range(64))}),
        Sample(Cmd.AUTH_RESPONSE, digest, {}, {"auth_hash": digest}),
        Sample(Cmd.STATE_CHG_REQ, ask.pack(), {}),
        Sample(Cmd.PING, b"", {}), Sample(Cmd.PING_ACK, b"", {}),
        *(_ack(cmd) for cmd in (
            Cmd.RECV_ACK, Cmd.WRITE_ACK, Cmd.RS_WRITE_ACK, Cmd.SUPERSEDED, Cmd.NEG_ACK, Cmd.NEG_DREPLY,
            Cmd.NEG_RS_DREPLY, Cmd.OV_RESULT, Cmd.RS_IS_IN_SYNC, Cmd.RS_CANCEL, Cmd.RETRY_WRITE)),
        Sample(Cmd.BARRIER_ACK, p.BarrierAck(b"\x01\x02\x03\x04", 2048).pack(), {"set_size": 2048},
               {"barrier": b"\x01\x02\x03\x04"}),
        Sample(Cmd.STATE_CHG_REPLY, p.StateChangeReply(-18).pack(), {"retcode": (1 << 32) - 18}),
        _req(Cmd.OV_REQUEST), _req(Cmd.OV_REPLY, digest), _req(Cmd.CSUM_RS_REQUEST, digest),
        _sync_param(Cmd.SYNC_PARAM89, version),
        Sample(Cmd.COMPRESSED_BITMAP, bytes.fromhex("221f43fe5eca02"), {}),
        Sample(Cmd.DELAY_PROBE, p.DelayProbe(3, 4).pack(), {}),
        Sample(Cmd.OUT_OF_SYNC, p.BlockDesc(800, 4096).pack(), {"sector": 800, "size": 4096}),
        Sample(Cmd.CONN_ST_CHG_REQ, p.StateChangeRequest(0x1F0, 0x10).pack(), {}),
        Sample(Cmd.CONN_ST_CHG_REPLY, p.StateChangeReply(1).pack(), {"retcode": 1}),
        _protocol(Cmd.PROTOCOL_UPDATE, version),
        _trim(Cmd.TRIM, p.DP_DISCARD), _trim(Cmd.ZEROES, p.DP_ZEROES | p.DP_DISCARD),
        _req(Cmd.RS_THIN_REQ),
        Sample(Cmd.RS_DEALLOCATED, p.BlockDesc(808, 65536).pack(), {"sector": 808, "size": 65536}),
        Sample(Cmd.LZ4, pack(101, 0, Cmd.DATA, bytes(24), 4096, compress(b"\x5a" * 4096))[16:], {}),
        Sample(Cmd.WSAME, p.Trim(0, COOKIE, 9, p.DP_WSAME, 8192).pack() + bytes(512), {"sector": 0, "size": 8192}),
    ]
    allowed = allowed_lengths(Stream.EITHER, version, features)
    return [sample for sample in several if sample.cmd in allowed]


OPENING_SAMPLES = {
    Cmd.INITIAL_DATA: Sample(Cmd.INITIAL_DATA, b"", {}),
    Cmd.INITIAL_META: Sample(Cmd.INITIAL_META, b"", {}),
    Cmd.CONNECTION_FEATURES: Sample(
        Cmd.CONNECTION_FEATURES, p.Features(86, ALL_FEATURES, 101).pack(),
        {"protocol_min": 86, "feature_flags": 15, "protocol_max": 101}),
}


def pack_95(cmd: int, body: bytes) -> bytes:
    """A packet behind the header of protocol 95, which any receiver of 86..99 takes for any length."""
    return H95.pack(MAGIC_95, cmd, len(body)) + body


VERSIONS = st.integers(86, 101)
FEATURES = st.integers(0, 15) | st.just(p.FEATURE_LZ4) | st.just(p.FEATURE_LZ4 | 15)


@st.composite
def streams(draw: st.DrawFn, max_packets: int = 8) -> tuple[Stream, int, int, list[tuple[int, int, bytes]], bytes]:
    """(stream, version, features, packets, their bytes): any right packets of one connection."""
    stream = draw(st.sampled_from((Stream.DATA, Stream.META)))
    version, features = draw(VERSIONS), draw(FEATURES)
    allowed = allowed_lengths(stream, version, features)
    packets, parts = [], []
    for _ in range(draw(st.integers(0, max_packets))):
        cmd = draw(st.sampled_from(sorted(allowed)))
        lengths = allowed[cmd]
        length = lengths[draw(st.integers(0, min(len(lengths), 9000) - 1))]
        body = draw(st.binary(min_size=min(length, 40), max_size=min(length, 40))).ljust(length, b"\x35")
        volume = draw(st.integers(0, 0xFFFF)) if version >= 100 else 0
        packets.append((cmd, volume, body))
        old_long = version < 100 and draw(st.booleans())
        parts.append(pack_95(cmd, body) if old_long else pack_packet(version, cmd, body, volume))
    return stream, version, features, packets, b"".join(parts)


__all__ = ["ALL_FEATURES", "COMMANDS", "OPENING", "OPENING_SAMPLES", "Sample", "pack_95", "samples", "streams"]
