# SPDX-License-Identifier: GPL-2.0-or-later
"""A diskless Primary tells its state only to a peer whose data its users have seen: another would move on."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn, Disk
from replblock.state.packed import State
from replblock.wire.packets import StateWord

from .world import World

ONE, TWO = b"1" * 4096, b"2" * 4096


@pytest.mark.parametrize("attaching", [False, True])
def test_a_peer_with_older_data_does_not_move_on(attaching: bool) -> None:
    """`b` missed a write; the disk of `a`, which has it, is away, or just comes back."""
    world = World(41, ping_int_ms=1000, on_no_data_accessible="suspend-io").pair()
    a, b = world.a, world.b
    world.write(a, 0, ONE)
    world.flush(a)
    world.ok(b, "disconnect")
    world.run_until(lambda: a.resource.state.conn < Conn.CONNECTED)
    world.write(a, 0, TWO)
    world.flush(a)
    world.ok(a, "detach", force=True)
    before = b.resource.meta.uuids  # type: ignore[union-attr]
    if attaching:
        a.disk.slow_ms = 3000
        answers: list[object] = []
        a.resource.command("attach", a.open_disk(), answers.append)
        a.finish()
        assert a.resource.state.disk == Disk.ATTACHING
    world.ok(b, "connect")
    exchanges = a.resource.handshake.exchanges
    world.run_until(lambda: a.resource.handshake.exchanges > exchanges)
    world.run(200)
    assert b.resource.meta.uuids == before  # type: ignore[union-attr]
    if attaching:
        a.disk.slow_ms = 5
        world.run(10_000)
        assert answers and a.resource.state.disk == Disk.UP_TO_DATE
    else:
        world.ok(a, "attach", **a.open_disk())
    if a.resource.state.conn == Conn.STANDALONE:
        world.ok(a, "connect")
    world.settle()
    assert world.read(a, 0, 4096) == TWO and world.same_data()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ordered", [True, False])
def test_a_disk_that_comes_after_the_connection_waits_for_the_answer(ordered: bool, seed: int) -> None:
    """The same with a peer whose disk still was coming when it connected: the state could not be held back."""
    settings = {"on_no_data_accessible": "suspend-io", "offer_ordered": ordered}
    world = World(seed, ping_int_ms=60_000, **settings).pair()
    a, b = world.a, world.b
    world.write(a, 0, ONE)
    world.flush(a)
    world.kill(b)
    world.run_until(lambda: a.resource.state.conn < Conn.CONNECTED)
    world.write(a, 0, TWO)
    world.flush(a)
    world.ok(a, "detach", force=True)
    world.boot(b)
    b.disk.slow_share, b.disk.slow_ms = 1, 100
    answers: list[object] = []
    b.resource.command("attach", b.open_disk(), answers.append)
    b.finish()
    before = b.resource.meta.uuids  # type: ignore[union-attr]
    world.ok(b, "connect")
    world.run_until(lambda: a.resource.state.conn == b.resource.state.conn == Conn.CONNECTED)
    assert b.resource.state.disk == Disk.ATTACHING
    assert State.unpack(StateWord.unpack(b.resource.state_word()).value).disk == Disk.DISKLESS, "as P_SIZES says"
    world.delay_ms = 1000
    while b.resource.state.disk == Disk.ATTACHING:
        # some of these are on their way when the disk has come
        a.resource.send_state()
        a.finish()
        world.run(10)
    world.run(2000)
    world.delay_ms = 2
    assert answers and b.resource.meta.uuids == before  # type: ignore[union-attr]
    assert a.resource.state.conn == Conn.STANDALONE
    b.disk.slow_ms = 5
    world.ok(a, "attach", **a.open_disk())
    world.ok(a, "connect")
    world.settle()
    assert world.read(a, 0, 4096) == TWO and world.same_data()
