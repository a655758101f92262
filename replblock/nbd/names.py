# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of the NBD protocol, by their names in nbd/doc/proto.md."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

INIT_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

MAX_STRING_BYTES = 4096
"""An export's name, a context's name, an error text."""

REQUEST = struct.Struct(">IHHQQI")
"""magic, flags, type, cookie, offset, length."""
SIMPLE_REPLY = struct.Struct(">IIQ")
"""magic, error, cookie."""
CHUNK = struct.Struct(">IHHQI")
"""magic, flags, type, cookie, length of what follows."""


class ServerFlag(IntFlag):
    """Handshake flags; the client's answer has the same two."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Opt(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Rep(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Transmission(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_CACHE = 1024


class Cmd(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CmdFlag(IntEnum):
    """Of a request. No IntFlag: a request has to be quick, and `flags & CmdFlag.FUA` is ten times as slow with one."""

    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8


class ChunkType(IntEnum):
    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001


CHUNK_DONE = 1

HOLE, ZERO = 1, 2
"""Flags of an extent in the context base:allocation."""

BASE_ALLOCATION = "base:allocation"
BASE_ALLOCATION_ID = 1


class ProtocolError(ValueError):
    """What came cannot be NBD, or breaks its rules so that nothing sensible can follow: the connection has to go."""
