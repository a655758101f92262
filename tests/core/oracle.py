# SPDX-License-Identifier: GPL-2.0-or-later
"""What an application may expect to find on a disk, from what it wrote and what was acknowledged to it.

Every written sector of 512 bytes carries the number of its write, so a disk tells which write stands where.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

SECTOR = 512
_STAMP = struct.Struct(">Q")


class Write:
    """One write, trim or zeroing of the application. Sequence numbers count submissions and answers together."""

    __slots__ = ("acked", "advice", "durable", "failed", "first", "fua", "number", "sectors", "submitted")

    def __init__(self, number: int, first: int, sectors: int, submitted: int, fua: bool) -> None:
        self.number = number
        """What its sectors carry; 0 for zeroes."""
        self.first = first
        self.sectors = sectors
        self.submitted = submitted
        self.acked: int | None = None
        self.failed = False
        self.durable: int | None = None
        """When the application was promised that it survives a power loss."""
        self.fua = fua
        self.advice = False
        """TRIM: whether it reads back as zeroes is nobody's promise."""

    def __repr__(self) -> str:
        return (
            f"write {self.number} sectors {self.first}+{self.sectors} at {self.submitted} "
            f"acked {self.acked} durable {self.durable}"
        )


def payload(number: int, sectors: int) -> bytes:
    """What a write with this number writes."""
    return (_STAMP.pack(number) + bytes(SECTOR - 8)) * sectors


class Oracle:
    """The history of one replicated device."""

    def __init__(self) -> None:
        self.clock = 0
        self.writes: list[Write] = []
        self.at: dict[int, list[Write]] = {}
        self._numbers = 0

    def tick(self) -> int:
        """The next sequence number."""
        self.clock += 1
        return self.clock

    def begin(self, offset: int, length: int, zero: bool, fua: bool) -> Write:
        """A write is submitted."""
        self._numbers += 1
        write = Write(0 if zero else self._numbers, offset // SECTOR, length // SECTOR, self.tick(), fua)
        self.writes.append(write)
        for sector in range(write.first, write.first + write.sectors):
            self.at.setdefault(sector, []).append(write)
        return write

    def ack(self, write: Write, errno: int) -> None:
        """A write is answered; a failed one may or may not be there."""
        if errno:
            write.failed = True
            return
        if write.advice:
            return
        write.acked = self.tick()
        if write.fua:
            write.durable = write.acked

    def flushed(self, submitted: int) -> None:
        """A flush that was submitted then is acknowledged now."""
        now = self.tick()
        for write in self.writes:
            if write.acked is not None and write.acked < submitted and write.durable is None:
                write.durable = now

    def only_copy_lost_power(self) -> None:
        """The one node with good data lost power: what was not flushed may be gone."""
        for write in self.writes:
            if write.durable is None:  # also if its answer is still on the way
                write.acked = None
                write.advice = True

    def check(self, data: bytes, promised: Callable[[Write], bool], what: str, first: int = 0) -> None:
        """Every promised write is there, or something that is not older. `data` begins at sector `first`."""
        end = first + len(data) // SECTOR
        touched = range(first, end) if end - first < len(self.at) else self.at
        sectors = [sector for sector in touched if first <= sector < end and sector in self.at]
        for sector in sectors:
            found = _STAMP.unpack_from(data, (sector - first) * SECTOR)[0]
            history = self.at.get(sector, [])
            floor = max((w.submitted for w in history if promised(w)), default=0)
            if not floor and not found:
                continue  # as it was before the first write
            fits = [w for w in history if w.number == found]
            assert fits, f"{what}: sector {sector} carries {found}, which was never written there; {history}"
            # a write that was answered before a promised one was submitted is older than it
            assert any(w.acked is None or w.acked > floor for w in fits), (
                f"{what}: sector {sector} (block {sector // 8}) carries the outdated write {found}; history {history}"
            )

    def prefix(self, data: bytes, what: str) -> None:
        """If a write is there, everything answered before it was submitted is there too."""
        newest = 0
        for sector, history in self.at.items():
            found = _STAMP.unpack_from(data, sector * SECTOR)[0]
            if found:
                newest = max([newest, *(w.submitted for w in history if w.number == found)])
        self.check(data, lambda w: w.acked is not None and w.acked < newest, what)


def acknowledged(write: Write) -> bool:
    """Promise of a running node."""
    return write.acked is not None


def durable(write: Write) -> bool:
    """Promise after a power loss."""
    return write.durable is not None
