# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets of the wire room: the decoder fed in any pieces, every typed packet there and back, the bitmap's code."""

from __future__ import annotations

import random
import re

from replblock.wire import packets as p
from replblock.wire.bitmap_code import Transfer, decode, encode
from replblock.wire.commands import Cmd, Stream, allowed_lengths, max_bitmap_bytes
from replblock.wire.errors import ProtocolError
from replblock.wire.limits import MAX_BUFFERED_BYTES, MAX_HELD_BYTES
from replblock.wire.stream import StreamDecoder
from tests.fuzz.feed import Feed

VERSIONS = (0, 80, 86, 87, 88, 89, 90, 93, 94, 95, 96, 99, 100, 101, 102)
STREAMS = (Stream.DATA, Stream.META, Stream.EITHER)

NOT_A_HEADER = re.compile(r"(no DRBD packet header on the \w+ connection).*")
"""How much of what stands there instead was seen, and after which packet, depends on the pieces."""

Seen = tuple[list[tuple[int, int, bytes]], str, int, bytes, str, int]


def _fed(stream: Stream, version: int, features: int, pieces: list[bytes], late: int) -> Seen:
    """Everything a decoder makes of these pieces; `late`: the version is agreed only after so many bytes, -1 never."""
    decoder = StreamDecoder(stream)
    packets: list[tuple[int, int, bytes]] = []
    error, fed = "", 0

    def agree() -> None:
        try:
            packets.extend((c, v, bytes(b)) for c, v, b in decoder.agreed(version, features))
        except ValueError as refused:
            assert decoder.stream is Stream.EITHER or not 86 <= version <= 101, refused

    try:
        if late == 0:
            agree()
        for piece in pieces:
            whole = [piece] if late <= fed or late >= fed + len(piece) else [piece[: late - fed], piece[late - fed :]]
            for part in whole:
                packets.extend((c, v, bytes(b)) for c, v, b in decoder.feed(part))
                fed += len(part)
                assert decoder.stalled_bytes() <= max(MAX_BUFFERED_BYTES, MAX_HELD_BYTES)
                assert decoder.stalled_bytes() <= fed
                assert len(decoder.waiting()) == decoder.stalled_bytes()
                assert bool(decoder.partial) == bool(decoder.stalled_bytes())
                if fed == late:
                    agree()
    except ProtocolError as problem:
        packets.extend((c, v, bytes(b)) for c, v, b in problem.packets)
        error = str(problem)
        assert error.isprintable() and len(error) < 400, error
        error = NOT_A_HEADER.sub(r"\1", error)
        try:
            decoder.feed(b"\0")
        except ProtocolError as again:
            assert again is problem
        else:
            raise AssertionError("a broken decoder went on")
    return packets, error, decoder.stalled_bytes(), decoder.waiting(), decoder.partial, decoder.version


def decoder(data: bytes) -> None:
    """The same packets, error and waiting bytes whether the stream comes whole, by single bytes or in pieces."""
    feed = Feed(data)
    version, features, stream = feed.one_of(VERSIONS), feed.byte() & 15, feed.one_of(STREAMS)
    cuts = random.Random(feed.below(65536))
    late = (0, 8, 80, 88, -1)[feed.below(5)] if version else -1
    rest = feed.rest(1 << 16)
    whole = _fed(stream, version, features, [rest], late)
    pieces, at = [], 0
    while at < len(rest):
        size = cuts.choice((1, 2, 7, 8, 16, 40, 4096, 5000))
        pieces.append(rest[at : at + size])
        at += size
    assert _fed(stream, version, features, pieces, late)[:2] == whole[:2]
    if len(rest) <= 512:
        single = _fed(stream, version, features, [rest[i : i + 1] for i in range(len(rest))], late)
        assert single[:2] == whole[:2], (single[1], whole[1])
        if not whole[1]:
            assert single == whole
    for cmd, _, body in whole[0]:
        typed_one(cmd, body, version if 86 <= version <= 101 else 0)


def typed_one(cmd: int, body: bytes, version: int) -> None:
    """unpack, pack: the bytes of the fixed part come back, but for those no field stands for."""
    kind = p.BODIES.get(cmd)
    if kind is None:
        return
    try:
        value = kind.unpack(memoryview(body))  # type: ignore[attr-defined]
    except ProtocolError:
        assert kind in (p.Protocol, p.SyncParam)
        return
    versioned = kind in (p.Protocol, p.SyncParam)
    if versioned and version:
        packed = value.pack(version)
    else:
        packed = value.pack()
    assert kind.unpack(memoryview(packed)) == value, (cmd, body.hex())  # type: ignore[attr-defined]
    if kind in (p.Data, p.Trim, p.BlockAck, p.BarrierAck, p.StateWord, p.StateChangeRequest, p.StateChangeReply,
                p.SyncUuid, p.DelayProbe, p.Uuids):
        assert packed == body[: len(packed)]


def typed(data: bytes) -> None:
    """Any body of a right length for any packet of any version."""
    feed = Feed(data)
    version, features = feed.one_of(VERSIONS[2:-1]), feed.byte() & 15
    allowed = allowed_lengths(Stream.EITHER, version, features)
    cmd = feed.one_of(sorted(allowed))
    lengths = allowed[cmd]
    body = feed.take(lengths[feed.below(min(len(lengths), 4096))])
    typed_one(cmd, body, version)
    if cmd in (Cmd.DATA, Cmd.DATA_REPLY, Cmd.RS_DATA_REPLY):
        digest_bytes = feed.one_of((0, 4, 16, 20, 64))
        try:
            digest, payload = p.split_payload(cmd, memoryview(body), digest_bytes)
        except ProtocolError:
            return
        assert len(digest) == digest_bytes and len(payload) % 512 == 0
        assert len(digest) + len(payload) + 24 == len(body)


def bitmap(data: bytes) -> None:
    """The run-length code never covers more than the bitmap has, and what it says can be said again."""
    feed = Feed(data)
    version = feed.one_of((90, 95, 99, 100, 101))
    bits = feed.number(32)
    transfer = Transfer(bits, version)
    covered: list[tuple[int, int]] = []
    for _ in range(64):
        if transfer.finished or not feed:
            break
        compressed = feed.byte() & 3
        payload = feed.rest(min(feed.below(4096), max_bitmap_bytes(version)))
        try:
            if compressed:
                start = transfer.bit_offset
                runs = list(decode(payload, bits - start))
                length = sum(n for _, n in runs)
                assert all(n > 0 for _, n in runs) and length <= bits - start
                assert len(runs) <= 8 * len(payload)
                transfer.compressed(length)
                covered += runs
            else:
                transfer.plain(len(payload) if feed.byte() & 1 else transfer.plain_bytes())
        except ProtocolError:
            break
        assert 0 <= transfer.bit_offset <= bits and 0 <= transfer.word_offset <= transfer.words
    if covered:
        code = encode(covered, 4080)
        assert sum(n for _, n in decode(code.payload)) == code.bits
