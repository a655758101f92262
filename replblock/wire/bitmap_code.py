# SPDX-License-Identifier: GPL-2.0-or-later
"""The bitmap exchange: plain words and run-length code.

Run lengths alternate in value; each becomes one codeword, a prefix that tells the level and the distance from the first
length of that level. Codewords are strung together into a bit stream, the least significant bit of each byte first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from replblock.wire.commands import Cmd, max_bitmap_bytes
from replblock.wire.errors import ProtocolError

Buffer = bytes | bytearray | memoryview
Run = tuple[int, int]
"""(value 0 or 1, length in bits)."""

RLE_VLI: Final = 2                          # the only encoding there ever was
MIN_CODE_BYTES: Final = 9                   # one encoding byte and the longest codeword: less might hold no run at all


class Level(NamedTuple):
    """A family of codewords; prefix is in the low bits, sent first."""

    prefix_bits: int
    prefix: int
    data_bits: int


LEVELS: Final = (
    Level(1, 0, 1),
    Level(2, 1, 1),
    Level(3, 3, 2),
    Level(4, 7, 3),
    Level(5, 15, 5),
    Level(6, 31, 8),
    Level(8, 63, 13),
    Level(8, 127, 21),
    Level(8, 191, 34),
    Level(8, 255, 56),
)


def _first_lengths() -> tuple[int, ...]:
    firsts = [1]
    for level in LEVELS:
        firsts.append(firsts[-1] + (1 << level.data_bits))
    return tuple(firsts)


FIRST_LENGTHS: Final = _first_lengths()     # of each level, and one past the longest run there is a codeword for


def _levels_by_byte() -> tuple[tuple[int, int, int, int], ...]:
    """The level of a codeword from its first 8 bits: (all bits, prefix bits, mask of the data, first length)."""
    table = []
    for byte in range(256):
        (index,) = (i for i, level in enumerate(LEVELS) if byte & ((1 << level.prefix_bits) - 1) == level.prefix)
        level = LEVELS[index]
        mask = (1 << level.data_bits) - 1
        table.append((level.prefix_bits + level.data_bits, level.prefix_bits, mask, FIRST_LENGTHS[index]))
    return tuple(table)


_BY_BYTE: Final = _levels_by_byte()


def codeword(length_bits: int) -> tuple[int, int]:
    """(codeword, its length in bits) of one run; the low bit is sent first."""
    if not 1 <= length_bits < FIRST_LENGTHS[-1]:
        raise ValueError(f"there is no codeword for a run of {length_bits} bits")
    index = bisect_right(FIRST_LENGTHS, length_bits) - 1
    prefix_bits, prefix, data_bits = LEVELS[index]
    return (length_bits - FIRST_LENGTHS[index]) << prefix_bits | prefix, prefix_bits + data_bits


class Encoded(NamedTuple):
    """The body of one P_COMPRESSED_BITMAP and how many bits of the bitmap it covers."""

    payload: bytes
    bits: int

    @property
    def worthwhile(self) -> bool:
        """Whether the code is shorter than the plain bits it stands for; else a plain packet should go instead."""
        return (len(self.payload) - 1) * 8 < self.bits


def _merged(runs: Iterable[Run]) -> Iterator[Run]:
    """Neighbours of equal value become one run, empty ones vanish: the code can only say alternating runs."""
    value, total = 0, 0
    for next_value, length in runs:
        if length and next_value == value:
            total += length
        elif length:
            if total:
                yield value, total
            value, total = next_value, length
    if total:
        yield value, total


def encode(runs: Iterable[Run], max_bytes: int) -> Encoded:
    """Code runs until they end or the next would not fit in max_bytes.

    The caller sends the payload and goes on with the runs that start .bits later, as a run is never split over two
    packets. No runs at all give an empty payload.
    """
    if max_bytes < MIN_CODE_BYTES:
        raise ValueError(f"a compressed bitmap packet needs {MIN_CODE_BYTES} bytes, not {max_bytes}")
    room_bits = (max_bytes - 1) * 8
    code = bytearray(1)
    pending, pending_bits, covered, first = 0, 0, 0, 0
    for value, length in _merged(runs):
        word, word_bits = codeword(length)
        if word_bits > room_bits:
            break
        if not covered:
            first = value
        covered += length
        room_bits -= word_bits
        pending |= word << pending_bits
        pending_bits += word_bits
        if pending_bits >= 64:
            code += (pending & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")
            pending >>= 64
            pending_bits -= 64
    if not covered:
        return Encoded(b"", 0)
    code += pending.to_bytes((pending_bits + 7) // 8, "little")
    code[0] = RLE_VLI | (-pending_bits % 8) << 4 | (first & 1) << 7
    return Encoded(bytes(code), covered)


def _wrong(reason: str) -> ProtocolError:
    return ProtocolError(f"P_COMPRESSED_BITMAP: {reason}", Cmd.COMPRESSED_BITMAP)


def decode(payload: Buffer, remaining_bits: int | None = None) -> Iterator[Run]:
    """The runs of one packet. All of it is checked before the first run is given out, so nothing is applied by halves.

    remaining_bits: how much of the bitmap is left; a packet that covers more is refused. Raises ProtocolError.
    """
    if len(payload) < 2:
        raise _wrong("no code in it")
    opening = payload[0]
    if opening & 0x0F != RLE_VLI:
        raise _wrong(f"unknown encoding {opening & 0x0F}")
    left_bits = (len(payload) - 1) * 8 - (opening >> 4 & 7)
    value = opening >> 7
    runs: list[Run] = []
    covered, window, window_bits, at = 0, 0, 0, 1
    while left_bits > 0:
        if window_bits < 64:
            piece = payload[at : at + 64]
            window |= int.from_bytes(piece, "little") << window_bits
            window_bits += 8 * len(piece)
            at += len(piece)
        word_bits, prefix_bits, mask, first_length = _BY_BYTE[window & 0xFF]
        if word_bits > left_bits:
            raise _wrong(f"the last codeword is cut off after {left_bits} of {word_bits} bits")
        length = (window >> prefix_bits & mask) + first_length
        runs.append((value, length))
        covered += length
        value ^= 1
        window >>= word_bits
        window_bits -= word_bits
        left_bits -= word_bits
    if remaining_bits is not None and covered > remaining_bits:
        raise _wrong(f"it covers {covered} bits where only {remaining_bits} are left")
    return iter(runs)


class Transfer:
    """How far the bitmap of one volume has been sent, or received: both sides count alike, and mixed packets agree.

    bits: of the agreed device size. version: the agreed protocol, which decides the size of a packet.
    """

    def __init__(self, bits: int, version: int) -> None:
        self.bits = bits
        self.words = -(-bits // 64)
        self.max_bytes = max_bitmap_bytes(version)
        self.bit_offset = 0             # where a compressed packet would start
        self.finished = False

    @property
    def word_offset(self) -> int:
        """Where a plain packet starts: rounded down, so it may repeat bits; they are OR-ed in, which does no harm."""
        return min(self.bit_offset >> 6, self.words) if self.bit_offset < self.bits else self.words

    def plain_bytes(self) -> int:
        """The only right length of the next P_BITMAP; 0 says that everything was sent, and ends the transfer."""
        return plain_chunk_bytes(self.words - self.word_offset, self.max_bytes)

    def plain(self, length_bytes: int) -> None:
        """One P_BITMAP went through. Raises ProtocolError if its length is not plain_bytes()."""
        wanted = self.plain_bytes()
        if length_bytes != wanted or self.finished:
            where = "after the end of the bitmap" if self.finished else f"where {wanted} are right"
            raise ProtocolError(f"P_BITMAP carries {length_bytes} bytes {where}", Cmd.BITMAP)
        self.bit_offset = min((self.word_offset + length_bytes // 8) * 64, self.bits)
        self.finished = not length_bytes

    def compressed(self, covered_bits: int) -> None:
        """One P_COMPRESSED_BITMAP went through; the one that reaches the last bit ends the transfer by itself."""
        if self.finished or covered_bits > self.bits - self.bit_offset:
            raise _wrong(f"it covers {covered_bits} bits where only {self.bits - self.bit_offset} are left")
        self.bit_offset += covered_bits
        self.finished = self.bit_offset == self.bits


def plain_chunk_bytes(remaining_words: int, max_bytes: int) -> int:
    """Length of the next P_BITMAP with this many 64-bit words to go; max_bytes as max_bitmap_bytes(version) has it."""
    return min(max_bytes // 8, remaining_words) * 8

