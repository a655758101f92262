# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies and headers: what is packed comes back, and lies where DRBD 8.4 wants it (tshark judges that elsewhere)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.wire import packets as p
from replblock.wire.commands import COMMANDS, Cmd, Stream, allowed_lengths, packet_name
from replblock.wire.errors import ProtocolError
from replblock.wire.headers import H100, MAGIC_100, header_bytes, pack_header, pack_packet
from replblock.wire.stream import StreamDecoder
from tests.wire.samples import ALL_FEATURES, samples

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
COOKIE = st.binary(min_size=8, max_size=8)
NAME = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=63)

BODIES = st.one_of(
    st.builds(p.Data, U64, COOKIE, U32, U32),
    st.builds(p.Trim, U64, COOKIE, U32, U32, U32),
    st.builds(p.BlockAck, U64, COOKIE, U32, U32),
    st.builds(p.BlockReq, U64, COOKIE, U32),
    st.builds(p.BlockDesc, U64, U32),
    st.builds(p.Barrier, st.binary(min_size=4, max_size=4)),
    st.builds(p.BarrierAck, st.binary(min_size=4, max_size=4), U32),
    st.builds(p.Protocol, U32, U32, U32, U32, U32, U32, NAME),
    st.builds(p.SyncParam, U32, NAME, NAME, U32, U32, U32, U32),
    st.builds(p.Sizes, U64, U64, U64, U32, U16, U16,
              st.none() | st.builds(p.Limits, U32, U32, U32, U32, U32, U8, U8, U8)),
    st.builds(p.Uuids, U64, U64, U64, U64, U64, U64),
    st.builds(p.StateWord, U32),
    st.builds(p.StateChangeRequest, U32, U32),
    st.builds(p.StateChangeReply, st.integers(-(1 << 31), (1 << 31) - 1)),
    st.builds(p.SyncUuid, U64),
    st.builds(p.DelayProbe, U32, U32),
    st.builds(p.Features, U32, U32, st.integers(1, (1 << 32) - 1)),
)


@given(BODIES)
def test_bodies_come_back(body) -> None:
    packed = body.pack()
    assert type(body).unpack(packed) == body == type(body).unpack(memoryview(packed))
    assert type(body).unpack(packed).pack() == packed


@pytest.mark.parametrize("version", [86, 88, 91, 95, 99, 100, 101])
def test_packed_bodies_have_a_right_length(version: int) -> None:
    for features in (0, ALL_FEATURES):
        allowed = allowed_lengths(Stream.EITHER, version, features)
        for sample in samples(version, features):
            assert len(sample.body) in allowed[sample.cmd], packet_name(sample.cmd)
            if sample.cmd in p.BODIES:
                assert p.BODIES[sample.cmd].unpack(sample.body)    # type: ignore[attr-defined]


@pytest.mark.parametrize("cmd", p.BODIES)
def test_fixed_parts_have_the_length_of_the_table(cmd: int) -> None:
    sync_version = 91 if cmd == Cmd.SYNC_PARAM89 else 87
    shortest = {p.Protocol: p.Protocol(3).pack(86), p.SyncParam: p.SyncParam(1).pack(sync_version),
                p.Sizes: p.Sizes(1, 0, 1, 4096).pack(), p.Features: p.Features().pack()}
    opaque = {"block_id": bytes(8), "barrier": bytes(4)}
    body: Any = p.BODIES[cmd]
    packed = shortest.get(body) or body(*(opaque.get(field, 0) for field in body._fields)).pack()
    assert len(packed) == COMMANDS[cmd].fixed_bytes


def test_old_forms_say_less_and_keep_the_defaults() -> None:
    full = p.SyncParam(250, "sha1", "md5", 1, 2, 3, 4)
    default = p.SyncParam(0)
    assert p.SyncParam.unpack(full.pack(87)) == p.SyncParam(250)
    assert p.SyncParam.unpack(full.pack(88)) == p.SyncParam(250, "sha1")
    assert p.SyncParam.unpack(full.pack(94)) == p.SyncParam(250, "sha1", "md5", *default[3:])
    assert p.Protocol.unpack(p.Protocol(1, integrity_alg="md5").pack(86)) == p.Protocol(1)
    assert p.Features.unpack(p.Features(86, 0, 0).pack()).protocol_max == 86


def test_known_bytes() -> None:
    """Written out by hand from the documented layouts."""
    assert p.Data(8, b"12345678", 1, 0x102).pack().hex() == "0000000000000008" "3132333435363738" "00000001" "00000102"
    assert p.Protocol(3, integrity_alg="md5").pack().hex() == "00000003" + "00000000" * 5 + "6d643500"
    assert len(p.Features(86, 0xF, 101).pack()) == 72
    assert p.Features(86, 0xF, 101).pack()[:16].hex() == "000000560000000f0000006500000000"
    assert p.StateChangeReply(-18).pack().hex() == "ffffffee"
    assert p.OV_IN_SYNC.hex() == "0000000000001267" and p.OV_OUT_OF_SYNC.hex() == "0000000000001268"


