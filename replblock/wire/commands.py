# SPDX-License-Identifier: GPL-2.0-or-later
"""Every packet of the DRBD 8.4 protocols 86 to 101 as one table, and the body lengths that are right for it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, Flag, IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from replblock.wire.errors import ProtocolError
from replblock.wire.flags import (
    FEATURE_LZ4,
    FEATURE_NAMES,
    FEATURE_THIN_RESYNC,
    FEATURE_TRIM,
    FEATURE_WSAME,
    FEATURE_WZEROES,
)
from replblock.wire.limits import (
    CHALLENGE_BYTES,
    MAX_CHALLENGE_BYTES,
    MAX_DIGEST_BYTES,
    MAX_NAME_BYTES,
    SOCKET_BUFFER_BYTES,
    VERSION_MAX,
    VERSION_MIN,
    max_bio_bytes,
)


class Stream(Flag):
    """Which of the two TCP connections of a peer. EITHER: just accepted, its first packet will tell."""

    DATA = 1
    META = 2
    EITHER = 3

    @property
    def label(self) -> str:
        """For messages."""
        return {1: "data connection", 2: "meta connection"}.get(self.value, "new connection")


class Cmd(IntEnum):
    """Command numbers, in their order on the wire."""

    DATA = 0x00
    DATA_REPLY = 0x01
    RS_DATA_REPLY = 0x02
    BARRIER = 0x03
    BITMAP = 0x04
    BECOME_SYNC_TARGET = 0x05
    BECOME_SYNC_SOURCE = 0x06
    UNPLUG_REMOTE = 0x07
    DATA_REQUEST = 0x08
    RS_DATA_REQUEST = 0x09
    SYNC_PARAM = 0x0A
    PROTOCOL = 0x0B
    UUIDS = 0x0C
    SIZES = 0x0D
    STATE = 0x0E
    SYNC_UUID = 0x0F
    AUTH_CHALLENGE = 0x10
    AUTH_RESPONSE = 0x11
    STATE_CHG_REQ = 0x12
    PING = 0x13
    PING_ACK = 0x14
    RECV_ACK = 0x15
    WRITE_ACK = 0x16
    RS_WRITE_ACK = 0x17
    SUPERSEDED = 0x18
    NEG_ACK = 0x19
    NEG_DREPLY = 0x1A
    NEG_RS_DREPLY = 0x1B
    BARRIER_ACK = 0x1C
    STATE_CHG_REPLY = 0x1D
    OV_REQUEST = 0x1E
    OV_REPLY = 0x1F
    OV_RESULT = 0x20
    CSUM_RS_REQUEST = 0x21
    RS_IS_IN_SYNC = 0x22
    SYNC_PARAM89 = 0x23
    COMPRESSED_BITMAP = 0x24
    DELAY_PROBE = 0x27
    OUT_OF_SYNC = 0x28
    RS_CANCEL = 0x29
    CONN_ST_CHG_REQ = 0x2A
    CONN_ST_CHG_REPLY = 0x2B
    RETRY_WRITE = 0x2C
    PROTOCOL_UPDATE = 0x2D
    TRIM = 0x31
    RS_THIN_REQ = 0x32
    RS_DEALLOCATED = 0x33
    WSAME = 0x34
    ZEROES = 0x36
    LZ4 = 0x7A34                            # ours
    INITIAL_META = 0xFFF1
    INITIAL_DATA = 0xFFF2
    CONNECTION_FEATURES = 0xFFFE


class Body(Enum):
    """What may follow the fixed part of a body."""

    NOTHING = "nothing"
    WRITE = "digest and data, or neither"
    BLOCKS = "digest and data"
    ONE_BLOCK = "digest and one logical block"
    DIGEST = "a digest"
    CHALLENGE = "random bytes"
    ALG_NAME = "an algorithm name since 87"
    VERIFY_NAME = "an algorithm name in 88"
    PLAN = "16 bytes of resync controller settings since 95"
    QUEUE_LIMITS = "24 bytes of queue limits if WSAME was agreed"
    WORDS = "64-bit bitmap words"
    RUN_CODE = "run-length code"
    ENVELOPE = "an lz4 block"


class Command(NamedTuple):
    """One row: a packet, where it travels, how long it is, and what must have been agreed for it."""

    name: str
    stream: Stream
    fixed_bytes: int
    body: Body = Body.NOTHING
    since: int = VERSION_MIN
    feature: int = 0
    until: int = VERSION_MAX

    @property
    def payload(self) -> bool:
        """Whether anything may follow the fixed part."""
        return self.body is not Body.NOTHING


_D, _M = Stream.DATA, Stream.META
_NEVER: Final = VERSION_MIN - 1

COMMANDS: Final[dict[int, Command]] = {
    Cmd.DATA: Command("P_DATA", _D, 24, Body.WRITE),
    Cmd.DATA_REPLY: Command("P_DATA_REPLY", _D, 24, Body.BLOCKS),
    Cmd.RS_DATA_REPLY: Command("P_RS_DATA_REPLY", _D, 24, Body.BLOCKS),
    Cmd.BARRIER: Command("P_BARRIER", _D, 8),
    Cmd.BITMAP: Command("P_BITMAP", _D, 0, Body.WORDS),
    Cmd.BECOME_SYNC_TARGET: Command("P_BECOME_SYNC_TARGET", _D, 0, until=_NEVER),
    Cmd.BECOME_SYNC_SOURCE: Command("P_BECOME_SYNC_SOURCE", _D, 0, until=_NEVER),
    Cmd.UNPLUG_REMOTE: Command("P_UNPLUG_REMOTE", _D, 0),
    Cmd.DATA_REQUEST: Command("P_DATA_REQUEST", _D, 24),
    Cmd.RS_DATA_REQUEST: Command("P_RS_DATA_REQUEST", _D, 24),
    Cmd.SYNC_PARAM: Command("P_SYNC_PARAM", _D, 4, Body.VERIFY_NAME, until=88),
    Cmd.PROTOCOL: Command("P_PROTOCOL", _D, 24, Body.ALG_NAME),
    Cmd.UUIDS: Command("P_UUIDS", _D, 48),
    Cmd.SIZES: Command("P_SIZES", _D, 32, Body.QUEUE_LIMITS),
    Cmd.STATE: Command("P_STATE", _D, 4),
    Cmd.SYNC_UUID: Command("P_SYNC_UUID", _D, 8),
    Cmd.AUTH_CHALLENGE: Command("P_AUTH_CHALLENGE", _D, 0, Body.CHALLENGE),
    Cmd.AUTH_RESPONSE: Command("P_AUTH_RESPONSE", _D, 0, Body.DIGEST),
    Cmd.STATE_CHG_REQ: Command("P_STATE_CHG_REQ", _D, 8),
    Cmd.PING: Command("P_PING", _M, 0),
    Cmd.PING_ACK: Command("P_PING_ACK", _M, 0),
    Cmd.RECV_ACK: Command("P_RECV_ACK", _M, 24),
    Cmd.WRITE_ACK: Command("P_WRITE_ACK", _M, 24),
    Cmd.RS_WRITE_ACK: Command("P_RS_WRITE_ACK", _M, 24),
    Cmd.SUPERSEDED: Command("P_SUPERSEDED", _M, 24),
    Cmd.NEG_ACK: Command("P_NEG_ACK", _M, 24),
    Cmd.NEG_DREPLY: Command("P_NEG_DREPLY", _M, 24),
    Cmd.NEG_RS_DREPLY: Command("P_NEG_RS_DREPLY", _M, 24),
    Cmd.BARRIER_ACK: Command("P_BARRIER_ACK", _M, 8),
    Cmd.STATE_CHG_REPLY: Command("P_STATE_CHG_REPLY", _M, 4),
    Cmd.OV_REQUEST: Command("P_OV_REQUEST", _D, 24, since=88),
    Cmd.OV_REPLY: Command("P_OV_REPLY", _D, 24, Body.DIGEST, since=88),
    Cmd.OV_RESULT: Command("P_OV_RESULT", _M, 24, since=88),
    Cmd.CSUM_RS_REQUEST: Command("P_CSUM_RS_REQUEST", _D, 24, Body.DIGEST, since=89),
    Cmd.RS_IS_IN_SYNC: Command("P_RS_IS_IN_SYNC", _M, 24, since=89),
    Cmd.SYNC_PARAM89: Command("P_SYNC_PARAM89", _D, 132, Body.PLAN, since=89),
    Cmd.COMPRESSED_BITMAP: Command("P_COMPRESSED_BITMAP", _D, 0, Body.RUN_CODE, since=90),
    Cmd.DELAY_PROBE: Command("P_DELAY_PROBE", Stream.EITHER, 8, since=93),
    Cmd.OUT_OF_SYNC: Command("P_OUT_OF_SYNC", _D, 16, since=96),
    Cmd.RS_CANCEL: Command("P_RS_CANCEL", _M, 24, since=96),
    Cmd.CONN_ST_CHG_REQ: Command("P_CONN_ST_CHG_REQ", _D, 8, since=100),
    Cmd.CONN_ST_CHG_REPLY: Command("P_CONN_ST_CHG_REPLY", _M, 4, since=100),
    Cmd.RETRY_WRITE: Command("P_RETRY_WRITE", _M, 24, since=100),
    Cmd.PROTOCOL_UPDATE: Command("P_PROTOCOL_UPDATE", _D, 24, Body.ALG_NAME, since=100),
    Cmd.TRIM: Command("P_TRIM", _D, 28, feature=FEATURE_TRIM),
    Cmd.RS_THIN_REQ: Command("P_RS_THIN_REQ", _D, 24, feature=FEATURE_THIN_RESYNC),
    Cmd.RS_DEALLOCATED: Command("P_RS_DEALLOCATED", _D, 16, feature=FEATURE_THIN_RESYNC),
    Cmd.WSAME: Command("P_WSAME", _D, 28, Body.ONE_BLOCK, feature=FEATURE_WSAME),
    Cmd.ZEROES: Command("P_ZEROES", _D, 28, feature=FEATURE_WZEROES),
    Cmd.LZ4: Command("P_LZ4", _D, 32, Body.ENVELOPE, feature=FEATURE_LZ4),
    # These three travel before a version is agreed, and never after.
    Cmd.INITIAL_META: Command("P_INITIAL_META", _M, 0, until=_NEVER),
    Cmd.INITIAL_DATA: Command("P_INITIAL_DATA", _D, 0, until=_NEVER),
    Cmd.CONNECTION_FEATURES: Command("P_CONNECTION_FEATURES", _D, 72, until=_NEVER),
}

CONNECTION_WIDE: Final = frozenset({
    Cmd.PROTOCOL, Cmd.PROTOCOL_UPDATE, Cmd.AUTH_CHALLENGE, Cmd.AUTH_RESPONSE, Cmd.PING, Cmd.PING_ACK, Cmd.BARRIER,
    Cmd.BARRIER_ACK, Cmd.CONN_ST_CHG_REQ, Cmd.CONN_ST_CHG_REPLY, Cmd.UNPLUG_REMOTE, Cmd.DELAY_PROBE,
    Cmd.INITIAL_META, Cmd.INITIAL_DATA, Cmd.CONNECTION_FEATURES,
})  # fmt: skip
"""What concerns all volumes of a connection; its header names none, or any. All else is for one volume."""

OPENING: Final = frozenset({Cmd.INITIAL_META, Cmd.INITIAL_DATA, Cmd.CONNECTION_FEATURES})
"""What travels before a version is agreed."""


def packet_name(cmd: int) -> str:
    """DRBD's name of a command, or its number where it has none."""
    row = COMMANDS.get(cmd)
    return row.name if row else f"packet 0x{cmd:04x}"


