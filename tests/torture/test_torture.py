# SPDX-License-Identifier: GPL-2.0-or-later
"""A share of `make torture` that fits into every test run. TORTURE_SEED replays a life."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.torture.faults import flushed_then_dark
from tests.torture.files import FileLife
from tests.torture.filtered import FilteredLife
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
@pytest.mark.parametrize("kind", [FileLife, FilteredLife])
def test_a_life_that_needs_root(kind: type[Life]) -> None:
    number = seed()
    print(f"TORTURE_SEED={number}")
    print(live(number, 2, time.monotonic() + SHARE_S, kind=kind))


@contextmanager
def short_life(protocol: str) -> Iterator[Life]:
    """On loopback, not begun yet."""
    with ExitStack() as stack:
        pair = make(stack, wired=False, keep=[])
        life = Life(pair, protocol, seed())
        stack.callback(life.abandon)
        life.start()
        yield life


def test_what_was_flushed_under_c_is_on_the_peers_disk_for_good() -> None:
    """Invariant 2: also when its flushes are slow and its power fails right after the application's flush."""
    with short_life("C") as life:
        flushed_then_dark(life)
        life.step_ends()


@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_a_disk_that_lies_about_flushes_is_caught(who: str) -> None:
    """Under C a flush that one node's disk only pretended is missed there after a power loss."""
    with short_life("C") as life:
        life.some()
        node = life.primary if who == "primary" else life.secondary
        node.fault(forget_syncs=True)
        life.application.work(600)
        life.end()
        life.application.flush(life.primary.uri)
        node._end()
        node.medium.power_loss(Worst())
        with pytest.raises(Violation, match=r"outdated|not in its history"):
            life.check(node, durable, "a lie")
