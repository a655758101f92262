# SPDX-License-Identifier: GPL-2.0-or-later
"""A trim or zeroing of the peer that is too large for one go, an activity-log extent at a time, and its one ack."""

from __future__ import annotations

from replblock.wire.commands import Cmd

EXTENT_BYTES = 4 << 20
_EXTENT_SECTORS = EXTENT_BYTES >> 9


def split(sector: int, size_bytes: int) -> list[tuple[int, int]]:
    """(sector, bytes) of the pieces, none across the border of an extent."""
    pieces, end = [], sector + (size_bytes >> 9)
    while sector < end:
        upto = min(end, (sector // _EXTENT_SECTORS + 1) * _EXTENT_SECTORS)
        pieces.append((sector, (upto - sector) << 9))
        sector = upto
    return pieces


class Whole:
    """Stands for the block id of every piece: the last piece to end is answered for all."""

    __slots__ = ("_ack", "_cmd", "_ident", "_left", "_sector", "_size_bytes")

    def __init__(self, pieces: int, sector: int, ident: bytes, size_bytes: int, ack: bool) -> None:
        self._left = pieces
        self._sector = sector
        self._ident = ident
        self._size_bytes = size_bytes
        self._ack = ack
        self._cmd = Cmd.RS_WRITE_ACK

    def piece(self, cmd: Cmd) -> tuple[Cmd, int, bytes, int] | None:
        """One piece would be answered so; returns the answer for all of it when it was the last and one is due."""
        self._left -= 1
        if cmd == Cmd.NEG_ACK or (cmd == Cmd.WRITE_ACK and self._cmd != Cmd.NEG_ACK):
            self._cmd = cmd  # in sync only if every piece is
        if self._left or not (self._ack or self._cmd == Cmd.NEG_ACK):
            return None
        return self._cmd, self._sector, self._ident, self._size_bytes


Ident = bytes | Whole
"""The block id of a write, or what stands for it in a piece."""
