# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulated disk: a data area with a volatile cache, metadata in blocks of 4 KiB, and every way to lose either."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.meta.activity_log import initialized_block
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import Geometry, flexible
from replblock.meta.superblock import Flag, Superblock

if TYPE_CHECKING:
    from tests.sim.node import Node

SECTOR = 512
BLOCK = 4096
MD_SECTORS = 2048
FIRST_GENERATION = 0x1122334455667700
_EMPTY_LOG = initialized_block()


def fresh_metadata(geometry: Geometry, created: bool) -> dict[int, bytes]:
    """Metadata of a node that is in sync with its peer; or just created, with nothing to prefer."""
    sectors = geometry.data_sectors
    block = Superblock(
        md_size_sectors=geometry.md_size_sectors,
        al_offset_sectors=geometry.al_offset_sectors,
        bm_offset_sectors=geometry.bm_offset_sectors,
    )
    if not created:
        block = block._replace(
            la_size_sectors=sectors,
            uuid_current=FIRST_GENERATION,
            uuid_history0=0x2200,
            uuid_history1=0x3300,
            flags=Flag.CONSISTENT | Flag.WAS_UP_TO_DATE | Flag.AL_CLEAN,
        )
    blocks = {geometry.superblock_offset_bytes: block.pack()}
    for at in range(0, geometry.al_size_bytes, BLOCK):
        blocks[geometry.al_offset_bytes + at] = _EMPTY_LOG
    return blocks


