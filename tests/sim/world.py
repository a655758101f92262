# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated world: one clock, and what is to happen when."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.sim.network import Network

if TYPE_CHECKING:
    from tests.sim.node import Node

LINES_KEPT = 300
MACHINE_MS = 3_600_000
"""Where the monotonic clock stands when a history begins."""


class Sim:
    """One clock, one generator of chance, two nodes."""

    def __init__(self, trace: bool = False) -> None:
        self.rng = random.Random(0)
        self.drawn: set[int] = set()
        self.now = MACHINE_MS
        self.heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.counter = 0
        self.network = Network()
        self.lines: deque[str] = deque(maxlen=None if trace else LINES_KEPT)
        self.oracle: Any = None
        self.a: Node
        self.b: Node

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.a, self.b

    def at(self, when: int, fn: Callable[..., None], *args: Any) -> None:
        self.counter += 1
        heapq.heappush(self.heap, (when, self.counter, fn, args))

    def note(self, text: str) -> None:
        self.lines.append(f"{self.now - MACHINE_MS:8} **** {text}")

    def run(self, ms: int) -> None:
        """Let this much time pass."""
        heap, end = self.heap, self.now + ms
        while heap and heap[0][0] <= end:
            self.now, _, fn, args = heapq.heappop(heap)
            fn(*args)
        self.now = end

    def run_until(self, condition: Callable[[], bool], most_ms: int) -> bool:
        """Run until something is true; whether it came true in time."""
        heap, end = self.heap, self.now + most_ms
        while not condition():
            if not heap or heap[0][0] > end:
                self.now = end
                return False
            self.now, _, fn, args = heapq.heappop(heap)
            fn(*args)
        return True
