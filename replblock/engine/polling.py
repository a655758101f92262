# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait for events: asleep, or awake for a moment where they follow each other closely.

To be woken costs a thread and whoever wakes it tens of microseconds, most of all on a virtual machine, whose sleeping
processor has to be asked back from the host. Of a write that is alone on its way (depth 1) that is more than half the
time. So while events come quickly the loop keeps looking for the next one, as qemu's `poll-max-ns` and the kernel's
`halt_poll_ns` do, and lets everybody else have the processor between two looks.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

QUICK_WAITS = 8
QUICK = 2
"""So many sleeps in a row, none longer than so many times `longest_us`, and looking is tried: where the peer does the
same, what is waited for comes earlier, too. A look in vain begins the count again."""
PAUSE_MIN_NS, PAUSE_MAX_NS = 10_000_000, 1_000_000_000
"""Without a look after the processor was somebody else's meanwhile: who has work for it goes before who only looks, and
who yields to such a program waits for a whole turn of it. Doubled if it happens again soon (within so many pauses):"""
SOON_PAUSES = 8


class Polling:
    """Waits in one thread; `longest_us` may be set from any."""

    __slots__ = ("_clock_ns", "_not_before_ns", "_pause_ns", "_quick", "longest_us")

    def __init__(self, longest_us: int = 0, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.longest_us = longest_us
        """How long to look for events before sleeping; 0: never look."""
        self._clock_ns = clock_ns
        self._quick = 0
        self._not_before_ns = 0
        self._pause_ns = PAUSE_MIN_NS

    def wait(self, poll: select.epoll, timeout_s: float | None, most: int) -> list[tuple[int, int]]:
        """Events, after `timeout_s` and the time of one look at the latest. Raises OSError like epoll."""
        longest_ns = self.longest_us * 1000
        if not longest_ns:
            return poll.poll(timeout_s, most)
        clock_ns = self._clock_ns
        began_ns = clock_ns()
        if self._quick < QUICK_WAITS:
            events = poll.poll(timeout_s, most)
            quick = clock_ns() - began_ns < QUICK * longest_ns and began_ns > self._not_before_ns
            self._quick = self._quick + 1 if quick else 0
            return events
        look, until_ns = poll.poll, began_ns + longest_ns
        while not (events := look(0, most)):
            now_ns = clock_ns()
            if now_ns > until_ns:
                self._vain(now_ns, until_ns + longest_ns)
                return look(timeout_s, most)
            os.sched_yield()
        now_ns = clock_ns()
        if now_ns > until_ns + longest_ns:
            self._vain(now_ns, until_ns)
        return events

    def _vain(self, now_ns: int, latest_ns: int) -> None:
        """A look that found nothing in time, or only after somebody else had the processor."""
        self._quick = 0
        if now_ns > latest_ns:
            soon = now_ns < self._not_before_ns + SOON_PAUSES * self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, PAUSE_MAX_NS) if soon else PAUSE_MIN_NS
            self._not_before_ns = now_ns + self._pause_ns


def worth_it(wanted_us: int) -> int:
    """On a single processor whoever is waited for could not run meanwhile: 0 there."""
    return wanted_us if len(os.sched_getaffinity(0)) > 1 else 0
