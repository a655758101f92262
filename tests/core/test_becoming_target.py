# SPDX-License-Identifier: GPL-2.0-or-later
"""A target's disk says Inconsistent before anything lands on it that is right on top of the source's data only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replblock.core.requests import Op
from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Conn, Disk

from .simhost import SimHost
from .world import MIB, World

OLD, NEW, LATER = b"o" * 4096, b"N" * 4096, b"L" * 4096


def says_consistent(host: SimHost) -> bool:
    at = host.disk.geometry.superblock_offset_bytes
    return bool(Superblock.unpack(bytes(host.disk.content[at : at + 4096])).flags & Flag.CONSISTENT)


def behind(world: World) -> World:
    """`a` is Primary and wrote one block alone; both have the block beside it."""
    world.pair()
    world.write(world.a, 0, OLD * 2)
    world.flush(world.a)
    world.ok(world.b, "disconnect")
    world.write(world.a, 0, NEW)
    world.flush(world.a)
    return world


def until_target(world: World, host: SimHost) -> None:
    world.run_until(lambda: host.resource.state.conn == Conn.SYNC_TARGET)
    assert says_consistent(host)


def write_later(world: World) -> None:
    world.submit(world.a, Op.WRITE, 4096, 4096, LATER)


def watched(world: World, host: SimHost, meanwhile: Callable[[], None]) -> None:
    """Nothing of the resync reaches the data area while the disk does not say Inconsistent."""
    before = host.disk.data(8192)
    meanwhile()
    for _ in range(2000):
        world.run(5)
        if not says_consistent(host):
            return
        assert host.disk.data(8192) == before
    raise AssertionError("the superblock was never written")


def test_the_peers_write_waits_for_the_disk_to_say_inconsistent() -> None:
    """Without power in between it would come back UpToDate, with the later write and without the one before it."""
    world = behind(World(5, size_bytes=16 * MIB))
    world.b.disk.slow_ms = 1500
    world.ok(world.b, "connect")
    until_target(world, world.b)
    watched(world, world.b, lambda: write_later(world))
    world.settle()
    assert world.same_data()
    assert world.b.disk.data(8192) == NEW + LATER


@pytest.mark.parametrize("seed", range(4))
def test_a_pause_does_not_begin_the_resync_early(seed: int) -> None:
    """Paused and resumed while the superblock is on its way."""
    world = behind(World(seed, size_bytes=16 * MIB))
    world.b.disk.slow_ms = 1500
    world.ok(world.b, "connect")
    until_target(world, world.b)

    def pause_and_resume() -> None:
        world.ok(world.b, "pause_sync")
        world.ok(world.b, "resume_sync")
        assert world.b.resource.state.conn == Conn.SYNC_TARGET
        assert says_consistent(world.b)

    watched(world, world.b, pause_and_resume)
    world.settle()
    assert world.same_data()


def test_the_peers_write_waits_for_the_handler() -> None:
    """before-resync-target may take a snapshot: the data is not touched before it is done."""
    world = behind(World(7, size_bytes=16 * MIB, handlers=frozenset({"before-resync-target"})))
    gate: list[Callable[[int], None]] = []
    world.b.run_handler = lambda name, env, done: gate.append(done)  # type: ignore[method-assign]
    world.ok(world.b, "connect")
    world.run_until(lambda: bool(gate))
    before = world.b.disk.data(8192)
    write = world.submit(world.a, Op.WRITE, 4096, 4096, LATER)
    world.run(1000)
    assert world.b.disk.data(8192) == before
    gate.pop()(0)
    world.b.finish()
    assert world.wait(write).errno == 0
    world.settle()
    assert world.same_data()


def test_a_primarys_own_write_comes_with_the_resync() -> None:
    """A Primary that attaches an older disk: its new write is not laid over what is missing there."""
    world = World(8, size_bytes=16 * MIB).pair()
    world.write(world.a, 0, OLD * 2)
    world.flush(world.a)
    world.ok(world.a, "detach")
    world.write(world.a, 0, NEW)
    world.delay_ms = 200
    world.ok(world.a, "attach", **world.a.open_disk())
    world.submit(world.a, Op.WRITE, 8192, 4096, LATER)  # the activity log is ready for what comes
    world.run(100)
    assert world.a.resource.state.disk == Disk.NEGOTIATING
    world.a.disk.slow_ms = 1500
    until_target(world, world.a)
    watched(world, world.a, lambda: write_later(world))
    world.settle()
    assert world.same_data()
    assert world.a.disk.data(12288) == NEW + LATER * 2
