# SPDX-License-Identifier: GPL-2.0-or-later
"""The bodies of the packets that carry data, acknowledgements and state, and those of the hand-shake by reference.

Every class has pack() and unpack(body); the decoder has checked the length before. All numbers are big-endian; block_id
and barrier are the sender's private cookies and stay bytes, because they must come back exactly as they went.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from replblock.wire.commands import Cmd, packet_name
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import *  # noqa: F403  (the flags of a body are looked for beside the body)
from replblock.wire.handshake import Features as Features
from replblock.wire.handshake import Limits as Limits
from replblock.wire.handshake import Protocol as Protocol
from replblock.wire.handshake import Sizes as Sizes
from replblock.wire.handshake import SyncParam as SyncParam
from replblock.wire.handshake import Uuids as Uuids

Buffer = bytes | bytearray | memoryview

DATA_BODY: Final = struct.Struct(">Q8sII")              # sector, block_id, seq_num, dp_flags
TRIM_BODY: Final = struct.Struct(">Q8sIII")             # the same, size in bytes
BLOCK_ACK_BODY: Final = struct.Struct(">Q8sII")         # sector, block_id, size in bytes, seq_num
BLOCK_REQ_BODY: Final = struct.Struct(">Q8sI4x")        # sector, block_id, size in bytes
BLOCK_DESC_BODY: Final = struct.Struct(">QI4x")         # sector, size in bytes
BARRIER_BODY: Final = struct.Struct(">4s4x")            # barrier
BARRIER_ACK_BODY: Final = struct.Struct(">4sI")         # barrier, number of writes
STATE_BODY: Final = struct.Struct(">I")
STATE_REQUEST_BODY: Final = struct.Struct(">II")        # mask, value
STATE_REPLY_BODY: Final = struct.Struct(">i")
SYNC_UUID_BODY: Final = struct.Struct(">Q")
DELAY_PROBE_BODY: Final = struct.Struct(">II")

# Header of protocol 100 and fixed part packed by one call, for the paths that send one per write:
# MAGIC_100, volume, command, length, 0, then the fields of the body.
DATA_PACKET_100: Final = struct.Struct(">IHHIIQ8sII")
BLOCK_ACK_PACKET_100: Final = struct.Struct(">IHHIIQ8sII")
BLOCK_REQ_PACKET_100: Final = struct.Struct(">IHHIIQ8sI4x")
BARRIER_PACKET_100: Final = struct.Struct(">IHHII4s4x")
BARRIER_ACK_PACKET_100: Final = struct.Struct(">IHHII4sI")


class Data(NamedTuple):
    """P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY: what stands before [digest] and data; replies leave two fields 0."""

    sector: int
    block_id: bytes
    seq_num: int = 0
    dp_flags: int = 0

    def pack(self) -> bytes:
        return DATA_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> Data:
        return cls(*DATA_BODY.unpack_from(body))


class Trim(NamedTuple):
    """P_TRIM, P_ZEROES, P_WSAME: Data and the number of bytes affected."""

    sector: int
    block_id: bytes
    seq_num: int
    dp_flags: int
    size_bytes: int

    def pack(self) -> bytes:
        return TRIM_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> Trim:
        return cls(*TRIM_BODY.unpack_from(body))


class BlockAck(NamedTuple):
    """All positive and negative acknowledgements of a block."""

    sector: int
    block_id: bytes
    size_bytes: int
    seq_num: int = 0

    def pack(self) -> bytes:
        return BLOCK_ACK_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> BlockAck:
        return cls(*BLOCK_ACK_BODY.unpack_from(body))


class BlockReq(NamedTuple):
    """Requests for a block; P_OV_REPLY and P_CSUM_RS_REQUEST have a digest behind it."""

    sector: int
    block_id: bytes
    size_bytes: int

    def pack(self) -> bytes:
        return BLOCK_REQ_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> BlockReq:
        return cls(*BLOCK_REQ_BODY.unpack_from(body))


class BlockDesc(NamedTuple):
    """P_OUT_OF_SYNC, P_RS_DEALLOCATED."""

    sector: int
    size_bytes: int

    def pack(self) -> bytes:
        return BLOCK_DESC_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> BlockDesc:
        return cls(*BLOCK_DESC_BODY.unpack_from(body))


class Barrier(NamedTuple):
    """P_BARRIER: the sender's name of the epoch it closes."""

    barrier: bytes

    def pack(self) -> bytes:
        return BARRIER_BODY.pack(self.barrier)

    @classmethod
    def unpack(cls, body: Buffer) -> Barrier:
        return cls(*BARRIER_BODY.unpack_from(body))


class BarrierAck(NamedTuple):
    """P_BARRIER_ACK: the epoch's name back, and how many writes it had, over all volumes."""

    barrier: bytes
    set_size: int

    def pack(self) -> bytes:
        return BARRIER_ACK_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> BarrierAck:
        return cls(*BARRIER_ACK_BODY.unpack_from(body))


