# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk over real files: limits, durability calls as strace would see them, claims, errors."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from replblock.core.host import PENDING
from replblock.engine import disk as disk_module
from replblock.engine.backing import DiskError, lock_range, open_backing
from replblock.engine.disk import FileDisk, OutsideData, merge_runs
from tests.engine.fakes import make_disk


class Loop:
    """Runs what the workers post, in the test's thread."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        self.queue.put((call, args))

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            call, args = self.queue.get(timeout=20)
            call(*args)

    def wait(self, begin: Callable[[Callable[..., None]], Any]) -> tuple[Any, ...]:
        """Begin something with a `done` and return what it got."""
        got: list[tuple[Any, ...]] = []
        begin(lambda *args: got.append(args))
        self.until(lambda: bool(got))
        return got[0]


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture(params=["buffered", "direct"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, loop: Loop) -> Iterator[FileDisk]:
    try:
        made = make_disk(tmp_path / "disk", loop.post, direct=request.param == "direct")
    except DiskError as error:
        pytest.skip(f"the kernel or file system here lacks it: {error.detail}")
    yield made
    made.close()


def write(disk: FileDisk, loop: Loop, offset: int, data: bytes) -> int:
    got: list[int] = []
    result = disk.write(offset, data, got.append)
    if result == PENDING:
        loop.until(lambda: bool(got))
        return got[0]
    return result


def read(disk: FileDisk, loop: Loop, offset: int, length: int) -> bytes:
    got: list[tuple[int, Any]] = []
    result = disk.read(offset, length, lambda errno, data: got.append((errno, data)))
    if isinstance(result, int):
        loop.until(lambda: bool(got))
        assert got[0][0] == 0
        return bytes(got[0][1])
    return bytes(result)


def test_what_is_written_is_read_back(disk: FileDisk, loop: Loop, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    assert write(disk, loop, 0, data) == 0
    assert write(disk, loop, 512, b"x" * 512) == 0
    assert read(disk, loop, 0, 1 << 20) == data[:512] + b"x" * 512 + data[1024:]
    assert loop.wait(lambda done: disk.write_fua(4096, b"y" * 4096, done)) == (0,)
    assert loop.wait(disk.flush) == (0,)
    assert (tmp_path / "disk").read_bytes()[4096:8192] == b"y" * 4096


def test_nothing_is_ever_written_outside_the_data_area(disk: FileDisk, loop: Loop) -> None:
    """Invariant 10: the bitmap begins where the data area ends."""
    limit = disk.data_sectors * 512
    assert limit < os.path.getsize(disk.path)
    before = Path(disk.path).read_bytes()[limit:]
    for offset, length in ((limit - 512, 1024), (limit, 512), (-512, 512), (1 << 62, 512)):
        with pytest.raises(OutsideData):
            disk.write(offset, bytes(length), print)
        with pytest.raises(OutsideData):
            disk.write_fua(offset, bytes(length), print)
        with pytest.raises(OutsideData):
            disk.zero(offset, length, True, print)
    assert write(disk, loop, limit - 512, b"z" * 512) == 0
    assert Path(disk.path).read_bytes()[limit:] == before


def test_metadata_never_goes_into_the_data_area(disk: FileDisk) -> None:
    start, end = disk.geometry.start_bytes, disk.geometry.end_bytes
    for offset in (start - 4096, start - 512, end - 512, 0):
        with pytest.raises(OutsideData):
            disk.meta_write([(offset, bytes(4096))], print)


@pytest.mark.parametrize("may_punch", [True, False])
def test_zeroing_zeroes_that_range_only(disk: FileDisk, loop: Loop, may_punch: bool) -> None:
    data = os.urandom(64 << 10)
    assert write(disk, loop, 0, data) == 0
    assert loop.wait(lambda done: disk.zero(4096, 8192, may_punch, done)) == (0,)
    assert read(disk, loop, 0, 64 << 10) == data[:4096] + bytes(8192) + data[12288:]


def test_zeroing_without_fallocate_writes_zeroes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from replblock.engine import zeroing

    class NoFallocate:
        def fallocate(self, *args: int) -> int:
            zeroing.ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(zeroing, "_libc", NoFallocate())
    path = tmp_path / "plain"
    path.write_bytes(b"x" * (3 << 20))
    with open(path, "r+b") as file:
        zeroing.zero_range(file.fileno(), 512, (2 << 20) + 512, may_punch=True)
    assert path.read_bytes() == b"x" * 512 + bytes((2 << 20) + 512) + b"x" * ((1 << 20) - 1024)


def test_flushes_that_wait_together_share_one_fdatasync_that_began_later(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered = threading.Semaphore(0), threading.Semaphore(0)
    calls: list[int] = []

    def slow(fd: int) -> None:
        calls.append(fd)
        entered.release()
        gate.acquire()

    monkeypatch.setattr(disk_module.os, "fdatasync", slow)
    disk = make_disk(tmp_path / "disk", loop.post)
    done: list[str] = []
    disk.flush(lambda errno: done.append("first"))
    entered.acquire()
    for _ in range(50):
        disk.flush(lambda errno: done.append("later"))
    gate.release()
    loop.until(lambda: bool(done))
    assert done == ["first"]  # the fdatasync under way covers none of the later ones
    gate.release()
    loop.until(lambda: len(done) == 51)
    assert len(calls) == 2
    disk.close()


def test_a_failed_fdatasync_is_not_tried_again(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports lost dirty pages once; a second, successful fdatasync would be a lie."""
    calls: list[int] = []

    def fails_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(disk_module.os, "fdatasync", fails_once)
    disk = make_disk(tmp_path / "disk", loop.post)
    assert loop.wait(disk.flush) == (errno.EIO,)
    assert loop.wait(disk.flush) == (errno.EIO,)
    assert loop.wait(lambda done: disk.write_fua(0, bytes(4096), done)) == (errno.EIO,)
    assert len(calls) == 1
    disk.close()


