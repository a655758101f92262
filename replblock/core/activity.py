# SPDX-License-Identifier: GPL-2.0-or-later
"""The activity log of a running node: which 4 MiB extents may be written now.

A write may begin only when its extents are hot, that is: named by the activity log on disk. After a crash the
hot extents, and only they, are taken as different. An extent may leave the log only when all its writes are on
this disk and covered by a barrier ack, and when its bitmap blocks are on disk (DRBD 8.4 activity log, writing rules).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from replblock.core.metastore import MetaStore
from replblock.meta.activity_log import (
    CONTEXT_PER_BLOCK,
    UPDATES_PER_BLOCK,
    initialized_block,
    pack_transaction,
    position,
)
from replblock.meta.geometry import Geometry

EXTENT_BYTES_LOG2 = 22
FREE_SLOT = 0xFFFFFFFF
EVICT_AHEAD = 32
"""Extents evicted at once when the log is full: each eviction costs a flush, so it is shared."""
BITS_PER_BITMAP_BLOCK_LOG2 = 15
BITS_PER_EXTENT_LOG2 = 10

Start = Callable[[], None]


class Pins(Protocol):
    """Who knows which extents still have writes under way."""

    def pinned(self, extent: int) -> bool: ...

    def unpin_soon(self, retry: Callable[[], None]) -> None:
        """Ask for the open epoch to be finished; `retry` is called when extents may have become free."""


class ActivityLog:
    """Hot extents in memory and on disk. `commit` is called once per wake-up: many extents share a transaction."""

    def __init__(self, store: MetaStore, slots: int, pins: Pins, failed: Callable[[int, str], None]) -> None:
        self._store = store
        self._pins = pins
        self._failed = failed
        self._context = [FREE_SLOT] * slots
        self._free = list(range(slots - 1, -1, -1))
        self._number = 0
        self._context_start = 0
        self._waiting: deque[tuple[int, int, Start]] = deque()
        self._busy = False
        self._gone = False
        self.disabled = False
        """al-updates no: everything counts as hot, a crash means a full resync."""
        self.hot: dict[int, int] = {}
        """Extent → slot, least recently used first as far as `touch` was called."""
        self.transactions = 0

    def covers(self, first: int, last: int) -> bool:
        """True if a write to extents first..last may begin now."""
        hot = self.hot
        return self.disabled or all(extent in hot for extent in range(first, last + 1))

    def want(self, first: int, last: int, start: Start) -> None:
        """Call `start` as soon as the extents are hot; the transaction leaves at the end of the wake-up."""
        if last - first >= len(self._context):
            raise ValueError(f"extents {first}..{last} do not fit an activity log of {len(self._context)}")
        self._waiting.append((first, last, start))

    def touch(self, extents: set[int]) -> None:
        """These were used lately: evict others first."""
        hot = self.hot
        for extent in extents:
            slot = hot.pop(extent, None)
            if slot is not None:
                hot[extent] = slot

    def forget_waiting(self) -> list[Start]:
        """The disk is gone: hand back what waited. Nothing is written any more."""
        self._gone = True
        waiting, self._waiting = self._waiting, deque()
        return [start for _, _, start in waiting]

    @property
    def busy(self) -> bool:
        """A transaction or an eviction is under way, or something waits for one."""
        return self._busy or bool(self._waiting)

    def commit(self) -> None:
        """Make hot what the waiting writes need, as much as one transaction holds."""
        if self._busy or not self._waiting or self._gone:
            return
        batch: set[int] = set()
        wanted: dict[int, None] = {}
        for first, last, _ in self._waiting:
            extents = range(first, last + 1)
            missing = [e for e in extents if e not in self.hot and e not in wanted]
            if len(missing) > UPDATES_PER_BLOCK and not batch:
                missing = missing[:UPDATES_PER_BLOCK]  # the rest with the next transaction
            if len(wanted) + len(missing) > UPDATES_PER_BLOCK or len(batch.union(extents)) > len(self._context):
                break
            batch.update(extents)
            wanted.update(dict.fromkeys(missing))
        if not wanted:
            self._release()
            return
        self._busy = True
        if len(self._free) >= len(wanted):
            self._write([(self._free.pop(), extent) for extent in wanted])
            return
        needed = len(wanted) - len(self._free)
        victims = []
        for extent in self.hot:
            if extent not in batch and not self._pins.pinned(extent):
                victims.append(extent)
                if len(victims) == needed + EVICT_AHEAD:
                    break
        if len(victims) < needed:
            self._pins.unpin_soon(self.go_on)
        else:
            self._evict(victims, list(wanted))

    def hold(self) -> None:
        """No transaction before `go_on`: the log on the disk is still the one of the last engine."""
        self._busy = True

    def go_on(self) -> None:
        """It may be written again."""
        self._busy = False
        self.commit()

    def moved(self, g: Geometry) -> list[bytes]:
        """All blocks of a log that begins anew in another place, and names what the old one does.

        A transaction that is on its way to the old place is in it: until the new superblock is durable the old log
        counts, and from then on this one.
        """
        blocks = [initialized_block()] * (g.al_stripes * g.al_stripe_size_4k)
        context = self._context
        self._number = self._context_start = 0
        for start in range(0, len(context), CONTEXT_PER_BLOCK):
            block = pack_transaction(self._number, [], start, context[start : start + CONTEXT_PER_BLOCK], len(context))
            blocks[position(self._number, g.al_stripes, g.al_stripe_size_4k)] = block
            self._number += 1
        return blocks

    def _evict(self, victims: list[int], wanted: list[int]) -> None:
        """Data before bitmap before log: only then is the extent's state told without the log.

        The victims are cold at once: a write that begins after the flush did must make them hot again first.
        """
        freed = [self.hot.pop(extent) for extent in victims]

        def flushed(errno: int) -> None:
            if errno or self._gone:
                self._fail(errno, "flushing before the activity log forgets an extent")
                return
            first = BITS_PER_BITMAP_BLOCK_LOG2 - BITS_PER_EXTENT_LOG2
            self._store.save_bitmap(bits_on_disk, {extent >> first for extent in victims})

        def bits_on_disk(errno: int) -> None:
            if errno or self._gone:
                self._fail(errno)
                return
            updates = []
            for extent in wanted:
                slot = self._free.pop() if self._free else freed.pop()
                updates.append((slot, extent))
            room = UPDATES_PER_BLOCK - len(updates)
            # slots that were freed ahead are cleared on disk too, as far as the transaction has room; a slot that
            # still names a cold extent only makes a crash resync a little more
            updates += [(slot, FREE_SLOT) for slot in freed[:room]]
            self._free += freed
            self._write(updates)

        self._store.flush(flushed)

    def _write(self, updates: list[tuple[int, int]]) -> None:
        number = self._number
        self._number = (number + 1) & 0xFFFFFFFF
        start = self._context_start
        window = self._context[start : start + CONTEXT_PER_BLOCK]
        block = pack_transaction(number, updates, start, window, len(self._context))
        self._context_start = start + CONTEXT_PER_BLOCK if start + CONTEXT_PER_BLOCK < len(self._context) else 0
        for slot, extent in updates:
            self._context[slot] = extent
        g = self._store.geometry
        where = g.al_offset_bytes + 4096 * position(number, g.al_stripes, g.al_stripe_size_4k)
        self.transactions += 1

        def written(errno: int) -> None:
            if errno or self._gone:
                self._fail(errno)
                return
            for slot, extent in updates:
                if extent != FREE_SLOT:
                    self.hot[extent] = slot
            self._busy = False
            self._release()

        self._store.disk.meta_write([(where, block)], written)

    def _release(self) -> None:
        """Start what is covered now, in order of arrival; the rest goes into the next transaction."""
        waiting, self._waiting = self._waiting, deque()
        for first, last, start in waiting:
            if self.covers(first, last):
                start()
            else:
                self._waiting.append((first, last, start))
        self.commit()

    def _fail(self, errno: int, what: str = "writing the activity log") -> None:
        self._busy = False
        if not self._gone:
            self._failed(errno, what)
