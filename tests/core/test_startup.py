# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node tells about its last life when it attaches its disk again."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn

from .world import World


@pytest.mark.parametrize("alone", [False, True])
def test_a_primary_that_crashed_alone_starts_degraded(alone: bool) -> None:
    """degr-wfc-timeout is for a cluster that was degraded before: PRIMARY_IND without CONNECTED_IND (DRBD 8.4)."""
    world = World(3).pair()
    if alone:
        world.kill(world.b)
        world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION)
        world.write(world.a, 0, b"x" * 4096)
    world.kill(world.a, power=True)
    world.up(world.a)
    assert world.a.resource.status()["replblock-degraded-start"] is alone
