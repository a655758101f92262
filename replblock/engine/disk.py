# SPDX-License-Identifier: GPL-2.0-or-later
"""The local disk over a file or block device: implements core.host.Disk.

Cheap calls are made at once in the caller's thread, what may block goes to threads and comes back through `post`:
a buffered write is inline while such writes are quick, a read if the page cache has it. Among calls that are pending
there is no order, except that `meta_write` calls are carried out one after the other; keeping dependent calls apart is
the core's work.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from replblock.core.host import PENDING, Buffer, Done, ReadDone
from replblock.engine.backing import SECTOR_BYTES, Descriptor, in_memory, reopen, size_sectors
from replblock.engine.pool import Batcher, Pool
from replblock.engine.zeroing import zero_range
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import SLOT_SECTORS, Geometry, Placement, of

POOL_THREADS = 4
CLOSE_PATIENCE_S = 0.5
"""How long `close` waits for each kind of worker; the loop stands still meanwhile."""
SLOW_WRITE_S = 0.005
SLOW_READ_S = 0.0003
SLOW_PERIOD_S = 0.25
MEAN_SHARE = 1 / 16
"""When the running mean of inline writes exceeds SLOW_WRITE_S (dirty throttling), all go to the pool for a while.

One slow write says little: after every write the thread waits for the interpreter, and for a processor, too. Of reads
from tmpfs: SLOW_READ_S, because what has to come from swap must not keep writes waiting.
"""
DIRECT_ALIGN_BYTES = 4096
META_SYNC_EACH = 16
"""Up to this many separate places, each is made durable by itself; beyond, one fdatasync serves all."""

Post = Callable[..., None]
"""post(function, *arguments): run it in the loop's thread, with the engine's lock held."""


class OutsideData(AssertionError):
    """Somebody asked to write outside the data area, or outside the metadata: stop, whatever the cause."""


class FileDisk:
    """A data area of `geometry.data_sectors` at the start of `data`, and metadata where `geometry` says on `meta`."""

    def __init__(
        self,
        data: Descriptor,
        meta: Descriptor,
        geometry: Geometry,
        post: Post,
        *,
        path: str = "disk",
        direct: bool = False,
        disk_flushes: bool = True,
        md_flushes: bool = True,
        threads: int = POOL_THREADS,
    ) -> None:
        self.path = path
        self.geometry = geometry
        self.data_sectors = geometry.data_sectors
        self.device_sectors = size_sectors(data)
        self.descriptor: Descriptor | None = None if direct else data
        """What a door may read from directly; it keeps its own reference while it does."""
        self._data = data
        self._fd = data.fd
        self._buffered = reopen(data, path) if direct else data
        """For what direct I/O cannot take: pieces that are not aligned."""
        self._meta = meta
        self._limit = geometry.data_sectors * SECTOR_BYTES
        self._post = post
        self._direct = direct
        self._flushes = disk_flushes
        self._md_flushes = md_flushes
        self._slow_until = 0.0
        self._mean_s = 0.0
        self._reads_slow_until = 0.0
        self._mean_read_s = 0.0
        self._sync_errno = 0
        self._meta_errno = 0
        self._nowait = True
        self._in_memory = in_memory(data.fd)
        self._buffers = threading.local()
        self._pool = Pool("replblock-disk", threads)
        self._flusher = Batcher("replblock-flush", self._flush_batch)
        self._meta_writer = Batcher("replblock-meta", self._meta_batch)
        self.slow_writes = 0

    # ---- data area

    def write(self, offset_bytes: int, data: Buffer, done: Done) -> int:
        length_bytes = len(data)
        if offset_bytes < 0 or offset_bytes + length_bytes > self._limit:
            self._check(offset_bytes, length_bytes)
        begun = time.monotonic()
        if self._direct or begun < self._slow_until:
            self._pool.put(self._write_job, offset_bytes, data, done)
            return PENDING
        try:
            written = os.pwrite(self._fd, data, offset_bytes)
            if written != length_bytes:
                self._write_rest(offset_bytes, data, written)
        except OSError as error:
            return error.errno or errno.EIO
        self._mean_s = mean = self._mean_s + (time.monotonic() - begun - self._mean_s) * MEAN_SHARE
        if mean > SLOW_WRITE_S:
            self._was_slow()
        return 0

    def write_fua(self, offset_bytes: int, data: Buffer, done: Done) -> None:
        self._check(offset_bytes, len(data))
        self._pool.put(self._fua_job, offset_bytes, data, done)

    def zero(self, offset_bytes: int, length_bytes: int, may_punch: bool, done: Done) -> int:
        self._check(offset_bytes, length_bytes)
        self._pool.put(self._zero_job, offset_bytes, length_bytes, may_punch, done)
        return PENDING

    def read(self, offset_bytes: int, length_bytes: int, done: ReadDone) -> Buffer | int:
        if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > self._limit:
            self._check(offset_bytes, length_bytes)
        if not self._direct:
            buffer = bytearray(length_bytes)
            try:
                if self._nowait:
                    if os.preadv(self._fd, [buffer], offset_bytes, os.RWF_NOWAIT) == length_bytes:
                        return buffer
                elif self._in_memory and self._read_now(buffer, offset_bytes):
                    return buffer
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    self._nowait = False
        self._pool.put(self._read_job, offset_bytes, length_bytes, done)
        return PENDING

    def _read_now(self, buffer: bytearray, offset_bytes: int) -> bool:
        """On tmpfs, which does not know RWF_NOWAIT: as long as nothing has to come from swap."""
        begun = time.monotonic()
        if begun < self._reads_slow_until:
            return False
        read = os.preadv(self._fd, [buffer], offset_bytes)
        now = time.monotonic()
        self._mean_read_s += (now - begun - self._mean_read_s) * MEAN_SHARE
        if self._mean_read_s > SLOW_READ_S:
            self._mean_read_s, self._reads_slow_until = 0.0, now + SLOW_PERIOD_S
        return read == len(buffer)

    def flush(self, done: Done) -> None:
        self._flusher.put(done)

    # ---- metadata

    def meta_write(self, blocks: Sequence[tuple[int, bytes]], done: Done) -> None:
        for offset_bytes, data in blocks:
            if not self.geometry.start_bytes <= offset_bytes <= self.geometry.end_bytes - len(data):
                raise OutsideData(f"metadata write of {len(data)} bytes at {offset_bytes} of {self.geometry}")
        self._meta_writer.put((blocks, done))

    def meta_read(self, offset_bytes: int, length_bytes: int) -> bytes:
        parts = []
        while length_bytes > 0:
            part = os.pread(self._meta.fd, length_bytes, offset_bytes)
            if not part:
                raise OSError(errno.EIO, f"metadata ends at byte {offset_bytes}")
            parts.append(part)
            offset_bytes += len(part)
            length_bytes -= len(part)
        return b"".join(parts)

    def measure(self) -> Geometry:
        g = self.geometry
        try:
            return of(
                Placement(g.kind, g.superblock_offset_bytes // (SLOT_SECTORS * SECTOR_BYTES)),
                size_sectors(self._meta), size_sectors(self._data), g.al_stripes, g.al_stripe_size_4k,
            )  # fmt: skip
        except MetadataError as error:
            raise OSError(errno.ENOSPC, error.text) from None

    def adopt(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.data_sectors = geometry.data_sectors
        self.device_sectors = size_sectors(self._data)
        self._limit = geometry.data_sectors * SECTOR_BYTES

    def close(self) -> None:
        for worker in (self._pool, self._flusher, self._meta_writer):
            worker.stop()
        # A job that a stuck device still holds keeps the descriptors open until it returns (see _attempt).
        for worker in (self._pool, self._flusher, self._meta_writer):
            worker.join(CLOSE_PATIENCE_S)
        self.descriptor = None
        self._fd = -1
        self._data = self._buffered = self._meta = Descriptor(-1)

    # ---- in the workers

    def _write_job(self, offset_bytes: int, data: Buffer, done: Done) -> None:
        begun = time.monotonic()
        problem = self._attempt(self._put, offset_bytes, data, 0)
        self._mean_s = mean = self._mean_s + (time.monotonic() - begun - self._mean_s) * MEAN_SHARE
        if mean > SLOW_WRITE_S:
            self._was_slow()
        self._post(done, problem)

    def _fua_job(self, offset_bytes: int, data: Buffer, done: Done) -> None:
        flags = os.RWF_DSYNC if self._flushes else 0
        problem = self._sync_errno or self._attempt(self._put, offset_bytes, data, flags)
        if problem and flags:
            # The kernel reports a failed write-back once, to whoever asks first: later flushes must fail too.
            self._sync_errno = self._sync_errno or problem
        self._post(done, problem)

    def _zero_job(self, offset_bytes: int, length_bytes: int, may_punch: bool, done: Done) -> None:
        problem = self._attempt(lambda: zero_range(self._buffered.fd, offset_bytes, length_bytes, may_punch))
        self._post(done, problem)

    def _read_job(self, offset_bytes: int, length_bytes: int, done: ReadDone) -> None:
        found: list[Buffer] = []
        problem = self._attempt(lambda: found.append(self._get(offset_bytes, length_bytes)))
        self._post(done, problem, found[0] if found else b"")

    def _flush_batch(self, dones: list[Done]) -> None:
        problem = self._sync_errno
        if not problem and self._flushes:
            problem = self._sync_errno = self._attempt(lambda: os.fdatasync(self._fd))
        for done in dones:
            self._post(done, problem)

    def _meta_batch(self, calls: list[tuple[Sequence[tuple[int, bytes]], Done]]) -> None:
        # One call after the other, each durable before the next begins: the core may rely on it.
        # A later one may say that an earlier one is there: after a failure none is carried out any more.
        for blocks, done in calls:
            self._meta_errno = self._meta_errno or self._attempt(self._meta_put, blocks)
            self._post(done, self._meta_errno)

    def _meta_put(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        fd, runs = self._meta.fd, merge_runs(blocks)
        each = os.RWF_DSYNC if self._md_flushes and len(runs) <= META_SYNC_EACH else 0
        for number, (offset_bytes, data) in enumerate(runs):
            if self._md_flushes and not each and number == len(runs) - 1:
                os.fdatasync(fd)  # the last block is often the one that says that the others are there
                each = os.RWF_DSYNC
            _write_all(fd, data, offset_bytes, each)

    # ---- below

    def _check(self, offset_bytes: int, length_bytes: int) -> None:
        if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > self._limit:
            raise OutsideData(f"{length_bytes} bytes at {offset_bytes}: outside the data area of {self._limit} bytes")

    def _was_slow(self) -> None:
        self.slow_writes += 1
        self._mean_s = 0.0
        self._slow_until = time.monotonic() + SLOW_PERIOD_S

    def _attempt(self, call: Callable[..., Any], *args: Any) -> int:
        """Run a job's call; 0 or its errno. Its descriptors stay open meanwhile, whatever `close` does.

        Otherwise a call that was stuck could go on in whatever file got the number next.
        """
        held = (self._data, self._buffered, self._meta)
        try:
            call(*args)
        except OSError as error:
            return error.errno or errno.EIO
        finally:
            del held
        return 0

    def _write_rest(self, offset_bytes: int, data: Buffer, written: int) -> None:
        if written <= 0:
            raise OSError(errno.ENOSPC, "nothing written")
        _write_all(self._fd, memoryview(data)[written:], offset_bytes + written, 0)

    def _put(self, offset_bytes: int, data: Buffer, flags: int) -> None:
        if not self._direct or offset_bytes % DIRECT_ALIGN_BYTES or len(data) % DIRECT_ALIGN_BYTES:
            _write_all(self._buffered.fd, data, offset_bytes, flags)
            return
        aligned = self._aligned(len(data))
        aligned[:] = data
        _write_all(self._fd, aligned, offset_bytes, flags)

    def _get(self, offset_bytes: int, length_bytes: int) -> Buffer:
        if self._direct and not offset_bytes % DIRECT_ALIGN_BYTES and not length_bytes % DIRECT_ALIGN_BYTES:
            aligned = self._aligned(length_bytes)
            if os.preadv(self._fd, [aligned], offset_bytes) != length_bytes:
                raise OSError(errno.EIO, "short read")
            return bytes(aligned)
        data = os.pread(self._buffered.fd, length_bytes, offset_bytes)
        while len(data) < length_bytes:
            more = os.pread(self._buffered.fd, length_bytes - len(data), offset_bytes + len(data))
            if not more:
                raise OSError(errno.EIO, "the backing device became shorter")
            data += more
        return data

    def _aligned(self, length_bytes: int) -> memoryview:
        """This thread's page-aligned buffer."""
        area: mmap.mmap | None = getattr(self._buffers, "area", None)
        if area is None or len(area) < length_bytes:
            area = self._buffers.area = mmap.mmap(-1, max(length_bytes, 1 << 20))
        return memoryview(area)[:length_bytes]


def _write_all(fd: int, data: Buffer, offset_bytes: int, flags: int) -> None:
    """pwritev until everything is there; a write that gets nowhere is ENOSPC."""
    left = memoryview(data)
    while left:
        written = os.pwritev(fd, [left], offset_bytes, flags) if flags else os.pwrite(fd, left, offset_bytes)
        if written <= 0:
            raise OSError(errno.ENOSPC, "nothing written")
        left = left[written:]
        offset_bytes += written


def merge_runs(blocks: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Join neighbours that follow each other in the list and on the disk; the order stays."""
    runs: list[tuple[int, list[bytes], int]] = []
    for offset_bytes, data in blocks:
        if runs and runs[-1][2] == offset_bytes:
            start, parts, _ = runs[-1]
            parts.append(data)
            runs[-1] = (start, parts, offset_bytes + len(data))
        else:
            runs.append((offset_bytes, [data], offset_bytes + len(data)))
    return [(start, b"".join(parts)) for start, parts, _ in runs]