def header_bytes(version: int) -> int:
    """Length of the header of an agreed version (0: none agreed yet)."""
    return 16 if version >= 100 else 8


def max_bitmap_bytes(version: int) -> int:
    """Longest body of one bitmap packet: header and body fill one buffer of 4 KiB."""
    return SOCKET_BUFFER_BYTES - header_bytes(version)


def _upto(first: int, last: int) -> range:
    return range(first, last + 1)


_LengthRule = Callable[[int, int, int], range]

# Body kind -> right lengths, from (fixed bytes, agreed version, agreed features).
_LENGTHS: Final[dict[Body, _LengthRule]] = {
    Body.NOTHING: lambda fixed, _v, _f: _upto(fixed, fixed),
    # A write without data is how some releases send an empty flush; the kernel takes it, so the decoder does.
    Body.WRITE: lambda fixed, version, _f: _upto(fixed, fixed + MAX_DIGEST_BYTES + max_bio_bytes(version)),
    Body.BLOCKS: lambda fixed, version, _f: _upto(fixed + 512, fixed + MAX_DIGEST_BYTES + max_bio_bytes(version)),
    Body.ONE_BLOCK: lambda fixed, _v, _f: _upto(fixed + 512, fixed + MAX_DIGEST_BYTES + 4096),
    Body.DIGEST: lambda fixed, _v, _f: _upto(fixed + 1, fixed + MAX_DIGEST_BYTES),
    Body.CHALLENGE: lambda fixed, _v, _f: _upto(CHALLENGE_BYTES, MAX_CHALLENGE_BYTES),
    Body.ALG_NAME: lambda fixed, version, _f: _upto(fixed + (version >= 87), fixed + MAX_NAME_BYTES * (version >= 87)),
    Body.VERIFY_NAME: lambda fixed, version, _f: _upto(
        fixed + (version >= 88), fixed + MAX_NAME_BYTES * (version >= 88)
    ),
    Body.PLAN: lambda fixed, version, _f: _upto(fixed + 16 * (version >= 95), fixed + 16 * (version >= 95)),
    Body.QUEUE_LIMITS: lambda fixed, _v, features: (
        _upto(fixed + 24, fixed + 24) if features & FEATURE_WSAME else _upto(fixed, fixed)
    ),
    Body.WORDS: lambda fixed, version, _f: range(0, max_bitmap_bytes(version) + 1, 8),
    Body.RUN_CODE: lambda fixed, version, _f: _upto(2, max_bitmap_bytes(version)),
    # Never longer than the longest packet it stands for: P_DATA, whose fixed part is 8 bytes shorter.
    Body.ENVELOPE: lambda fixed, version, _f: _upto(fixed + 1, fixed - 8 + MAX_DIGEST_BYTES + max_bio_bytes(version)),
}


