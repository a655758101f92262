# SPDX-License-Identifier: GPL-2.0-or-later
"""Epochs of a connection with several volumes: a barrier speaks of the writes of all of them, its ack counts them all.

Each volume's core believes that it has the connection for itself. What it calls an epoch, and how the acks of its peer
count, is translated here, in both directions (DRBD 8.4 wire format, writes, acks and epochs).
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from typing import NamedTuple

from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.packets import Barrier, BarrierAck

_NUMBER = struct.Struct(">I")


class Ack(NamedTuple):
    """What one volume's core is told of one of its own barriers."""

    volume: int
    packet: BarrierAck


class _Closed:
    """An epoch of the connection that waits for its ack, and the volumes' barriers that are answered with it."""

    __slots__ = ("acks", "number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.acks: list[Ack] = []


class SentEpochs:
    """What this node's volumes write to the peer."""

    def __init__(self) -> None:
        self._number = 1
        self._size = 0
        self._since_barrier: Counter[int] = Counter()
        self._closed: deque[_Closed] = deque()

    def wrote(self, volume: int) -> None:
        """A write of this volume goes to the peer."""
        self._size += 1
        self._since_barrier[volume] += 1

    def close(self, volume: int, barrier: bytes) -> tuple[Barrier | None, Ack | None]:
        """This volume closes an epoch of its own: the barrier to be sent, if any, and its ack, if it is one already.

        Where another volume's barrier has come behind its last write, that one's ack speaks for it.
        """
        ack = Ack(volume, BarrierAck(barrier, self._since_barrier.pop(volume, 0)))
        if not self._size:
            if not self._closed:
                return None, ack
            self._closed[-1].acks.append(ack)
            return None, None
        closed = _Closed(self._number, self._size)
        closed.acks.append(ack)
        self._closed.append(closed)
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._size = 0
        return Barrier(_NUMBER.pack(closed.number)), None

    def acknowledge(self, body: memoryview) -> list[Ack]:
        """P_BARRIER_ACK of the peer. Raises ProtocolError if it is not that of the oldest closed epoch."""
        theirs = BarrierAck.unpack(body)
        if not self._closed:
            raise ProtocolError("a barrier ack although no barrier is outstanding", Cmd.BARRIER_ACK)
        oldest = self._closed[0]
        if theirs.barrier != _NUMBER.pack(oldest.number) or theirs.set_size != oldest.size:
            raise ProtocolError(
                f"barrier ack {theirs.barrier.hex()} for {theirs.set_size} writes; "
                f"{oldest.number:08x} for {oldest.size} was to come next", Cmd.BARRIER_ACK,
            )  # fmt: skip
        return self._closed.popleft().acks


class TakenEpochs:
    """What the peer's volumes write to this node. While `waiting`, nothing of its next epoch may be handed on."""

    def __init__(self) -> None:
        self._since_barrier: Counter[int] = Counter()
        self._barrier = b""
        self._left: dict[int, int] = {}
        self._size = 0

    @property
    def waiting(self) -> bool:
        """For acks of volumes."""
        return bool(self._left)

    def wrote(self, volume: int) -> None:
        """A write of the peer goes to this volume."""
        self._since_barrier[volume] += 1

    def close(self, body: memoryview) -> list[int]:
        """P_BARRIER of the peer: the volumes that have to hear of it. An empty epoch gets no ack."""
        assert not self._left
        self._barrier = Barrier.unpack(body).barrier
        self._left = dict(self._since_barrier)
        self._size = self._since_barrier.total()
        self._since_barrier.clear()
        return sorted(self._left)

    def acknowledge(self, volume: int, body: memoryview) -> BarrierAck | None:
        """P_BARRIER_ACK of one volume: the ack of all of them, once it is the last one. Raises ProtocolError."""
        ours = BarrierAck.unpack(body)
        if ours.barrier != self._barrier or self._left.get(volume) != ours.set_size:
            raise ProtocolError(f"volume {volume} acknowledges an epoch that it does not have", Cmd.BARRIER_ACK)
        del self._left[volume]
        return None if self._left else BarrierAck(self._barrier, self._size)
