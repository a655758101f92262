# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulated disk with a volatile cache, and what the core holds of it while it is attached."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from replblock.meta.geometry import Geometry, internal

if TYPE_CHECKING:
    from tests.core.simhost import SimHost
    from tests.core.world import World


class PowerLost(Exception):
    """A call came from a node that has no power."""


class Cached(NamedTuple):
    """A write in the volatile cache of a disk."""

    number: int
    offset: int
    data: bytes


class SimDisk:
    """A disk with a volatile cache: `cut` keeps what was flushed and any subset of the rest."""

    def __init__(self, world: World, size_bytes: int, name: str) -> None:
        self.world = world
        self.name = name
        self.content = bytearray(size_bytes)
        self.durable = bytearray(size_bytes)
        self.unflushed: list[Cached] = []
        self.number = 0
        self.newest: dict[int, int] = {}
        """Sector → number of the write that the medium holds."""
        self.under_way: list[tuple[int, bytes]] = []
        self.device_sectors = size_bytes // 512
        self.geometry: Geometry = internal(self.device_sectors)
        self.known = [self.geometry]
        """Where the metadata was meant to be, one place after the other: what an engine remembers."""
        self.slow_share = 0.3
        self.slow_ms = 5
        self.fail_writes = False
        self.fail_reads = False
        self.fail_flushes = False
        self.fail_meta = False

    def enlarge(self, more_bytes: int, junk: bytes = b"") -> None:
        """The backing device grows, under an engine or without one."""
        more = (junk * (more_bytes // max(1, len(junk)) + 1))[:more_bytes] if junk else bytes(more_bytes)
        self.content += more
        self.durable += more

    def put(self, offset: int, data: bytes, durable: bool = False) -> None:
        """A write reaches the cache; with `durable` the medium too."""
        assert offset + len(data) <= len(self.content)
        self.content[offset : offset + len(data)] = data
        self.number += 1
        cached = Cached(self.number, offset, data)
        if durable:
            self.commit(cached)
        else:
            self.unflushed.append(cached)

    def commit(self, cached: Cached) -> None:
        """A cached write reaches the medium; what is newer there stays."""
        offset, data, newest = cached.offset, cached.data, self.newest
        for at in range(0, len(data), 512):
            sector = (offset + at) >> 9
            if newest.get(sector, 0) < cached.number:
                newest[sector] = cached.number
                self.durable[offset + at : offset + at + 512] = data[at : at + 512]

    def arrived(self, entry: tuple[int, bytes]) -> None:
        """A write is under way no more."""
        if entry in self.under_way:
            self.under_way.remove(entry)

    def stop(self) -> None:
        """The engine was killed: of what was under way, any sectors arrive, in any combination."""
        rng = self.world.rng
        for offset, data in self.under_way:
            for at in range(0, len(data), 512):
                if rng.random() < 0.5:
                    self.put(offset + at, data[at : at + 512])
        self.under_way.clear()

    def cut(self) -> None:
        """Power loss: flushed data stays, of the rest any sectors, in any combination."""
        self.stop()
        rng = self.world.rng
        for cached in self.unflushed:
            kind = rng.random()
            if kind < 0.4:
                self.commit(cached)
            elif kind < 0.5:
                for at in range(0, len(cached.data), 512):
                    if rng.random() < 0.5:
                        self.commit(Cached(cached.number, cached.offset + at, cached.data[at : at + 512]))
        self.content = bytearray(self.durable)
        self.unflushed = []

    def data(self, size_bytes: int = -1) -> bytes:
        """The data area."""
        return bytes(self.content[: self.geometry.data_sectors * 512 if size_bytes < 0 else size_bytes])


class OpenDisk:
    """A disk as one attachment of one life of an engine sees it (replblock.core.host.Disk)."""

    def __init__(self, platter: SimDisk, owner: SimHost) -> None:
        self.platter = platter
        self.owner = owner
        self.life = owner.life
        self.world = platter.world
        self.device_sectors = platter.device_sectors
        self.data_sectors = platter.geometry.data_sectors
        self.meta_queue: list[tuple[list[tuple[int, bytes]], Callable[[int], None]]] = []
        self.open = True
        self.calls = 0

    def _later(self, action: Callable[[], None]) -> None:
        owner = self.owner
        self.calls += 1

        def run() -> None:
            if owner.life == self.life and owner.powered:
                self.calls -= 1
                action()
                owner.finish()

        self.world.after(self.world.rng.randrange(1, self.platter.slow_ms + 1), run)

    def write(self, offset: int, data: Any, done: Callable[[int], None]) -> int:
        assert self.open, "a write after close"
        platter = self.platter
        assert offset + len(data) <= self.data_sectors * 512, "a write beyond the data area"
        if platter.fail_writes:
            return errno.EIO
        if self.world.rng.random() >= platter.slow_share:
            platter.put(offset, bytes(data))
            return 0
        before = bytes(data)
        entry = (offset, before)
        platter.under_way.append(entry)

        def run() -> None:
            assert bytes(data) == before, "the data of a write was changed before it was done"
            platter.arrived(entry)
            if not platter.fail_writes:
                platter.put(offset, before)
            done(errno.EIO if platter.fail_writes else 0)

        self._later(run)
        return -1

    def write_fua(self, offset: int, data: Any, done: Callable[[int], None]) -> None:
        assert self.open
        platter = self.platter
        entry = (offset, bytes(data))
        platter.under_way.append(entry)

        def run() -> None:
            platter.arrived(entry)
            if not platter.fail_writes:
                platter.put(*entry, durable=True)
            done(errno.EIO if platter.fail_writes else 0)

        self._later(run)

    def zero(self, offset: int, length: int, may_punch: bool, done: Callable[[int], None]) -> int:
        return self.write(offset, bytes(length), done)

    def read(self, offset: int, length: int, done: Callable[[int, Any], None]) -> Any:
        assert self.open
        platter = self.platter
        assert offset + length <= self.data_sectors * 512
        if platter.fail_reads:
            return errno.EIO
        if self.world.rng.random() >= platter.slow_share:
            return bytes(platter.content[offset : offset + length])

        def run() -> None:
            if platter.fail_reads:
                done(errno.EIO, b"")
            else:
                done(0, bytes(platter.content[offset : offset + length]))

        self._later(run)
        return -1

    def flush(self, done: Callable[[int], None]) -> None:
        assert self.open
        platter = self.platter
        upto = platter.number

        def run() -> None:
            failed = platter.fail_flushes or platter.fail_writes
            if not failed:
                for cached in platter.unflushed:
                    if cached.number <= upto:
                        platter.commit(cached)
                platter.unflushed = [cached for cached in platter.unflushed if cached.number > upto]
            done(errno.EIO if failed else 0)

        self._later(run)

    def meta_write(self, blocks: Any, done: Callable[[int], None]) -> None:
        assert self.open, "a metadata write after close"
        self.meta_queue.append(([(o, bytes(b)) for o, b in blocks], done))
        if len(self.meta_queue) == 1:
            self._next_meta()

    def _next_meta(self) -> None:
        platter = self.platter
        blocks, done = self.meta_queue[0]
        platter.under_way.extend(blocks)

        def run() -> None:
            for entry in blocks:
                platter.arrived(entry)
                if not platter.fail_meta:
                    platter.put(*entry, durable=True)
            self.meta_queue.pop(0)
            if self.meta_queue:
                self._next_meta()
            done(errno.EIO if platter.fail_meta else 0)

        self._later(run)

    def meta_read(self, offset: int, length: int) -> bytes:
        return bytes(self.platter.content[offset : offset + length])

    def measure(self) -> Geometry:
        return internal(len(self.platter.content) // 512)

    def adopt(self, geometry: Geometry) -> None:
        self.data_sectors, self.device_sectors = geometry.data_sectors, len(self.platter.content) // 512
        self.platter.known.append(geometry)

    def close(self) -> None:
        self.open = False