@lru_cache(maxsize=64)
def allowed_lengths(stream: Stream, version: int, features: int) -> dict[int, range]:
    """Command -> right body lengths, for every command that may come on this stream now. Do not change the result."""
    return {
        int(cmd): _LENGTHS[row.body](row.fixed_bytes, version, features)
        for cmd, row in COMMANDS.items()
        if stream & row.stream and row.since <= version <= row.until and features & row.feature == row.feature
    }


def _lengths_text(lengths: range) -> str:
    first, last = lengths[0], lengths[-1]
    if first == last:
        return f"{first} bytes" if first else "no body"
    return f"{first} to {last} bytes" + (f" in steps of {lengths.step}" if lengths.step > 1 else "")


def refusal(stream: Stream, version: int, features: int, cmd: int, length: int) -> ProtocolError:
    """Why a header that allowed_lengths() does not admit is wrong, as a sentence."""
    name, row = packet_name(cmd), COMMANDS.get(cmd)
    where = f"the {stream.label}"
    if row is None:
        reason = f"{name} on {where} is not a command of the DRBD protocols {VERSION_MIN} to {VERSION_MAX}"
    elif cmd in OPENING:
        reason = f"{name} came on {where} after protocol {version} was agreed; it may only open a connection"
    elif not stream & row.stream:
        reason = f"{name} came on {where}, where it does not belong"
    elif version < row.since:
        reason = f"{name} came on {where}, but exists only since protocol {row.since}; {version} is agreed"
    elif version > row.until:
        reason = f"{name} came on {where}, but is not part of protocol {version}"
    elif features & row.feature != row.feature:
        reason = f"{name} came on {where}, but the feature {FEATURE_NAMES[row.feature]} was not agreed"
    else:
        right = _lengths_text(_LENGTHS[row.body](row.fixed_bytes, version, features))
        reason = f"{name} on {where} has a body of {length} bytes; right for protocol {version} is {right}"
    return ProtocolError(reason, cmd)
