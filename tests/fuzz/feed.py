# SPDX-License-Identifier: GPL-2.0-or-later
"""Decisions out of the bytes of a fuzzer: whatever it sends, the same bytes always make the same story."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

EDGES = (0, 1, 7, 8, 511, 512, 513, 4095, 4096, 4097, 1 << 16, 1 << 20, (1 << 20) + 512, 1 << 31, (1 << 32) - 1,
         1 << 32, 1 << 40, 1 << 55, (1 << 63) - 1, 1 << 63, (1 << 64) - 512, (1 << 64) - 1)


class Feed:
    """Reads the input from the front; past its end everything is 0, so a story ends quietly."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Something is left."""
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        """Exactly so many bytes, zeroes past the end."""
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece.ljust(length, b"\0")

    def rest(self, most: int) -> bytes:
        """What is left, up to `most`."""
        piece = self._data[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def below(self, end: int) -> int:
        """0 … end - 1."""
        width = 1 if end <= 256 else 2 if end <= 65536 else 4 if end <= 1 << 32 else 8
        return int.from_bytes(self.take(width), "big") % end

    def one_of(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def number(self, bits: int) -> int:
        """Any number of that width; edges, small ones and neighbours of edges more often than chance has it."""
        kind = self.byte()
        mask = (1 << bits) - 1
        if kind < 96:
            return self.byte()
        if kind < 160:
            return EDGES[kind % len(EDGES)] & mask
        if kind < 176:
            return (EDGES[self.byte() % len(EDGES)] + kind - 168) & mask
        return int.from_bytes(self.take(bits // 8), "big")
