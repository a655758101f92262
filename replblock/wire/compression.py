# SPDX-License-Identifier: GPL-2.0-or-later
"""P_LZ4: a data packet whose payload travels as one lz4 block, between two replblock nodes that both want it.

Its body: command and body length of the packet it stands for, then that packet's fixed part as it is, then one lz4
block of all that follows it there: digest and data.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from replblock.wire.commands import Cmd, packet_name
from replblock.wire.errors import ProtocolError
from replblock.wire.headers import pack_header
from replblock.wire.packets import DATA_BODY

try:
    from lz4 import block as lz4_block
except ImportError:                             # only who configures compression needs it
    lz4_block: Any = None                       # type: ignore[no-redef]

Buffer = bytes | bytearray | memoryview

LZ4_BODY: Final = struct.Struct(">II")          # command and body length of the packet inside; then its fixed part
CLEAR_BYTES: Final = LZ4_BODY.size + DATA_BODY.size
INSIDE: Final = frozenset({Cmd.DATA, Cmd.DATA_REPLY, Cmd.RS_DATA_REPLY})
"""What may travel so: the packets that carry blocks, all with the same fixed part."""

MIN_TRIED_BYTES: Final = 4096           # hard text: 1 KiB shrinks by 3 %, 2 KiB by 8 %, 4 KiB by 17 %, 64 KiB by 47 %
LEAST_SAVED: Final = 8                  # an eighth: what saves less is not worth the work on the other side
FREE_FAILURES: Final = 8                # of a mix of both, little is missed; noise costs 1.4 µs for 4 KiB, 60 for 1 MiB
MAX_SKIPPED_BYTES: Final = 64 << 10     # then data is tried again: it may have turned compressible


def available() -> bool:
    """Is the module there that does the work?"""
    return lz4_block is not None


class Worth:
    """Is the next payload worth a try? Told by those before it alone, so that a replay decides the same.

    Eight in a row that did not pay, and the next ones are sent as they are: 8 KiB of them, then a try, 16 KiB, a try,
    and so on up to 64 KiB. Noise costs next to nothing so, and one try that pays ends it.
    """

    __slots__ = ("_failures", "_skip_bytes")

    def __init__(self) -> None:
        self._failures = 0
        self._skip_bytes = 0

    def tries(self, size_bytes: int) -> bool:
        """Whether to compress a payload of this size; ask once for each, in their order."""
        if size_bytes < MIN_TRIED_BYTES:
            return False
        if self._skip_bytes > 0:
            self._skip_bytes -= size_bytes
            return False
        return True

    def pays(self, size_bytes: int, compressed_bytes: int) -> bool:
        """Whether the outcome of a try is what goes; the next decisions follow from it."""
        if compressed_bytes <= size_bytes - size_bytes // LEAST_SAVED:
            self._failures = 0
            return True
        self._failures += 1
        if self._failures >= FREE_FAILURES:
            self._skip_bytes = min(MIN_TRIED_BYTES << min(self._failures - FREE_FAILURES + 1, 16), MAX_SKIPPED_BYTES)
        return False


def compress(payload: Buffer) -> bytes:
    """One lz4 block."""
    block: bytes = lz4_block.compress(payload, store_size=False)
    return block


def pack(version: int, volume: int, cmd: int, fixed: Buffer, payload_bytes: int, block: bytes) -> bytes:
    """The whole packet, with its header: `block` is the lz4 block of a payload of that many bytes."""
    header = pack_header(version, Cmd.LZ4, CLEAR_BYTES + len(block), volume)
    return b"".join((header, LZ4_BODY.pack(cmd, len(fixed) + payload_bytes), fixed, block))


def unpack(body: memoryview, lengths: dict[int, range]) -> tuple[int, memoryview]:
    """(command, body) of the packet inside, as if it had come as it is.

    lengths: allowed_lengths() of the stream it came on. Nothing is allocated before the length inside was found to be
    one of them. Raises ProtocolError for whatever is not exactly one such packet.
    """
    cmd, length = LZ4_BODY.unpack_from(body)
    if cmd not in INSIDE:
        raise ProtocolError(f"P_LZ4 with {packet_name(cmd)} inside, which does not travel so", Cmd.LZ4)
    size_bytes = length - DATA_BODY.size
    if size_bytes <= 0 or length not in lengths[cmd]:
        raise ProtocolError(f"P_LZ4 says that the {packet_name(cmd)} inside has a body of {length} bytes", Cmd.LZ4)
    try:
        payload: bytes = lz4_block.decompress(body[CLEAR_BYTES:], uncompressed_size=size_bytes)
    except lz4_block.LZ4BlockError:
        raise ProtocolError(f"P_LZ4 does not hold {size_bytes} bytes of {packet_name(cmd)}", Cmd.LZ4) from None
    if len(payload) != size_bytes:
        reason = f"P_LZ4 holds {len(payload)} bytes of {packet_name(cmd)}, not {size_bytes}"
        raise ProtocolError(reason, Cmd.LZ4)
    return cmd, memoryview(b"".join((body[LZ4_BODY.size : CLEAR_BYTES], payload)))
