# SPDX-License-Identifier: GPL-2.0-or-later
"""What the path has gathered in a wake-up is never overtaken by something else on the data connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk

from .world import MIB, World

OLD, NEW = b"o" * 4096, b"N" * 4096
COLD = 12 * MIB
"""An extent of the activity log that nothing has touched since the attach."""


def test_a_request_for_resync_data_does_not_overtake_a_write() -> None:
    """One wake-up makes the extent of a write hot, and then begins the resync to here, which asks for the same block.

    The peer has to see the write first. Else its answer is older than the write, and lands on this disk after it.
    """
    world = World(11, size_bytes=16 * MIB).pair()
    a = world.a
    world.ok(a, "detach")
    world.write(a, COLD, OLD)
    world.ok(a, "attach", **a.open_disk())
    begun: list[Callable[[], Any]] = []
    target = a.resource.sync.target
    start, target.start = target.start, lambda: begun.append(start)  # type: ignore[method-assign]
    world.run_until(lambda: bool(begun))
    assert a.resource.state.conn == Conn.SYNC_TARGET
    activity = a.resource.attachment.activity
    assert activity is not None and not activity.covers(COLD >> 22, COLD >> 22)
    release = activity._release

    def released() -> None:
        release()
        while begun:
            begun.pop()()

    activity._release = released  # type: ignore[method-assign]
    write = world.submit(a, Op.WRITE, COLD, 4096, NEW)
    assert world.wait(write).errno == 0
    assert not begun
    world.settle()
    assert a.resource.state.disk == Disk.UP_TO_DATE
    assert world.same_data()
    assert a.disk.content[COLD : COLD + 4096] == NEW