class Platter:
    """What is left of a disk when nobody runs: `content` is what reads see, `durable` what a power loss leaves."""

    def __init__(self, node: Node, blocks: int, created: bool) -> None:
        self.node = node
        self.size_bytes = blocks * BLOCK
        self.geometry = flexible(MD_SECTORS, blocks * 8)
        self.content = bytearray(self.size_bytes)
        self.durable = bytearray(self.size_bytes)
        self.unflushed: list[tuple[int, bytes, bool]] = []
        """(offset, bytes, durable by itself), in the order they reached the cache."""
        self.taken = 0
        """Writes that left the cache, one way or the other."""
        self.under_way: list[tuple[int, bytes]] = []
        self.meta = fresh_metadata(self.geometry, created)
        self.meta_under_way: list[tuple[int, bytes]] = []
        self.spoiled = False
        self.slow_share = 0.3
        self.slow_ms = 4
        self.failing: set[str] = set()
        """Of write, read, flush, meta."""
        self.once: dict[str, tuple[int | None, bool]] = {}
        """Those that fail in one wake-up only; the node's fuse from then on, if any, and whether that is its power.

        Below 0 it is no fuse: so many ms later the node dies.
        """

    def put(self, offset: int, data: bytes, sure: bool = False) -> None:
        assert offset >= 0 and offset + len(data) <= self.size_bytes, "a write beyond the data area"
        self.content[offset : offset + len(data)] = data
        self.unflushed.append((offset, data, sure))

    def fails(self, *kinds: str) -> bool:
        """Is it one of the calls that fail?"""
        hit = self.failing.intersection(kinds)
        for kind in sorted(hit & self.once.keys()):
            fuse, power = self.once.pop(kind)
            self.node.sim.at(self.node.sim.now, self.failing.discard, kind)
            if fuse is not None and fuse < 0:
                self.node.sim.at(self.node.sim.now - fuse, self.node.dies_of_it, self.node.life, power)
            elif fuse is not None and self.node.on:
                self.node.fuse, self.node.fuse_power = fuse, power
        return bool(hit)

    @property
    def superblock(self) -> Superblock:
        """As it stands on disk."""
        return Superblock.unpack(self.meta[self.geometry.superblock_offset_bytes])

    def meta_read(self, offset: int, length: int) -> bytes:
        base, end = offset & ~(BLOCK - 1), offset + length
        raw = b"".join(self.meta.get(at, _ZERO) for at in range(base, end, BLOCK))
        return raw[offset - base : end - base]

    def flushed(self, count: int) -> None:
        """The oldest `count` writes of the cache are durable."""
        if count <= 0:
            return
        for offset, data, _ in self.unflushed[:count]:
            self.durable[offset : offset + len(data)] = data
        del self.unflushed[:count]
        self.taken += count

    def flush_failed(self) -> None:
        """As Linux does: what could not be written is clean afterwards, whatever became of it."""
        self._settle_cache()
        self.spoiled = True

    def opened(self) -> None:
        """After a failed flush the page cache told what the medium does not hold; by now it was dropped."""
        if self.spoiled:
            self.spoiled = False
            assert not self.under_way
            self.content[:] = self.durable
            for offset, data, _ in self.unflushed:
                self.content[offset : offset + len(data)] = data

    def _settle_cache(self) -> None:
        rng = self.node.sim.rng
        for offset, data, sure in self.unflushed:
            kind = 0.0 if sure else rng.random()
            if kind < 0.4:
                self.durable[offset : offset + len(data)] = data
            elif kind < 0.55:
                for at in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        self.durable[offset + at : offset + at + SECTOR] = data[at : at + SECTOR]
        self.taken += len(self.unflushed)
        self.unflushed = []

    def stop(self) -> None:
        """The engine was killed: of what was under way, any sectors arrive in the page cache."""
        rng = self.node.sim.rng
        for offset, data in self.under_way:
            kind = rng.random()
            for at in range(0, len(data), SECTOR):
                if kind < 0.35 or (kind < 0.65 and rng.random() < 0.5):
                    self.put(offset + at, data[at : at + SECTOR])
        self.under_way.clear()
        upto = rng.randrange(len(self.meta_under_way) + 1)
        for at, block in self.meta_under_way[:upto]:
            self.meta[at] = block
        self.meta_under_way.clear()

    def cut(self) -> None:
        """Power loss: any subset of the unflushed writes; a metadata block under way may be torn by sectors."""
        rng = self.node.sim.rng
        for at, block in self.meta_under_way:
            kind = rng.random()
            old = self.meta.get(at, bytes(BLOCK))
            if kind < 0.3:
                self.meta[at] = block
            elif kind < 0.6:
                keep = [rng.random() < 0.5 for _ in range(8)]
                self.meta[at] = b"".join((block if keep[n] else old)[n * 512 : n * 512 + 512] for n in range(8))
        self.meta_under_way.clear()
        self.stop()
        self._settle_cache()
        self.content[:] = self.durable
        self.spoiled = False

    @property
    def says_consistent(self) -> bool:
        """What a look at the superblock tells about the data."""
        try:
            return bool(self.superblock.flags & Flag.CONSISTENT)
        except MetadataError:
            return False

    @property
    def says_primary(self) -> bool:
        """Does it say so, whatever its node does now?"""
        try:
            return bool(self.superblock.flags & Flag.PRIMARY_IND)
        except MetadataError:
            return False

    def stamps(self, sectors: Any) -> list[int]:
        """Which write each of these sectors carries."""
        content = self.content
        return [int.from_bytes(content[s * SECTOR : s * SECTOR + 8], "big") for s in sectors]


