# SPDX-License-Identifier: GPL-2.0-or-later
"""Named one-shot timers: a heap whose cancelled entries are thrown away when they come up."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

MAX_STALE = 1024  # a timer re-armed at every write must not grow the heap without bound


class Timers:
    """Times are milliseconds of a monotonic clock. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable]] = []
        self._live: dict[Hashable, int] = {}
        self._serial = 0

    def set(self, name: Hashable, deadline_ms: int | None) -> None:
        """(Re)arm `name`, or disarm it with None."""
        if deadline_ms is None:
            self._live.pop(name, None)
            return
        self._serial += 1
        self._live[name] = self._serial
        heapq.heappush(self._heap, (deadline_ms, self._serial, name))
        if len(self._heap) > MAX_STALE + 2 * len(self._live):
            self._heap = [entry for entry in self._heap if self._live.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def next_ms(self) -> int | None:
        """Deadline of the earliest live timer."""
        heap, live = self._heap, self._live
        while heap and live.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now_ms: int) -> Hashable | None:
        """The earliest timer whose time has come, disarmed; one at a time, because it may disarm the next."""
        deadline = self.next_ms()
        if deadline is None or deadline > now_ms:
            return None
        name = heapq.heappop(self._heap)[2]
        del self._live[name]
        return name

    def __len__(self) -> int:
        return len(self._live)
