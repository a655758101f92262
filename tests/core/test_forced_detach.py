# SPDX-License-Identifier: GPL-2.0-or-later
"""`detach --force` of the only disk that has what was answered: the operator may do it, older data does not follow."""

from __future__ import annotations

import pytest

from replblock.core.attachment import UNFLUSHED
from replblock.state.names import Conn, Disk, Role

from .world import World

NEW = b"n" * 4096


@pytest.mark.parametrize("seed", range(4))
def test_a_frozen_primary_without_its_disk_does_not_go_on_with_older_data(seed: int) -> None:
    """Protocol A: the peer lacks an answered write, and the generation that would tell so waited for the thaw."""
    world = World(seed, protocol="A", ping_int_ms=1000).pair()
    a, b = world.a, world.b
    world.flush(a)
    world.settle()
    a.disk.slow_share = 0
    world.partition()
    world.write(a, 0, NEW)
    world.ok(a, "suspend_io")
    world.run_until(lambda: a.resource.state.conn < Conn.CONNECTED and b.resource.state.conn < Conn.CONNECTED)
    assert bytes(b.disk.content[:4096]) != NEW
    world.ok(a, "detach", force=True)
    assert a.resource.state.disk == Disk.DISKLESS and a.resource.state.role == Role.PRIMARY
    world.heal()
    world.run(20_000)
    assert a.resource.state.conn < Conn.CONNECTED
    world.ok(a, "attach", **a.open_disk())
    assert a.resource.state.disk == Disk.UP_TO_DATE  # it is the data that was lost: that may come back
    world.ok(a, "resume_io")
    for node in (a, b):
        if node.resource.state.conn == Conn.STANDALONE:
            world.ok(node, "connect")
    world.settle()
    assert world.same_data() and world.read(a, 0, 4096) == NEW


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_could_not_be_flushed_is_not_taken_back_by_its_users(seed: int) -> None:
    """Alone: what was answered may be missing on it, and the next flush would be answered as if nothing was."""
    world = World(seed, ping_int_ms=1000).pair()
    a = world.a
    a.disk.slow_share = 0
    world.ok(a, "disconnect")
    world.write(a, 0, NEW)
    a.disk.fail_flushes = True
    assert "detached as it is" in world.command(a, "detach", force=True).lines[0]
    a.disk.fail_flushes = False
    answer = world.command(a, "attach", **a.open_disk())
    assert answer.exit_code and "(150)" in answer.lines[0]
    assert a.resource.state.disk == Disk.DISKLESS and a.resource.users_generation == UNFLUSHED
    world.ok(a, "secondary")  # its users are gone
    world.ok(a, "attach", **a.open_disk())
    assert a.resource.state.disk == Disk.UP_TO_DATE
