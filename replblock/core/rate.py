# SPDX-License-Identifier: GPL-2.0-or-later
"""How much a sync target may request: fixed rate, or the controller of the `c-*` options.

Everything is counted in sectors of 512 bytes and steps of 100 ms (DRBD 8.4, resync rate control).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replblock.core.settings import Settings

STEP_MS = 100


class RateController:
    """Call `step` every 100 ms; it returns how many sectors may be requested during the next step."""

    def __init__(
        self,
        rate_kib: int,
        plan_ahead: int,
        delay_target: int,
        fill_target_sectors: int,
        max_rate_kib: int,
    ) -> None:
        self._rate_kib = rate_kib
        self._plan: deque[int] = deque([0] * plan_ahead)
        self._total = 0
        self._delay_target = delay_target
        self._fill_target = fill_target_sectors
        self._max_rate_kib = max_rate_kib
        self.want_kib = rate_kib
        """What was wanted last, KiB/s: the `want:` figure of /proc/drbd."""

    @classmethod
    def of(cls, s: Settings) -> RateController:
        """As these settings want it, from now on."""
        return cls(s.resync_rate_kib, s.c_plan_ahead, s.c_delay_target, s.c_fill_target_sectors, s.c_max_rate_kib)

    def step(self, in_flight_sectors: int, arrived_sectors: int) -> int:
        """Sectors to request in the next 100 ms, given what is in flight and what arrived since the last step."""
        if not self._plan:
            return self._rate_kib * 2 * STEP_MS // 1000
        sectors = self._dynamic(in_flight_sectors, arrived_sectors)
        self.want_kib = sectors // 2 * 1000 // STEP_MS
        return sectors

    def _dynamic(self, in_flight: int, arrived: int) -> int:
        n = len(self._plan)
        if in_flight + arrived == 0:
            want = self._rate_kib * 2 * STEP_MS // 1000 * n
        elif self._fill_target:
            want = self._fill_target
        else:
            want = arrived * self._delay_target
        correction = want - in_flight - self._total
        per_step = int(correction / n)
        for i in range(n):
            self._plan[i] += per_step
        self._total += per_step * n
        current = self._plan.popleft()
        self._plan.append(0)
        self._total -= current
        return min(max(0, arrived + current), self._max_rate_kib * 2 * STEP_MS // 1000)
