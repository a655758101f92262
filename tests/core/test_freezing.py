# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that must wait rather than fail: fencing, no data within reach; and disks that fail at the wrong moment."""

from __future__ import annotations

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk, Role

from .world import World


def fencing(seed: int, exit_code: int) -> World:
    world = World(seed, fencing="resource-and-stonith", handlers=frozenset({"fence-peer"}), ping_int_ms=1000)
    for host in (world.a, world.b):
        host.handlers["fence-peer"] = exit_code
    return world.pair()


def test_nothing_completes_before_the_peer_is_fenced() -> None:
    """resource-and-stonith: a write waits for the handler; then the generation moves on, durably, and it completes."""
    world = fencing(1, 7)
    assert world.a.resource.meta is not None
    before = world.a.resource.meta.uuids.current
    world.partition()
    request = world.submit(world.a, Op.WRITE, 0, 4096, b"f" * 4096)
    world.run_until(lambda: world.a.resource.state.susp_fen)
    assert not world.answered(request)
    world.wait(request)
    assert request.errno == 0 and not world.a.resource.state.suspended
    assert world.a.resource.meta.uuids.current != before
    assert world.a.resource.state.pdsk == Disk.OUTDATED
    assert world.a.handler_calls.count("fence-peer") == 1


@pytest.mark.parametrize("seed", range(5))
def test_broken_fencing_freezes_until_the_peer_is_back(seed: int) -> None:
    """The handler fails: everything waits; the peer comes back: everything goes on, and both disks are equal."""
    world = fencing(seed, 1)
    world.partition()
    requests = [world.submit(world.a, Op.WRITE, n * 8192, 4096, bytes([n]) * 4096) for n in range(1, 9)]
    world.run(30_000)
    assert not any(world.answered(request) for request in requests)
    assert world.a.resource.state.susp_fen
    world.heal()
    for request in requests:
        assert world.wait(request).errno == 0
    world.settle()
    assert world.same_data()


@pytest.mark.parametrize("seed", range(5))
def test_no_data_within_reach_suspends(seed: int) -> None:
    """on-no-data-accessible suspend-io: a diskless Primary without a peer waits, and goes on when it is back."""
    world = World(seed, on_no_data_accessible="suspend-io", ping_int_ms=1000).pair()
    world.ok(world.a, "detach")
    world.write(world.a, 0, b"1" * 4096)
    world.partition()
    world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION)
    write = world.submit(world.a, Op.WRITE, 4096, 4096, b"2" * 4096)
    read = world.submit(world.a, Op.READ, 0, 4096)
    flush = world.submit(world.a, Op.FLUSH)
    world.run(20_000)
    assert not any(world.answered(request) for request in (write, read, flush))
    assert world.a.resource.state.susp_nod
    world.heal()
    for request in (write, read, flush):
        assert world.wait(request).errno == 0
    assert bytes(read.data) == b"1" * 4096
    world.ok(world.a, "attach", **world.a.open_disk())
    world.settle()
    assert world.same_data() and world.read(world.a, 4096, 4096) == b"2" * 4096


def test_io_error_otherwise() -> None:
    """The default: a diskless Primary without a peer fails its requests at once."""
    world = World(3, ping_int_ms=1000).pair()
    world.ok(world.a, "detach")
    world.partition()
    world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION)
    for op in (Op.WRITE, Op.READ):
        assert world.wait(world.submit(world.a, op, 0, 4096, bytes(4096) if op == Op.WRITE else b"")).errno != 0


def test_failed_flush_at_promotion_refuses_it() -> None:
    """What cannot be made durable is nothing to build on."""
    world = World(4).pair()
    world.kill(world.a, power=True)
    world.run_until(lambda: world.b.resource.state.conn == Conn.WF_CONNECTION)
    world.b.disk.fail_flushes = True
    answer = world.command(world.b, "primary")
    assert answer.exit_code == 17
    assert world.b.resource.state.role == Role.SECONDARY and not world.b.resource.doors_open


def test_barrier_is_not_acknowledged_without_its_flush() -> None:
    """The peer's fdatasync fails: its promise is not given, everything unflushed counts as different."""
    world = World(5, ping_int_ms=1000).pair()
    world.run(3000)
    world.b.disk.fail_flushes = True
    request = world.write(world.a, 0, b"x" * 4096)
    flush = world.submit(world.a, Op.FLUSH)
    world.wait(flush)
    assert request.errno == 0 and flush.errno == 0
    assert world.a.resource.meta is not None and world.a.resource.meta.bitmap.count >= 1
    assert world.a.resource.state.pdsk != Disk.UP_TO_DATE
    world.b.disk.fail_flushes = False
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.b.disk.cut()
    world.ok(world.b, "attach", **world.b.open_disk())
    world.settle()
    assert world.same_data()


def test_failed_metadata_write_detaches() -> None:
    """No generation, no activity log, no bitmap can be kept: the disk is given up, the peer serves."""
    world = World(6).pair()
    world.a.disk.fail_meta = True
    world.write(world.a, 0, b"m" * 4096)
    for extent in range(1, 2):
        world.write(world.a, extent << 22, b"m" * 4096)
    world.run(100)
    assert world.a.resource.state.disk == Disk.DISKLESS
    assert world.read(world.a, 0, 4096) == b"m" * 4096


