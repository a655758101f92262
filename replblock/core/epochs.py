# SPDX-License-Identifier: GPL-2.0-or-later
"""The transfer log of a node that sends writes: epochs, and what waits for their barrier acks.

A write stays in the log until the peer's P_BARRIER_ACK says it is on the peer's disk for good; when the
connection breaks, everything still in the log may be missing there and becomes out-of-sync bits
(DRBD 8.4 wire format, writes, acks and epochs).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable

from replblock.core.requests import Request

_NUMBER = struct.Struct(">I")


LIVE, ACKED, LOST = 0, 1, 2


class Epoch:
    """The writes between two barriers."""

    __slots__ = ("closed_ms", "completed", "extents", "fate", "number", "requests", "waiters")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests: list[Request] = []
        self.extents: set[int] = set()
        self.completed = False
        """A write of this epoch was completed to the application."""
        self.closed_ms = 0
        self.fate = LIVE
        """ACKED: on the peer's disk for good. LOST: the connection broke before."""
        self.waiters: list[Callable[[bool], None]] = []
        """Called with True at the barrier ack, with False when the connection broke first."""

    @property
    def barrier(self) -> bytes:
        """The cookie of this epoch's P_BARRIER."""
        return _NUMBER.pack(self.number)


class UnexpectedBarrierAck(Exception):
    """The peer acknowledged an epoch that is not the oldest closed one, or counted its writes differently."""


class TransferLog:
    """The open epoch and the closed ones that wait for their ack, oldest first."""

    __slots__ = ("closed", "current", "epochs_acked")

    def __init__(self) -> None:
        self.current = Epoch(1)
        self.closed: deque[Epoch] = deque()
        self.epochs_acked = 0

    def close(self, now_ms: int) -> Epoch:
        """Close the open epoch, which must not be empty (an empty epoch gets no ack); the caller sends its barrier."""
        epoch = self.current
        assert epoch.requests, "a barrier for an empty epoch would never be acknowledged"
        epoch.closed_ms = now_ms
        self.closed.append(epoch)
        self.current = Epoch((epoch.number + 1) & 0xFFFFFFFF)
        return epoch

    def acknowledge(self, barrier: bytes, set_size: int) -> Epoch:
        """The peer's P_BARRIER_ACK. Raises UnexpectedBarrierAck; returns the epoch, its waiters still to be called."""
        if not self.closed:
            raise UnexpectedBarrierAck(f"barrier ack {barrier.hex()} although no barrier is outstanding")
        epoch = self.closed[0]
        if epoch.barrier != barrier:
            raise UnexpectedBarrierAck(f"barrier ack {barrier.hex()}, expected {epoch.barrier.hex()}")
        if len(epoch.requests) != set_size:
            raise UnexpectedBarrierAck(
                f"barrier ack {barrier.hex()} counts {set_size} writes, {len(epoch.requests)} were sent"
            )
        self.closed.popleft()
        epoch.fate = ACKED
        self.epochs_acked += 1
        return epoch

    def pinned(self, extent: int) -> bool:
        """True if a write to this activity-log extent is not yet covered by a barrier ack."""
        return extent in self.current.extents or any(extent in epoch.extents for epoch in self.closed)

    @property
    def empty(self) -> bool:
        """Everything that was sent is durable at the peer."""
        return not self.closed and not self.current.requests

    @property
    def unconfirmed_bytes(self) -> int:
        """What was sent and is not yet known to be durable at the peer."""
        return sum(request.length_bytes for epoch in self.everything() for request in epoch.requests)

    def everything(self) -> list[Epoch]:
        """All epochs that hold something, oldest first."""
        return [*self.closed, self.current]

    def reset(self) -> list[Epoch]:
        """The connection broke: hand out everything and begin anew, with numbers that do not come again soon."""
        epochs = self.everything()
        for epoch in epochs:
            epoch.fate = LOST
        self.closed = deque()
        self.current = Epoch((self.current.number + 1) & 0xFFFFFFFF)
        return epochs
