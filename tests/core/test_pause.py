# SPDX-License-Identifier: GPL-2.0-or-later
"""pause-sync and resume-sync: a resync goes on when nobody pauses it; what is written meanwhile is on both nodes."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

RATE_KIB = 2000
BLOCK = 4096


def syncing() -> World:
    """`a` Primary and source, `b` its target, and enough of it left."""
    world = World(5, size_bytes=8 * MIB, resync_rate_kib=RATE_KIB).pair(sync=False)
    world.ok(world.a, "primary", force=True)
    world.run_until(lambda: world.b.resource.state.conn == Conn.SYNC_TARGET)
    world.run(500)
    return world


def left(world: World) -> int:
    return world.b.resource.meta.bitmap.count  # type: ignore[union-attr]


def conns(world: World) -> tuple[Conn, Conn]:
    return world.a.resource.state.conn, world.b.resource.state.conn


PAUSED = (Conn.PAUSED_SYNC_S, Conn.PAUSED_SYNC_T)
RUNNING = (Conn.SYNC_SOURCE, Conn.SYNC_TARGET)


@pytest.mark.parametrize("who", ["a", "b"])
def test_either_side_pauses_and_resumes(who: str) -> None:
    world = syncing()
    host: SimHost = getattr(world, who)
    world.ok(host, "pause_sync")
    world.run(500)
    assert conns(world) == PAUSED
    before = left(world)
    world.run(5000)
    assert left(world) == before > 0
    world.ok(host, "resume_sync")
    world.settle()
    assert world.same_data()
    done = next(line for line in world.lines if "Resync done" in line)
    assert "paused 5 sec" in done


def test_it_waits_for_both() -> None:
    world = syncing()
    world.ok(world.a, "pause_sync")
    world.ok(world.b, "pause_sync")
    world.run(500)
    world.ok(world.b, "resume_sync")
    world.run(500)
    assert conns(world) == PAUSED
    world.ok(world.a, "resume_sync")
    world.run(500)
    assert conns(world) == RUNNING
    world.settle()


def test_the_words_of_a_refusal() -> None:
    """Exit code 10 and DRBD's numbers: set already, cleared already, cleared here and paused by the peer."""
    world = syncing()
    for verb, code in (("resume_sync", 135), ("pause_sync", None), ("pause_sync", 134)):
        answer = world.command(world.a, verb)
        assert (answer.exit_code, answer.data.get("code")) == ((10, code) if code else (0, None))
    world.run(500)
    answer = world.command(world.b, "resume_sync")
    assert answer.exit_code == 10 and answer.data["code"] == 157
    assert answer.lines == [
        "0: Failure: (157) Sync-pause flag is already cleared", "Note: Resync pause caused by the peer node.",
    ]  # fmt: skip


def test_paused_before_there_is_a_peer() -> None:
    """The flag waits: the next resync does not begin before it is gone."""
    world = World(6, resync_rate_kib=RATE_KIB)
    world.up(world.b, connect=False)
    world.ok(world.b, "pause_sync")
    world.ok(world.b, "connect")
    world.up(world.a)
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.ok(world.a, "primary", force=True)
    world.run(2000)
    assert conns(world) == PAUSED and left(world) == world.b.resource.meta.bitmap.bits  # type: ignore[union-attr]
    world.ok(world.b, "resume_sync")
    world.settle()
    assert world.same_data()


def test_writes_during_a_pause_are_on_both_nodes_and_leave_nothing_to_copy() -> None:
    """A whole block that both disks took counts as resynced; a part of one does not."""
    world = syncing()
    world.ok(world.b, "pause_sync")
    world.run(500)
    block = world.b.resource.meta.bitmap.next_set(0)  # type: ignore[union-attr]
    before = left(world)
    world.write(world.a, block * BLOCK, b"w" * 2 * BLOCK)
    world.write(world.a, (block + 9) * BLOCK + 512, b"p" * 512)
    world.run(100)
    assert left(world) == world.a.resource.meta.bitmap.count == before - 2  # type: ignore[union-attr]
    for host in (world.a, world.b):
        data = host.disk.data(8 * MIB)
        assert data[block * BLOCK : (block + 2) * BLOCK] == b"w" * 2 * BLOCK
        assert data[(block + 9) * BLOCK + 512 : (block + 9) * BLOCK + 1024] == b"p" * 512
    world.ok(world.b, "resume_sync")
    world.settle()
    assert world.same_data()


def test_what_a_pause_lasted_is_no_slowness() -> None:
    world = syncing()
    world.ok(world.a, "pause_sync")
    world.run(60_000)
    table = world.b.resource.status()["connections"][0]["peer_devices"][0]["replblock-sync"]
    assert 59_000 < table["paused_ms"] <= 60_000
    world.ok(world.a, "resume_sync")
    world.run(500)
    table = world.b.resource.status()["connections"][0]["peer_devices"][0]["replblock-sync"]
    assert 59_000 < table["paused_ms"] <= 60_100
    assert min(at for at, _ in table["marks"]) - table["started_ms"] > 59_000
