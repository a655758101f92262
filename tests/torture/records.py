# SPDX-License-Identifier: GPL-2.0-or-later
"""The write log of a disk as bytes: what `plugin` appends and `medium` reads."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"wlog"
_HEADER = struct.Struct(">4sBxxxQQQq")


class Kind(enum.IntEnum):
    BEGIN = 1           # a new process; numbers begin again
    WRITE = 2           # about to write; its data follows
    WRITE_SYNC = 3      # the same with RWF_DSYNC: durable by itself once it is done
    ZERO = 4            # about to be zeroed; no data follows
    WRITTEN = 5         # write or zeroing done; result: how many bytes
    SYNC = 6            # fdatasync begins
    SYNCED = 7          # fdatasync returned; result: 1 if it succeeded


class Record(NamedTuple):
    kind: Kind
    number: int
    offset: int
    length: int
    result: int
    data: bytes


def pack(kind: Kind, number: int, offset: int, length: int, result: int) -> bytes:
    return _HEADER.pack(MAGIC, kind, number, offset, length, result)


def unpack(text: bytes) -> Iterator[tuple[Record, int]]:
    """Records and where each ends; a record that is not whole ends the list."""
    at = 0
    while len(text) - at >= _HEADER.size:
        magic, number_of_kind, number, offset, length, result = _HEADER.unpack_from(text, at)
        assert magic == MAGIC, f"the write log is damaged at byte {at}"
        kind = Kind(number_of_kind)
        end = at + _HEADER.size + (length if kind in (Kind.WRITE, Kind.WRITE_SYNC) else 0)
        if end > len(text):
            return
        yield Record(kind, number, offset, length, result, bytes(text[at + _HEADER.size : end])), end
        at = end
