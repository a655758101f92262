# SPDX-License-Identifier: GPL-2.0-or-later
"""The bitmap exchange: known vectors of kernel peers, round trips, and both sides counting alike."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.wire import bitmap_code as code
from replblock.wire.errors import ProtocolError

RUN = st.one_of(st.integers(1, 20), st.integers(1, 10_000), st.integers(1, 1 << 40),
                st.sampled_from([edge + d for edge in code.FIRST_LENGTHS[1:-1] for d in (-1, 0)]))
RUNS = st.tuples(st.integers(0, 1), st.lists(RUN, min_size=1, max_size=300)).map(
    lambda drawn: [((drawn[0] + index) & 1, length) for index, length in enumerate(drawn[1])])


@pytest.mark.parametrize(
    ("runs", "hexed"),
    [
        ([(1, 1000)], "b23fb702"),
        ([(0, 16384)], "327fcf1e00"),
        ([(0, 61), (1, 3), (0, 100_000 - 64)], "221f43fe5eca02"),
    ],
)
def test_known_vectors(runs: list[code.Run], hexed: str) -> None:
    encoded = code.encode(runs, 4080)
    assert encoded.payload.hex() == hexed
    assert encoded.bits == sum(length for _, length in runs)
    assert list(code.decode(encoded.payload, encoded.bits)) == runs


@pytest.mark.parametrize(
    ("length", "stream"),
    [(1, "00"), (2, "01"), (3, "100"), (8, "11011"), (16, "1110111"), (48, "1111011111"), (304, "11111011111111"),
     (305, "11111100" + "0" * 13)],
)
def test_single_codewords_in_stream_order(length: int, stream: str) -> None:
    word, bits = code.codeword(length)
    assert "".join(str(word >> i & 1) for i in range(bits)) == stream


def test_the_levels_are_those_of_the_table() -> None:
    assert code.FIRST_LENGTHS[:-1] == (1, 3, 5, 9, 17, 49, 305, 8497, 2105649, 17181974833)
    assert [level.prefix_bits + level.data_bits for level in code.LEVELS] == [2, 3, 5, 7, 10, 14, 21, 29, 42, 64]
    for length in (0, code.FIRST_LENGTHS[-1]):
        with pytest.raises(ValueError):
            code.codeword(length)


@given(RUNS, st.integers(code.MIN_CODE_BYTES, 4088))
def test_round_trip_over_packets(runs, max_bytes) -> None:
    """As a sender does: encode from the bit reached so far, until everything is covered."""
    left, got = list(runs), []
    while left:
        payload, bits = code.encode(iter(left), max_bytes)
        assert 0 < len(payload) <= max_bytes
        packet = list(code.decode(payload, bits))
        assert packet == left[: len(packet)] and sum(length for _, length in packet) == bits
        with pytest.raises(ProtocolError, match=f"covers {bits} bits where only {bits - 1} are left"):
            code.decode(payload, bits - 1)
        got, left = got + packet, left[len(packet) :]
    assert got == runs


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50)), max_size=100))
def test_pieces_of_runs_are_merged(pieces) -> None:
    """A bitmap walked in slices gives neighbours of equal value, and empty runs: the code cannot say those."""
    bits = [value for value, length in pieces for _ in range(length)]
    payload, covered = code.encode(pieces, 4080)
    assert covered == len(bits)
    expected = [(value, len(list(group))) for value, group in groupby(bits)]
    assert (list(code.decode(payload)) if payload else []) == expected


def test_a_packet_is_filled_and_no_run_is_split() -> None:
    alternating = [(i & 1, 1) for i in range(100_000)]
    payload, bits = code.encode(alternating, 4080)
    assert len(payload) == 4080 and bits == 4079 * 4     # two bits a codeword
    assert not code.Encoded(payload, bits).worthwhile
    payload, bits = code.encode([(0, 1), (1, 1 << 40)], code.MIN_CODE_BYTES)
    assert bits == 1


def test_a_tebibyte_is_one_packet() -> None:
    encoded = code.encode([(1, 1 << 28)], 4080)
    assert encoded.worthwhile and len(encoded.payload) == 7
    assert list(code.decode(encoded.payload, 1 << 28)) == [(1, 1 << 28)]


def test_no_runs_no_payload() -> None:
    assert code.encode([], 4080) == (b"", 0)
    with pytest.raises(ValueError, match="needs 9 bytes"):
        code.encode([(1, 1)], 8)


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"", "no code"), (b"\x02", "no code"), (b"\x03\x00", "unknown encoding 3"),
     (b"\x02\xff", "cut off after 8 of 64 bits"), (b"\x72\x01", "cut off after 1 of 3 bits")],
)
def test_wrong_code(payload: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=f"P_COMPRESSED_BITMAP: .*{words}"):
        code.decode(payload)


@given(st.binary(max_size=200), st.integers(0, 1 << 20))
def test_random_code_raises_nothing_else(payload, remaining_bits) -> None:
    try:
        runs = list(code.decode(payload, remaining_bits))
    except ProtocolError:
        return
    assert runs and sum(length for _, length in runs) <= remaining_bits
    assert all(a[0] != b[0] for a, b in pairwise(runs))


# ---- both sides of a transfer ----


@pytest.mark.parametrize(
    ("version", "bits", "lengths"),
    [(101, 5120, [640, 0]), (101, 51189, [4080, 2320, 0]), (97, 51189, [4088, 2312, 0]), (101, 64, [8, 0]),
     (101, 65, [16, 0]), (101, 510 * 64, [4080, 0])],
)
def test_plain_packets_have_the_lengths_kernels_send(version: int, bits: int, lengths: list[int]) -> None:
    transfer, sent = code.Transfer(bits, version), []
    while not transfer.finished:
        sent.append(transfer.plain_bytes())
        transfer.plain(sent[-1])
    assert sent == lengths


@given(st.integers(1, 200_000), st.sampled_from((91, 101)), st.lists(st.integers(0, 30_000), max_size=40))
def test_mixed_packets_count_alike_on_both_sides(bits, version, steps) -> None:
    """Compressed packets of any size between plain ones: no bit is left out, and the end is seen at the same packet."""
    sender, receiver = code.Transfer(bits, version), code.Transfer(bits, version)
    covered = 0
    for step in [*steps, *[0] * (bits // 8 + 2)]:
        if sender.finished:
            break
        assert sender.bit_offset <= covered or sender.word_offset * 64 <= covered
        if step and sender.bit_offset < bits:
            step = min(step, bits - sender.bit_offset)
            assert sender.bit_offset <= covered
            covered = max(covered, sender.bit_offset + step)
            sender.compressed(step)
            receiver.compressed(step)
        else:
            length = sender.plain_bytes()
            assert sender.word_offset * 64 <= covered
            covered = max(covered, sender.word_offset * 64 + length * 8)
            sender.plain(length)
            receiver.plain(length)
        assert (sender.bit_offset, sender.finished) == (receiver.bit_offset, receiver.finished)
    assert sender.finished and covered >= bits


def test_a_transfer_refuses_what_does_not_fit() -> None:
    transfer = code.Transfer(100, 101)
    with pytest.raises(ProtocolError, match="P_BITMAP carries 8 bytes where 16 are right"):
        transfer.plain(8)
    with pytest.raises(ProtocolError, match="only 100 are left"):
        transfer.compressed(101)
    transfer.compressed(100)
    assert transfer.finished
    with pytest.raises(ProtocolError, match="after the end"):
        transfer.plain(0)
