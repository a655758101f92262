# SPDX-License-Identifier: GPL-2.0-or-later
"""A fixed resync-rate is kept, however large the requests could be."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn
from tests.core.world import MIB, World

STEP_MS = 100


@pytest.mark.parametrize("rate_kib", [10, 33, 100, 1000, 5000])
def test_a_fixed_rate_is_kept(rate_kib: int) -> None:
    """At no time more was asked for than the rate allows, and one step; and not less than nine tenths of it."""
    world = World(3, size_bytes=16 * MIB, resync_rate_kib=rate_kib)
    world.up(world.a)
    world.up(world.b)
    world.run_until(lambda: world.b.resource.state.conn == Conn.CONNECTED)
    world.ok(world.a, "primary", force=True)
    world.run_until(lambda: world.b.resource.state.conn == Conn.SYNC_TARGET)
    target = world.b.resource
    begun_ms, whole = world.now, target.meta.bitmap.count  # type: ignore[union-attr]
    for _ in range(20):
        world.run(STEP_MS)
        got_kib = (whole - target.meta.bitmap.count) * 4  # type: ignore[union-attr]
        steps = (world.now - begun_ms) // STEP_MS + 1
        assert got_kib <= rate_kib * steps * STEP_MS / 1000 + 4
    assert got_kib >= rate_kib * (steps - 2) * STEP_MS / 1000 * 0.9 - 4