class StateWord(NamedTuple):
    """P_STATE: the packed state, from the sender's point of view."""

    value: int

    def pack(self) -> bytes:
        return STATE_BODY.pack(self.value)

    @classmethod
    def unpack(cls, body: Buffer) -> StateWord:
        return cls(*STATE_BODY.unpack_from(body))


class StateChangeRequest(NamedTuple):
    """P_STATE_CHG_REQ, P_CONN_ST_CHG_REQ: fields selected by mask shall get the values of val, in the sender's view."""

    mask: int
    val: int

    def pack(self) -> bytes:
        return STATE_REQUEST_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> StateChangeRequest:
        return cls(*STATE_REQUEST_BODY.unpack_from(body))


class StateChangeReply(NamedTuple):
    """P_STATE_CHG_REPLY, P_CONN_ST_CHG_REPLY: 1 and more accepted, negative refused."""

    retcode: int

    def pack(self) -> bytes:
        return STATE_REPLY_BODY.pack(self.retcode)

    @classmethod
    def unpack(cls, body: Buffer) -> StateChangeReply:
        return cls(*STATE_REPLY_BODY.unpack_from(body))


class SyncUuid(NamedTuple):
    """P_SYNC_UUID: the resync starts, and this is the target's new current UUID."""

    value: int

    def pack(self) -> bytes:
        return SYNC_UUID_BODY.pack(self.value)

    @classmethod
    def unpack(cls, body: Buffer) -> SyncUuid:
        return cls(*SYNC_UUID_BODY.unpack_from(body))


class DelayProbe(NamedTuple):
    """P_DELAY_PROBE: nobody reads it."""

    seq_num: int
    offset: int

    def pack(self) -> bytes:
        return DELAY_PROBE_BODY.pack(*self)

    @classmethod
    def unpack(cls, body: Buffer) -> DelayProbe:
        return cls(*DELAY_PROBE_BODY.unpack_from(body))


BODIES: Final[dict[int, type]] = {
    **dict.fromkeys((Cmd.DATA, Cmd.DATA_REPLY, Cmd.RS_DATA_REPLY), Data),
    **dict.fromkeys((Cmd.TRIM, Cmd.ZEROES, Cmd.WSAME), Trim),
    **dict.fromkeys(
        (Cmd.RECV_ACK, Cmd.WRITE_ACK, Cmd.RS_WRITE_ACK, Cmd.SUPERSEDED, Cmd.NEG_ACK, Cmd.NEG_DREPLY, Cmd.NEG_RS_DREPLY,
         Cmd.OV_RESULT, Cmd.RS_IS_IN_SYNC, Cmd.RS_CANCEL, Cmd.RETRY_WRITE),
        BlockAck,
    ),
    **dict.fromkeys(
        (Cmd.DATA_REQUEST, Cmd.RS_DATA_REQUEST, Cmd.OV_REQUEST, Cmd.OV_REPLY, Cmd.CSUM_RS_REQUEST, Cmd.RS_THIN_REQ),
        BlockReq,
    ),
    **dict.fromkeys((Cmd.OUT_OF_SYNC, Cmd.RS_DEALLOCATED), BlockDesc),
    Cmd.BARRIER: Barrier,
    Cmd.BARRIER_ACK: BarrierAck,
    **dict.fromkeys((Cmd.PROTOCOL, Cmd.PROTOCOL_UPDATE), Protocol),
    **dict.fromkeys((Cmd.SYNC_PARAM, Cmd.SYNC_PARAM89), SyncParam),
    Cmd.SIZES: Sizes,
    Cmd.UUIDS: Uuids,
    Cmd.STATE: StateWord,
    **dict.fromkeys((Cmd.STATE_CHG_REQ, Cmd.CONN_ST_CHG_REQ), StateChangeRequest),
    **dict.fromkeys((Cmd.STATE_CHG_REPLY, Cmd.CONN_ST_CHG_REPLY), StateChangeReply),
    Cmd.SYNC_UUID: SyncUuid,
    Cmd.DELAY_PROBE: DelayProbe,
    Cmd.CONNECTION_FEATURES: Features,
}
"""Command -> class of its fixed part; commands without a row have none."""


def split_payload(cmd: int, body: memoryview, digest_bytes: int) -> tuple[memoryview, memoryview]:
    """(digest, data) of P_DATA, P_DATA_REPLY or P_RS_DATA_REPLY; the digest stands before the data.

    digest_bytes: size of the integrity digest the sender announced, 0 for none. Raises ProtocolError if the data is not
    a whole number of sectors or the digest is missing.
    """
    data_at = DATA_BODY.size + digest_bytes
    size_bytes = len(body) - data_at
    if size_bytes < 0 or size_bytes % 512:
        digest = f" after a digest of {digest_bytes} bytes" if digest_bytes else ""
        raise ProtocolError(
            f"{packet_name(cmd)} has {len(body) - DATA_BODY.size} bytes after its fixed part, "
            f"which is not a whole number of sectors{digest}; do both nodes use the same data-integrity-alg?",
            cmd,
        )
    return body[DATA_BODY.size : data_at], body[data_at:]
