# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes that were answered and lost: every flush that was handed in before somebody was told fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from replblock.core.host import PENDING
from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk

from .world import World

ONE, TWO = b"1" * 4096, b"2" * 4096


def lose(world: World) -> None:
    """The disk of the Primary fails, and the peer loses power before it has flushed; then both are back."""
    a, b = world.a, world.b
    a.resource.disk_failed(errno.EIO, "flushing")
    a.finish()
    world.run(100)
    b.disk.unflushed.clear()
    world.kill(b, power=True)
    world.run_until(lambda: a.resource.state.conn < Conn.CONNECTED)
    world.up(b)
    world.run_until(lambda: a.resource.state.conn == Conn.CONNECTED)
    world.ok(a, "attach", **a.open_disk())
    world.run_until(lambda: a.resource.state.disk == Disk.UP_TO_DATE)


def lost(seed: int) -> World:
    """One write is, and nobody knows."""
    world = World(seed, ping_int_ms=1000).pair()
    world.flush(world.a)
    world.a.disk.slow_share = world.b.disk.slow_share = 0
    world.write(world.a, 0, ONE)
    lose(world)
    assert world.a.resource.primary.loss_untold
    return world


def test_each_flush_that_waits_is_told() -> None:
    """Two applications wait for their own: the error of the one says nothing to the other."""
    world = lost(1)
    world.ok(world.a, "suspend_io")
    waiting = [world.submit(world.a, Op.FLUSH) for _ in range(3)]
    world.ok(world.a, "resume_io")
    assert [world.wait(flush).errno for flush in waiting] == [errno.EIO] * 3
    assert not world.a.resource.primary.loss_untold
    world.flush(world.a)


def test_who_comes_after_the_answer_knows() -> None:
    """What is taken in the wake-up of the answer was on its way before; what comes then is about new writes."""
    world = lost(2)
    same: list[Request] = []
    first = Request(Op.FLUSH, 0, 0, lambda request: same.append(world.submit(world.a, Op.FLUSH)))
    world.a.resource.submit([first])
    world.run_until(lambda: bool(same))
    assert [first.errno, world.wait(same[0]).errno] == [errno.EIO] * 2
    world.flush(world.a)


def test_a_flush_tells_of_nothing_that_was_lost_after_it_was_handed_in() -> None:
    """The second loss may be of something that was answered meanwhile."""
    world = lost(3)
    world.write(world.a, 0, TWO)
    world.ok(world.a, "suspend_io")
    waiting = world.submit(world.a, Op.FLUSH)
    lose(world)
    world.ok(world.a, "resume_io")
    assert world.wait(waiting).errno == errno.EIO
    assert world.wait(world.submit(world.a, Op.FLUSH)).errno == errno.EIO
    world.flush(world.a)


def test_a_flush_under_way_when_the_loss_is_found_fails(monkeypatch: Any) -> None:
    """A: the peer, now the last copy, refuses a write that was answered long ago, and goes on (pass_on)."""
    world = World(4, protocol="A", on_io_error="pass_on").pair()
    world.flush(world.a)
    a, b = world.a, world.b
    a.disk.slow_share = b.disk.slow_share = 0
    disk = b.resource.disk
    assert disk is not None

    def refused_later(offset: int, data: bytes, done: Callable[[int], None]) -> int:
        def refused() -> None:
            done(errno.EIO)
            b.finish()

        world.after(200, refused)
        return PENDING

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write", refused_later)
        world.write(a, 0, ONE)
        a.resource.disk_failed(errno.EIO, "flushing")
        a.finish()
        world.run(100)
        flush = world.submit(a, Op.FLUSH)
        assert not a.resource.primary.loss_untold
        assert world.wait(flush).errno == errno.EIO
    assert b.resource.state.disk == Disk.UP_TO_DATE and a.resource.state.conn == Conn.CONNECTED
    assert world.wait(world.submit(a, Op.FLUSH)).errno == errno.EIO
    world.flush(a)
