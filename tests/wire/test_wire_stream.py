# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoder: the same bytes in any pieces give the same packets, and nothing else is ever taken."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.wire import packets as p
from replblock.wire.commands import COMMANDS, OPENING, Cmd, Stream, allowed_lengths
from replblock.wire.errors import NotAgreed, ProtocolError
from replblock.wire.headers import H80, H95, H100, MAGIC_80, MAGIC_95, MAGIC_100, pack_header, pack_packet
from replblock.wire.limits import MAX_BUFFERED_BYTES, MAX_HELD_BYTES
from replblock.wire.stream import ROOM_FROM_BYTES, StreamDecoder
from tests.wire.samples import FEATURES, OPENING_SAMPLES, VERSIONS, samples, streams

Plain = list[tuple[int, int, bytes]]
MIB = 1 << 20
D, M = Stream.DATA, Stream.META


def agreed_decoder(stream: Stream = Stream.DATA, version: int = 101, features: int = 15) -> StreamDecoder:
    decoder = StreamDecoder(stream)
    assert decoder.agreed(version, features) == []
    return decoder


def plain(packets: list[tuple[int, int, memoryview]]) -> Plain:
    return [(cmd, volume, bytes(body)) for cmd, volume, body in packets]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)])]


def outcome(decoder: StreamDecoder | Roomy, parts: list[bytes]) -> tuple[Plain, bool, int | None]:
    """(packets, was there an error, the command it names); checks the bound and read-only bodies on the way."""
    got: Plain = []
    for part in parts:
        try:
            packets = decoder.feed(part)
        except ProtocolError as error:
            assert error.reason and "\n" not in error.reason
            with pytest.raises(ProtocolError) as again:
                decoder.feed(b"")
            assert again.value is error
            return got + plain(error.packets), True, error.cmd
        assert all(body.readonly for _, _, body in packets)
        assert decoder.stalled_bytes() <= MAX_BUFFERED_BYTES
        assert bool(decoder.stalled_bytes()) == bool(decoder.partial)
        got += plain(packets)
    return got, False, None


CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(streams(), CUTS)
def test_any_split_gives_the_packets_that_were_packed(sent, cuts) -> None:
    stream, version, features, packets, data = sent
    decoder = agreed_decoder(stream, version, features)
    assert outcome(decoder, pieces(data, cuts)) == (packets, False, None)
    assert decoder.stalled_bytes() == 0 and decoder.partial == ""


@pytest.mark.parametrize("version", [97, 101])
def test_every_single_cut(version: int) -> None:
    """All places where two pieces can meet, those one byte before an end included: random cuts rarely hit them."""
    sent = [(Cmd.STATE, 0, b"abcd"), (Cmd.UNPLUG_REMOTE, 0, b""), (Cmd.DATA, 0, bytes(24) + b"x" * 512)]
    packed = [pack_packet(version, cmd, body) for cmd, _, body in sent]
    ends = [sum(map(len, packed[: count + 1])) for count in range(len(packed))]
    data = b"".join(packed)
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)
        decoder = agreed_decoder(Stream.DATA, version)
        assert plain(decoder.feed(data[:cut])) == sent[:whole]
        assert decoder.stalled_bytes() == cut - max([0, *ends[:whole]])
        assert plain(decoder.feed(data[cut:])) == sent[whole:]


@given(streams(max_packets=5))
def test_byte_at_a_time(sent) -> None:
    stream, version, features, packets, data = sent
    decoder = agreed_decoder(stream, version, features)
    assert outcome(decoder, [data[i : i + 1] for i in range(len(data))]) == (packets, False, None)


@given(streams(), CUTS, st.data())
def test_a_damaged_stream_ends_the_same_way_in_any_split(sent, cuts, draw) -> None:
    stream, version, features, _, data = sent
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(damaged)))
        match draw.draw(st.sampled_from(("change", "insert", "cut"))):
            case "change" if at < len(damaged):
                damaged[at] = draw.draw(st.integers(0, 255))
            case "insert":
                damaged[at:at] = draw.draw(st.binary(max_size=20))
            case "cut":
                del damaged[at : at + draw.draw(st.integers(1, 20))]
    whole = outcome(agreed_decoder(stream, version, features), [bytes(damaged)])
    assert outcome(agreed_decoder(stream, version, features), pieces(bytes(damaged), cuts)) == whole


