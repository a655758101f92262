# SPDX-License-Identifier: GPL-2.0-or-later
"""What may stand on a disk, from what was written and what was acknowledged. Lives outside of the nodes.

Every sector of 512 bytes carries the number of its write, its own place and a checksum, so a disk tells what is there.
"""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import TextIO

SECTOR = 512
_HEAD = struct.Struct(">4sIQQ")
_MAGIC = b"tort"
_BODY_BYTES = SECTOR - _HEAD.size - 4
ZEROES = bytes(SECTOR)
UNTOUCHED = 0
"""Number of a sector of zeroes."""


class Violation(AssertionError):
    """A promise was broken."""


class Write:
    """One write or zeroing. Moments count submissions and answers together."""

    __slots__ = ("acked", "durable", "first", "number", "sectors", "state", "submitted")

    def __init__(self, number: int, first: int, sectors: int, submitted: int) -> None:
        self.number, self.first, self.sectors, self.submitted = number, first, sectors, submitted
        self.acked: int | None = None
        self.durable: int | None = None
        """When it was promised to survive a power loss."""
        self.state = ""
        """Role, connection and disks of the node that acknowledged, at that moment."""

    def __repr__(self) -> str:
        return (f"[write {self.number} sectors {self.first}+{self.sectors} submitted {self.submitted} acked "
                f"{self.acked} durable {self.durable}{' in ' + self.state if self.state else ''}]")


def sector_of(writer: int, number: int, sector: int) -> bytes:
    head = _HEAD.pack(_MAGIC, writer, number, sector)
    body = head + number.to_bytes(8, "big") * (_BODY_BYTES // 8) + bytes(_BODY_BYTES % 8)
    return body + zlib.crc32(body).to_bytes(4, "big")


def payload(writer: int, write: Write) -> bytes:
    return b"".join(sector_of(writer, write.number, write.first + n) for n in range(write.sectors))


def number_in(data: bytes, sector: int) -> int:
    """The number of the write that a sector holds. Raises Violation for what nobody wrote there."""
    if data == ZEROES:
        return UNTOUCHED
    magic, _writer, number, place = _HEAD.unpack_from(data)
    if magic != _MAGIC or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise Violation(f"sector {sector} holds what nobody wrote: {data[:32].hex()}…")
    if place != sector:
        raise Violation(f"sector {sector} holds the data of sector {place} (write {number})")
    return int(number)


def acknowledged(write: Write) -> bool:
    """Promise of a node whose page cache lives."""
    return write.acked is not None


def durable(write: Write) -> bool:
    """Promise after a power loss."""
    return write.durable is not None


def nothing(write: Write) -> bool:
    """No promise but that what is there was written there."""
    return False


class Oracle:
    """The history of one replicated device. `log` gets a line for every submission and every answer."""

    def __init__(self, log: TextIO | None = None) -> None:
        self.lock = threading.RLock()
        self.clock = 0
        self.at: dict[int, list[Write]] = {}
        self.undurable: list[Write] = []
        self.acks = self.flushes = self.reads = 0
        self._numbers = 0
        self._log = log

    def _line(self, *words: object) -> None:
        if self._log is not None:
            print(f"{time.time():.6f}", self.clock, *words, file=self._log)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def begin(self, first: int, sectors: int, zero: bool = False) -> Write:
        """A write is about to be submitted."""
        with self.lock:
            self._numbers += 1
            write = Write(UNTOUCHED if zero else self._numbers, first, sectors, self.tick())
            for sector in range(first, first + sectors):
                self.at.setdefault(sector, []).append(write)
            self._line("write", write.number, first, sectors)
            return write

    def ack(self, write: Write, fua: bool, state: str) -> None:
        with self.lock:
            write.acked, write.state = self.tick(), state
            self.acks += 1
            if fua:
                write.durable = write.acked
            else:
                self.undurable.append(write)
            self._line("ack-fua" if fua else "ack", write.number, write.first, write.sectors, state)

    def flushed(self, submitted: int, state: str) -> None:
        """A flush that was submitted then is answered now: what was acknowledged before is durable."""
        with self.lock:
            now = self.tick()
            self.flushes += 1
            rest = []
            for write in self.undurable:
                if write.acked is not None and write.acked < submitted:
                    write.durable = now
                else:
                    rest.append(write)
            self.undurable = rest
            self._line("flushed", submitted, state)

    def only_copy_lost_power(self) -> None:
        """The one node with good data lost power: what was not flushed may be gone, and nobody says so."""
        with self.lock:
            for history in self.at.values():
                for write in history:
                    if write.durable is None:
                        write.acked = None
            self.undurable.clear()

    # ---- judging

    def check(self, data: bytes, promised: Callable[[Write], bool], what: str, first: int = 0) -> None:
        """Every promised write is there, or something that is not older. `data` begins at sector `first`."""
        with self.lock:
            end = first + len(data) // SECTOR
            touched: Iterable[int] = range(first, end) if end - first < len(self.at) else self.at
            for sector in touched:
                if first <= sector < end and sector in self.at:
                    at = (sector - first) * SECTOR
                    self._judge(sector, data[at : at + SECTOR], promised, what)

    def _judge(self, sector: int, data: bytes, promised: Callable[[Write], bool], what: str) -> None:
        history = self.at[sector]
        found = number_in(data, sector)
        floor = max((w.submitted for w in history if promised(w)), default=0)
        if not floor and found == UNTOUCHED:
            return
        fits = [w for w in history if w.number == found]
        if not fits:
            raise Violation(f"{what}: sector {sector} holds write {found}, which is not in its history: {history}")
        # a write that was answered before a promised one was submitted is older than it
        if not any(w.acked is None or w.acked > floor for w in fits):
            raise Violation(f"{what}: sector {sector} (block {sector // 8}) holds the outdated write {found}; "
                            f"history: {history}")

    def prefix(self, data: bytes, what: str) -> None:
        """If a write is there, everything that was answered before it was submitted is there too."""
        newest = 0
        for sector, history in self.at.items():
            found = number_in(data[sector * SECTOR : (sector + 1) * SECTOR], sector)
            if found != UNTOUCHED:
                newest = max([newest, *(w.submitted for w in history if w.number == found)])
        self.check(data, lambda w: w.acked is not None and w.acked < newest, what)

    def rebase(self, data: bytes) -> None:
        """This is what stands now and stays, whatever fails next: it was judged, and it is on disk for good."""
        with self.lock:
            for sector in list(self.at):
                found = number_in(data[sector * SECTOR : (sector + 1) * SECTOR], sector)
                kept = [w for w in self.at[sector] if w.number == found]
                if not kept:
                    del self.at[sector]
                    continue
                one = kept[-1]
                one.acked = one.acked if one.acked is not None else self.tick()
                one.durable = one.durable if one.durable is not None else one.acked
                self.at[sector] = [one]
            self.undurable.clear()
            self._line("rebase")