@pytest.mark.parametrize("name", ["x" * 64, "a\0b", "größe"])
def test_names_that_cannot_be_sent(name: str) -> None:
    with pytest.raises(ValueError):
        p.Protocol(3, integrity_alg=name).pack()


@pytest.mark.parametrize("raw", [b"md5", b"m d5\0", b"\xff\0", b"\n\0"])
def test_names_that_cannot_be_right(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="P_PROTOCOL: the name of the peer's data-integrity-alg"):
        p.Protocol.unpack(p.Protocol(3).pack()[:24] + raw)


@given(st.binary(max_size=200))
def test_names_of_any_bytes_raise_nothing_else(raw: bytes) -> None:
    for unpack, body in ((p.Protocol.unpack, bytes(24) + raw), (p.SyncParam.unpack, bytes(4) + raw.ljust(128, b"x"))):
        try:
            unpack(body)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("version", "length", "hexed"),
    [
        (0, 72, "8374026700090048"),
        (86, 72, "8374026700090048"),
        (94, 32792, "8374026700098018"),
        (95, 32768, "8374026700098000"),
        (95, 32769, "835a000900008001"),
        (99, 131096, "835a000900020018"),
        (100, 0, "8620ec20000000090000000000000000"),
        (101, 1048600, "8620ec20000000090010001800000000"),
    ],
)
def test_headers(version: int, length: int, hexed: str) -> None:
    header = pack_header(version, 9, length)
    assert header.hex() == hexed and len(header) == header_bytes(version)


def test_headers_refuse_what_they_cannot_say() -> None:
    with pytest.raises(ValueError, match="volume 1"):
        pack_header(99, Cmd.STATE, 4, 1)
    with pytest.raises(ValueError, match="does not fit"):
        pack_header(94, Cmd.DATA, 65536)


def test_header_and_body_in_one_struct() -> None:
    """The structs for the hot path give what header and body give one after the other."""
    cookie, barrier = b"ABCDEFGH", b"\1\2\3\4"
    pairs = [
        (p.DATA_PACKET_100, Cmd.DATA, p.Data(1, cookie, 2, 3), (1, cookie, 2, 3)),
        (p.BLOCK_ACK_PACKET_100, Cmd.WRITE_ACK, p.BlockAck(1, cookie, 2, 3), (1, cookie, 2, 3)),
        (p.BLOCK_REQ_PACKET_100, Cmd.RS_DATA_REQUEST, p.BlockReq(1, cookie, 2), (1, cookie, 2)),
        (p.BARRIER_PACKET_100, Cmd.BARRIER, p.Barrier(barrier), (barrier,)),
        (p.BARRIER_ACK_PACKET_100, Cmd.BARRIER_ACK, p.BarrierAck(barrier, 9), (barrier, 9)),
    ]
    for packet, cmd, body, values in pairs:
        assert packet.size == H100.size + COMMANDS[cmd].fixed_bytes
        header = (MAGIC_100, 7, cmd, COMMANDS[cmd].fixed_bytes, 0)
        assert packet.pack(*header, *values) == pack_packet(101, cmd, body.pack(), 7)


def test_the_payload_stands_behind_its_digest() -> None:
    body = memoryview(p.Data(0, bytes(8)).pack() + b"\xaa" * 4 + b"\xbb" * 1024)
    assert [bytes(part) for part in p.split_payload(Cmd.DATA, body, 4)] == [b"\xaa" * 4, b"\xbb" * 1024]
    for digest_bytes in (0, 20, 2000):
        with pytest.raises(ProtocolError, match="P_DATA has 1028 bytes after its fixed part"):
            p.split_payload(Cmd.DATA, body, digest_bytes)


def test_dp_flags_by_version() -> None:
    assert p.dp_mask(94) == 6
    assert p.dp_mask(99) == 0x76
    assert p.dp_mask(101) == 0x7F6


def test_a_decoded_body_can_be_unpacked() -> None:
    decoder = StreamDecoder(Stream.DATA)
    decoder.agreed(101, ALL_FEATURES)
    sizes = p.Sizes(100, 0, 100, 1 << 20, limits=p.Limits())
    ((_, volume, body),) = decoder.feed(pack_packet(101, Cmd.SIZES, sizes.pack(), 5))
    assert volume == 5 and p.Sizes.unpack(body) == sizes