class Roomy:
    """A decoder that gets the rest of every half packet where it wants it."""

    def __init__(self, decoder: StreamDecoder) -> None:
        self._decoder = decoder
        self.stalled_bytes = decoder.stalled_bytes

    @property
    def partial(self) -> str:
        return self._decoder.partial

    def feed(self, data: bytes) -> list[tuple[int, int, memoryview]]:
        found = []
        room = self._decoder.room()
        if room is not None:
            count = min(len(room), len(data))
            room[:count] = data[:count]
            found = self._decoder.took(count)
            data = data[count:]
        try:
            return found + self._decoder.feed(data)
        except ProtocolError as error:
            error.packets = found + error.packets
            raise


@given(streams(), CUTS, st.booleans())
def test_received_in_its_place_a_body_is_the_same(sent, cuts, damaged) -> None:
    stream, version, features, packets, data = sent
    if damaged:
        data = data[:-1] + b"\xff" + pack_packet(version, Cmd.PING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("replblock.wire.stream.ROOM_FROM_BYTES", 1)
        in_place = outcome(Roomy(agreed_decoder(stream, version, features)), pieces(data, cuts))
    assert in_place == outcome(agreed_decoder(stream, version, features), pieces(data, cuts))
    if not damaged:
        assert in_place == (packets, False, None)


def test_room_for_the_rest_of_a_large_body_only() -> None:
    packed = pack_packet(101, Cmd.DATA, bytes(24) + b"x" * MIB)
    decoder = agreed_decoder()
    assert decoder.room() is None
    decoder.feed(packed[: -ROOM_FROM_BYTES + 1])
    assert decoder.room() is None               # so little comes with the next packet
    decoder = agreed_decoder()
    decoder.feed(packed[:100_000])
    for end in (300_000, 300_001, 700_000):     # each time where the bytes before ended; feed() between is right, too
        room = decoder.room()
        assert room is not None and len(room) == len(packed) - len(decoder.waiting())
        part = packed[len(decoder.waiting()) : end]
        room[: len(part)] = part
        assert decoder.took(len(part)) == []
        assert decoder.waiting() == packed[:end]
    assert decoder.feed(packed[700_000:700_009]) == []
    room = decoder.room()
    assert room is not None
    room[:] = packed[700_009:]
    assert plain(decoder.took(len(room))) == [(Cmd.DATA, 0, packed[16:])]
    assert decoder.room() is None and decoder.stalled_bytes() == 0


STARTS = (b"", b"\x86\x20\xec\x20", b"\x83\x74\x02\x67", b"\x83\x5a", b"\x83\x74\x02\x67\xff")


@given(st.sampled_from(list(Stream)), VERSIONS, FEATURES, st.binary(max_size=300), st.sampled_from(STARTS), CUTS)
def test_random_bytes_raise_nothing_else(stream, version, features, data, start, cuts) -> None:
    outcome(StreamDecoder(stream), pieces(start + data, cuts))
    if stream is not Stream.EITHER:
        outcome(agreed_decoder(stream, version, features), pieces(start + data, cuts))


@given(st.sampled_from((Stream.DATA, Stream.META)), VERSIONS, FEATURES, st.data())
def test_lengths_are_exact(stream, version, features, draw) -> None:
    """Any command with any length: taken if and only if the table has it, and refused by name from the header alone."""
    allowed = allowed_lengths(stream, version, features)
    cmd = draw.draw(st.one_of(st.sampled_from(sorted(COMMANDS)), st.integers(0, 0xFFFF)))
    right = allowed.get(cmd, range(1))
    edges = [edge + d for edge in (right[0], right[-1]) for d in (-1, 0, 1)]
    length = max(0, draw.draw(st.one_of(st.sampled_from(edges), st.integers(0, 200), st.integers(0, 2 << 20))))
    header = H100.pack(MAGIC_100, 0, cmd, length, 0) if version >= 100 else H95.pack(MAGIC_95, cmd, length)
    decoder = agreed_decoder(stream, version, features)
    if length in allowed.get(cmd, ()):
        assert len(decoder.feed(header)) == (length == 0)
        assert decoder.stalled_bytes() == (len(header) if length else 0)
    else:
        with pytest.raises(ProtocolError) as error:
            decoder.feed(header)
        assert error.value.cmd == cmd
        assert (COMMANDS[cmd].name if cmd in COMMANDS else f"0x{cmd:04x}") in error.value.reason


@pytest.mark.parametrize(
    ("version", "features", "cmd", "right", "wrong"),
    [
        (101, 4, Cmd.SIZES, (56,), (32, 55, 57)),
        (101, 11, Cmd.SIZES, (32,), (31, 56)),
        (86, 0, Cmd.PROTOCOL, (24,), (25, 23)),
        (87, 0, Cmd.PROTOCOL, (25, 88), (24, 89)),
        (87, 0, Cmd.SYNC_PARAM, (4,), (5, 132)),
        (88, 0, Cmd.SYNC_PARAM, (5, 68), (4, 69)),
        (89, 0, Cmd.SYNC_PARAM, (), (4, 132)),
        (94, 0, Cmd.SYNC_PARAM89, (132,), (148,)),
        (95, 0, Cmd.SYNC_PARAM89, (148,), (132,)),
        (99, 0, Cmd.BITMAP, (0, 8, 4088), (4, 4096)),
        (100, 0, Cmd.BITMAP, (0, 8, 4080), (4084, 4088)),
        (94, 0, Cmd.DATA, (24 + 32768,), (23, 24 + 32768 + 65)),
        (95, 0, Cmd.DATA, (24 + 131072,), (24 + 131072 + 65,)),
        (101, 0, Cmd.DATA, (24 + MIB, 24 + MIB + 64), (24 + MIB + 65,)),
        (101, 0, Cmd.TRIM, (), (28,)),
        (101, 1, Cmd.TRIM, (28,), (27, 29)),
        (101, 0, Cmd.AUTH_CHALLENGE, (64, 128), (63, 129)),
        (95, 0, Cmd.OUT_OF_SYNC, (), (16,)),
        (99, 0, Cmd.CONN_ST_CHG_REQ, (), (8,)),
    ],
)
def test_lengths_as_documented(
    version: int, features: int, cmd: int, right: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    lengths = allowed_lengths(Stream.DATA, version, features).get(cmd, range(0))
    assert [length for length in (*right, *wrong) if length in lengths] == list(right)


# ---- opening a connection ----

FIRST = {cmd: pack_packet(0, cmd, sample.body) for cmd, sample in OPENING_SAMPLES.items()}


@given(CUTS, st.booleans())
def test_the_opening_is_held_until_the_protocol_is_agreed(cuts, first_packet) -> None:
    """A peer sends its P_PROTOCOL right behind its features; it can only be read once we agreed too."""
    later = b"".join(pack_packet(101, s.cmd, s.body) for s in samples(101, 15)[:12])
    data = FIRST[Cmd.INITIAL_DATA] * first_packet + FIRST[Cmd.CONNECTION_FEATURES] + later
    decoder = StreamDecoder(Stream.EITHER if first_packet else Stream.DATA)
    got: Plain = []
    for part in pieces(data, cuts):
        got += plain(decoder.feed(part))
        if got and got[-1][0] == Cmd.CONNECTION_FEATURES:
            got += plain(decoder.agreed(101, 15))
    assert decoder.stream is Stream.DATA
    assert [cmd for cmd, _, _ in got] == [*[Cmd.INITIAL_DATA] * first_packet, Cmd.CONNECTION_FEATURES,
                                          *(s.cmd for s in samples(101, 15)[:12])]


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("version", [97, 101])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_ping_may_overtake_the_agreement(accepted: bool, version: int, step: int) -> None:
    """The meta connection is another stream: the peer may already use it while its features are still under way."""
    data = FIRST[Cmd.INITIAL_META] * accepted + pack_packet(version, Cmd.PING)
    decoder = StreamDecoder(Stream.EITHER if accepted else Stream.META)
    got, failed, _ = outcome(decoder, [data[i : i + step] for i in range(0, len(data), step)])
    assert (got, failed) == ([(Cmd.INITIAL_META, 0, b"")] * accepted, False)
    assert decoder.stalled_bytes() == len(pack_packet(version, Cmd.PING))
    assert plain(decoder.agreed(version)) == [(Cmd.PING, 0, b"")]


def test_setting_the_version_alone_is_enough() -> None:
    decoder = StreamDecoder(Stream.DATA)
    decoder.feed(FIRST[Cmd.CONNECTION_FEATURES] + pack_packet(101, Cmd.STATE, bytes(4), 2))
    decoder.version = 101
    got = plain(decoder.feed(pack_packet(101, Cmd.UNPLUG_REMOTE)))
    assert got == [(Cmd.STATE, 2, bytes(4)), (Cmd.UNPLUG_REMOTE, 0, b"")]


@pytest.mark.parametrize(
    ("stream", "data", "words"),
    [
        (Stream.DATA, pack_packet(0, Cmd.STATE, bytes(4)), "P_STATE came before a protocol was agreed"),
        (Stream.DATA, FIRST[Cmd.INITIAL_META], "P_INITIAL_META came on the data connection"),
        (Stream.DATA, FIRST[Cmd.INITIAL_DATA] * 2, "P_INITIAL_DATA came again"),
        (Stream.EITHER, FIRST[Cmd.CONNECTION_FEATURES], "P_INITIAL_DATA or P_INITIAL_META must say"),
        (Stream.EITHER, H80.pack(MAGIC_80, Cmd.INITIAL_DATA, 4), "P_INITIAL_DATA has a body of 4 bytes; right is 0"),
        (Stream.DATA, H80.pack(MAGIC_80, Cmd.CONNECTION_FEATURES, 71), "has a body of 71 bytes; right is 72"),
        (Stream.DATA, pack_packet(101, Cmd.STATE, bytes(4)), "a DRBD header of protocol 100"),
        (Stream.META, pack_header(101, Cmd.PING, 0) * (MAX_HELD_BYTES // 16 + 1), "before a protocol was agreed"),
    ],
)
def test_a_wrong_opening(stream: Stream, data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        StreamDecoder(stream).feed(data)


@pytest.mark.parametrize(
    ("stream", "version", "features", "data", "words"),
    [
        (D, 101, 0, pack_header(101, 0x99, 0), "packet 0x0099 on the data connection is not a command"),
        (D, 101, 0, pack_packet(101, Cmd.PING), "P_PING came on the data connection, where it does not belong"),
        (M, 101, 0, pack_header(101, Cmd.DATA, 24), "P_DATA came on the meta connection"),
        (D, 101, 0, pack_header(101, Cmd.TRIM, 28), "P_TRIM .* the feature TRIM was not agreed"),
        (D, 95, 0, pack_header(95, Cmd.OUT_OF_SYNC, 16), "P_OUT_OF_SYNC .* only since protocol 96; 95 is agreed"),
        (D, 101, 4, pack_header(101, Cmd.SIZES, 32), "P_SIZES .* body of 32 bytes; right for protocol 101 is 56"),
        (D, 101, 0, pack_header(101, Cmd.BITMAP, 12), "right for protocol 101 is 0 to 4080 bytes in steps of 8"),
        (D, 101, 0, pack_header(101, Cmd.CONNECTION_FEATURES, 72), "P_CONNECTION_FEATURES came .* after protocol 101"),
        (D, 101, 0, pack_header(101, Cmd.BECOME_SYNC_TARGET, 0), "P_BECOME_SYNC_TARGET .* not part of protocol 101"),
        (D, 101, 0, H100.pack(MAGIC_100, 0, Cmd.STATE, 4, 1), "P_STATE: the last 4 bytes of its header are not 0"),
        (D, 101, 0, pack_packet(99, Cmd.STATE, bytes(4)), "a DRBD header of protocol 80"),
        (D, 99, 0, pack_header(101, Cmd.STATE, 4), "a DRBD header of protocol 100"),
        (D, 101, 0, pack_packet(101, Cmd.UNPLUG_REMOTE) + b"oops", "after P_UNPLUG_REMOTE: 6f6f7073 looks like text"),
    ],
)
def test_errors_name_packet_and_reason(stream: Stream, version: int, features: int, data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        agreed_decoder(stream, version, features).feed(data)


@pytest.mark.parametrize("stream", list(Stream))
@pytest.mark.parametrize(
    ("opening", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request"),
        (b"HTTP/1.0 400 Bad Request\r\n", "an HTTP answer"),
        (bytes.fromhex("1603010200010001fc0303"), "a TLS ClientHello"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH greeting"),
        (b"NBDMAGICIHAVEOPT", "an NBD greeting"),
        (b"\0\0\0\x54\xffSMBr", "an SMB packet"),
        (bytes(64), "all zeros"),
        (bytes.fromhex("9c1d77a204c8e1f05566"), "no protocol known here"),
        (b"hello there", "text"),
    ],
)
def test_strangers_are_named(stream: Stream, opening: bytes, name: str) -> None:
    with pytest.raises(ProtocolError, match=f"no DRBD packet header .* looks like {name}"):
        StreamDecoder(stream).feed(opening)


# ---- copies and bounds ----


def test_whole_bodies_are_views_of_what_was_fed() -> None:
    allowed = allowed_lengths(Stream.DATA, 101, 15)
    data = b"".join(pack_packet(101, s.cmd, s.body) for s in samples(101, 15) if s.cmd in allowed)
    assert all(body.obj is data for _, _, body in agreed_decoder().feed(data))


def test_a_body_behind_a_cut_header_is_not_copied_either() -> None:
    data = pack_packet(101, Cmd.DATA, bytes(24 + 4096))
    decoder = agreed_decoder()
    decoder.feed(data[:16])
    assert decoder.partial == "P_DATA lacks 4120 of 4120 bytes"
    rest = data[16:]
    ((_, _, body),) = decoder.feed(rest)
    assert body.obj is rest


def test_mutable_input_is_copied() -> None:
    data = bytearray(pack_packet(101, Cmd.DATA, bytes(24 + 512)))
    ((_, _, body),) = agreed_decoder().feed(data)       # type: ignore[arg-type]
    data[-1] = 1
    assert bytes(body) == bytes(24 + 512)


def test_a_long_body_is_joined_once() -> None:
    """1 MiB in 16 pieces: no more memory is touched than the one joined copy."""
    data = pack_packet(101, Cmd.DATA, bytes(24) + b"\x11" * MIB)
    parts = [data[i : i + 65536] for i in range(0, len(data), 65536)]
    decoder = agreed_decoder()
    tracemalloc.start()
    try:
        (packet,) = [packet for part in parts for packet in decoder.feed(part)]
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bytes(packet[2]) == data[16:]
    assert peak_bytes < MIB + 65536


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_dripping_peer_costs_no_more_than_its_bytes(step: int) -> None:
    data = pack_header(101, Cmd.DATA, 24 + MIB) + bytes(100_000)
    parts = [data[i : i + step] for i in range(0, len(data), step)]
    decoder = agreed_decoder()
    tracemalloc.start()
    try:
        for part in parts:
            assert not decoder.feed(part)
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert decoder.stalled_bytes() == len(data)
    assert held_bytes < 1.5 * len(data)


def test_opening_packets_are_not_for_later() -> None:
    for version in range(86, 102):
        assert not OPENING & set(allowed_lengths(Stream.EITHER, version, 15))


def test_a_version_needs_a_known_stream_and_a_known_number() -> None:
    with pytest.raises(ValueError, match="first packet"):
        StreamDecoder(Stream.EITHER).agreed(101)
    with pytest.raises(ValueError, match="protocol 110"):
        StreamDecoder(Stream.DATA).version = 110


def test_features_may_be_set_after_the_version() -> None:
    decoder = StreamDecoder(Stream.DATA)
    decoder.version = 101
    decoder.features = p.FEATURE_TRIM
    assert decoder.feed(pack_packet(101, Cmd.TRIM, bytes(28)))


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_another_volume_is_refused_by_name(step: int) -> None:
    """Its packets would land on this one; what concerns the whole connection may name any."""
    decoder = agreed_decoder()
    decoder.only_volume(3)
    decoder.version = 101
    here = pack_packet(101, Cmd.STATE, bytes(4), 3) + pack_packet(101, Cmd.BARRIER, bytes(8), 0)
    there = pack_packet(101, Cmd.STATE, bytes(4), 0)
    taken: list[int] = []
    with pytest.raises(NotAgreed, match="has a volume 0, of which this node serves none"):
        for at in range(0, len(here + there), step):
            taken += [cmd for cmd, _, _ in decoder.feed((here + there)[at : at + step])]
    assert step > 100 or taken == [Cmd.STATE, Cmd.BARRIER]


def test_old_protocols_have_no_volumes() -> None:
    decoder = agreed_decoder(version=96)
    decoder.only_volume(3)
    decoder.version = 96
    ((cmd, volume, _),) = decoder.feed(pack_packet(96, Cmd.STATE, bytes(4)))
    assert (cmd, volume) == (Cmd.STATE, 0)
