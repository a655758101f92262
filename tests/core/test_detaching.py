# SPDX-License-Identifier: GPL-2.0-or-later
"""`detach` while the disk is at work, or fails on its way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Conn, Disk
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

ONE, TWO = b"1" * 4096, b"2" * 4096
SLOW_MS = 900


def slow_to_write(world: World, node: SimHost, times: int) -> None:
    """So many writes to this node's disk end much later."""
    disk = node.resource.disk
    assert disk is not None
    at_once, left = disk.write, [None] * times

    def write(offset: int, data: Any, done: Callable[[int], None]) -> int:
        if not left:
            return at_once(offset, data, done)
        left.pop()
        copy = bytes(data)
        disk.calls += 1  # type: ignore[union-attr]

        def end() -> None:
            disk.calls -= 1  # type: ignore[union-attr]
            node.disk.put(offset, copy)
            done(0)
            node.finish()

        world.after(SLOW_MS, end)
        return -1

    disk.write = write  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("fua", [False, True])
def test_a_good_disk_does_not_fail_because_it_is_detached(fua: bool) -> None:
    """Of two overlapping writes the second has not begun here when the order comes: it is written first."""
    world = World(1).pair()
    a = world.a
    world.write(a, 0, b"0" * 4096)
    world.flush(a)
    world.settle()
    slow_to_write(world, a, 2)
    writes = [world.submit(a, Op.WRITE, 0, 4096, data, fua=fua and data == TWO) for data in (ONE, TWO)]
    world.ok(a, "detach")
    world.run(SLOW_MS)
    assert all(world.answered(write) and write.errno == 0 for write in writes)
    assert not [line for line in world.lines if "unflushed-disk" in line or "io-error" in line]
    at = a.disk.geometry.superblock_offset_bytes
    kept = Superblock.unpack(bytes(a.disk.content[at : at + 4096])).flags
    assert kept & Flag.WAS_UP_TO_DATE and kept & Flag.AL_CLEAN and not kept & Flag.PRIMARY_IND
    assert bytes(a.disk.durable[:4096]) == TWO


def test_metadata_that_fails_does_not_hold_up_a_detach() -> None:
    """A diskless Primary's write waits for our activity log, which cannot be written: the disk is given up."""
    world = World(1, size_bytes=32 * MIB, ko_count=0).pair()
    a, b = world.a, world.b
    world.ok(a, "detach")
    world.run(2000)
    b.disk.slow_ms, b.disk.slow_share = 50, 1.0
    world.submit(a, Op.WRITE, 9 * MIB, 4096, ONE)
    world.run_until(lambda: bool(b.resource.attachment.activity._waiting))  # type: ignore[union-attr]
    b.disk.fail_meta = True
    answer = world.command(b, "detach", force=True)
    assert answer.exit_code == 0 and "detached as it is" in answer.lines[0]
    assert b.resource.state.disk == Disk.DISKLESS


def test_a_flush_of_an_older_connection_does_not_stand_for_the_new_one() -> None:
    """The barrier of the old connection waited for the same write: the new epoch's ack still waits for a flush."""
    world = World(1, size_bytes=32 * MIB, on_no_data_accessible="suspend-io").pair()
    a, b = world.a, world.b
    world.ok(a, "detach")
    world.run(2000)
    world.write(a, 0, ONE)
    world.flush(a)
    b.disk.slow_share = 0
    slow_to_write(world, b, 1)
    disk = b.resource.disk
    assert disk is not None
    flush_now = disk.flush
    disk.flush = lambda done: world.after(SLOW_MS, lambda: flush_now(done))  # type: ignore[method-assign]
    write = world.submit(a, Op.WRITE, 0, 4096, TWO)
    world.run(20)
    flush = world.submit(a, Op.FLUSH)
    world.run(100)
    assert b.resource.secondary.holding
    link = a.resource.links.link
    assert link is not None
    for sock in list(a.pipes):
        pipe = a.pipes.pop(sock, None)
        if pipe is not None:
            pipe.close(pipe.side(a, sock))
    a.resource.on_closed(link.data, 0)
    a.finish()
    world.run_until(lambda: world.answered(flush))
    assert world.answered(write) and flush.errno == 0 and a.resource.state.conn == Conn.CONNECTED
    assert bytes(b.disk.durable[:4096]) == TWO
