# SPDX-License-Identifier: GPL-2.0-or-later
"""A request of a door: one read, write, zeroing, trim or flush of the replicated device."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from replblock.core.host import Buffer

MAX_REQUEST_BYTES = 1 << 20
"""Doors split larger requests: a kernel peer takes P_DATA of at most 1 MiB (DRBD 8.4 wire format, P_DATA)."""


class Op(IntEnum):
    READ = 0
    WRITE = 1
    FLUSH = 2
    TRIM = 3
    ZERO = 4


class Request:
    """Handed in by a door with `Resource.submit`; answered by exactly one call of `done(request)`.

    offset_bytes and length_bytes are multiples of 512 and lie within the device (the door checks both).
    `data` of a write must stay unchanged until `done`. After `done`: `errno` is 0 or an errno value, and `data`
    of a read holds the bytes.
    """

    __slots__ = (
        "_elsewhere", "_epoch", "_firm", "_ident", "_kept", "_net", "_order", "_parent", "_sent_ms", "_waits", "data",
        "done", "errno", "fua", "length_bytes", "may_punch", "offset_bytes", "op",
    )  # fmt: skip

    def __init__(
        self,
        op: Op,
        offset_bytes: int,
        length_bytes: int,
        done: Callable[[Request], None],
        data: Buffer = b"",
        fua: bool = False,
        may_punch: bool = False,
    ) -> None:
        self.op = op
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.done = done
        self.data = data
        self.fua = fua
        self.may_punch = may_punch
        self.errno = 0
        # the core's own bookkeeping, nothing for doors
        self._waits = 0
        self._net = 0
        self._ident = b""
        self._epoch: object = None
        self._parent: Request | None = None
        self._sent_ms = 0
        self._order = 0             # a write: its turn when it is sent again; a flush: the losses known at its hand-in
        self._firm = False          # a write: the peer's disk was asked for; a flush: one of them was untold
        self._elsewhere = False     # there was no disk here, or it failed: only the peer got it
        self._kept: Buffer | None = None