def test_a_postponed_generation_goes_with_its_disk() -> None:
    """Frozen, the disk fails, the peer is back, thawed: a later freeze must not mint what was meant for then."""
    world = World(31, ping_int_ms=1000, on_no_data_accessible="suspend-io").pair()
    a, b = world.a, world.b
    world.flush(a)
    world.ok(a, "suspend_io")
    world.ok(b, "disconnect")
    world.run_until(lambda: a.resource.state.conn < Conn.CONNECTED)
    assert a.resource.mint_postponed
    a.resource.disk_failed(5, "reading")
    a.finish()
    world.ok(b, "connect")
    world.run_until(lambda: a.resource.state.conn == Conn.CONNECTED)
    world.ok(a, "resume_io")
    world.write(a, 0, b"x" * 4096)
    world.ok(a, "attach", **a.open_disk())
    world.settle()
    before = a.resource.meta.uuids  # type: ignore[union-attr]
    world.ok(a, "suspend_io")
    world.ok(a, "resume_io")
    world.run(1000)
    assert a.resource.meta.uuids == before  # type: ignore[union-attr]


@pytest.mark.parametrize("flush_first", [True, False])
def test_a_flush_after_the_freeze_stands_for_what_was_answered_before(flush_first: bool) -> None:
    """A peer that goes by DRBD's table alone comes back in the same generation, with what it has not flushed."""
    world = World(33, ping_int_ms=1000, offer_ordered=False).pair()
    a, b = world.a, world.b
    world.flush(a)
    world.write(a, 0, b"u" * 4096)
    world.ok(a, "suspend_io")
    flushes = [world.submit(a, Op.FLUSH)] if flush_first else []
    world.partition()
    world.run_until(lambda: a.resource.state.conn < Conn.CONNECTED and b.resource.state.conn < Conn.CONNECTED)
    world.heal()
    world.run_until(lambda: a.resource.state.conn == Conn.CONNECTED and a.resource.state.pdsk == Disk.UP_TO_DATE)
    assert not any(world.answered(flush) for flush in flushes)
    world.ok(a, "resume_io")
    for flush in flushes or [world.submit(a, Op.FLUSH)]:
        assert world.wait(flush).errno == 0
    assert bytes(b.disk.durable[:4096]) == b"u" * 4096
    assert a.resource.meta is not None and not a.resource.meta.bitmap.count


def frozen_with_an_unflushed_write() -> World:
    """What was answered is in the page caches of both nodes only; the peer is out of reach, and I/O is suspended."""
    world = World(32, ping_int_ms=1000).pair()
    world.flush(world.a)
    world.write(world.a, 0, b"u" * 4096)
    world.ok(world.a, "suspend_io")
    world.ok(world.b, "disconnect")
    world.run_until(lambda: world.a.resource.state.conn < Conn.CONNECTED)
    assert world.a.resource.mint_postponed
    return world


def test_frozen_without_its_disk_it_takes_no_other_one() -> None:
    """The peer was shot and comes back in the same generation, without what it had not flushed; nobody could tell."""
    world = frozen_with_an_unflushed_write()
    a, b = world.a, world.b
    a.resource.disk_failed(5, "reading")
    a.finish()
    world.kill(b, power=True)
    world.up(b)
    world.run_until(lambda: a.resource.state.conn == Conn.STANDALONE)
    assert a.resource.reasons[-1]["rule"] == "exposed-data-lost"
    world.ok(a, "resume_io")
    assert world.wait(world.submit(a, Op.FLUSH)).errno != 0
    world.ok(a, "secondary")
    world.ok(a, "attach", **a.open_disk())
    world.ok(a, "connect")
    world.settle()
    assert world.same_data() and bytes(a.disk.content[:4096]) == b"u" * 4096


def test_frozen_and_detached_its_disk_has_the_generation_that_waited() -> None:
    """The peer's disk is refused, and the Primary's own may come back under its users."""
    world = frozen_with_an_unflushed_write()
    a = world.a
    world.ok(a, "detach", force=True)
    world.ok(world.b, "connect")
    world.run_until(lambda: a.resource.state.conn == Conn.STANDALONE)
    world.ok(a, "attach", **a.open_disk())
    world.ok(a, "resume_io")
    world.ok(a, "connect")
    world.settle()
    assert world.same_data() and world.read(a, 0, 4096) == b"u" * 4096


def test_an_answer_in_a_thaw_fails_the_disk_that_the_next_one_counts_on() -> None:
    """Towards a kernel peer a write waits for the older one's answer, and may then fail the only disk that is left."""
    world = World(33, ping_int_ms=1000, on_no_data_accessible="io-error", offer_ordered=False).pair()
    a = world.a
    world.write(a, 0, b"0" * 4096)
    world.flush(a)
    a.disk.slow_share = 0.0
    world.partition()
    older = world.submit(a, Op.WRITE, 0, 4096, b"1" * 4096)
    other = world.submit(a, Op.WRITE, 8192, 4096, b"2" * 4096)
    newer = world.submit(a, Op.WRITE, 0, 4096, b"3" * 4096)
    a.disk.fail_writes = True
    assert world.wait(older).errno == 0
    assert world.wait(newer).errno != 0
    assert world.wait(other).errno != 0
    assert a.resource.state.disk == Disk.DISKLESS


def test_a_thaw_may_end_in_another_freeze() -> None:
    """What waited for `resume-io` fails the last disk: the path is as frozen as the state says."""
    world = World(34, ping_int_ms=1000, on_no_data_accessible="suspend-io").pair()
    a = world.a
    a.disk.slow_share = 0.0
    world.partition()
    world.write(a, 0, b"0" * 4096)
    world.ok(a, "suspend_io")
    waiting = world.submit(a, Op.WRITE, 0, 4096, b"1" * 4096)
    a.disk.fail_writes = True
    world.ok(a, "resume_io")
    world.run(3000)
    assert a.resource.state.disk == Disk.DISKLESS and a.resource.state.suspended
    assert a.resource.primary.frozen == {"no-data"}
    assert not world.answered(waiting)
