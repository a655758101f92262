# SPDX-License-Identifier: GPL-2.0-or-later
"""A bounded share of the campaign: every seed that ever failed, and some that nobody has seen yet."""

from __future__ import annotations

import os
import random

import pytest

from .campaign import run

ONCE_FAILED = (
    0, 9, 15, 17, 18, 19, 33, 34, 43, 53, 60, 78, 86, 91, 95, 99, 105, 116, 146, 148, 151, 158, 160, 165, 174, 176, 192,
    254, 292, 677, 739, 781, 820, 895, 898, 998, 1030, 1128, 1189, 1292, 1309, 1446, 1450, 2229, 2238, 3279, 3446,
    5179, 5358, 5373, 5526, 5645, 5827, 6437, 10109, 10115, 10138, 10149, 10154, 20365, 31067, 700037, 7700549, 7800585,
    7801767, 593696461, 593700062,
)  # fmt: skip
FRESH = int(os.environ.get("REPLBLOCK_FRESH_SEEDS", "10"))


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_seed_that_once_failed(seed: int) -> None:
    """It stays mended."""
    run(seed)


def test_fresh_seeds() -> None:
    """New lives every time; a failure names its seed, for: python -m tests.core.campaign SEED SEED+1 --trace."""
    rng = random.SystemRandom()
    for _ in range(FRESH):
        run(rng.randrange(1 << 32))
