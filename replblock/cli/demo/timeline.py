# SPDX-License-Identifier: GPL-2.0-or-later
"""What the demo prints: one line an event, with the time since the start; a moving line only on a terminal."""

from __future__ import annotations

import sys
import time


class Timeline:
    """Prints `[  1.23 s] text`; durations of single steps come from `step`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._moving = False

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """One line."""
        if self._moving:
            sys.stdout.write("\r\x1b[K")
            self._moving = False
        print(f"[{self.seconds():7.2f} s] {text}", flush=True)

    def head(self, text: str) -> None:
        """A new chapter."""
        print(flush=True)
        self.say(text)

    def move(self, text: str) -> None:
        """A line that the next one replaces; nothing where no terminal shows it."""
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[K            {text}")
            sys.stdout.flush()
            self._moving = True


def size(count_bytes: float) -> str:
    """Bytes with a unit a person reads."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count_bytes < 1024 or unit == "GiB":
            return f"{count_bytes:.0f} {unit}" if unit == "bytes" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024
    return ""


def rate(count_bytes: float, seconds: float) -> str:
    """Bytes a second."""
    return f"{size(count_bytes / max(seconds, 1e-3))}/s"
