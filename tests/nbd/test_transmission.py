# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests out of bytes, however they come, and answers into bytes."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.nbd.names import HOLE, ZERO, ProtocolError
from replblock.nbd.transmission import (
    MAX_PAYLOAD_BYTES,
    ROOM_FROM_BYTES,
    Decoder,
    Extent,
    data_chunk_head,
    error_chunk,
    extents_chunk,
    simple_reply,
)
from tests.nbd import speaker as c
from tests.nbd.speaker import Answer, answers, request, write

Plain = tuple[int, int, int, int, int, bytes]
OVER = MAX_PAYLOAD_BYTES + 512


def fed(parts: Iterator[bytes] | list[bytes], roomy: Callable[[int], int] = lambda left: left) -> list[Plain]:
    """What a session does: a large payload goes into its room as far as the piece and `roomy` have it."""
    decoder = Decoder()
    found: list[Plain] = []
    for part in parts:
        left = memoryview(part)
        while left:
            room = decoder.room
            if room is None:
                asked, left = decoder.receive(bytes(left)), left[len(left) :]
            else:
                count = max(1, min(len(room), len(left), roomy(len(left))))
                room[:count] = left[:count]
                asked, left = decoder.took(count), left[count:]
            found += [(*one[:5], bytes(one.payload)) for one in asked]
    return found


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)])]


