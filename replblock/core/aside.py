# SPDX-License-Identifier: GPL-2.0-or-later
"""c-min-rate: a resync steps aside for the application, down to that rate and no further; so does an online verify.

Each node looks at its own application and disk: the side that asks asks for less, the side that answers lets questions
wait. The manner is DRBD's (100 ms at a time, by what was done lately), with these differences:

* The kernel counts sectors of the whole backing device, whoever moves them, and requests that wait for the activity
  log. Here the resource's own requests count, and any of them that is under way counts by itself: on a slow disk or
  link, which is where it matters, there are few of them at a time.
* A kernel source sleeps before it reads the next packet, whatever that is. Here only questions of the resync wait.
* Below the rate the kernel goes on as fast as it can, until it measures too much. Here the rate is kept evenly.
* What is done here is what was asked for or answered; in the kernel it is every mark that goes, also by new writes.
* Nobody has to be let through: a range is locked when it is asked for or read, and those that are locked are finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.core.rate import STEP_MS
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State

if TYPE_CHECKING:
    from replblock.core.resource import Resource

LATELY_MS = 6000
"""What was done at full speed counts for so long (in the kernel 3 to 6 s, as its marks of progress are)."""
FEW_SECTORS = 64
"""No more of the application's since it was busy last is nothing to step aside for (as in the kernel)."""
NO_LIMIT = 1 << 62
_ANSWERING = frozenset({Conn.SYNC_SOURCE, Conn.PAUSED_SYNC_S, Conn.VERIFY_T})


class Pace:
    """What may be done beside a busy application: as much as the rate says, and that evenly.

    What was done is paid with time: so the rate is kept also where one request is many steps' worth of it.
    """

    def __init__(self) -> None:
        self._rate_kib = 0
        self._ahead = 0
        """Of the rate, by so many thousandths of a sector."""
        self._looked_ms = 0
        self._limited = False

    def look(self, now_ms: int, rate_kib: int, busy: bool) -> int:
        """Sectors that may be taken on in the next 100 ms."""
        per_ms = rate_kib * 2
        if rate_kib != self._rate_kib:
            self._rate_kib, self._ahead = rate_kib, 0
        self._ahead = max(0, self._ahead - per_ms * (now_ms - self._looked_ms))
        self._looked_ms = now_ms
        self._limited = busy and rate_kib > 0
        if not self._limited:
            self.took(0)
            return NO_LIMIT
        return max(0, -((self._ahead - per_ms * STEP_MS) // 1000))

    def took(self, sectors: int) -> None:
        """So much was taken on."""
        self._ahead += sectors * 1000
        if not self._limited:
            self._ahead = min(self._ahead, self._rate_kib * 2 * LATELY_MS)


class StepsAside:
    """Of one resource: how much resync or verify may be done beside the application, whichever side this node is on."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._pace = Pace()
        self._seen_sectors = 0
        """What the application had moved when it was busy last."""
        self._told = False
        self._since_ms = -STEP_MS
        self._room_sectors = 0
        """What is left of this step, on the side that answers."""
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        """Questions of the peer: bytes, and what answers."""

    def begin(self) -> None:
        """A resync or verify begins: what the application did before counts for nothing."""
        self._pace = Pace()
        self._seen_sectors = self._moved_sectors
        self._told = False

    @property
    def _moved_sectors(self) -> int:
        """By the applications of both nodes, on this node's disk."""
        primary = self._r.primary
        read = primary.read_sectors + self._r.read_beside()
        return read + primary.written_sectors + self._r.secondary.written_sectors

    def _busy(self) -> bool:
        """Does the application need this disk? Not if it waits for something else: an operator, fencing, any data."""
        primary, moved = self._r.primary, self._moved_sectors
        waits = self._r.secondary.unacked or not (primary.idle or primary.frozen)
        if not waits and moved - self._seen_sectors <= FEW_SECTORS:
            return False
        self._seen_sectors = moved
        return True

    def room(self) -> int:
        """Looks anew, for the next 100 ms: sectors that may be taken on."""
        r = self._r
        rate_kib = r.settings.c_min_rate_kib
        sectors = self._pace.look(r.host.now_ms(), rate_kib, self._busy())
        if sectors < NO_LIMIT and not self._told:
            self._told = True
            what = "verify" if r.sync.verify.running else "resync"
            text = f"while the application is at work the {what} goes on at c-min-rate, {rate_kib} KiB/s"
            r.host.log("info", "resync-steps-aside", text)
        return sectors

    def took(self, sectors: int) -> None:
        """So much was taken on."""
        self._pace.took(sectors)
        self._room_sectors -= sectors

    # --- the side that answers ---

    def answer(self, size_bytes: int, begin: Callable[[], None]) -> None:
        """The peer asks about so much: `begin` now, or when it is its turn."""
        if self._waiting or not self._may_answer():
            if not self._waiting:
                self._r.host.timer("aside", STEP_MS)
            self._waiting.append((size_bytes, begin))
        else:
            self.took(size_bytes >> 9)
            begin()

    def _may_answer(self) -> bool:
        """Beside a Primary that asks it sees to itself; its writes would wait for what it has asked for.

        Nor may so much wait here that the data connection is held for it.
        """
        r = self._r
        state = r.state
        if state.conn not in _ANSWERING or state.disk != Disk.UP_TO_DATE or state.peer == Role.PRIMARY:
            return True
        if r.secondary.holding:
            return True
        now_ms = r.host.now_ms()
        if now_ms - self._since_ms >= STEP_MS:
            self._since_ms, self._room_sectors = now_ms, self.room()
        return self._room_sectors > 0

    def on_timer(self) -> None:
        """Timer `aside`, as long as something waits."""
        waiting = self._waiting
        while waiting and self._may_answer():
            size_bytes, begin = waiting.popleft()
            self.took(size_bytes >> 9)
            begin()
        if waiting:
            self._r.host.timer("aside", STEP_MS)

    def state_changed(self, old: State, new: State) -> None:
        """What was asked for has ended: whatever waits is answered at once, before the same begins anew."""
        if self._waiting and old.conn in _ANSWERING and new.conn not in _ANSWERING:
            self._r.host.timer("aside", 0)

    def reset(self) -> None:
        """The connection is gone."""
        if self._waiting:
            self._waiting.clear()
            self._r.host.timer("aside", None)
