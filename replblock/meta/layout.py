# SPDX-License-Identifier: GPL-2.0-or-later
"""A format as a table: the same row reads and writes a field, offsets stand in the order of the disk."""
from __future__ import annotations

import struct
from typing import Any, NamedTuple

Buffer = bytes | bytearray | memoryview


class Field(NamedTuple):
    """One row. ``type`` is a struct code, with a count for arrays ("64H")."""

    name: str
    type: str
    offset: int
    meaning: str


class Layout:
    """A block of fixed size. Gaps between fields are written as zero and ignored when read."""

    def __init__(self, name: str, size_bytes: int, byte_order: str, fields: tuple[Field, ...]) -> None:
        """Raises ValueError when the table contradicts itself (overlap, wrong order, too long)."""
        self.name = name
        self.size_bytes = size_bytes
        self.fields = fields
        self._byte_order = byte_order
        code = [byte_order]
        at = 0
        for field in fields:
            if field.offset < at:
                raise ValueError(f"{name}.{field.name}: offset {field.offset} overlaps what ends at {at}")
            code.append(f"{field.offset - at}x" if field.offset > at else "")
            code.append(field.type)
            at = field.offset + struct.calcsize(byte_order + field.type)
        if at > size_bytes:
            raise ValueError(f"{name}: fields end at {at}, the block at {size_bytes}")
        code.append(f"{size_bytes - at}x")
        self._struct = struct.Struct("".join(code))

    def pack(self, *values: int) -> bytes:
        """All fields in the order of the table, arrays spread out. Raises struct.error on a value out of range."""
        return self._struct.pack(*values)

    def unpack(self, data: Buffer) -> tuple[Any, ...]:
        """The flat values of all fields. ``data`` must be exactly ``size_bytes`` long (struct.error otherwise)."""
        return self._struct.unpack(data)

    def offset(self, name: str) -> int:
        """Byte offset of a field; KeyError when there is none of that name."""
        for field in self.fields:
            if field.name == name:
                return field.offset
        raise KeyError(name)
