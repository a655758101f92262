# SPDX-License-Identifier: GPL-2.0-or-later
"""Protocols A and B: what the peer had only received, and could not write, is on no disk: nobody is told yes.

And what counts as received."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from replblock.core.host import PENDING
from replblock.core.requests import Op
from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Disk
from replblock.wire.commands import Cmd
from replblock.wire.packets import BLOCK_ACK_BODY

from .world import World

ONE, TWO = b"1" * 4096, b"2" * 4096


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("protocol", "AB")
def test_a_write_that_both_disks_refused_fails(protocol: str, frozen: bool) -> None:
    """This disk fails first, so that the peer, told to pass errors on, stays the good one; its barrier ack comes."""
    world = World(21, protocol=protocol)
    a, b = world.a, world.b
    b.settings = replace(b.settings, on_io_error="pass_on")  # type: ignore[attr-defined]
    world.pair()
    world.flush(a)
    a.disk.slow_share = 0
    a.disk.fail_writes = True
    refused: list[Callable[[int], None]] = []
    disk = b.resource.disk
    assert disk is not None
    disk.write = lambda offset, data, done: refused.append(done) or PENDING  # type: ignore[method-assign,func-returns-value]
    write = world.submit(a, Op.WRITE, 0, 4096, ONE)
    world.run(100)
    assert a.resource.state.disk == Disk.DISKLESS and not world.answered(write)
    if frozen:
        a.resource.primary.freeze("test")
    refused.pop()(errno.EIO)
    b.finish()
    world.run(2000)
    assert b.resource.state.disk == Disk.UP_TO_DATE
    if frozen:
        a.resource.primary.thaw("test")
    assert world.answered(write) and write.errno == errno.EIO


def test_a_refused_write_is_told_when_the_metadata_says_so() -> None:
    """Else the peer goes on without this disk, which comes back from a power loss as good as before."""
    world = World(22)
    a, b = world.a, world.b
    b.settings = replace(b.settings, on_io_error="pass_on")  # type: ignore[attr-defined]
    world.pair()
    world.flush(a)
    at = b.disk.geometry.superblock_offset_bytes

    def says_inconsistent() -> bool:
        return not Superblock.unpack(bytes(b.disk.content[at : at + 4096])).flags & Flag.CONSISTENT

    b.disk.slow_ms = 200
    b.disk.fail_writes = True
    write = world.submit(a, Op.WRITE, 0, 4096, ONE)
    world.run_until(lambda: b.resource.state.disk == Disk.INCONSISTENT)
    assert not says_inconsistent()
    world.run_until(lambda: world.answered(write) or a.resource.state.pdsk == Disk.INCONSISTENT)
    assert says_inconsistent()
    world.run_until(lambda: world.answered(write) and a.resource.state.pdsk == Disk.INCONSISTENT)
    assert write.errno == 0


def test_a_detach_takes_along_what_was_received_before() -> None:
    """B: answered already, it waits for an older write to the same blocks: a disk that goes in good order gets both."""
    world = World(23, protocol="B").pair()
    world.flush(world.a)
    world.a.disk.slow_share, world.b.disk.slow_share, world.b.disk.slow_ms = 0, 1, 300
    world.write(world.a, 0, ONE)
    world.write(world.a, 0, TWO)
    assert world.b.resource.secondary.unacked == 2
    world.ok(world.b, "detach")
    assert bytes(world.b.disk.durable[:4096]) == TWO


def test_what_comes_to_a_disk_that_goes_was_not_received() -> None:
    """B: forced, it asks nobody; a write that the Primary sends before it knows is refused, no more."""
    world = World(24, protocol="B").pair()
    world.flush(world.a)
    world.a.disk.slow_share, world.b.disk.slow_share, world.b.disk.slow_ms = 0, 1, 300
    write = world.submit(world.a, Op.WRITE, 0, 4096, ONE)
    acks: list[tuple[Cmd, int]] = []
    world.listen_in(world.a)
    table: dict[int, Any] = world.a.resource._meta_handlers

    def seen(cmd: Cmd, handle: Any, body: memoryview) -> None:
        acks.append((cmd, BLOCK_ACK_BODY.unpack(body)[0]))
        handle(body)

    for cmd in (Cmd.RECV_ACK, Cmd.NEG_ACK):
        table[cmd] = partial(seen, cmd, table[cmd])
    world.run_until(lambda: world.answered(write))
    world.b.resource.command("detach", {"force": True}, lambda answer: None)
    late = world.submit(world.a, Op.WRITE, 8192, 4096, TWO)
    world.b.finish()
    world.run(2000)
    assert world.b.resource.state.disk == Disk.DISKLESS
    assert acks == [(Cmd.RECV_ACK, 0), (Cmd.NEG_ACK, 16)]
    assert world.answered(late) and late.errno == 0
    assert bytes(world.b.disk.durable[:4096]) == ONE
