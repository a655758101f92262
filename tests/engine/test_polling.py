# SPDX-License-Identifier: GPL-2.0-or-later
"""When the loop looks for events awake, and when it sleeps: a clock and a poll that say what happens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from replblock.engine import polling
from replblock.engine.polling import PAUSE_MIN_NS, QUICK_WAITS, Polling, worth_it
from tests.engine.nodes import nodes

LONGEST_US = 200
EVENT = [(7, 1)]


class World:
    """Events come `gap_us` after the wait began; a yield takes `turn_us` (somebody else's turn)."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.gap_us = 50
        self.turn_us = 1
        self.comes_ns = 0
        self.sleeps = 0
        self.looks = 0

    def clock(self) -> int:
        return self.now_ns

    def poll(self, timeout_s: float | None, most: int) -> list[tuple[int, int]]:
        if timeout_s == 0:
            self.looks += 1
            return EVENT if self.now_ns >= self.comes_ns else []
        self.sleeps += 1
        self.now_ns = max(self.now_ns, self.comes_ns)
        return EVENT

    def yields(self) -> None:
        self.now_ns += self.turn_us * 1000

    def wait(self, polling: Polling, times: int = 1) -> tuple[int, int]:
        """So many waits: how many slept, how many times was looked."""
        before = self.sleeps, self.looks
        for _ in range(times):
            self.comes_ns = self.now_ns + self.gap_us * 1000
            assert polling.wait(self, 9.0, 64) == EVENT  # type: ignore[arg-type]
        return self.sleeps - before[0], self.looks - before[1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(polling.os, "sched_yield", world.yields)
    return world


@pytest.fixture
def looking(world: World) -> Polling:
    """One that has seen enough quick waits."""
    found = Polling(LONGEST_US, world.clock)
    assert world.wait(found, QUICK_WAITS) == (QUICK_WAITS, 0)
    return found


def test_quick_events_are_looked_for(world: World, looking: Polling) -> None:
    slept, looked = world.wait(looking, 100)
    assert slept == 0 and looked > 100


def test_what_comes_slowly_is_slept_for(world: World) -> None:
    idle = Polling(LONGEST_US, world.clock)
    world.gap_us = 5000
    assert world.wait(idle, 1000) == (1000, 0)


def test_a_load_that_is_just_too_slow_is_tried_now_and_then(world: World, looking: Polling) -> None:
    """Sleeps of less than twice the time count as quick, since a peer that looks, too, makes them shorter."""
    world.gap_us = LONGEST_US + LONGEST_US // 2
    slept, looked = world.wait(looking, 90)
    assert slept == 90                                       # every look was in vain and ended in a sleep
    assert looked <= 10 * (LONGEST_US + 2)                   # one wait in nine


def test_one_look_in_vain_ends_it(world: World, looking: Polling) -> None:
    world.gap_us = 5000
    assert world.wait(looking)[0] == 1
    assert world.wait(looking, 50) == (50, 0)


def test_a_program_that_wants_the_processor_gets_it(world: World, looking: Polling) -> None:
    """A yield that takes as long as somebody's whole turn: no look for a while, and longer each time it happens."""
    world.turn_us = 3000
    world.wait(looking)
    pauses = []
    for _ in range(4):
        began_ns, looks = world.now_ns, world.looks
        while world.looks == looks:
            world.wait(looking)
        pauses.append(world.now_ns - began_ns)
    assert pauses[0] >= PAUSE_MIN_NS
    assert pauses == sorted(pauses) and pauses[3] > 4 * pauses[0]


def test_zero_never_looks(world: World) -> None:
    never = Polling(0, world.clock)
    assert world.wait(never, 100) == (100, 0)


def test_a_single_processor_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert worth_it(200) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    assert worth_it(200) == 200


def test_adjust_takes_it_over(tmp_path: Path, port: Callable[[], int]) -> None:
    """`adjust` says what changed, and afterwards that nothing does."""
    if not worth_it(1):
        pytest.skip("one processor: never looked for")
    with nodes(tmp_path, port, replblock="poll-max-us 150;") as (alpha, _):
        alpha.start()
        config = tmp_path / "drbd.conf"
        assert not alpha.do("adjust", dry_run=True)["data"]["changed"]
        config.write_text(config.read_text().replace("poll-max-us 150", "poll-max-us 0"))
        found = alpha.do("adjust", dry_run=True)["data"]
        assert found["what"] == ["poll-max-us"], json.dumps(found)
        alpha.do("adjust")
        assert not alpha.do("adjust", dry_run=True)["data"]["changed"]
