# SPDX-License-Identifier: GPL-2.0-or-later
"""A diskless Primary tells its state only to a peer whose data its users have seen: another would move on."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn, Disk

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
