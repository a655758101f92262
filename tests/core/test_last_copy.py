# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the peer's copy is the only good one: what was answered survives its power loss, or the next flush says so."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

import pytest

from replblock.core.attachment import UNFLUSHED
from replblock.core.requests import Op
from replblock.state.generations import plain
from replblock.state.names import Conn, Disk

from .world import MIB, World

ONE, TWO, THREE = b"1" * 4096, b"2" * 4096, b"3" * 4096


def diskless(seed: int, **settings: object) -> World:
    """`a` is Primary without a disk; nothing is left unflushed at `b`."""
    world = World(seed, ping_int_ms=1000, **settings).pair()
    world.ok(world.a, "detach")
    world.flush(world.a)
    world.b.disk.slow_share = 0
    return world


def power_loss_of_the_peer(world: World) -> None:
    """Everything unflushed at `b` is gone, not only some of it."""
    world.b.disk.unflushed.clear()
    world.kill(world.b, power=True)
    world.run_until(lambda: world.a.resource.state.conn < Conn.CONNECTED)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("protocol", "ABC")
@pytest.mark.parametrize("policy", ["io-error", "suspend-io"])
def test_a_diskless_primary_sends_again_what_the_peer_lost(protocol: str, policy: str, ordered: bool) -> None:
    """The answered writes come back, in their old order, before anything new; a flush between fails or waits."""
    world = diskless(1, protocol=protocol, on_no_data_accessible=policy, offer_ordered=ordered)
    world.write(world.a, 0, ONE)
    world.write(world.a, 8192, ONE)
    world.write(world.a, 0, TWO)
    world.wait(world.submit(world.a, Op.ZERO, 8192, 4096))
    power_loss_of_the_peer(world)
    if ordered:
        assert bytes(world.b.disk.content[:4096]) not in (ONE, TWO)  # else epochs are so short that some of it stayed
    flush = world.submit(world.a, Op.FLUSH)
    world.run(1000)
    if policy == "io-error":
        assert world.answered(flush) and flush.errno == errno.EIO
    else:
        assert not world.answered(flush)
    world.up(world.b)
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    new = world.write(world.a, 4096, THREE)
    assert new.errno == 0
    if policy == "suspend-io":
        assert world.wait(flush).errno == 0
    world.flush(world.a)
    assert bytes(world.b.disk.durable[:12288]) == TWO + THREE + bytes(4096)
    assert world.a.resource.primary._kept_bytes == 0


def test_the_lost_writes_are_there_before_the_first_read() -> None:
    """A read after the thaw must not see the peer's older data."""
    world = diskless(2, on_no_data_accessible="suspend-io")
    world.write(world.a, 0, ONE)
    power_loss_of_the_peer(world)
    read = world.submit(world.a, Op.READ, 0, 4096)
    overwrite = world.submit(world.a, Op.WRITE, 0, 4096, TWO)
    world.up(world.b)
    assert bytes(world.wait(read).data) in (ONE, TWO)
    world.wait(overwrite)
    world.flush(world.a)
    assert world.read(world.a, 0, 4096) == TWO


def test_memory_for_what_may_be_lost_is_bounded() -> None:
    """A peer that is slow to flush holds new writes back."""
    world = diskless(3, max_in_flight_bytes=MIB)
    world.b.disk.slow_ms = 5000
    writes = [world.submit(world.a, Op.WRITE, n * 65536, 65536, b"x" * 65536) for n in range(100)]
    most = 0
    while not all(world.answered(write) for write in writes):
        world.run(50)
        most = max(most, world.a.resource.primary._kept_bytes)
    assert most <= 2 * MIB
    world.flush(world.a)
    assert world.a.resource.primary._kept_bytes == 0


def test_a_write_answered_before_our_disk_failed_is_not_forgotten() -> None:
    """Both had it, ours failed, the peer lost power before its flush: nobody has it, and the next flush says so."""
    world = World(4, ping_int_ms=1000).pair()
    world.flush(world.a)
    world.a.disk.slow_share = world.b.disk.slow_share = 0
    world.write(world.a, 0, ONE)
    world.a.resource.disk_failed(errno.EIO, "flushing")
    world.a.finish()
    world.run(100)
    power_loss_of_the_peer(world)
    world.up(world.b)
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.ok(world.a, "attach", **world.a.open_disk())
    world.run_until(lambda: world.a.resource.state.disk == Disk.UP_TO_DATE)
    assert world.a.resource.users_generation == UNFLUSHED  # a restarted engine would tell nobody
    assert world.wait(world.submit(world.a, Op.FLUSH)).errno == errno.EIO
    assert plain(world.a.resource.users_generation) == plain(world.a.resource.meta.uuids.current)
    world.write(world.a, 0, TWO)
    world.flush(world.a)


