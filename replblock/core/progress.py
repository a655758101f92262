# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a resync or a verify is, for status and log: what it began with, marks to compute speed from, pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblock.state.packed import State
from replblock.state.sanitizing import PAUSED, RESUMED
from replblock.state.text import pausing

if TYPE_CHECKING:
    from replblock.core.resource import Resource

MARK_EVERY_MS = 3000
MARKS_KEPT = 8


class Progress:
    """Counts blocks of 4 KiB and time without pauses."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.total_blocks = 0
        self.started_ms = 0
        self._paused_ms = 0
        self._paused_since_ms: int | None = None
        self.marks: list[tuple[int, int]] = []
        self.zero_sectors = 0
        """What was told to be zero, and not sent."""

    def begin(self, total_blocks: int) -> None:
        """From here on, with so many blocks to go through."""
        self.total_blocks = total_blocks
        self.zero_sectors = 0
        self.started_ms = self._r.host.now_ms()
        self._paused_ms, self._paused_since_ms = 0, None
        self.marks = [(self.started_ms, total_blocks)]

    @property
    def paused_ms(self) -> int:
        """How long it has been paused, the pause of now included."""
        since = self._paused_since_ms
        return self._paused_ms + (self._r.host.now_ms() - since if since is not None else 0)

    def state_changed(self, new: State) -> None:
        """A pause begins or ends."""
        now = self._r.host.now_ms()
        if new.conn in RESUMED and self._paused_since_ms is None:
            self._paused_since_ms = now
            self._r.host.log("info", "resync-paused", f"Resync suspended by {pausing(new)}")
        elif new.conn not in RESUMED and self._paused_since_ms is not None:
            lasted_ms, self._paused_since_ms = now - self._paused_since_ms, None
            self._paused_ms += lasted_ms
            self.marks = [(at_ms + lasted_ms, left) for at_ms, left in self.marks]  # speed is that of the time between
            if new.conn in PAUSED:
                self._r.host.log("info", "resync-resumed", f"Resync continues after {lasted_ms // 1000} sec")

    def mark(self, left_blocks: int) -> None:
        """Keep what speed is computed from; called whenever somebody looks."""
        now = self._r.host.now_ms()
        if self._paused_since_ms is None and (not self.marks or now - self.marks[-1][0] >= MARK_EVERY_MS):
            self.marks.append((now, left_blocks))
            del self.marks[:-MARKS_KEPT]

    def done_text(self, what: str, blocks: int) -> str:
        """DRBD's sentence at the end: `Resync done (total 3 sec; paused 0 sec; 1365 K/sec)`."""
        seconds = max(1, (self._r.host.now_ms() - self.started_ms) // 1000)
        paused = self.paused_ms // 1000
        speed = blocks * 4 // seconds
        return f"{what} done (total {seconds} sec; paused {paused} sec; {speed} K/sec)"
