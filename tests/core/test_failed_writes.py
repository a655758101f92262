# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a write failed on a source's disk nothing counts as in sync; but not longer than that, and nowhere else."""

from __future__ import annotations

from replblock.core.requests import Op
from replblock.core.source import MOST_UNWRITTEN
from replblock.state.names import Conn, Disk

from .world import MIB, World

BLOCK = 4096


def fail_a_write(world: World, offset: int) -> None:
    """The peer takes it, this disk does not."""
    world.a.disk.fail_writes = True
    assert world.wait(world.submit(world.a, Op.WRITE, offset, BLOCK, b"1" * BLOCK)).errno == 0
    world.a.disk.fail_writes = False


def resync_in_one_go(world: World) -> None:
    """A full resync from `a` needs one connection, and leaves nothing."""
    losses = world.a.resource.links.losses
    world.ok(world.a, "invalidate_remote")
    world.run_until(lambda: world.b.resource.state.conn == Conn.SYNC_TARGET)
    world.settle()
    assert world.a.resource.links.losses == losses
    assert world.same_data()


def test_a_disk_that_was_attached_again_has_what_the_one_before_lacked() -> None:
    """It got it from the peer when it came back."""
    world = World(1, size_bytes=16 * MIB).pair()
    fail_a_write(world, 0)
    assert world.a.resource.state.disk == Disk.DISKLESS
    world.run(3000)
    world.ok(world.a, "attach", **world.a.open_disk())
    world.settle()
    resync_in_one_go(world)


def test_a_target_has_what_it_lacked_when_its_resync_is_over() -> None:
    """The disk stayed attached (pass_on), and got everything from the peer."""
    world = World(2, size_bytes=16 * MIB, on_io_error="pass_on").pair()
    fail_a_write(world, 0)
    assert world.a.resource.state.disk == Disk.INCONSISTENT
    world.ok(world.a, "invalidate")
    world.settle()
    resync_in_one_go(world)


def test_only_the_blocks_that_failed_stay_marked() -> None:
    """What lies between them is in sync when the peer has it."""
    world = World(3, size_bytes=16 * MIB).pair()
    core = world.a.resource
    assert core.meta is not None
    bitmap, source = core.meta.bitmap, core.sync.source
    bitmap.fill()
    source.not_written(0, 2 * BLOCK)
    source.not_written(100 * BLOCK, BLOCK)
    source.not_written(BLOCK, 3 * BLOCK)
    for block in range(bitmap.bits):
        source.in_sync(block * BLOCK, BLOCK)
    assert [block for block in range(bitmap.bits) if bitmap.next_set(block) == block] == [0, 1, 2, 3, 100]


def test_of_many_failed_writes_every_one_counts() -> None:
    """More than are known one by one: what lies between them stays marked, too, what lies outside does not."""
    world = World(4, size_bytes=16 * MIB).pair()
    core = world.a.resource
    assert core.meta is not None
    bitmap, source = core.meta.bitmap, core.sync.source
    bitmap.fill()
    failed = [10 + 3 * n for n in range(MOST_UNWRITTEN + 5)]
    for block in failed:
        source.not_written(block * BLOCK, BLOCK)
    for block in range(bitmap.bits):
        source.in_sync(block * BLOCK, BLOCK)
    left = [block for block in range(bitmap.bits) if bitmap.next_set(block) == block]
    assert set(failed) <= set(left)
    assert (left[0], left[-1]) == (failed[0], failed[-1])


def test_a_failed_flush_before_a_resync_is_no_loss_of_what_the_peer_wrote() -> None:
    """The peer wrote nothing: it stays connected, and the disk may come back; a new connection would refuse it."""
    world = World(5, size_bytes=16 * MIB).pair()
    world.write(world.a, 0, b"1" * BLOCK)
    world.flush(world.a)
    world.settle()
    world.a.disk.fail_flushes = True
    world.ok(world.a, "invalidate_remote")
    world.run(5000)
    world.a.disk.fail_flushes = False
    assert world.a.resource.state.disk == Disk.DISKLESS
    assert world.a.resource.state.conn == Conn.CONNECTED
    assert world.a.resource.links.losses == 0
    world.ok(world.a, "attach", **world.a.open_disk())
    world.settle()
    assert world.same_data()


def test_the_peers_writes_are_unflushed_from_their_coming_to_their_barrier_ack() -> None:
    """Their disk's failure costs the connection all that time."""
    world = World(6, size_bytes=16 * MIB).pair()
    world.flush(world.a)
    world.settle()
    path = world.b.resource.secondary
    assert not path.unflushed
    world.b.disk.slow_share, world.b.disk.slow_ms = 1.0, 500
    world.submit(world.a, Op.WRITE, 0, BLOCK, b"1" * BLOCK)
    world.run_until(lambda: path.epoch.size > 0)
    assert path.unflushed
    flush = world.submit(world.a, Op.FLUSH)
    world.run_until(lambda: path.epoch.size == 0)
    assert path.unflushed and not world.answered(flush)
    world.settle()
    assert world.answered(flush) and not path.unflushed
