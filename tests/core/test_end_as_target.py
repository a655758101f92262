# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a resync at a Primary that was its target, and a resync that is over before it began."""

from __future__ import annotations

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk

from .test_becoming_target import says_consistent
from .world import MIB, World


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_answered_before_the_disk_says_that_the_resync_is_over(seed: int) -> None:
    """Killed before, this disk would be the target again: under A, of a peer that may lack what was answered.

    The peer does not say that it knows of the end, as a kernel.
    """
    world = World(seed, size_bytes=16 * MIB, protocol="A", offer_ordered=False).pair()
    node = world.a
    world.write(node, 0, b"x" * 4096)
    node.disk.slow_share = 0.0  # data writes end at once, metadata does not
    world.ok(node, "invalidate")
    world.run_until(lambda: node.resource.state.conn == Conn.SYNC_TARGET and not says_consistent(node))
    node.disk.slow_ms = 2000
    world.run_until(lambda: node.resource.state.disk == Disk.UP_TO_DATE)
    assert not says_consistent(node)
    request = world.submit(node, Op.WRITE, 0, 4096, b"y" * 4096)
    world.run_until(lambda: world.answered(request))
    assert not request.errno
    assert says_consistent(node)
    world.settle()


def test_a_resync_that_is_off_does_not_begin() -> None:
    """A disk went away while P_SYNC_UUID waited for older writes: the generation of the data stays what it is."""
    world = World(1, size_bytes=16 * MIB).pair()
    core = world.b.resource
    assert core.meta is not None
    before, went_on = core.meta.uuids, []
    core.sync.target.begin(0x1234, lambda: went_on.append(True))
    assert went_on
    assert core.meta.uuids == before
    assert core.state.conn == Conn.CONNECTED
