# SPDX-License-Identifier: GPL-2.0-or-later
"""Two real cores on a simulated network: the main paths, each ending in identical replicas and mirrored states."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn, Disk, Role

from .world import MIB, World


@pytest.mark.parametrize("seed", range(6))
def test_initial_sync_copies_everything(seed: int) -> None:
    """Two fresh nodes, one forced to Primary: full sync, equal data, equal generations."""
    world = World(seed)
    world.a.disk.content[0:3 * MIB] = world.rng.randbytes(3 * MIB)
    world.split = bool(seed % 2)
    world.pair()
    assert world.same_data()
    a, b = world.a.resource, world.b.resource
    assert a.meta is not None and b.meta is not None
    assert [u & ~1 for u in a.meta.uuids] == [u & ~1 for u in b.meta.uuids]
    assert a.meta.bitmap.count == b.meta.bitmap.count == 0
    assert (a.state.role, a.state.peer) == (Role.PRIMARY, Role.SECONDARY)
    assert (b.state.role, b.state.peer) == (Role.SECONDARY, Role.PRIMARY)


@pytest.mark.parametrize("protocol", "ABC")
@pytest.mark.parametrize("ordered", [True, False])
def test_writes_reach_both_disks(protocol: str, ordered: bool) -> None:
    """Random overlapping writes, trims and flushes under every protocol leave both disks equal."""
    world = World(7, protocol=protocol, offer_ordered=ordered).pair()
    rng = world.rng
    from replblock.core.requests import Op

    pending = []
    for _ in range(300):
        offset = rng.randrange(0, 400) * 4096
        length = rng.choice([512, 4096, 8192, 65536])
        kind = rng.random()
        if kind < 0.85:
            pending.append(world.submit(world.a, Op.WRITE, offset, length, rng.randbytes(length), fua=kind < 0.05))
        elif kind < 0.93:
            pending.append(world.submit(world.a, rng.choice([Op.TRIM, Op.ZERO]), offset, length))
        else:
            pending.append(world.submit(world.a, Op.FLUSH))
        world.run(rng.randrange(0, 3))
    for request in pending:
        assert world.wait(request).errno == 0
    world.run(3000)
    world.settle()
    assert world.same_data()
    assert world.a.resource.status()["role"] == "Primary"


@pytest.mark.parametrize("seed", range(8))
def test_short_outage_resyncs_only_what_differs(seed: int) -> None:
    """Writes while the peer is away are marked, and only they are sent when it is back."""
    world = World(seed).pair()
    world.write(world.a, 0, world.rng.randbytes(65536))
    world.run(2500)
    world.settle()
    world.kill(world.b, power=bool(seed % 2))
    world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION, 30_000)
    for block in range(10):
        world.write(world.a, MIB + block * 8192, world.rng.randbytes(4096))
    assert world.a.resource.meta is not None
    assert world.a.resource.meta.bitmap.count == 10
    world.up(world.b)
    world.settle()
    assert world.same_data()
    assert world.b.resource.sync.target.received_sectors == 10 * 8


@pytest.mark.parametrize("protocol", "ABC")
@pytest.mark.parametrize("seed", range(6))
def test_killed_primary_takes_its_place_again(protocol: str, seed: int) -> None:
    """kill -9 or power loss of a writing Primary, take-over, more writes, and the old one comes back as target."""
    world = World(seed + 100, protocol=protocol).pair()
    from replblock.core.requests import Op

    for _ in range(40):
        world.submit(world.a, Op.WRITE, world.rng.randrange(0, 1000) * 4096, 4096, world.rng.randbytes(4096))
    world.run(world.rng.randrange(0, 6))
    world.kill(world.a, power=bool(seed % 2))
    world.run_until(lambda: world.b.resource.state.conn == Conn.WF_CONNECTION, 30_000)
    world.ok(world.b, "primary")
    for _ in range(20):
        world.write(world.b, world.rng.randrange(0, 1000) * 4096, world.rng.randbytes(4096))
    world.up(world.a)
    world.settle()
    assert world.same_data()
    assert world.a.resource.state.role == Role.SECONDARY


def test_split_brain_is_not_merged() -> None:
    """Both moved on alone: both stay StandAlone, say so, and keep their data."""
    world = World(5).pair()
    world.partition()
    world.run_until(lambda: world.b.resource.state.conn == Conn.WF_CONNECTION, 60_000)
    world.ok(world.b, "primary")
    world.write(world.a, 0, b"a" * 4096)
    world.write(world.b, 4096, b"b" * 4096)
    world.heal()
    world.run_until(lambda: world.a.resource.state.conn == world.b.resource.state.conn == Conn.STANDALONE)
    assert world.read(world.a, 0, 4096) == b"a" * 4096
    assert world.read(world.b, 4096, 4096) == b"b" * 4096
    assert any("Split-Brain" in line for line in world.a.lines)
    world.ok(world.b, "secondary")
    world.ok(world.b, "connect", discard_my_data=True)
    world.ok(world.a, "connect")
    world.settle()
    assert world.same_data()
    assert world.read(world.a, 0, 4096) == b"a" * 4096


def test_planned_swap_of_roles() -> None:
    """secondary here, primary there, and back; no resync, no new generation."""
    world = World(9).pair()
    assert world.a.resource.meta is not None
    before = world.a.resource.meta.uuids
    for here, there in ((world.a, world.b), (world.b, world.a)) * 3:
        world.write(here, world.rng.randrange(100) * 4096, world.rng.randbytes(4096))
        world.ok(here, "secondary")
        world.ok(there, "primary")
    world.run(3000)
    assert world.same_data()
    assert [u & ~1 for u in world.a.resource.meta.uuids] == [u & ~1 for u in before]


def test_second_primary_is_refused() -> None:
    """Exit 11, DRBD's words, nothing changed."""
    world = World(9).pair()
    answer = world.command(world.b, "primary")
    assert answer.exit_code == 11
    assert "(-1) Multiple primaries not allowed by config" in answer.lines[0]
    assert world.b.resource.state.role == Role.SECONDARY


def test_invalidate_fetches_everything_again() -> None:
    """invalidate on the Secondary: a full resync from the Primary."""
    world = World(3).pair()
    world.write(world.a, 0, b"x" * 65536)
    world.settle()
    world.ok(world.b, "invalidate")
    world.settle()
    assert world.same_data()
    assert world.b.resource.sync.target.received_sectors * 512 >= world.a.resource.size_bytes


def test_diskless_primary_works_through_its_peer() -> None:
    """A detached Primary reads and writes on the peer's disk; after the attach only what it missed is resynced."""
    world = World(4).pair()
    world.write(world.a, 0, b"1" * 8192)
    world.ok(world.a, "detach")
    assert world.a.resource.state.disk == Disk.DISKLESS
    world.write(world.a, 4096, b"2" * 4096)
    assert world.read(world.a, 0, 8192) == b"1" * 4096 + b"2" * 4096
    world.ok(world.a, "attach", **world.a.open_disk())
    world.settle()
    assert world.same_data()


def test_io_error_detaches_and_goes_on() -> None:
    """on-io-error detach: the application notices nothing."""
    world = World(4).pair()
    world.a.disk.fail_writes = True
    world.write(world.a, 0, b"3" * 4096)
    world.run(100)
    assert world.a.resource.state.disk == Disk.DISKLESS
    assert world.read(world.a, 0, 4096) == b"3" * 4096