@pytest.mark.parametrize("verb", ["secondary", "down"])
def test_a_demotion_says_what_was_lost_and_settles_nothing(verb: str) -> None:
    """Its own flush tells no application: that one's next flush fails, also after the next promotion."""
    world = World(4, ping_int_ms=1000).pair()
    world.flush(world.a)
    world.a.disk.slow_share = world.b.disk.slow_share = 0
    world.write(world.a, 0, ONE)
    world.a.resource.disk_failed(errno.EIO, "flushing")
    world.a.finish()
    world.run(100)
    power_loss_of_the_peer(world)
    demoted = world.command(world.a, verb)
    assert demoted.exit_code == 0 and "may be on no disk" in demoted.lines[0]
    if verb == "down":
        return
    world.up(world.b)
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.ok(world.a, "primary")
    assert world.wait(world.submit(world.a, Op.FLUSH)).errno == errno.EIO
    world.flush(world.a)
    again = world.command(world.a, "secondary")
    assert again.exit_code == 0 and again.lines == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("protocol", "ABC")
def test_a_primary_in_mid_resync_waits_for_its_source(protocol: str, seed: int) -> None:
    """Our copy is Inconsistent: the resync would throw it away: a flush counts when the source's disk has it."""
    world = World(seed, protocol=protocol, size_bytes=24 * MIB, ping_int_ms=1000, resync_rate_kib=2000).pair()
    world.ok(world.a, "invalidate")
    world.run_until(lambda: world.a.resource.state.conn == Conn.SYNC_TARGET)
    world.a.disk.slow_share = world.b.disk.slow_share = 0
    world.run(50)
    world.write(world.a, 0, ONE)
    flush = world.submit(world.a, Op.FLUSH)
    world.run_until(lambda: world.answered(flush))
    assert flush.errno == 0 and bytes(world.b.disk.durable[:4096]) == ONE
    world.write(world.a, 0, TWO)
    assert world.a.resource.state.disk == Disk.INCONSISTENT
    power_loss_of_the_peer(world)
    assert world.wait(world.submit(world.a, Op.FLUSH)).errno == errno.EIO
    world.up(world.b)
    world.run_until(lambda: world.a.resource.state.conn == Conn.SYNC_TARGET)
    world.flush(world.a)
    assert bytes(world.b.disk.durable[:4096]) == TWO
    world.settle()
    assert world.same_data() and world.read(world.a, 0, 4096) == TWO


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_flush_outstanding_when_the_link_is_cut_waits_too(seed: int, ordered: bool) -> None:
    """suspend-io: it freezes like everything else, and is true when it is answered."""
    world = diskless(seed, on_no_data_accessible="suspend-io", offer_ordered=ordered)
    world.b.disk.slow_ms = 3000
    write = world.submit(world.a, Op.WRITE, 0, 4096, ONE)
    world.wait(write)
    flush = world.submit(world.a, Op.FLUSH)
    late = world.submit(world.a, Op.WRITE, 8192, 4096, TWO)
    world.run(1)
    assert not world.answered(flush)
    world.b.disk.unflushed.clear()
    world.kill(world.b, power=True)
    world.b.disk.slow_ms = 2
    world.run(5000)
    assert not world.answered(flush)
    world.up(world.b)
    assert world.wait(flush).errno == 0
    assert bytes(world.b.disk.durable[:4096]) == ONE
    assert world.wait(late).errno == 0


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("protocol", "ABC")
@pytest.mark.parametrize("seed", range(3))
def test_fenced_writes_reach_a_peer_that_comes_back(protocol: str, seed: int, ordered: bool) -> None:
    """resource-and-stonith, handler broken: a frozen write is answered only when the peer that is back has it, too."""
    world = World(
        seed, fencing="resource-and-stonith", handlers=frozenset({"fence-peer"}), ping_int_ms=1000, protocol=protocol,
        offer_ordered=ordered,
    )  # fmt: skip
    world.a.handlers["fence-peer"] = world.b.handlers["fence-peer"] = 1
    world.pair()
    world.write(world.a, 0, ONE)
    world.partition()
    writes = [world.submit(world.a, Op.WRITE, (n % 5) * 4096, 4096, bytes([n]) * 4096) for n in range(1, 9)]
    flush = world.submit(world.a, Op.FLUSH)
    missing: list[str] = []

    def answered(n: int, request: object) -> None:
        there, write = world.b.disk.content, writes[n]
        mine = bytes(there[write.offset_bytes : write.offset_bytes + 4096])
        if protocol == "C" and mine not in (bytes([n + 1]) * 4096, bytes([n + 6]) * 4096):
            missing.append(f"write {n} at {world.now}")
        world._answered(request)  # type: ignore[arg-type]

    for n, write in enumerate(writes):
        if not world.answered(write):
            write.done = partial(answered, n)
    world.run(20_000)
    assert world.a.resource.state.susp_fen
    assert protocol != "C" or not world.answered(flush)
    world.heal()
    for write in writes:
        assert world.wait(write).errno == 0
    assert not missing
    assert world.wait(flush).errno == 0
    world.run_until(lambda: world.a.resource.state.conn >= Conn.CONNECTED)  # A: all may be answered by now
    world.run_until(lambda: world.b.resource.state.disk == Disk.UP_TO_DATE and world.b.resource.is_idle())
    world.run(3000)
    if protocol == "A" and not ordered:
        # answered before the loss was noticed; DRBD's table makes no resync of it, the next connection does
        size = world.a.resource.size_bytes
        mine, theirs = world.a.disk.data(size), world.b.disk.data(size)
        differ = [n for n in range(size // 4096) if mine[n * 4096 :][:4096] != theirs[n * 4096 :][:4096]]
        assert world.a.resource.meta is not None
        assert all(world.a.resource.meta.bitmap.any_set(n, n + 1) for n in differ)
        world.ok(world.a, "disconnect")
        world.ok(world.a, "connect")
        world.settle()
    assert world.same_data()


@pytest.mark.parametrize("seed", range(4))
def test_a_single_writer_does_not_hang_after_a_thaw(seed: int) -> None:
    """suspend-io: one request at a time, whatever the peer's disk goes through meanwhile."""
    world = diskless(seed, on_no_data_accessible="suspend-io")
    for turn in range(6):
        write = world.submit(world.a, Op.WRITE, turn * 4096, 4096, bytes([turn + 1]) * 4096)
        world.run(seed)
        if turn % 2:
            world.partition()
            world.run(5000)
            world.heal()
        else:
            world.kill(world.b, power=bool(turn % 4))
            world.run(100)
            world.up(world.b)
        assert world.wait(write).errno == 0
    for turn in range(6):
        assert world.read(world.a, turn * 4096, 4096) == bytes([turn + 1]) * 4096


@pytest.mark.parametrize("loses_power", [False, True])
@pytest.mark.parametrize("protocol", "AB")
def test_a_write_our_disk_refused_waits_for_the_peers_disk(protocol: str, loses_power: bool) -> None:
    """Received is not written: the pool's error comes after the peer's first ack, and then the peer loses power."""
    world = World(5, protocol=protocol, ping_int_ms=1000).pair()
    world.flush(world.a)
    world.a.disk.slow_share, world.a.disk.slow_ms = 1, 60
    world.b.disk.slow_share, world.b.disk.slow_ms = 1, 500
    write = world.submit(world.a, Op.WRITE, 0, 4096, ONE)
    world.run(10)
    assert not world.answered(write)
    world.a.disk.fail_writes = True
    world.run_until(lambda: world.a.resource.state.disk == Disk.DISKLESS)
    assert not world.answered(write)
    if loses_power:
        world.b.disk.under_way.clear()
        power_loss_of_the_peer(world)
        assert world.wait(write).errno == errno.EIO
    else:
        assert world.wait(write).errno == 0
        assert bytes(world.b.disk.durable[:4096]) == ONE


@pytest.mark.parametrize("ordered", [True, False])
def test_the_resync_waits_for_what_is_sent_again(ordered: bool) -> None:
    """A frozen Primary in mid-resync: the source's older data must not replace an answered write that it has lost."""
    world = World(9, size_bytes=24 * MIB, ping_int_ms=1000, resync_rate_kib=2000, offer_ordered=ordered).pair()
    a, b = world.a, world.b
    world.flush(a)
    world.ok(a, "invalidate")
    world.run_until(lambda: a.resource.state.conn == Conn.SYNC_TARGET)
    a.disk.slow_share = b.disk.slow_share = 0
    world.run_until(lambda: not a.resource.meta.bitmap.any_set(0, 1))  # type: ignore[union-attr]
    world.write(a, 0, ONE)
    world.ok(a, "suspend_io")
    power_loss_of_the_peer(world)
    assert bytes(b.disk.content[:4096]) != ONE
    world.up(b)
    world.run_until(lambda: a.resource.state.conn == Conn.SYNC_TARGET)
    world.run(60_000)
    world.ok(a, "resume_io")
    world.settle()
    assert world.read(a, 0, 4096) == ONE
    assert world.same_data()


@pytest.mark.parametrize("first", [Op.WRITE, Op.ZERO, Op.TRIM])
def test_what_is_sent_again_never_takes_the_peer_back(first: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's engine was killed, its page cache has everything: no older write may come to stand there again."""
    world = diskless(1)
    disk, seen = world.b.disk, []
    put = disk.put

    def watched(*args: Any, **kw: Any) -> None:
        put(*args, **kw)
        seen.append(bytes(disk.content[4096:8192]))

    world.wait(world.submit(world.a, first, 0, 12288, *([ONE * 3] if first == Op.WRITE else [])))
    world.write(world.a, 4096, TWO)
    monkeypatch.setattr(disk, "put", watched)
    world.kill(world.b)
    world.up(world.b)
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.flush(world.a)
    assert set(seen) == {TWO} and bytes(disk.durable[4096:8192]) == TWO
