# SPDX-License-Identifier: GPL-2.0-or-later
"""Who leaves a fenced pair says so on its disk before `down` is answered: the engine ends then."""

from __future__ import annotations

from replblock.meta.superblock import Flag
from tests.sim.history import Event, History
from tests.sim.play import Player

LEAVES = (
    Event("primary", "b"), Event("kill", "a"), Event("mend", "a"), Event("write", "b", (41, 8, False), 15, 3068010625),
    Event("write", "a", (40, 8, False)), Event("invalidate_remote", "b", None, 8, 4011026201), Event("down", "a"),
    Event("write", "b", (40, 40, False), 8, 960311937), Event("fail", "a", "flush", 300, 3069288061),
)  # fmt: skip


def test_outdated_although_the_answer_was_lost_and_the_flush_failed() -> None:
    """The Primary goes on, and takes it for outdated; its answer is overtaken by the closed connection."""
    setup = {"batch": 0.3, "blocks": 40, "fencing": "resource-and-stonith", "protocol": "A", "slow_ms": 30,
             "slow_share": 0.0, "start": "secondary"}  # fmt: skip
    player = Player(History(setup, LEAVES))
    player.begin()
    for number, event in enumerate(LEAVES):
        player.event(number, event)
    a, _ = player.sim.nodes
    assert not a.on
    assert {"peer-disconnects", "flush-failed-at-detach"} <= player.oracle.rules
    flags = a.platter.superblock.flags
    assert flags & Flag.CONSISTENT
    assert not flags & Flag.WAS_UP_TO_DATE
