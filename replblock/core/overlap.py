# SPDX-License-Identifier: GPL-2.0-or-later
"""Which byte ranges of the device are busy, and who waits for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

ON_DISK = ("local", "waiting")
"""Kinds of ranges that are written here or soon will be: "local" is with the disk, "waiting" is not yet."""
REGION_BYTES_LOG2 = 21
"""A range is filed under each 2 MiB region it touches; requests of at most 4 MiB touch at most three."""


class Busy:
    """One busy range [start, end) in bytes and what shall run when it is free."""

    __slots__ = ("blockers", "end", "start", "waiters", "why")

    def __init__(self, start: int, end: int, why: str) -> None:
        self.blockers = 0
        """How many earlier ranges this one stands in line behind."""
        self.start = start
        self.end = end
        self.why = why
        self.waiters: list[Callable[[], None]] = []


class BusyRanges:
    """A small interval index; cheap when empty, which it nearly always is on the write path."""

    __slots__ = ("_regions", "count")

    def __init__(self) -> None:
        self._regions: dict[int, list[Busy]] = {}
        self.count = 0

    def add(self, start: int, end: int, why: str) -> Busy:
        """Mark [start, end) busy. Ranges may overlap; who cares asks `find` first."""
        busy = Busy(start, end, why)
        for region in range(start >> REGION_BYTES_LOG2, ((end - 1) >> REGION_BYTES_LOG2) + 1):
            self._regions.setdefault(region, []).append(busy)
        self.count += 1
        return busy

    def find(self, start: int, end: int, why: str | None = None) -> Busy | None:
        """A busy range that overlaps [start, end), or None. `why` restricts to one kind."""
        if not self.count:
            return None
        for region in range(start >> REGION_BYTES_LOG2, ((end - 1) >> REGION_BYTES_LOG2) + 1):
            for busy in self._regions.get(region, ()):
                if busy.start < end and start < busy.end and (why is None or busy.why == why):
                    return busy
        return None

    def queue(
        self, start: int, end: int, why: str, begin: Callable[[Busy], None], behind: tuple[str, ...] | None = None
    ) -> bool:
        """Stand in line behind every busy range that overlaps, of the kinds `behind` or of any.

        False: nothing is in the way, and nothing was entered. True: the range is busy from now on, so that whoever
        comes later keeps behind it, and `begin(entry)` is called when all ranges before it are free.
        """
        blockers: list[Busy] = []
        for region in range(start >> REGION_BYTES_LOG2, ((end - 1) >> REGION_BYTES_LOG2) + 1):
            for busy in self._regions.get(region, ()):
                if busy.start < end and start < busy.end and (behind is None or busy.why in behind):
                    if busy not in blockers:
                        blockers.append(busy)
        if not blockers:
            return False
        entry = self.add(start, end, why)
        entry.blockers = len(blockers)
        for busy in blockers:
            busy.waiters.append(partial(_one_less, entry, begin))
        return True

    def free(self, busy: Busy) -> None:
        """The range is free again; whoever waited for it runs now, in order of arrival."""
        for region in range(busy.start >> REGION_BYTES_LOG2, ((busy.end - 1) >> REGION_BYTES_LOG2) + 1):
            entries = self._regions[region]
            entries.remove(busy)
            if not entries:
                del self._regions[region]
        self.count -= 1
        waiters, busy.waiters = busy.waiters, []
        for waiter in waiters:
            waiter()


def _one_less(entry: Busy, begin: Callable[[Busy], None]) -> None:
    entry.blockers -= 1
    if not entry.blockers:
        begin(entry)
