# SPDX-License-Identifier: GPL-2.0-or-later
"""One line per event, to `$REPLBLOCK_RUN/RES.log` and to stderr: time, level, resource, rule, sentence.

Bounded twice: lines per second (a storm ends in one line that says how many were left out) and bytes on disk (the run
directory is usually memory: at MAX_FILE_BYTES the file becomes RES.log.1).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

LEVELS = {"debug": 0, "info": 1, "notice": 2, "warning": 3, "error": 4}
MAX_LINES_PER_SECOND = 50
MAX_FILE_BYTES = 4 << 20


class Log:
    """Thread-safe. `write` never raises: a full file system must not stop replication."""

    def __init__(
        self,
        resource: str,
        path: Path | None = None,
        level: str = "info",
        clock: Callable[[], float] = time.monotonic,
        lines_per_second: int = MAX_LINES_PER_SECOND,
        to_stderr: bool = True,
    ) -> None:
        self._resource = resource
        self._path = path
        self._clock = clock
        self._budget = lines_per_second
        self._lock = threading.Lock()
        self._second = -1
        self._written = 0
        self._suppressed = 0
        self._fd = self._open()
        self._stderr = to_stderr and not self._is_stderr()
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Raises ValueError naming the known levels."""
        if level not in LEVELS:
            raise ValueError(f"'{level}' is not a log level; one of: {', '.join(LEVELS)}")
        self.level = level
        self._least = LEVELS[level]

    def write(self, level: str, rule: str, text: str) -> None:
        rank = LEVELS.get(level, LEVELS["error"])
        if rank < self._least:
            return
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                if self._suppressed:
                    self._emit("warning", "log-limit", f"{self._suppressed} lines suppressed")
                self._second, self._written, self._suppressed = second, 0, 0
            # Errors get half as much again: the line that explains a stop must not drown in a storm of notices.
            limit = self._budget + (self._budget // 2 if rank >= LEVELS["error"] else 0)
            if self._written >= limit:
                self._suppressed += 1
                return
            self._written += 1
            self._emit(level, rule, text)

    def close(self) -> None:
        with self._lock:
            if self._suppressed:
                self._emit("warning", "log-limit", f"{self._suppressed} lines suppressed")
                self._suppressed = 0
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _emit(self, level: str, rule: str, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        flat = text.replace("\n", " | ")
        line = f"{stamp} {level:<7} {self._resource} {rule}: {flat}\n".encode(errors="backslashreplace")
        for fd in (self._fd, 2 if self._stderr else -1):
            if fd >= 0:
                try:
                    os.write(fd, line)
                except OSError:
                    pass
        self._rotate()

    def _open(self) -> int:
        if self._path is None:
            return -1
        try:
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError:
            return -1

    def _is_stderr(self) -> bool:
        """Whether stderr already is our file (the launcher sends nbdkit's own complaints there)."""
        try:
            return self._fd >= 0 and os.path.sameopenfile(self._fd, 2)
        except OSError:
            return True  # no stderr at all

    def _rotate(self) -> None:
        if self._fd < 0 or self._path is None:
            return
        try:
            if os.fstat(self._fd).st_size < MAX_FILE_BYTES:
                return
            shared = self._is_stderr()
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            os.close(self._fd)
            self._fd = self._open()
            if shared and self._fd >= 0:
                os.dup2(self._fd, 2)
        except OSError:
            pass
