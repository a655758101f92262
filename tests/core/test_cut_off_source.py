# SPDX-License-Identifier: GPL-2.0-or-later
"""A source that wrote alone since it missed the end of a resync: when does what it wrote stop to be its own?

Its generations, repaired by the next connection, look like those of a node that only fell behind. A flag says more; it
goes when the target has begun, and cannot look any more as if it had moved on.
"""

from __future__ import annotations

import pytest

from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Conn, Disk

from .simhost import SimHost
from .world import MIB, World

ALONE, LATER = b"A" * 4096, b"L" * 4096


def flags_on_disk(host: SimHost) -> Flag:
    at = host.disk.geometry.superblock_offset_bytes
    return Flag(Superblock.unpack(bytes(host.disk.content[at : at + 4096])).flags)


def conn(host: SimHost) -> Conn:
    return host.resource.state.conn


def part_at_the_end(world: World) -> None:
    """The resync to `b` ends there, and `a` does not hear of it."""
    world.run_until(lambda: conn(world.b) == Conn.SYNC_TARGET)
    world.run_until(lambda: conn(world.b) == Conn.CONNECTED and not world.b.busy_with_metadata)
    assert conn(world.a) == Conn.SYNC_SOURCE
    world.partition()
    world.run(30_000)


def wrote_alone(seed: int) -> World:
    """`a` missed the end of a resync to `b`, wrote one block alone, flushed it and is Secondary."""
    world = World(seed, size_bytes=16 * MIB).pair()
    world.kill(world.b)
    world.run(20_000)
    world.write(world.a, 0, b"1" * 4096)
    world.up(world.b)
    part_at_the_end(world)
    world.write(world.a, 8192, ALONE)
    world.flush(world.a)
    world.ok(world.a, "secondary")
    return world


def until_source(world: World) -> None:
    """The next connection has repaired the generations, and P_SYNC_UUID is on its way."""
    world.delay_ms = 200
    world.heal()
    world.run_until(lambda: conn(world.a) == Conn.SYNC_SOURCE)
    assert conn(world.b) == Conn.WF_SYNC_UUID


@pytest.mark.parametrize("seed", range(3))
def test_what_was_written_alone_is_not_overwritten_where_the_target_never_began(seed: int) -> None:
    """It died before, and was promoted and written to: both have moved on."""
    world = wrote_alone(seed)
    until_source(world)
    world.kill(world.b)
    world.delay_ms = 2
    world.run(20_000)
    world.ok(world.a, "disconnect")
    world.up(world.b, connect=False)
    world.ok(world.b, "primary", force=True)
    world.write(world.b, 16384, LATER)
    world.ok(world.b, "connect")
    world.ok(world.a, "connect")
    world.run(30_000)
    assert world.a.disk.data(12288)[8192:] == ALONE
    assert any("target-has-own-changes" in line for line in world.lines)


@pytest.mark.parametrize("without_disk", [False, True])
def test_an_order_to_give_it_up_is_over_with_its_connection(without_disk: bool) -> None:
    """Nothing of the resync had begun, and the nodes part as they were: the next one needs the order again."""
    world = wrote_alone(2)
    world.ok(world.b, "primary")
    world.write(world.b, 16384, LATER)
    world.ok(world.b, "secondary")
    world.delay_ms = 200
    world.heal()
    world.run_until(lambda: conn(world.a) == conn(world.b) == Conn.STANDALONE)
    world.ok(world.a, "connect", discard_my_data=True)
    world.ok(world.b, "connect")
    world.run_until(lambda: conn(world.a) == Conn.WF_BITMAP_T)
    world.partition()
    world.run(30_000)
    said = len(world.lines)
    if without_disk:
        world.ok(world.b, "detach")
        world.heal()
        world.run_until(lambda: conn(world.a) == conn(world.b) == Conn.CONNECTED)
        world.ok(world.b, "attach", **world.b.open_disk())
    else:
        world.heal()
    world.run(30_000)
    assert any("target-has-own-changes" in line for line in world.lines[said:])
    assert world.a.disk.data(12288)[8192:] == ALONE


