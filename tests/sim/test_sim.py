# SPDX-License-Identifier: GPL-2.0-or-later
"""A bounded share of the simulator: every seed that ever failed, and some that nobody has seen yet."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import pytest

from tests.sim.aimed import ALSO_KNOWN
from tests.sim.nearby import KNOWN
from tests.sim.seeds import COMPARED_ASIDE_SEEDS, COMPARED_SEEDS, history_of, of_each_kind
from tests.sim.shrink import play

FRESH = int(os.environ.get("REPLBLOCK_FRESH_SEEDS", "15"))


def once_failed() -> list[int]:
    """Numbers at the beginning of the lines of seeds.txt."""
    lines = Path(__file__).with_name("seeds.txt").read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line[:1].isdigit()]


@pytest.mark.parametrize("seed", once_failed())
def test_seed_that_once_failed(seed: int) -> None:
    """It stays mended."""
    failure = play(history_of(seed))
    assert failure is None, f"make sim SEED={seed}: {failure.text}"


def test_fresh_seeds() -> None:
    """New histories every time; a failure names its seed."""
    rng = random.SystemRandom()
    fresh = [of_each_kind(rng.randrange(1 << 32)) for _ in range(FRESH)]
    compared = [rng.choice((COMPARED_SEEDS, COMPARED_ASIDE_SEEDS)) + rng.randrange(1 << 32) for _ in range(FRESH)]
    for seed in fresh + compared:
        failure = play(history_of(seed))
        assert failure is None, f"make sim SEED={seed}: {failure.text}"


def test_nearby_seeds_stay_the_histories_they_were() -> None:
    """The schedules they are made of are not changed; later ones are for later seeds."""
    assert zlib.crc32(repr(KNOWN).encode()) == 0xA08746E4
    assert zlib.crc32(repr(ALSO_KNOWN).encode()) == 0x36470690
