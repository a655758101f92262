# SPDX-License-Identifier: GPL-2.0-or-later
"""A barrier ack is a promise: every write of the epoch is on this disk for good. And large trims of a peer."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk
from replblock.wire.commands import Cmd
from replblock.wire.flags import DP_SEND_WRITE_ACK
from replblock.wire.packets import Barrier, Trim

from .world import MIB, World


def barrier_acks(world: World) -> list[int]:
    """Counts what arrives at `a`."""
    seen: list[int] = []
    world.listen_in(world.a)
    table: dict[int, Any] = world.a.resource._meta_handlers
    handle = table[Cmd.BARRIER_ACK]

    def count(body: memoryview) -> None:
        seen.append(world.now)
        handle(body)

    table[Cmd.BARRIER_ACK] = count
    return seen


@pytest.mark.parametrize("diskless_peer", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_no_barrier_ack_for_writes_that_went_with_their_disk(seed: int, diskless_peer: bool) -> None:
    """The disk fails with a write applied and one still waiting; then the barrier is handled."""
    world = World(seed, al_extents=2, size_bytes=24 * MIB, ping_int_ms=1000).pair()
    if diskless_peer:
        world.ok(world.a, "detach")
    world.flush(world.a)
    world.run(2000)
    acks = barrier_acks(world)
    world.b.disk.slow_share = 0
    world.write(world.a, 0, b"x" * 4096)
    for extent in (1, 2, 3):  # these wait for the activity log
        world.submit(world.a, Op.WRITE, extent << 22, 4096, b"y" * 4096)
    flush = world.submit(world.a, Op.FLUSH)
    world.run_until(lambda: world.b.resource.secondary.holding)
    world.b.resource.disk_failed(errno.EIO, "writing metadata")
    world.b.finish()
    world.run(3000)
    assert not acks
    assert world.a.resource.links.losses == 1
    assert not diskless_peer or flush.errno == errno.EIO


@pytest.mark.parametrize("flush_fails", [False, True])
def test_a_detach_with_an_open_epoch(flush_fails: bool) -> None:
    """In good order all of the epoch was flushed; when that flush fails the disk goes, and nothing is acked."""
    world = World(8, ping_int_ms=1000).pair()
    world.flush(world.a)
    world.run(2000)
    acks = barrier_acks(world)
    world.write(world.a, 0, b"x" * 4096)
    world.b.disk.fail_flushes = flush_fails
    answers: list[Any] = []
    world.b.resource.command("detach", {}, answers.append)
    world.b.finish()
    world.run_until(lambda: bool(answers))
    world.run(3000)
    assert world.b.resource.state.disk == Disk.DISKLESS
    assert len(acks) == (0 if flush_fails else 1)
    assert world.a.resource.links.losses == flush_fails
    assert world.wait(world.submit(world.a, Op.FLUSH)).errno == 0


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("size_mib", [5, 36])
def test_a_large_trim_is_done_extent_by_extent(size_mib: int, fails: bool) -> None:
    """A diskless Primary trims up to 128 MiB at once, more extents than the log may have slots: one ack for it."""
    world = World(2, al_extents=2, size_bytes=40 * MIB, c_plan_ahead=0, ping_int_ms=1000)
    world.up(world.a)
    world.up(world.b)
    world.run_until(lambda: world.b.resource.state.conn == Conn.CONNECTED)
    world.ok(world.a, "primary", force=True)
    world.run_until(world.in_sync, 200_000)
    world.write(world.a, MIB, b"x" * 4096)
    world.ok(world.a, "detach")
    world.b.disk.slow_share, world.b.disk.slow_ms = 1, 2
    answers: list[tuple[Cmd, memoryview]] = []
    world.listen_in(world.a)
    table: dict[int, Any] = world.a.resource._meta_handlers
    for cmd in (Cmd.WRITE_ACK, Cmd.NEG_ACK):
        table[cmd] = lambda body, cmd=cmd: answers.append((cmd, body))
    acks: list[memoryview] = []
    table[Cmd.BARRIER_ACK] = acks.append
    world.b.disk.fail_writes = fails
    body = Trim(2048 - 8, b"a trim..", 1, DP_SEND_WRITE_ACK, size_mib * MIB).pack()
    world.a.resource.links.send(Cmd.TRIM, body)
    world.a.resource.links.send(Cmd.BARRIER, Barrier(b"bar1").pack())
    world.a.finish()
    world.run(20_000)
    if fails:
        assert [cmd for cmd, _ in answers[:1]] in ([Cmd.NEG_ACK], [])
        assert not acks
    else:
        assert [cmd for cmd, _ in answers] == [Cmd.WRITE_ACK] and len(acks) == 1
        assert bytes(answers[0][1][8:16]) == b"a trim.."
        assert not any(world.b.disk.durable[MIB - 4096 : MIB + 8192])