def test_after_a_failed_metadata_write_no_later_one_is_carried_out(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A superblock that says "the bitmap is there" must not follow a bitmap that could not be written."""
    write_all, failures = disk_module._write_all, [errno.EIO]

    def fails_once(*args: Any) -> None:
        if failures:
            raise OSError(failures.pop(), "lost")
        write_all(*args)

    monkeypatch.setattr(disk_module, "_write_all", fails_once)
    disk = make_disk(tmp_path / "disk", loop.post)
    start = disk.geometry.start_bytes
    before = disk.meta_read(start, 8192)
    assert loop.wait(lambda done: disk.meta_write([(start, b"a" * 4096)], done)) == (errno.EIO,)
    assert loop.wait(lambda done: disk.meta_write([(start + 4096, b"b" * 4096)], done)) == (errno.EIO,)
    assert not failures and disk.meta_read(start, 8192) == before
    disk.close()


def test_disk_flushes_no_means_no_fdatasync(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module.os, "fdatasync", lambda fd: pytest.fail("fdatasync"))
    disk = make_disk(tmp_path / "disk", loop.post, disk_flushes=False, md_flushes=False)
    assert loop.wait(disk.flush) == (0,)
    start = disk.geometry.start_bytes
    blocks = [(start + 8192 * number, bytes(4096)) for number in range(4)]
    assert loop.wait(lambda done: disk.meta_write(blocks, done)) == (0,)
    disk.close()


def test_slow_writes_leave_the_callers_thread_for_a_while(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        now[0] += 0.100 if threading.current_thread() is threading.main_thread() else 0
        return real(fd, data, offset)

    monkeypatch.setattr(disk_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(disk_module.os, "pwrite", pwrite)
    disk = make_disk(tmp_path / "disk", loop.post)
    got: list[int] = []
    assert disk.write(0, bytes(4096), got.append) == 0  # made inline, and it took 100 ms
    assert disk.write(0, bytes(4096), got.append) == PENDING
    loop.until(lambda: got == [0])
    now[0] += disk_module.SLOW_PERIOD_S
    assert disk.write(0, bytes(4096), got.append) == 0
    disk.close()


def test_metadata_is_written_in_order_and_durably(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []
    real = os.pwritev

    def pwritev(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        seen.append((offset, sum(map(len, buffers)), flags))
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(disk_module.os, "pwritev", pwritev)
    disk = make_disk(tmp_path / "disk", loop.post)
    start = disk.geometry.start_bytes
    done: list[int] = []
    disk.meta_write([(start + 4096, b"a" * 4096), (start + 8192, b"b" * 4096)], lambda errno: done.append(1))
    again = [(start, b"c" * 4096), (start + 4096, b"d" * 4096), (start, b"e" * 4096)]
    disk.meta_write(again, lambda errno: done.append(2))
    loop.until(lambda: len(done) == 2)
    assert done == [1, 2]
    assert seen == [(start + 4096, 8192, os.RWF_DSYNC), (start, 8192, os.RWF_DSYNC), (start, 4096, os.RWF_DSYNC)]
    assert disk.meta_read(start, 12288) == b"e" * 4096 + b"d" * 4096 + b"b" * 4096
    disk.close()


def test_many_scattered_blocks_are_synced_before_the_last_one(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real, real_sync = os.pwritev, os.fdatasync
    monkeypatch.setattr(disk_module, "META_SYNC_EACH", 2)
    monkeypatch.setattr(disk_module.os, "fdatasync", lambda fd: (order.append("sync"), real_sync(fd))[1])
    monkeypatch.setattr(disk_module.os, "pwritev", lambda *args: (order.append("durable"), real(*args))[1])
    disk = make_disk(tmp_path / "disk", loop.post)
    start = disk.geometry.start_bytes
    blocks = [(start + 8192 * number, bytes([number]) * 4096) for number in range(4)]
    assert loop.wait(lambda done: disk.meta_write(blocks, done)) == (0,)
    assert order == ["sync", "durable"]
    assert all(disk.meta_read(offset, 4096) == data for offset, data in blocks)
    disk.close()


def test_neighbours_are_joined_and_overlaps_keep_their_order() -> None:
    assert merge_runs([(0, b"a"), (1, b"b"), (5, b"c"), (2, b"d"), (3, b"e")]) == [(0, b"ab"), (5, b"c"), (2, b"de")]


# ---- claims and errors


def test_a_second_engine_cannot_have_the_same_file(tmp_path: Path, loop: Loop) -> None:
    disk = make_disk(tmp_path / "disk", loop.post)
    with pytest.raises(DiskError, match=r"\(114\) Lower device is already claimed"):
        open_backing(str(tmp_path / "disk"))
    disk.close()
    open_backing(str(tmp_path / "disk"))


@pytest.mark.parametrize(("make", "pattern"), [
    (lambda path: None, r"\(104\) Can not open backing device\. .*there is no such file"),
    (lambda path: path.mkdir(), r"\(104\) .*neither a block device nor a file"),
    (lambda path: os.mkfifo(path), r"\(104\) .*neither a block device nor a file"),
])  # fmt: skip
def test_a_disk_that_cannot_be_is_named_with_the_reason(tmp_path: Path, make: Any, pattern: str) -> None:
    make(tmp_path / "disk")
    with pytest.raises(DiskError, match=pattern):
        open_backing(str(tmp_path / "disk"))


def test_two_indexes_of_one_metadata_device_are_claimed_separately(tmp_path: Path) -> None:
    path = str(tmp_path / "meta")
    Path(path).write_bytes(bytes(4096))
    one, two, three = (open_backing(path, is_meta=True, shared=True) for _ in range(3))
    lock_range(one, path, 0, 1024)
    lock_range(two, path, 1024, 1024)
    with pytest.raises(DiskError, match="another engine uses this index"):
        lock_range(three, path, 1024, 1024)


def test_a_full_file_system_is_an_errno(tmp_path: Path, loop: Loop) -> None:
    disk = make_disk(tmp_path / "disk", loop.post)
    full = os.open("/dev/full", os.O_RDWR)
    fd, disk._fd = disk._fd, full
    assert disk.write(0, bytes(4096), lambda errno: None) == errno.ENOSPC
    disk._fd = fd
    os.close(full)
    disk.close()


def test_a_direct_read_may_outlive_the_detach(tmp_path: Path, loop: Loop) -> None:
    disk = make_disk(tmp_path / "disk", loop.post)
    assert write(disk, loop, 0, b"k" * 512) == 0
    held = disk.descriptor
    assert held is not None
    disk.close()
    assert disk.descriptor is None
    assert os.pread(held.fd, 512, 0) == b"k" * 512
    number = held.fd
    del held
    with pytest.raises(OSError):
        fcntl.fcntl(number, fcntl.F_GETFD)


def test_a_block_device_is_opened_exclusively(tmp_path: Path) -> None:
    """Checked on the flags: block devices need root."""
    flags: list[int] = []

    class Seen(Exception):
        pass

    def fake_open(path: str, wanted: int) -> int:
        flags.append(wanted)
        raise OSError(errno.EBUSY, "busy")

    from replblock.engine import backing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backing.os, "open", fake_open)
        patch.setattr(backing.stat, "S_ISBLK", lambda mode: True)
        with pytest.raises(DiskError, match="already claimed"):
            open_backing(str(tmp_path))
    assert flags[0] & os.O_EXCL
