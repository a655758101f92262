# SPDX-License-Identifier: GPL-2.0-or-later
"""Which history a seed stands for."""

from __future__ import annotations

from tests.sim.aimed import aimed_history
from tests.sim.compared import compared_history
from tests.sim.history import History, long_history
from tests.sim.nearby import nearby_history

NEARBY_SEEDS = 10_000_000_000
"""From this seed on: near what once failed. Below: long ones."""
AIMED_SEEDS = 20_000_000_000
"""From this seed on: one scene each, under settings that let it come to what it aims at."""


COMPARED_SEEDS = 21_000_000_000
"""From this seed on: checksums, pauses, online verify."""
COMPARED_ASIDE_SEEDS = 30_000_000_000
"""From this seed on: the same, and resync and verify may step aside for the application."""


def history_of(seed: int) -> History:
    """The history of this seed, for ever."""
    if seed >= COMPARED_SEEDS:
        return compared_history(seed, seed >= COMPARED_ASIDE_SEEDS)
    if seed >= AIMED_SEEDS:
        return aimed_history(seed)
    return nearby_history(seed) if seed >= NEARBY_SEEDS else long_history(seed)


def of_each_kind(seed: int) -> int:
    """A long one, one near what once failed, an aimed one, in turn; seeds that are none of the long ones stay."""
    return seed if seed >= NEARBY_SEEDS else seed + (0, NEARBY_SEEDS, AIMED_SEEDS)[seed % 3]