U16, U32, U64 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, (1 << 64) - 1)
PAYLOADS = st.one_of(
    st.binary(max_size=100),
    st.builds(
        lambda size, seed: bytes([seed, 255 - seed, 7]) * (size // 3),
        st.sampled_from([512, 4096, ROOM_FROM_BYTES - 1, ROOM_FROM_BYTES, ROOM_FROM_BYTES + 40, 3 * ROOM_FROM_BYTES]),
        st.integers(0, 255),
    ),
)
REQUESTS = st.one_of(
    st.tuples(U16.filter(lambda kind: kind != c.WRITE), U16, U64, U64, U32, st.just(b"")),
    st.builds(lambda flags, cookie, offset, data: (c.WRITE, flags, cookie, offset, len(data), data),
              U16, U64, U64, PAYLOADS),
)  # fmt: skip


def packed(one: Plain) -> bytes:
    kind, flags, cookie, offset, length, payload = one
    return request(kind, cookie, offset, length, payload, flags)


@given(st.lists(REQUESTS, max_size=10), st.lists(st.integers(0, 1 << 20), max_size=12), st.integers(100, 1 << 17))
def test_any_split_gives_the_requests_that_were_packed(sent: list[Plain], cuts: list[int], most: int) -> None:
    data = b"".join(map(packed, sent))
    assert fed([data]) == sent
    assert fed(pieces(data, cuts), lambda left: most) == sent


@given(st.lists(REQUESTS.filter(lambda one: one[4] < 200 or one[0] != c.WRITE), max_size=6))
def test_byte_at_a_time(sent: list[Plain]) -> None:
    data = b"".join(map(packed, sent))
    assert fed([data[i : i + 1] for i in range(len(data))]) == sent


@pytest.mark.parametrize("size", [512, ROOM_FROM_BYTES + 77])
def test_every_single_cut_near_the_borders(size: int) -> None:
    sent: list[Plain] = [
        (c.READ, 0, 1, 512, 1024, b""), (c.WRITE, 1, 2, 4096, size, b"ab7" * size),
        (c.WRITE, 0, 3, 0, 0, b""), (c.DISC, 0, 0, 0, 0, b""),
    ]  # fmt: skip
    sent[1] = (*sent[1][:5], sent[1][5][:size])
    data = b"".join(map(packed, sent))
    borders = [0, 28, 56, 56 + size, 84 + size, len(data)]
    near = {border + d for border in borders for d in range(-29, 30)} | {len(data) - ROOM_FROM_BYTES}
    for cut in sorted(near & set(range(len(data) + 1))):
        assert fed([data[:cut], data[cut:]]) == sent, cut
        assert fed([data[:cut], data[cut:]], lambda left: 1 + left // 3) == sent, cut


@pytest.mark.parametrize("cut", [28, 29, 28 + 4096, 28 + OVER - 1, 28 + OVER, 28 + OVER + 5, 56 + OVER])
def test_a_write_that_is_too_long_is_passed_over(cut: int) -> None:
    """The request comes out without its payload, and what follows it is found, wherever the pieces meet."""
    data = write(7, 512, bytes(OVER)) + request(c.READ, 8, 0, 512) + write(9, 0, b"x" * 512)
    wanted = [(c.WRITE, 0, 7, 512, OVER, b""), (c.READ, 0, 8, 0, 512, b""), (c.WRITE, 0, 9, 0, 512, b"x" * 512)]
    assert fed([data[:cut], data[cut:]]) == wanted


def test_a_write_that_is_too_long_is_no_request_before_its_end() -> None:
    """Whoever answered it earlier would answer what libnbd has not asked yet, and libnbd would hang up."""
    decoder = Decoder()
    data = write(7, 512, bytes(OVER))
    assert decoder.receive(data[:28]) == decoder.receive(data[28:-1]) == []
    (found,) = decoder.receive(data[-1:])
    assert (found.cookie, found.length_bytes, bytes(found.payload)) == (7, OVER, b"")


def test_the_longest_write_is_whole() -> None:
    payload = bytes(range(256)) * (MAX_PAYLOAD_BYTES // 256)
    data = write(1, 0, payload) + request(c.FLUSH, 2)
    assert fed([data]) == fed([data[:1000], data[1000:]]) == [
        (c.WRITE, 0, 1, 0, MAX_PAYLOAD_BYTES, payload), (c.FLUSH, 0, 2, 0, 0, b"")
    ]  # fmt: skip


STARTS = (b"", request(c.READ, 1, 0, 512), write(1, 0, bytes(512)), write(1, 0, bytes(40000)))


@pytest.mark.parametrize("magic", [b"\x25\x60\x95\x12", b"\x67\x44\x66\x98", b"\x21\xe4\x1c\x71", b"IHAV", bytes(4)])
@pytest.mark.parametrize("before", STARTS)
def test_wrong_magic_is_an_error(magic: bytes, before: bytes) -> None:
    data = before + magic + bytes(24)
    for parts in ([data], [data[:10], data[10:]], [data[i : i + 1] for i in range(len(data))]):
        with pytest.raises(ProtocolError, match=f"0x{magic.hex()} where a request begins"):
            fed(parts)


@given(st.binary(max_size=120), st.lists(st.integers(0, 200), max_size=5))
def test_random_bytes_raise_nothing_else(data: bytes, cuts: list[int]) -> None:
    for start in (b"", bytes.fromhex("25609513"), bytes.fromhex("256095130000000100000000")):
        whole = pieces(start + data, [])
        parts = pieces(start + data, cuts)
        try:
            found = fed(whole)
        except ProtocolError:
            with pytest.raises(ProtocolError):
                fed(parts)
        else:
            assert fed(parts) == found


# ---- copies and bounds


def test_whole_payloads_are_views_of_what_was_received() -> None:
    data = b"".join(write(n, 0, bytes([n]) * 512) for n in range(5))
    assert all(one.payload.obj is data for one in Decoder().receive(data))  # type: ignore[union-attr]


def test_a_large_payload_is_received_in_its_place() -> None:
    """No more memory than the payload itself and the piece it began in."""
    payload = b"\x11" * (4 << 20)
    data = write(1, 0, payload)
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert decoder.receive(data[:70000]) == []
        done = 70000
        while (room := decoder.room) is not None:
            count = min(len(room), 50000)
            room[:count] = data[done : done + count]
            done += count
            found = decoder.took(count)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bytes(found[0].payload) == payload and done == len(data)
    assert peak_bytes < len(payload) + (200 << 10)


@pytest.mark.parametrize("beginning", [request(c.READ, 1, 0, 512)[:27], write(1, 0, bytes(ROOM_FROM_BYTES))[:27]])
def test_what_waits_for_its_end_is_held_once(beginning: bytes) -> None:
    tracemalloc.start()
    try:
        decoder = Decoder()
        for number in range(2000):
            decoder.receive(request(c.READ, number, 0, 512) * 30)
        decoder.receive(beginning)
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < 2000


def test_what_is_passed_over_is_not_held() -> None:
    tracemalloc.start()
    try:
        decoder = Decoder()
        decoder.receive(request(c.WRITE, 1, 0, (1 << 32) - 1))
        for _ in range(64):
            assert decoder.receive(bytes(1 << 16)) == [] and decoder.room is None
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < 2000


# ---- answers

COOKIE = 0x0123456789ABCDEF


def test_simple_replies() -> None:
    assert simple_reply(COOKIE) == bytes.fromhex("67446698 00000000 0123456789abcdef")
    assert simple_reply(COOKIE, 28) == bytes.fromhex("67446698 0000001c 0123456789abcdef")


def test_a_read_is_one_chunk() -> None:
    head = data_chunk_head(COOKIE, 1 << 40, 512)
    assert head == bytes.fromhex("668e33ef 0001 0001 0123456789abcdef 00000208 0000010000000000")
    assert answers(head + b"x" * 512) == ([Answer(COOKIE, 1, head[20:] + b"x" * 512)], b"")
    longest = data_chunk_head(COOKIE, 0, MAX_PAYLOAD_BYTES)
    assert struct.unpack_from(">I", longest, 16) == (MAX_PAYLOAD_BYTES + 8,)


@given(st.integers(1, (1 << 32) - 1))
def test_errors_are_one_chunk(error: int) -> None:
    said = error_chunk(COOKIE, error)
    assert said == bytes.fromhex("668e33ef 0001 8001 0123456789abcdef 00000006") + struct.pack(">IH", error, 0)


@given(st.lists(st.tuples(st.integers(1, (1 << 32) - 1), st.sampled_from([0, HOLE, ZERO, HOLE | ZERO])), min_size=1))
def test_extents_are_one_chunk(found: list[tuple[int, int]]) -> None:
    said = extents_chunk(COOKIE, [Extent(*one) for one in found])
    assert said[:20] == bytes.fromhex("668e33ef 0001 0005 0123456789abcdef") + struct.pack(">I", len(said) - 20)
    ((answer,), rest) = answers(said)
    assert not rest and answer.body[:4] == b"\0\0\0\1" and c.extents(answer) == found
