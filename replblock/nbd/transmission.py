# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's half of the transmission phase: bytes into requests, answers into bytes.

Source: nbd/doc/proto.md, "Transmission". A payload is never copied if it came whole; one that did not can be received
straight into its place (`room`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from replblock.nbd.names import (
    BASE_ALLOCATION_ID,
    CHUNK,
    CHUNK_DONE,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    ChunkType,
    Cmd,
    ProtocolError,
)

MAX_PAYLOAD_BYTES = 32 << 20
"""Of one write: what we announce as the largest block; a longer one comes out without its payload, when all of that
has gone by (an answer that came before would be one to a request that was not made yet: libnbd gives up then)."""
WRITE = int(Cmd.WRITE)
ROOM_FROM_BYTES = 32 << 10
"""If less than this of a payload is missing it comes with the next read; else that goes straight into its place."""


class Asked(NamedTuple):
    """A request as the client sent it."""

    kind: int
    flags: int
    cookie: int
    offset_bytes: int
    length_bytes: int
    payload: memoryview | bytes = b""
    """Of a write: `length_bytes`, or nothing if that was longer than MAX_PAYLOAD_BYTES."""


class Decoder:
    """Bytes into requests; holds at most one request that is not whole yet."""

    __slots__ = ("_began", "_filled", "_held", "_pass_over", "_whole")

    def __init__(self) -> None:
        self._held: bytes | memoryview = b""
        self._pass_over = 0
        self._whole: bytearray | None = None
        self._filled = 0
        self._began: tuple[int, int, int, int, int] | None = None

    @property
    def room(self) -> memoryview | None:
        """Where the rest of a large payload belongs; while it is there only `took` may be called."""
        if self._whole is None:
            return None
        return memoryview(self._whole)[self._filled :]

    def took(self, count: int) -> list[Asked]:
        """So many bytes were received into `room`."""
        self._filled += count
        if self._whole is None or self._filled < len(self._whole):
            return []
        assert self._began is not None
        found = Asked(*self._began, memoryview(self._whole))
        self._whole = self._began = None
        return [found]

    def receive(self, data: bytes) -> list[Asked]:
        """Raises ProtocolError on the first byte that cannot be right."""
        found: list[Asked] = []
        if self._pass_over:
            skipped = min(self._pass_over, len(data))
            self._pass_over -= skipped
            if self._pass_over:
                return found
            assert self._began is not None
            found.append(Asked(*self._began))
            self._began = None
            data = data[skipped:]
        if self._held:
            data = b"".join((self._held, data))
            self._held = b""
        view = memoryview(data)
        at, end = 0, len(data)
        size, unpack, append = REQUEST.size, REQUEST.unpack_from, found.append
        while end - at >= size:
            magic, flags, kind, cookie, offset, length = unpack(data, at)
            if magic != REQUEST_MAGIC:
                raise ProtocolError(f"{magic:#010x} where a request begins")
            begin = at + size
            if kind != WRITE:
                at = begin
                append(Asked(kind, flags, cookie, offset, length))
                continue
            missing = begin + length - end
            if missing <= 0 and length <= MAX_PAYLOAD_BYTES:
                at = begin + length
                append(Asked(kind, flags, cookie, offset, length, view[begin:at]))
            elif length > MAX_PAYLOAD_BYTES:
                if missing > 0:
                    self._pass_over = missing
                    self._began = (kind, flags, cookie, offset, length)
                    return found
                append(Asked(kind, flags, cookie, offset, length))
                at = begin + length
            elif missing < ROOM_FROM_BYTES:
                break
            else:
                self._whole = bytearray(length)
                self._filled = end - begin
                self._whole[: self._filled] = view[begin:]
                self._began = (kind, flags, cookie, offset, length)
                return found
        if at < end:
            self._held = data[at:]
        return found


class Extent(NamedTuple):
    """A piece of the device in the context base:allocation."""

    length_bytes: int
    flags: int                              # HOLE, ZERO


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """Everything but a read that succeeded is answered like this, whatever was agreed."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def error_chunk(cookie: int, error: int) -> bytes:
    """The answer to what only a chunk may answer (reads and block status, once structured replies are agreed)."""
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.ERROR, cookie, 6)
    return head + error.to_bytes(4, "big") + bytes(2)


def data_chunk_head(cookie: int, offset_bytes: int, length_bytes: int) -> bytes:
    """What goes before the data of a whole read."""
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.OFFSET_DATA, cookie, 8 + length_bytes)
    return head + offset_bytes.to_bytes(8, "big")


def extents_chunk(cookie: int, extents: Sequence[Extent]) -> bytes:
    """The answer to NBD_CMD_BLOCK_STATUS."""
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.BLOCK_STATUS, cookie, 4 + 8 * len(extents))
    body = b"".join(e.length_bytes.to_bytes(4, "big") + e.flags.to_bytes(4, "big") for e in extents)
    return head + BASE_ALLOCATION_ID.to_bytes(4, "big") + body
