# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk holds for good, from the log of its writes; and what it holds after the power failed.

A flush makes durable what was complete when it began. At a power loss every sector holds its durable version or any
later one: a random subset of the later writes, each whole, missing, or torn between its sectors of 512 bytes.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from pathlib import Path

from tests.torture.records import Kind, Record, unpack

SECTOR = 512
_READ_BYTES = 8 << 20
_PUNCH = 0x03       # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Cached:
    """A write that no flush has covered yet."""

    __slots__ = ("data", "done", "offset", "order", "synced")

    def __init__(self, order: int, offset: int, data: bytes, synced: bool) -> None:
        self.order, self.offset, self.data, self.synced = order, offset, data, synced
        self.done = False

    def sectors(self) -> range:
        return range(self.offset // SECTOR, (self.offset + len(self.data)) // SECTOR)


class Medium:
    """One disk. `follow` reads what the log has more; the file of the disk itself is the page cache's view."""

    def __init__(self, disk: Path, log: Path, shadow: Path) -> None:
        self.disk, self.log = disk, log
        subprocess.run(["cp", "--sparse=always", str(disk), str(shadow)], check=True)
        log.write_bytes(b"")
        self.durable = os.open(shadow, os.O_RDWR | os.O_CLOEXEC)
        self.cached: list[Cached] = []
        self._running: dict[int, Cached] = {}
        self._flushes: dict[int, list[Cached]] = {}
        self._newest: dict[int, int] = {}
        """Sector → order of the write the durable copy holds, as long as older ones are about."""
        self._at = 0
        self._order = 0
        self.flushes = 0

    def close(self) -> None:
        os.close(self.durable)

    def follow(self) -> None:
        """Take in what the log has more; the space of what was read is given back."""
        with self.log.open("r+b") as file:
            while True:
                file.seek(self._at)
                text = file.read(_READ_BYTES)
                used = 0
                for record, end in unpack(text):
                    used = end
                    self._take(record)
                if not used:
                    return
                self._at += used
                _libc.fallocate(file.fileno(), _PUNCH, 0, self._at)

    def _take(self, record: Record) -> None:
        if record.kind in (Kind.WRITE, Kind.WRITE_SYNC, Kind.ZERO):
            self._order += 1
            data = record.data if record.kind != Kind.ZERO else bytes(record.length)
            one = Cached(self._order, record.offset, data, record.kind == Kind.WRITE_SYNC)
            self.cached.append(one)
            self._running[record.number] = one
        elif record.kind == Kind.WRITTEN:
            one = self._running.pop(record.number)
            one.done, one.data = True, one.data[: max(0, record.result)]
            if one.synced and one.data:
                self._commit([one])
        elif record.kind == Kind.SYNC:
            self._flushes[record.number] = [one for one in self.cached if one.done]
        elif record.kind == Kind.SYNCED:
            covered = self._flushes.pop(record.number)
            if record.result:
                self.flushes += 1
                self._commit(covered)
        else:
            assert not self._running, "a process began while another one was writing"

    def _commit(self, writes: list[Cached]) -> None:
        for one in writes:
            self._store(one, set(one.sectors()), self.durable)
        gone = set(map(id, writes))
        self.cached = [one for one in self.cached if id(one) not in gone]
        if not self.cached:
            self._newest.clear()

    def _store(self, one: Cached, sectors: set[int], fd: int) -> None:
        """Put these sectors of a write on the medium, except where it has something newer."""
        if all(self._newest.get(sector, 0) < one.order for sector in sectors) and len(sectors) == len(one.sectors()):
            os.pwrite(fd, one.data, one.offset)
            self._newest.update(dict.fromkeys(sectors, one.order))
            return
        for sector in sorted(sectors):
            if self._newest.get(sector, 0) < one.order:
                at = sector * SECTOR - one.offset
                os.pwrite(fd, one.data[at : at + SECTOR], sector * SECTOR)
                self._newest[sector] = one.order

    # ---- the process is dead

    def killed(self) -> None:
        """kill -9: what was written stays in the page cache; of a write that was under way, whatever got there."""
        self.follow()
        with self.disk.open("rb") as file:
            for one in self._running.values():
                file.seek(one.offset)
                one.data, one.done, one.synced = file.read(len(one.data)), True, False
        self._running.clear()
        self._flushes.clear()
        self._restart_log()

    def power_loss(self, rng: random.Random) -> str:
        """The disk file becomes what a medium could hold now. Says what was lost."""
        self.follow()
        share = rng.choice([0.0, 0.0, 0.3, 0.7, 0.95, 1.0])
        torn = rng.choice([0.0, 0.2, 1.0])
        touched: set[int] = set()
        kept = 0
        for one in self.cached:
            sectors = list(one.sectors())
            touched.update(sectors)
            if rng.random() < torn:
                chosen = {sector for sector in sectors if rng.random() < share}
            else:
                chosen = set(sectors) if rng.random() < share else set()
            kept += len(chosen)
            self._store(one, chosen, self.durable)
        with self.disk.open("r+b") as file:
            for sector in sorted(touched):
                file.seek(sector * SECTOR)
                file.write(os.pread(self.durable, SECTOR, sector * SECTOR).ljust(SECTOR, b"\0"))
        sectors_written = sum(len(one.sectors()) for one in self.cached)
        text = f"{len(self.cached)} unflushed writes, {kept} of {sectors_written} sectors stay"
        self.cached.clear()
        self._newest.clear()
        self._running.clear()
        self._flushes.clear()
        self._restart_log()
        return text

    def _restart_log(self) -> None:
        os.truncate(self.log, 0)
        self._at = 0

    def check(self) -> None:
        """The disk file is what the log says: no write went around it. Only while no engine runs."""
        expected = {}
        for one in self.cached:
            for sector in one.sectors():
                if self._newest.get(sector, 0) >= one.order:
                    continue
                at = sector * SECTOR - one.offset
                expected[sector] = one.data[at : at + SECTOR]
        step = 1 << 20
        with self.disk.open("rb") as file:
            for start in range(0, os.fstat(file.fileno()).st_size, step):
                found, durable = file.read(step), os.pread(self.durable, step, start)
                if found == durable:
                    continue
                for at in range(0, len(found), SECTOR):
                    sector = (start + at) // SECTOR
                    wanted = expected.get(sector, durable[at : at + SECTOR])
                    assert found[at : at + SECTOR] == wanted, f"{self.disk}: sector {sector} is not what was logged"
