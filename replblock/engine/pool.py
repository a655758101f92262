# SPDX-License-Identifier: GPL-2.0-or-later
"""A few threads for disk calls that may block, and a thread that takes everything waiting at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from replblock.engine.processor import stand_up


class Pool:
    """`size` threads; jobs are (function, arguments) and answer through whatever they call themselves."""

    def __init__(self, name: str, size: int) -> None:
        self._jobs: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Callable[..., None], *args: Any) -> None:
        self._jobs.put((job, args))

    def stop(self) -> None:
        """End after what is queued; does not wait."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, timeout_s: float) -> None:
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self) -> None:
        stand_up()
        while (entry := self._jobs.get()) is not None:
            job, args = entry
            job(*args)


class Batcher:
    """One thread; `work` gets the list of everything that was waiting when it became free, in order."""

    def __init__(self, name: str, work: Callable[[list[Any]], None]) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, entry: Any) -> None:
        self._queue.put(entry)

    def stop(self) -> None:
        self._queue.put(_END)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        stand_up()
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            ended = _END in batch
            if ended:
                batch = [entry for entry in batch if entry is not _END]
            if batch:
                self._work(batch)
            if ended:
                return


_END = object()