class OpenDisk:
    """The disk as one attachment of one life of an engine sees it (replblock.core.host.Disk)."""

    def __init__(self, platter: Platter) -> None:
        self.platter = platter
        self.node = platter.node
        self.sim = platter.node.sim
        self.data_sectors = self.device_sectors = platter.size_bytes // SECTOR
        self.meta_queue: list[tuple[list[tuple[int, bytes]], Callable[[int], None]]] = []
        self.open = True
        self.meta_failed = False

    def _later(self, action: Callable[..., None], *args: Any) -> None:
        self.node.later(self.sim.rng.randrange(1, self.platter.slow_ms + 1), action, *args)

    def write(self, offset: int, data: Any, done: Callable[[int], None]) -> int:
        assert self.open, "a write after close"
        self.node.act()
        platter = self.platter
        assert offset >= 0 and offset + len(data) <= platter.size_bytes, "a write beyond the data area"
        if platter.fails("write"):
            self.sim.oracle.write_refused(self.node, offset, len(data))
            return errno.EIO
        before = bytes(data)
        self.sim.oracle.overwritten(self.node)
        if self.sim.rng.random() >= platter.slow_share:
            platter.put(offset, before)
            return 0
        entry = (offset, before)
        platter.under_way.append(entry)
        self._later(self._written, entry, data, False, done)
        return -1

    def _written(self, entry: tuple[int, bytes], data: Any, sure: bool, done: Callable[[int], None]) -> None:
        platter = self.platter
        assert bytes(data) == entry[1], "the data of a write was changed before it was done"
        platter.under_way.remove(entry)
        if platter.fails("write"):
            self.sim.oracle.write_refused(self.node, entry[0], len(entry[1]))
            done(errno.EIO)
            return
        if sure and platter.fails("flush"):  # the kernel tells a failed write-back once, to whoever asks first
            platter.put(*entry)
            platter.flush_failed()
            self.node.flush_failed()
            done(errno.EIO)
            return
        platter.put(*entry, sure)
        done(0)

    def write_fua(self, offset: int, data: Any, done: Callable[[int], None]) -> None:
        assert self.open, "a write after close"
        self.node.act()
        entry = (offset, bytes(data))
        self.sim.oracle.overwritten(self.node)
        self.platter.under_way.append(entry)
        self._later(self._written, entry, data, True, done)

    def zero(self, offset: int, length: int, may_punch: bool, done: Callable[[int], None]) -> int:
        return self.write(offset, bytes(length), done)

    def read(self, offset: int, length: int, done: Callable[[int, Any], None]) -> Any:
        assert self.open, "a read after close"
        self.node.act()
        platter = self.platter
        assert offset >= 0 and offset + length <= platter.size_bytes, "a read beyond the data area"
        if platter.fails("read"):
            return errno.EIO
        if self.sim.rng.random() >= platter.slow_share:
            return bytes(platter.content[offset : offset + length])

        def run() -> None:
            if platter.fails("read"):
                done(errno.EIO, b"")
            else:
                done(0, bytes(platter.content[offset : offset + length]))

        self._later(run)
        return -1

    def flush(self, done: Callable[[int], None]) -> None:
        assert self.open, "a flush after close"
        self.node.act()
        platter = self.platter
        upto = platter.taken + len(platter.unflushed)

        def run() -> None:
            if platter.fails("flush") or "write" in platter.failing - platter.once.keys():
                platter.flush_failed()
                self.node.flush_failed()
                done(errno.EIO)
                return
            platter.flushed(upto - platter.taken)
            done(0)

        self._later(run)

    def meta_write(self, blocks: Any, done: Callable[[int], None]) -> None:
        assert self.open, "a metadata write after close"
        self.node.act()
        g = self.platter.geometry
        parts: list[tuple[int, bytes]] = []
        for offset, data in blocks:
            assert g.start_bytes <= offset and offset + len(data) <= g.end_bytes, "metadata outside of its areas"
            assert offset % BLOCK == 0 and len(data) % BLOCK == 0, "a metadata write that is no 4 KiB block"
            parts.extend((offset + at, bytes(data[at : at + BLOCK])) for at in range(0, len(data), BLOCK))
        self.meta_queue.append((parts, done))
        if len(self.meta_queue) == 1:
            self._next_meta()

    def _next_meta(self) -> None:
        self.platter.meta_under_way = [] if self.meta_failed else list(self.meta_queue[0][0])
        self._later(self._meta_written)

    def _meta_written(self) -> None:
        platter = self.platter
        blocks, done = self.meta_queue.pop(0)
        platter.meta_under_way = []
        self.meta_failed = failed = self.meta_failed or platter.fails("meta")
        self.sim.oracle.metadata_written(self.node, not failed)
        if not failed:
            platter.meta.update(blocks)
        if self.meta_queue:
            self._next_meta()
        done(errno.EIO if failed else 0)

    def meta_read(self, offset: int, length: int) -> bytes:
        if self.platter.fails("meta"):
            raise OSError(errno.EIO, "Input/output error")
        self.node.disk_opened()  # an attach that had to wait, or was refused, has not opened it yet
        return self.platter.meta_read(offset, length)

    def close(self) -> None:
        self.open = False


_ZERO = bytes(BLOCK)
