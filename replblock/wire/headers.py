# SPDX-License-Identifier: GPL-2.0-or-later
"""The three packet headers. length counts the bytes after the header: fixed part, digest and payload."""

from __future__ import annotations

import struct
from typing import Final

from replblock.wire.commands import header_bytes as header_bytes

MAGIC_80: Final = 0x83740267
MAGIC_95: Final = 0x835A
MAGIC_100: Final = 0x8620EC20

H80: Final = struct.Struct(">IHH")          # magic, command, length
H95: Final = struct.Struct(">HHI")          # magic, command, length
H100: Final = struct.Struct(">IHHII")       # magic, volume, command, length, pad 0

MAX_H80_SENT_BYTES: Final = 32768           # 95..99 say longer bodies in h95
MAX_H80_BYTES: Final = 0xFFFF


def pack_header(version: int, cmd: int, length: int, volume: int = 0) -> bytes:
    """The header a node of the agreed version puts before a body of length bytes; version 0: nothing agreed yet.

    h80 before the agreement and in 86..99, h95 for long bodies in 95..99, h100 for everything since 100.
    Raises ValueError where the version cannot say it: a volume other than 0 or a longer body below 100.
    """
    if version >= 100:
        return H100.pack(MAGIC_100, volume, cmd, length, 0)
    if volume:
        raise ValueError(f"protocol {version} has no volumes, so volume {volume} cannot be named")
    if version >= 95 and length > MAX_H80_SENT_BYTES:
        return H95.pack(MAGIC_95, cmd, length)
    if length > MAX_H80_BYTES:
        raise ValueError(f"a body of {length} bytes does not fit a header of protocol {version}")
    return H80.pack(MAGIC_80, cmd, length)


def pack_packet(version: int, cmd: int, body: bytes = b"", volume: int = 0) -> bytes:
    """Header and body in one piece."""
    return pack_header(version, cmd, len(body), volume) + body
