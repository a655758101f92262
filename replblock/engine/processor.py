# SPDX-License-Identifier: GPL-2.0-or-later
"""One processor for the threads that serve clients: nbdkit's workers and the loop share one interpreter.

Only one of them runs Python at a time, so more processors give them nothing, and handing the interpreter (and every
answer) to a thread on another processor costs a wake-up there: 4 KiB writes at depth 16 are twice as quick on one.
Kernel DRBD does the same by default (all threads of a resource on one processor). Threads that only wait for the disk
stay free. The seats move when other programs want the processor and another one is idler.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

LOOK_MS = 1000
MOVE_FOR_SHARE = 0.25
"""Move when so much more of a processor's time would be ours there: less is not worth the cold caches."""
STAT = Path("/proc/stat")

_current_processor = ctypes.PyDLL(None).sched_getcpu


def choose(current: int, busy: Mapping[int, float], own: float) -> int:
    """Where to sit, given each processor's busy share of the last while (0 to 1) and what of `current`'s was ours."""
    others = max(0.0, busy.get(current, 0.0) - own)
    best = min(busy, key=lambda processor: (busy[processor], processor), default=current)
    return best if others - busy.get(best, others) > MOVE_FOR_SHARE else current


def busy_shares(before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]]) -> dict[int, float]:
    """Processor → busy share between two samples."""
    shares = {}
    for processor, (busy, total) in after.items():
        busy_before, total_before = before.get(processor, (busy, total))
        if total > total_before:
            shares[processor] = (busy - busy_before) / (total - total_before)
    return shares


def sample(path: Path = STAT) -> dict[int, tuple[int, int]]:
    """Processor → (busy, total) ticks since boot; empty where the kernel does not say."""
    found = {}
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and len(fields) >= 5:
            ticks = [int(field) for field in fields[:8]]
            found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def stand_up() -> None:
    """First thing in a thread that works by itself: whoever began it may be seated, and seats are inherited.

    Also by processes: a handler's script must not be bound to one processor for ever.
    """
    if os.sched_getscheduler(0) == os.SCHED_BATCH and _everywhere:
        _seat(0, _everywhere, os.SCHED_BATCH, os.SCHED_OTHER)


_everywhere: set[int] = set()
"""The processors this process may use; known from the first Seats on."""


class Seats:
    """The threads that sit together, and where. `take` and `leave` may be called from any thread.

    SCHED_BATCH: a thread that is woken waits until the one that woke it is through, which on one processor is what a
    loop that answers many requests wants; measured quicker also beside programs that use all processors.
    """

    def __init__(self, look: Callable[[int | None, Callable[[], None]], None] = lambda delay_ms, call: None) -> None:
        self._look_in = look
        """Call back after so many ms; None: no more."""
        self._lock = threading.Lock()
        self._free = os.sched_getaffinity(0)
        """The processors this process may use (`cpu-mask`, or whoever started it, said which)."""
        _everywhere.update(self._free)
        self._threads: set[int] = set()
        self._before: dict[int, tuple[int, int]] = {}
        self._own_before = (0.0, 0.0)
        self.processor: int | None = None
        """Where the threads sit; None while they are free."""

    def take(self, *threads: int) -> None:
        """Seat threads (native ids) with the others; the first ones choose the processor they run on."""
        with self._lock:
            if self.processor is None:
                if len(self._free) < 2:
                    return
                here = _current_processor()
                self.processor = here if here in self._free else min(self._free)
                self._remember()
                self._look_in(LOOK_MS, self.look)
            for thread in threads:
                if thread not in self._threads and _seat(thread, {self.processor}, os.SCHED_OTHER, os.SCHED_BATCH):
                    self._threads.add(thread)

    def leave(self, *threads: int) -> None:
        """These threads have ended."""
        with self._lock:
            self._threads.difference_update(threads)

    def clear(self) -> None:
        """No more clients: who still lives goes where it likes."""
        with self._lock:
            for thread in self._threads:
                _seat(thread, self._free, os.SCHED_BATCH, os.SCHED_OTHER)
            self._threads.clear()
            if self.processor is not None:
                self.processor = None
                self._look_in(None, self.look)

    def look(self) -> None:
        """Once in a while: is there a better place?"""
        with self._lock:
            if self.processor is None:
                return
            before, (cpu_before, wall_before) = self._before, self._own_before
            self._remember()
            cpu_s, wall_s = self._own_before
            own = (cpu_s - cpu_before) / max(wall_s - wall_before, 1e-3)
            busy = busy_shares(before, self._before)
            best = choose(self.processor, {n: share for n, share in busy.items() if n in self._free}, own)
            if best != self.processor:
                self.processor = best
                for thread in list(self._threads):
                    if not _seat(thread, {best}, os.SCHED_BATCH, os.SCHED_BATCH):
                        self._threads.discard(thread)
            self._look_in(LOOK_MS, self.look)

    def _remember(self) -> None:
        self._before, self._own_before = sample(), (time.process_time(), time.monotonic())


def _seat(thread: int, processors: set[int], policy: int, new_policy: int) -> bool:
    """False if there is no such thread any more, or the system forbids it. A policy somebody else chose stays."""
    try:
        os.sched_setaffinity(thread, processors)
        if os.sched_getscheduler(thread) == policy != new_policy:
            os.sched_setscheduler(thread, new_policy, os.sched_param(0))
    except OSError:
        return False
    return True
