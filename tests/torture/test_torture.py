# SPDX-License-Identifier: GPL-2.0-or-later
"""A share of `make torture` that fits into every test run. TORTURE_SEED replays a life."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.torture.files import FileLife
from tests.torture.life import Life
from tests.torture.main import live
from tests.torture.nodes import make
from tests.torture.oracle import Violation, durable
from tests.torture.test_account import Worst

SEED = os.environ.get("TORTURE_SEED")
SHARE_S = 12


def seed() -> int:
    return int(SEED) if SEED else random.SystemRandom().randrange(1 << 30)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["A", "B", "C"])
def test_a_life(protocol: str) -> None:
    number = seed()
    print(f"TORTURE_SEED={number}")
    print(live(number, 2, time.monotonic() + SHARE_S, protocol, kind=Life))


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.netns
def test_a_life_of_a_file_system() -> None:
    number = seed()
    print(f"TORTURE_SEED={number}")
    print(live(number, 2, time.monotonic() + SHARE_S, kind=FileLife))


@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_a_disk_that_lies_about_flushes_is_caught(who: str) -> None:
    """Under C a flush that one node's disk only pretended is missed there after a power loss."""
    keep: list[Path] = []
    with ExitStack() as stack:
        pair = make(stack, wired=False, keep=keep)
        life = Life(pair, "C", 1)
        stack.callback(life.abandon)
        life.start()
        life.some()
        node = life.primary if who == "primary" else life.secondary
        node.fault(forget_syncs=True)
        life.application.work(600)
        life.end()
        life.flush(life.primary)
        with life.oracle.lock:
            life.oracle.flushed(life.oracle.tick(), "by hand")
        node._end()
        node.medium.power_loss(Worst())
        with pytest.raises(Violation, match=r"outdated|not in its history"):
            life.check(node, durable, "a lie")
