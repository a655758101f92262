# SPDX-License-Identifier: GPL-2.0-or-later
"""What the path has gathered in a wake-up is never overtaken by something else on the data connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk
from replblock.wire.commands import Cmd
from replblock.wire.packets import BlockReq

from .world import MIB, World

OLD, NEW = b"o" * 4096, b"N" * 4096
COLD = 12 * MIB
"""An extent of the activity log that nothing has touched since the attach."""


def test_a_request_for_resync_data_does_not_overtake_a_write() -> None:
    """One wake-up makes the extent of a write hot, and then begins the resync to here, which asks for the same block.

    The peer has to see the write first. Else its answer is older than the write, and lands on this disk after it.
    """
    world = World(11, size_bytes=16 * MIB).pair()
    a = world.a
    world.ok(a, "detach")
    world.write(a, COLD, OLD)
    world.ok(a, "attach", **a.open_disk())
    begun: list[Callable[[], Any]] = []
    target = a.resource.sync.target
    start, target.start = target.start, lambda: begun.append(start)  # type: ignore[method-assign]
    world.run_until(lambda: bool(begun))
    assert a.resource.state.conn == Conn.SYNC_TARGET
    activity = a.resource.attachment.activity
    assert activity is not None and not activity.covers(COLD >> 22, COLD >> 22)
    release = activity._release

    def released() -> None:
        release()
        while begun:
            begun.pop()()

    activity._release = released  # type: ignore[method-assign]
    write = world.submit(a, Op.WRITE, COLD, 4096, NEW)
    assert world.wait(write).errno == 0
    assert not begun
    world.settle()
    assert a.resource.state.disk == Disk.UP_TO_DATE
    assert world.same_data()
    assert a.disk.content[COLD : COLD + 4096] == NEW


@pytest.mark.parametrize("attached", [False, True])
def test_no_resync_data_is_asked_for_where_a_write_is_on_its_way(attached: bool) -> None:
    """DRBD 8.4 reads for the resync beside a write that it has received: the answer may be older than the write.

    A write that goes to the peer only (no disk here, or one that is not a target's yet) must be over before.
    """
    world = World(12, size_bytes=16 * MIB, offer_ordered=False).pair()
    a, b = world.a, world.b
    world.ok(a, "detach")
    world.write(a, COLD, OLD)
    acks: list[Callable[[], None]] = []
    world.listen_in(b)
    ack = b.resource.secondary.ack

    def late(link: Any, cmd: Cmd, *rest: Any) -> None:
        if cmd == Cmd.WRITE_ACK:
            acks.append(partial(ack, link, cmd, *rest))
        else:
            ack(link, cmd, *rest)

    b.resource.secondary.ack = late  # type: ignore[method-assign]
    asked: list[int] = []
    send = a.resource.links.send

    def watched(cmd: Cmd, body: bytes = b"") -> None:
        if cmd in (Cmd.RS_DATA_REQUEST, Cmd.RS_THIN_REQ):
            asked.append(BlockReq.unpack(memoryview(body)).sector << 9)
        send(cmd, body)

    a.resource.links.send = watched  # type: ignore[method-assign]
    write = world.submit(a, Op.WRITE, COLD, 4096, NEW) if not attached else None
    world.run(100)
    world.ok(a, "attach", **a.open_disk())
    if write is None:
        world.run_until(lambda: a.resource.state.conn == Conn.WF_SYNC_UUID)
        write = world.submit(a, Op.WRITE, COLD, 4096, NEW)
    world.run(2000)
    assert acks and not world.answered(write)
    assert a.resource.state.conn == Conn.SYNC_TARGET and COLD not in asked
    b.resource.secondary.ack = ack  # type: ignore[method-assign]
    for each in acks:
        each()
    b.finish()
    world.settle()
    assert write.errno == 0 and COLD in asked
    assert world.same_data()


def alone(seed: int) -> World:
    """A Primary without its peer, and a disk that answers at once."""
    world = World(seed, ping_int_ms=1000).pair()
    world.partition()
    world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION)
    world.write(world.a, 0, OLD)
    world.a.disk.slow_share = 0.0
    return world


def test_what_an_answer_begins_does_not_overtake_what_was_begun_before() -> None:
    """The first of two writes is answered while the second is not with the disk yet; then it is written over."""
    world = alone(12)
    a = world.a.resource
    over: list[Request] = []

    def answered(request: Request) -> None:
        over.append(Request(Op.WRITE, 4096, 4096, over.append, NEW))
        a.submit(over[:1])

    a.submit([Request(Op.WRITE, 0, 4096, answered, OLD), Request(Op.WRITE, 4096, 4096, over.append, OLD)])
    world.run(100)
    assert len(over) == 3
    assert world.a.disk.content[4096:8192] == NEW


def test_thousands_of_requests_go_on_at_once() -> None:
    """I/O was suspended: each is answered while the ones behind it begin, and that takes no deeper stack."""
    world = alone(13)
    world.a.resource.primary.freeze("user")
    requests = [world.submit(world.a, Op.WRITE, n % 64 << 12, 4096, bytes([n % 251]) * 4096) for n in range(2000)]
    world.a.resource.primary.thaw("user")
    world.run(1000)
    assert all(world.answered(request) for request in requests)
    for block in range(64):
        newest = max(n for n in range(2000) if n % 64 == block)
        assert world.a.disk.content[block << 12] == newest % 251
