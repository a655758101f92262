# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's half of NBD for tests, packed and read with the numbers of nbd/doc/proto.md and nothing of ours."""

from __future__ import annotations

import struct
from typing import NamedTuple

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + b"\0\3"
EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_CONTEXTS, SET_CONTEXTS, EXTENDED = range(1, 12)
ACK, SERVER, REP_INFO, CONTEXT = 1, 2, 3, 4
UNSUP, POLICY, INVALID, UNKNOWN, SHUTDOWN = (0x80000000 + n for n in (1, 2, 3, 6, 7))
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32


class Reply(NamedTuple):
    """To an option."""

    option: int
    kind: int
    body: bytes


class Answer(NamedTuple):
    """To a request: a simple reply (chunk -1) or one chunk."""

    cookie: int
    chunk: int
    body: bytes
    error: int = 0


def hello(flags: int = 3) -> bytes:
    return struct.pack(">I", flags)


def option(number: int, body: bytes = b"", length: int | None = None, magic: bytes = b"IHAVEOPT") -> bytes:
    return magic + struct.pack(">II", number, len(body) if length is None else length) + body


def counted(name: bytes) -> bytes:
    return struct.pack(">I", len(name)) + name


def go(name: bytes = b"", *wanted: int, number: int = GO) -> bytes:
    return option(number, counted(name) + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted))


def contexts(number: int, name: bytes, *queries: bytes) -> bytes:
    return option(number, counted(name) + struct.pack(">I", len(queries)) + b"".join(map(counted, queries)))


def request(kind: int, cookie: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length) + payload


def write(cookie: int, offset: int, payload: bytes, flags: int = 0) -> bytes:
    return request(WRITE, cookie, offset, len(payload), payload, flags)


def replies(data: bytes) -> tuple[list[Reply], bytes]:
    """What a server said to options, and what follows it."""
    found = []
    while data[:8] == bytes.fromhex("0003e889045565a9"):
        number, kind, length = struct.unpack_from(">III", data, 8)
        assert len(data) >= 20 + length
        found.append(Reply(number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found, data


def answers(data: bytes, reads: dict[int, int] | None = None) -> tuple[list[Answer], bytes]:
    """Whole answers at the front, and the rest. `reads`: cookie → length of those that get simple replies."""
    found = []
    while len(data) >= 16:
        (magic,) = struct.unpack_from(">I", data)
        if magic == 0x67446698:
            error, cookie = struct.unpack_from(">IQ", data, 4)
            size = 16 + (0 if error else (reads or {}).get(cookie, 0))
            one = Answer(cookie, -1, data[16:size], error)
        else:
            assert magic == 0x668E33EF, f"{magic:#x} where an answer begins"
            if len(data) < 20:
                break
            flags, chunk, cookie, length = struct.unpack_from(">HHQI", data, 4)
            assert flags == 1, "every answer is one chunk"
            size = 20 + length
            error = struct.unpack_from(">I", data, 20)[0] if chunk & 0x8000 and len(data) >= size else 0
            one = Answer(cookie, chunk, data[20:size], error)
        if len(data) < size:
            break
        found.append(one)
        data = data[size:]
    return found, data


def extents(answer: Answer) -> list[tuple[int, int]]:
    """(length, flags) of a block status chunk; its context must be the one that was set."""
    assert answer.chunk == 5 and len(answer.body) % 8 == 4
    return [struct.unpack_from(">II", answer.body, at) for at in range(4, len(answer.body), 8)]  # type: ignore[misc]