@pytest.mark.parametrize("began", [False, True])
def test_a_source_that_is_cut_off_early_is_the_source_again(began: bool) -> None:
    """Also where the target has begun, and nobody knows that it has."""
    world = wrote_alone(1)
    until_source(world)
    if began:
        world.run_until(lambda: conn(world.b) == Conn.SYNC_TARGET and not world.b.busy_with_metadata)
        assert world.a.resource.meta is not None
        assert world.a.resource.meta.flags & Flag.WENT_ON_ALONE
    world.partition()
    world.run(30_000)
    world.delay_ms = 2
    world.heal()
    world.settle()
    assert world.same_data()
    assert world.a.disk.data(12288)[8192:] == ALONE
    assert not flags_on_disk(world.a) & Flag.WENT_ON_ALONE


@pytest.mark.parametrize("seed", range(3))
def test_the_target_does_not_end_before_the_sources_disk_says_that_it_has_begun(seed: int) -> None:
    """Killed after that, the source would claim as its own what both have, and overwrite what came since."""
    world = wrote_alone(seed)
    world.heal()
    world.run_until(lambda: conn(world.b) == Conn.SYNC_TARGET)
    world.a.disk.slow_share = 0.0  # data is read at once, metadata is slow
    world.a.disk.slow_ms = 2000
    world.run_until(lambda: world.b.resource.state.disk == Disk.UP_TO_DATE)
    assert not flags_on_disk(world.a) & Flag.WENT_ON_ALONE


def test_a_source_that_wrote_nothing_alone_has_no_changes_of_its_own() -> None:
    """Nothing is asked for then; the target has moved on, crashed, and has what it answered."""
    world = World(4, size_bytes=16 * MIB).pair()
    world.write(world.a, 0, b"0" * 4096)
    world.settle()
    world.kill(world.b)
    world.run(20_000)
    world.ok(world.a, "secondary")
    world.ok(world.a, "primary", force=True)
    world.up(world.b)
    world.run_until(lambda: conn(world.b) == Conn.SYNC_TARGET)
    assert world.a.resource.meta is not None
    assert not world.a.resource.meta.bitmap.count
    assert not flags_on_disk(world.a) & Flag.WENT_ON_ALONE
    world.run_until(lambda: conn(world.b) == Conn.CONNECTED and not world.b.busy_with_metadata)
    world.kill(world.a)
    world.run(20_000)
    world.ok(world.b, "primary", force=True)
    world.write(world.b, 8192, LATER)
    world.kill(world.b)
    world.up(world.a)
    world.up(world.b)
    world.settle()
    assert world.same_data()
    assert world.b.disk.data(12288)[8192:] == LATER


def test_a_connection_that_the_roles_forbid_leaves_the_mark_of_who_is_on_its_own() -> None:
    """Nothing is marked yet; the Primary that missed the end stays Primary, and writes on."""
    world = World(5, size_bytes=16 * MIB, rr_conflict="violently").pair()
    world.kill(world.b)
    world.run(20_000)
    world.write(world.a, 0, b"1" * 4096)
    world.up(world.b)
    part_at_the_end(world)
    world.ok(world.b, "primary", force=True)
    world.heal()
    world.run_until(lambda: conn(world.a) == conn(world.b) == Conn.STANDALONE)
    assert any("state-not-allowed" in line for line in world.lines)
    assert world.a.resource.meta is not None
    assert not world.a.resource.meta.bitmap.count
    world.write(world.a, 8192, ALONE)
    world.flush(world.a)
    world.ok(world.b, "secondary")
    world.ok(world.a, "connect")
    world.ok(world.b, "connect")
    world.run(30_000)
    assert conn(world.a) == conn(world.b) == Conn.STANDALONE
    assert any("target-has-own-changes" in line for line in world.lines)
    assert world.a.disk.data(12288)[8192:] == ALONE
