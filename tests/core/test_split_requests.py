# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that are carried out in parts: no part counts for more than the whole."""

from __future__ import annotations

import errno

import pytest

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk

from .world import MIB, World

EXTENT = 4 * MIB
HALF = 64 << 10


def first_part_received(protocol: str, **settings: object) -> tuple[World, Request]:
    """A zeroing of two parts: one is done here and received there, the other waits until its extent is hot."""
    world = World(3, protocol=protocol, size_bytes=16 * MIB, ping_int_ms=1000, **settings).pair()
    a, b = world.a, world.b
    world.write(a, EXTENT - HALF, b"o" * HALF)
    world.flush(a)
    world.settle()
    a.disk.slow_share, a.disk.slow_ms = 0, 4000
    b.disk.slow_share, b.disk.slow_ms = 1, 4000
    request = world.submit(a, Op.ZERO, EXTENT - HALF, 2 * HALF)
    world.run(20)
    b.disk.slow_share, b.disk.slow_ms = 0, 1
    assert not world.answered(request) and bytes(b.disk.content[EXTENT - HALF : EXTENT]) == b"o" * HALF
    a.resource.disk_failed(errno.EIO, "reading")
    a.finish()
    assert a.resource.state.disk == Disk.DISKLESS
    return world, request


@pytest.mark.parametrize("protocol", "AB")
def test_a_part_that_was_only_received_counts_no_more_without_this_disk(protocol: str) -> None:
    """The whole is answered when all of it is on the peer's disk."""
    world, request = first_part_received(protocol)
    world.wait(request)
    assert request.errno == 0
    assert bytes(world.b.disk.content[EXTENT - HALF : EXTENT + HALF]) == bytes(2 * HALF)


@pytest.mark.parametrize("policy", ["io-error", "suspend-io"])
@pytest.mark.parametrize("protocol", "AB")
def test_a_part_that_the_peer_lost_is_not_answered_with_the_rest(protocol: str, policy: str) -> None:
    """The peer dies before it wrote the first part: an error, or all of it once more when the peer is back."""
    world, request = first_part_received(protocol, on_no_data_accessible=policy)
    world.b.disk.under_way.clear()
    world.b.disk.unflushed.clear()
    world.kill(world.b, power=True)
    world.run_until(lambda: world.a.resource.state.conn < Conn.CONNECTED)
    assert world.answered(request) == (policy == "io-error")
    if policy == "io-error":
        assert request.errno == errno.EIO
        return
    world.up(world.b)
    world.wait(request)
    assert request.errno == 0
    assert bytes(world.b.disk.content[EXTENT - HALF : EXTENT + HALF]) == bytes(2 * HALF)
    world.wait(world.submit(world.a, Op.FLUSH))
    world.write(world.a, 0, b"x" * 4096)
    world.flush(world.a)
    assert world.a.resource.primary.idle and not world.a.resource.primary._kept_bytes
