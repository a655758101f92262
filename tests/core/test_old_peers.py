# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers of older protocols take less at once: 128 KiB from 95 on, 32 KiB before."""

from __future__ import annotations

from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk
from replblock.wire.limits import max_bio_bytes

from .world import MIB, World

VERSIONS = (86, 94, 95, 99, 100)


def watched(world: World) -> World:
    """No line may say that a packet was not right."""
    assert not [line for line in world.lines if "protocol" in line and "[version-agreed]" not in line]
    return world


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [{}, {"protocol": "A", "offer_ordered": False, "offer_features": 0}])
def test_large_requests_to_an_old_peer(version: int, settings: dict[str, Any]) -> None:
    """Full resync, large writes and zeroes: in pieces the protocol can carry, and both disks are equal."""
    world = World(version, version_max=version, **settings).pair()
    world.write(world.a, 512, bytes(range(256)) * (MIB // 256))
    world.write(world.a, 3 * MIB, b"f" * MIB, fua=True)
    assert world.wait(world.submit(world.a, Op.ZERO, MIB, MIB)).errno == 0
    world.flush(world.a)
    world.settle()
    assert watched(world).same_data()
    assert world.read(world.a, 512, MIB // 2) == bytes(range(256)) * (MIB // 512)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_diskless_primary_reads_large_from_an_old_peer(version: int) -> None:
    world = World(version, version_max=version).pair()
    data = bytes(range(251)) * 4178
    world.write(world.a, 4096, data[:MIB])
    world.ok(world.a, "detach")
    assert world.a.resource.state.disk == Disk.DISKLESS
    assert world.read(world.a, 4096, MIB) == data[:MIB]
    world.write(world.a, 2 * MIB, data[:MIB])
    assert world.read(world.a, 2 * MIB, MIB) == data[:MIB]
    watched(world)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_peer_that_asks_for_too_much_is_refused(version: int) -> None:
    """What it asks for could not be sent: it loses the connection, and the node lives."""
    from replblock.wire.commands import Cmd
    from replblock.wire.packets import BlockReq

    for cmd in (Cmd.RS_DATA_REQUEST, Cmd.DATA_REQUEST):
        world = World(version, version_max=version).pair()
        world.b.resource.links.send(cmd, BlockReq(0, b"\xff" * 8, max_bio_bytes(version) + 512).pack())
        world.b.finish()
        world.run(20)
        assert any("protocol-error" in line for line in world.a.lines)
        world.run_until(lambda w=world: w.a.resource.state.conn == Conn.CONNECTED)
