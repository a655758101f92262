# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's half of NBD's fixed newstyle handshake (nbd/doc/proto.md): bytes in, bytes out.

Ends with NBD_OPT_GO, so that the socket can be handed to the kernel. Nothing is negotiated that kernels do not
speak: no structured replies, no TLS.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import NamedTuple

GREETING = struct.Struct(">8s8sH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">8sII")
REPLY = struct.Struct(">QIII")
EXPORT_INFO = struct.Struct(">HQH")
BLOCK_SIZE_INFO = struct.Struct(">HIII")

INIT_MAGIC, OPTION_MAGIC, REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x0003E889045565A9
FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2
OPT_GO = 7
REP_ACK, REP_INFO, REP_ERROR = 1, 3, 1 << 31
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
MAX_REPLY_BYTES = 4096 + 64         # a description or an error text; nothing else is that long
MAX_NAME_BYTES = 4096               # nbd/doc/proto.md, "String values"

TRANSMISSION_FLAGS = {"has_flags": 1, "read_only": 2, "flush": 4, "fua": 8, "rotational": 16, "trim": 32,
                      "write_zeroes": 64, "multi_conn": 256}

ERRORS = {1: "does not know NBD_OPT_GO", 2: "refuses by policy", 3: "calls our request invalid",
          4: "lacks support on its platform", 5: "demands TLS", 6: "has no such export", 7: "is shutting down",
          8: "demands block sizes", 9: "calls our request too long"}


class HandshakeError(Exception):
    """What the server did wrong or refused, to be completed by the caller with the socket's path."""


class Export(NamedTuple):
    """What the server says about the export."""

    size_bytes: int
    flags: int                      # transmission flags, as the kernel wants them
    block_size_min: int = 512
    block_size_preferred: int = 4096
    block_size_max: int = 32 << 20

    def has(self, flag: str) -> bool:
        return bool(self.flags & TRANSMISSION_FLAGS[flag])


class Handshake:
    """`receive()` what came, send what it returns; done when `export` is there."""

    def __init__(self, export_name: str) -> None:
        self._name = export_name.encode()
        if len(self._name) > MAX_NAME_BYTES:
            raise HandshakeError(f"the export name is longer than {MAX_NAME_BYTES} bytes")
        self._steps = self._script()
        self._wanted, self._out = next(self._steps)
        self._buffer = b""
        self.export: Export | None = None

    @property
    def wanted_bytes(self) -> int:
        """How many more bytes it can use now: reading no more leaves the stream clean for the kernel."""
        return 0 if self.export else self._wanted - len(self._buffer)

    def receive(self, data: bytes) -> bytes:
        """Take the next bytes, in any pieces; give what is to be sent. Raises HandshakeError."""
        self._buffer += data
        reply = b""
        while self.export is None and len(self._buffer) >= self._wanted:
            taken, self._buffer = self._buffer[:self._wanted], self._buffer[self._wanted:]
            try:
                self._wanted, out = self._steps.send(taken)
            except StopIteration as end:
                self.export = end.value
                out = b""
            reply += out
        if self.export is not None and self._buffer:
            raise HandshakeError("the server spoke before it was asked")
        return reply

    def _script(self) -> Generator[tuple[int, bytes], bytes, Export]:
        """Yields (bytes wanted next, bytes to send), gets those bytes; the order of the protocol."""
        magic, option_magic, server_flags = GREETING.unpack((yield GREETING.size, b""))
        if magic != INIT_MAGIC:
            raise HandshakeError("this is no NBD server")
        if option_magic != OPTION_MAGIC or not server_flags & FLAG_FIXED_NEWSTYLE:
            raise HandshakeError("the server speaks only an old style of NBD")
        flags = FLAG_FIXED_NEWSTYLE | server_flags & FLAG_NO_ZEROES
        out = CLIENT_FLAGS.pack(flags) + self._go()
        export: Export | None = None
        block_sizes: tuple[int, ...] = ()
        while True:
            magic_number, option, kind, length = REPLY.unpack((yield REPLY.size, out))
            out = b""
            if magic_number != REPLY_MAGIC or option != OPT_GO or length > MAX_REPLY_BYTES:
                raise HandshakeError("the server's reply is garbled")
            body = (yield length, b"") if length else b""
            if kind & REP_ERROR:
                said = body.decode(errors="replace").strip()
                reason = ERRORS.get(kind & ~REP_ERROR, f"refuses (error {kind & ~REP_ERROR})")
                raise HandshakeError(f"the server {reason}" + (f" ({said})" if said else ""))
            if kind == REP_ACK:
                if export is None:
                    raise HandshakeError("the server did not say how large the export is")
                return Export(export.size_bytes, export.flags, *block_sizes)
            if kind == REP_INFO and len(body) == EXPORT_INFO.size and body[:2] == INFO_EXPORT.to_bytes(2, "big"):
                export = Export(*EXPORT_INFO.unpack(body)[1:])
            elif kind == REP_INFO and len(body) == BLOCK_SIZE_INFO.size and body[:2] == b"\0\3":
                block_sizes = BLOCK_SIZE_INFO.unpack(body)[1:]

    def _go(self) -> bytes:
        data = struct.pack(">I", len(self._name)) + self._name + struct.pack(">HH", 1, INFO_BLOCK_SIZE)
        return OPTION.pack(OPTION_MAGIC, OPT_GO, len(data)) + data
