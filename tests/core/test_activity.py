# SPDX-License-Identifier: GPL-2.0-or-later
"""The running activity log: order of eviction, sharing of transactions, and what it does when the disk fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest

from replblock.core.activity import ActivityLog
from replblock.core.metastore import MetaStore
from replblock.meta.activity_log import replay
from replblock.meta.geometry import internal
from replblock.meta.superblock import Superblock

SIZE_SECTORS = 400 << 11


class Recorder:
    """A disk that notes every call and answers when it is told to."""

    def __init__(self) -> None:
        self.device_sectors = SIZE_SECTORS
        self.geometry = internal(SIZE_SECTORS)
        self.data_sectors = self.geometry.data_sectors
        self.calls: list[str] = []
        self.blocks: dict[int, bytes] = {}
        self.waiting: list[Callable[[], None]] = []
        self.flush_errno = 0

    def flush(self, done: Callable[[int], None]) -> None:
        self.calls.append("flush")
        self.waiting.append(lambda: done(self.flush_errno))

    def meta_write(self, blocks: Sequence[tuple[int, bytes]], done: Callable[[int], None]) -> None:
        g = self.geometry
        bitmap = range(g.bm_offset_bytes, g.bm_offset_bytes + g.bm_size_bytes)
        kinds = {"bitmap" if at in bitmap else "log" for at, _ in blocks}
        self.calls.append("+".join(sorted(kinds)) or "nothing")

        def durable() -> None:
            self.blocks.update(blocks)
            done(0)

        self.waiting.append(durable)

    def answer(self) -> None:
        """Everything that waits is answered, and what that causes, too."""
        while self.waiting:
            self.waiting.pop(0)()


class Pins:
    def __init__(self) -> None:
        self.extents: set[int] = set()
        self.retries: list[Callable[[], None]] = []

    def pinned(self, extent: int) -> bool:
        return extent in self.extents

    def unpin_soon(self, retry: Callable[[], None]) -> None:
        self.retries.append(retry)


class Bench:
    def __init__(self, slots: int = 2) -> None:
        self.disk = Recorder()
        self.pins = Pins()
        self.failures: list[int] = []
        self.started: list[int] = []
        failed = self.failures.append
        self.store = MetaStore(self.disk, self.disk.geometry, Superblock(), failed)  # type: ignore[arg-type]
        self.store.bitmap.resize(self.disk.data_sectors // 8, False)
        self.store.bitmap.take_changed_blocks()
        self.log = ActivityLog(self.store, slots, self.pins, lambda errno, what: self.failures.append(errno))

    def want(self, *extents: int) -> None:
        for extent in extents:
            self.log.want(extent, extent, lambda extent=extent: self.started.append(extent))  # type: ignore[misc]
        self.log.commit()

    def on_disk(self) -> set[int]:
        g = self.disk.geometry
        area = [self.disk.blocks.get(g.al_offset_bytes + at, bytes(4096)) for at in range(0, g.al_size_bytes, 4096)]
        return set(replay(area, g.al_stripes, g.al_stripe_size_4k).extents)


def test_many_extents_share_a_transaction() -> None:
    """One transaction for all writes of a wake-up; none begins before it is durable."""
    bench = Bench(slots=8)
    bench.want(3, 5, 3, 7)
    assert bench.disk.calls == ["log"]
    assert bench.started == []
    bench.disk.answer()
    assert bench.started == [3, 5, 3, 7]
    assert bench.on_disk() == {3, 5, 7}


def test_data_before_bitmap_before_log() -> None:
    """An extent leaves the log after a flush of the data and after its bits are on disk."""
    bench = Bench()
    bench.want(0, 1)
    bench.disk.answer()
    bench.store.bitmap.set_range(10, 12)
    bench.disk.calls.clear()
    bench.want(2)
    for expected in (["flush"], ["flush", "bitmap"], ["flush", "bitmap", "log"]):
        assert bench.disk.calls == expected
        assert bench.started == [0, 1]
        bench.disk.waiting.pop(0)()
    assert bench.started == [0, 1, 2]
    assert 2 in bench.on_disk()


def test_a_victim_is_cold_from_the_start_of_its_eviction() -> None:
    """A write that comes while the flush runs is not covered by it: the extent must become hot again."""
    bench = Bench()
    bench.want(0, 1)
    bench.disk.answer()
    bench.want(2)
    assert not bench.log.covers(0, 0)
    bench.want(0)
    assert bench.started == [0, 1]
    bench.disk.answer()
    assert bench.started == [0, 1, 2, 0]
    assert {0, 2} <= bench.on_disk()


def test_pinned_extents_stay() -> None:
    """What has writes under way is not evicted; the log asks for the epoch to end and tries again."""
    bench = Bench()
    bench.want(0, 1)
    bench.disk.answer()
    bench.pins.extents = {0, 1}
    bench.disk.calls.clear()
    bench.want(2)
    assert bench.disk.calls == [] and len(bench.pins.retries) == 1
    bench.pins.extents = {0}
    bench.pins.retries.pop()()
    bench.disk.answer()
    assert bench.started == [0, 1, 2]
    assert bench.on_disk() == {0, 2}


def test_least_recently_used_goes_first() -> None:
    """`touch` keeps extents; evictions are shared, but never reach what was touched last while others are there."""
    bench = Bench(slots=40)
    bench.want(*range(40))
    bench.disk.answer()
    bench.log.touch({0, 1})
    bench.want(50)
    bench.disk.answer()
    assert bench.log.covers(0, 1) and bench.log.covers(50, 50)
    assert not bench.log.covers(2, 2)


def test_failed_flush_evicts_nothing() -> None:
    """The disk has failed then; no transaction may claim that the data is there."""
    bench = Bench()
    bench.want(0, 1)
    bench.disk.answer()
    bench.disk.flush_errno = errno.EIO
    bench.disk.calls.clear()
    bench.want(2)
    bench.disk.answer()
    assert bench.disk.calls == ["flush"] and bench.failures == [errno.EIO]
    assert bench.on_disk() == {0, 1}


def test_nothing_is_written_after_the_disk_is_gone() -> None:
    """`forget_waiting` hands back the writes; late answers of the disk change nothing."""
    bench = Bench()
    bench.want(0, 1)
    bench.disk.answer()
    bench.want(2)
    bench.disk.calls.clear()
    handed_back = bench.log.forget_waiting()
    bench.disk.answer()
    assert len(handed_back) == 1 and bench.disk.calls == [] and bench.failures == []


@pytest.mark.parametrize("slots", [2, 7])
def test_two_extents_of_one_write(slots: int) -> None:
    """A write that touches two extents begins when both are hot, even if the log holds no more."""
    bench = Bench(slots)
    bench.want(0, 1)
    bench.disk.answer()
    bench.log.want(5, 6, lambda: bench.started.append(56))
    bench.log.commit()
    bench.disk.answer()
    assert bench.started[-1] == 56
    assert {5, 6} <= bench.on_disk()


def test_cleared_bits_reach_the_disk_after_a_flush_only() -> None:
    """A crash before the flush must find the bit still set; other changes of the block are written meanwhile."""
    bench = Bench()
    store, at = bench.store, bench.disk.geometry.bm_offset_bytes
    store.bitmap.set_range(0, 8)
    store.save_bitmap()
    bench.disk.answer()
    store.clear_bits(2, 5)
    store.bitmap.set_range(20, 21)
    store.save_bitmap()
    bench.disk.waiting.pop(0)()
    assert bench.disk.blocks[at][:3] == b"\xff\x00\x10"
    store.flush(lambda errno: None)
    store.clear_bits(0, 1)      # after the flush began: not covered by it
    bench.disk.waiting.pop(0)()
    store.save_bitmap()
    bench.disk.answer()
    assert bench.disk.blocks[at][:3] == b"\xe3\x00\x10"
    store.flush(lambda errno: None)
    bench.disk.answer()
    store.save_bitmap()
    bench.disk.answer()
    assert bench.disk.blocks[at][:3] == b"\xe2\x00\x10"


def test_a_range_larger_than_a_transaction_gets_several() -> None:
    """64 extents fit one transaction; a trim of the peer may be larger, and must not be tried for ever."""
    bench = Bench(slots=100)
    bench.log.want(0, 89, lambda: bench.started.append(1))
    bench.log.want(89, 90, lambda: bench.started.append(2))
    bench.log.commit()
    bench.disk.answer()
    assert bench.started == [1, 2] and bench.disk.calls == ["log", "log"]
    assert bench.on_disk() == set(range(91))


def test_a_range_larger_than_the_log_is_refused() -> None:
    """Never hot at once: whoever asks must split it."""
    with pytest.raises(ValueError, match="do not fit"):
        Bench(slots=7).log.want(0, 7, lambda: None)
