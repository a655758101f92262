# SPDX-License-Identifier: GPL-2.0-or-later
"""A promotion without the peer: what this disk took is durable before it gets a generation of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replblock.core.answers import Answer
from replblock.meta.superblock import Superblock
from replblock.state.names import Conn, Disk, Role

from .world import World


def parted(seed: int) -> World:
    """b has what the Primary a wrote in its cache only; a is gone."""
    world = World(seed).pair()
    world.a.disk.slow_share = world.b.disk.slow_share = 0
    world.write(world.a, 0, b"x" * 4096)
    world.kill(world.a)
    world.run_until(lambda: world.b.resource.state.conn < Conn.CONNECTED)
    return world


def test_a_promotion_whose_flush_fails_begins_no_generation() -> None:
    """a, which has everything, stays the newer one."""
    world = parted(1)
    meta = world.b.resource.meta
    assert meta is not None
    before, at = meta.uuids.current, meta.geometry.superblock_offset_bytes
    world.b.disk.fail_flushes = True
    answer = world.command(world.b, "primary")
    assert answer.exit_code == 17 and world.b.resource.state.role == Role.SECONDARY
    world.run(100)
    assert Superblock.unpack(bytes(world.b.disk.content[at : at + 4096])).uuid_current == before


def test_a_handshake_that_begins_during_the_flush_is_waited_for(monkeypatch: Any) -> None:
    """Nobody is refused for it, and nothing is decided in the middle of it."""
    world = parted(2)
    b = world.b.resource
    assert b.disk is not None
    flushes: list[Callable[[int], None]] = []
    monkeypatch.setattr(b.disk, "flush", flushes.append)
    answers: list[Answer] = []
    b.command("primary", {}, answers.append)
    assert flushes and b.state.role == Role.SECONDARY
    world.up(world.a)
    world.run_until(lambda: b.handshake.exchanging)
    monkeypatch.undo()
    flushes[0](0)
    assert not answers and b.state.role == Role.SECONDARY
    world.b.finish()
    world.run_until(lambda: bool(answers))
    assert answers[0].exit_code == 0 and b.state.role == Role.PRIMARY and b.state.conn >= Conn.CONNECTED
    world.settle()
    assert world.same_data()


def test_outdating_a_node_that_has_not_noticed_yet_that_its_peer_is_gone() -> None:
    """A fencing handler comes over another way, and the Primary may be the first to notice: the peer is asked once more
    whether it lives. One that lives is the reason for a refusal, at once."""
    world = World(7, ping_int_ms=10_000).pair()
    asked_at = world.now
    refused = world.command(world.b, "outdate")
    assert refused.exit_code == 11 and "while Connected" in refused.lines[0]
    assert world.now - asked_at < world.b.resource.settings.ping_timeout_ms
    world.partition()
    assert world.b.resource.state.conn == Conn.CONNECTED
    world.ok(world.b, "outdate")
    assert world.b.resource.state.disk == Disk.OUTDATED and world.b.resource.state.conn < Conn.CONNECTED
