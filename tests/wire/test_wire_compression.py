# SPDX-License-Identifier: GPL-2.0-or-later
"""P_LZ4: the packet inside comes out as it went in, nothing else comes out ever, and noise is left alone."""

from __future__ import annotations

import random
import tracemalloc

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.wire import compression as c
from replblock.wire.commands import Cmd, Stream, allowed_lengths
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import FEATURE_LZ4
from replblock.wire.headers import header_bytes, pack_packet
from replblock.wire.limits import MAX_BUFFERED_BYTES, max_bio_bytes
from replblock.wire.packets import Data
from replblock.wire.stream import StreamDecoder

KIB, MIB = 1 << 10, 1 << 20
LENGTHS = allowed_lengths(Stream.DATA, 101, FEATURE_LZ4)
FIXED = Data(0x1122334455, b"cookie!!", 7, 0x102).pack()
TEXT = b"".join(b"%d bottles of beer on the wall\n" % n for n in range(200))[:4096]


def envelope(cmd: int, length: int, block: bytes) -> memoryview:
    return memoryview(c.LZ4_BODY.pack(cmd, length) + FIXED + block)


@st.composite
def payloads(draw: st.DrawFn, most: int) -> bytes:
    """From one run of one byte to noise, with any digest in front."""
    digest = draw(st.sampled_from((0, 4, 20, 64)))
    size = 512 * draw(st.integers(1, most // 512))
    pattern = draw(st.binary(min_size=1, max_size=600))
    noise = random.Random(draw(st.integers(0, 9))).randbytes(draw(st.integers(0, size)))
    return bytes(range(digest)) + (noise + pattern * (size // len(pattern) + 1))[:size]


@given(st.sampled_from(sorted(c.INSIDE)), st.sampled_from((86, 94, 95, 99, 100, 101)), st.data())
def test_what_goes_in_comes_out(cmd: int, version: int, data: st.DataObject) -> None:
    """Between other packets, through the decoder, whole and byte by byte."""
    payload = data.draw(payloads(32 * KIB))
    packet = c.pack(version, 3 if version >= 100 else 0, cmd, FIXED, len(payload), c.compress(payload))
    ping = pack_packet(version, Cmd.UNPLUG_REMOTE)
    whole, single = StreamDecoder(Stream.DATA), StreamDecoder(Stream.DATA)
    for decoder in (whole, single):
        decoder.agreed(version, FEATURE_LZ4)
    stream = ping + packet + ping
    at_once = whole.feed(stream)
    by_bytes = [found for at in range(len(stream)) for found in single.feed(stream[at : at + 1])]
    assert [(n, v, bytes(b)) for n, v, b in at_once] == [(n, v, bytes(b)) for n, v, b in by_bytes]
    (_, _, _), (outer, volume, body), (_, _, _) = at_once
    assert (outer, volume) == (Cmd.LZ4, 3 if version >= 100 else 0)
    found, inside = c.unpack(body, allowed_lengths(Stream.DATA, version, FEATURE_LZ4))
    assert found == cmd and bytes(inside) == FIXED + payload and inside.readonly


@pytest.mark.parametrize("version", [86, 94, 95, 99, 100, 101])
def test_the_largest_payload_with_the_longest_digest(version: int) -> None:
    """It fits, and an envelope is never longer than the longest packet that goes as it is."""
    payload = bytes(64 + max_bio_bytes(version))
    lengths = allowed_lengths(Stream.DATA, version, FEATURE_LZ4)
    body = memoryview(c.pack(version, 0, Cmd.DATA, FIXED, len(payload), c.compress(payload)))[header_bytes(version) :]
    assert len(c.unpack(body, lengths)[1]) == lengths[Cmd.DATA][-1] == lengths[Cmd.LZ4][-1] <= MAX_BUFFERED_BYTES


def test_nothing_of_it_without_the_feature() -> None:
    decoder = StreamDecoder(Stream.DATA)
    decoder.agreed(101, 0xF | 1 << 31)
    with pytest.raises(ProtocolError, match="P_LZ4 came on the data connection, but the feature LZ4 was not agreed"):
        decoder.feed(c.pack(101, 0, Cmd.DATA, FIXED, 4096, c.compress(TEXT)))


BLOCK = c.compress(TEXT)
MALFORMED = {
    "another-packet": (envelope(Cmd.BARRIER, 24 + 4096, BLOCK), "P_BARRIER inside"),
    "unknown-packet": (envelope(0x1234, 24 + 4096, BLOCK), "packet 0x1234 inside"),
    "wide-number": (envelope(1 << 16, 24 + 4096, BLOCK), "packet 0x10000 inside"),
    "nested": (envelope(Cmd.LZ4, 24 + 4096, BLOCK), "P_LZ4 inside"),
    "trim": (envelope(Cmd.TRIM, 28, BLOCK), "P_TRIM inside"),
    "no-body": (envelope(Cmd.DATA, 0, BLOCK), "a body of 0 bytes"),
    "no-payload": (envelope(Cmd.DATA, 24, c.compress(b"")), "a body of 24 bytes"),
    "half-a-sector": (envelope(Cmd.RS_DATA_REPLY, 24 + 511, c.compress(bytes(511))), "a body of 535 bytes"),
    "over-the-limit": (envelope(Cmd.DATA, 24 + 65 + MIB, c.compress(bytes(65 + MIB))), "a body of 1048665 bytes"),
    "all-the-memory": (envelope(Cmd.DATA, 0xFFFFFFFF, BLOCK), "a body of 4294967295 bytes"),
    "longer-than-said": (envelope(Cmd.DATA, 24 + 3584, BLOCK), "does not hold 3584 bytes"),
    "shorter-than-said": (envelope(Cmd.DATA, 24 + 4608, BLOCK), "holds 4096 bytes of P_DATA, not 4608"),
    "cut": (envelope(Cmd.DATA, 24 + 4096, BLOCK[:-1]), "does not hold 4096"),
    "and-more": (envelope(Cmd.DATA, 24 + 4096, BLOCK + b"\0"), "does not hold 4096"),
    "no-lz4": (envelope(Cmd.DATA, 24 + 4096, b"\xff" * 300), "does not hold 4096"),
    "empty-block": (envelope(Cmd.DATA, 24 + 4096, b"\0"), "holds 0 bytes"),
    "with-its-size": (envelope(Cmd.DATA, 24 + 4096, lz4.block.compress(TEXT)), "hold"),
    "reaches-back-too-far": (envelope(Cmd.DATA, 24 + 512, b"\x1fA\xff\xff" + b"\xff" * 1 + b"\x80"), "hold"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_one_is_refused(name: str) -> None:
    """In one line that names it, and without the memory that it asks for."""
    body, words = MALFORMED[name]
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=words) as error:
            c.unpack(body, LENGTHS)
        assert tracemalloc.get_traced_memory()[1] < 64 * KIB or name in ("over-the-limit",)
    finally:
        tracemalloc.stop()
    assert error.value.cmd == Cmd.LZ4 and "P_LZ4" in error.value.reason and "\n" not in error.value.reason


@given(st.binary(min_size=33, max_size=600), st.sampled_from(sorted(c.INSIDE)), st.integers(0, 1 << 21))
def test_any_bytes_make_a_right_packet_or_none(noise: bytes, cmd: int, length: int) -> None:
    for body in (memoryview(noise), envelope(cmd, length, noise)):
        try:
            found, inside = c.unpack(body, LENGTHS)
        except ProtocolError as error:
            assert error.cmd == Cmd.LZ4
        else:
            assert found in c.INSIDE and len(inside) in LENGTHS[found]


# --- is it worth it


def tried(worth: c.Worth, stream: list[tuple[int, int]]) -> list[bool]:
    """Of payloads with a size and a compressed size: which were compressed at all."""
    found = []
    for size, compressed in stream:
        found.append(worth.tries(size))
        if found[-1]:
            worth.pays(size, compressed)
    return found


@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB, MIB])
def test_noise_is_hardly_tried(size: int) -> None:
    """Once learned, one payload in 64 KiB, or every other one if they are that large."""
    noise = [(size, size + 16)] * (256 * MIB // size)
    learned = tried(c.Worth(), noise)[len(noise) // 4 :]
    assert sum(learned) <= -(-len(learned) // (max(64 * KIB // size, 1) + 1)) + 1


@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB, MIB])
def test_data_that_turns_compressible_is_noticed_soon(size: int) -> None:
    """However long the noise was: within 64 KiB, or a payload, and from then on nothing is left out."""
    worth = c.Worth()
    tried(worth, [(size, size + 16)] * (64 * MIB // size))
    found = tried(worth, [(size, size // 2)] * (8 * MIB // size))
    first = found.index(True)
    assert first * size <= max(64 * KIB, size) and all(found[first:])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6])
def test_of_a_mix_most_is_tried(share: float) -> None:
    """Noise and text in any order: of the text little is missed."""
    chance = random.Random(5)
    mix = [(4 * KIB, 5000 if chance.random() < share else 2000) for _ in range(20_000)]
    text = [found for found, (_, compressed) in zip(tried(c.Worth(), mix), mix) if compressed == 2000]
    assert sum(text) > 0.9 * len(text)


def test_small_payloads_and_small_gains() -> None:
    worth = c.Worth()
    assert tried(worth, [(512, 10), (2048, 10), (4095, 10), (4096, 10)]) == [False, False, False, True]
    assert worth.pays(4096, 4096 - 512) and not worth.pays(4096, 4096 - 511)


def test_the_same_payloads_are_decided_alike() -> None:
    chance = random.Random(6)
    stream = [(chance.choice((512, 4096, 65536)), chance.randrange(100_000)) for _ in range(3000)]
    assert tried(c.Worth(), stream) == tried(c.Worth(), stream)
