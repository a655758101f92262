# SPDX-License-Identifier: GPL-2.0-or-later
"""Asked to agree, a peer may first have to flush, or to write, for long: it lives as long as it answers pings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replblock.core.answers import Answer
from replblock.state.names import Conn, Disk, Role

from .world import SimHost, World


def busy(world: World, host: SimHost, ms: int) -> None:
    """For so long its disk is at something that comes before what it is asked."""

    def begin(go_on: Callable[[], None]) -> None:
        def ended() -> None:
            go_on()
            host.finish()

        world.after(ms, ended)

    host.resource.secondary.hold_until(begin)


def asked(world: World, host: SimHost, verb: str) -> list[Answer]:
    answers: list[Answer] = []
    host.resource.command(verb, {}, answers.append)
    host.finish()
    return answers


def built_on_the_peer(**changes: Any) -> World:
    """a was a diskless Primary, and died; it is back and wants to go on with what b has."""
    world = World(1, **changes).pair()
    world.ok(world.a, "detach")
    world.run(2000)
    world.write(world.a, 0, b"1" * 4096)
    world.flush(world.a)
    world.run(1000)
    world.kill(world.a)
    world.boot(world.a)
    world.ok(world.a, "connect")
    world.run_until(lambda: all(host.resource.state.conn == Conn.CONNECTED for host in (world.a, world.b)))
    assert world.a.resource.state.pdsk == Disk.UP_TO_DATE
    return world


def test_a_promotion_waits_for_a_slow_flush_of_the_peer(monkeypatch: Any) -> None:
    """The flush takes longer than `timeout`: the Primary that fails over must not be refused its only data."""
    world = built_on_the_peer(timeout_ms=6000)
    disk, losses = world.b.resource.disk, world.a.resource.links.losses
    assert disk is not None
    flush, flushes = disk.flush, []

    def slow(done: Callable[[int], None]) -> None:
        flushes.append(world.now)
        world.after(8000, lambda: flush(done))

    monkeypatch.setattr(disk, "flush", slow)
    world.ok(world.a, "primary")
    assert world.a.resource.state.role == Role.PRIMARY and flushes
    assert world.now >= flushes[0] + 8000 and world.a.resource.links.losses == losses
    assert world.read(world.a, 0, 4096) == b"1" * 4096


@pytest.mark.parametrize("verb", ["detach", "invalidate_remote", "invalidate"])
def test_other_orders_wait_as_well(verb: str) -> None:
    world = World(2, timeout_ms=6000).pair()
    losses = world.a.resource.links.losses
    busy(world, world.b, 20_000)
    answers = asked(world, world.a, verb)
    if verb == "detach":
        world.run(19_000)
        assert not answers
    world.run_until(lambda: bool(answers), 30_000)
    assert answers[0].exit_code == 0 and world.a.resource.links.losses == losses
    if verb != "detach":
        world.settle()
        assert world.same_data()


def test_a_peer_that_is_dead_is_not_waited_for() -> None:
    """It answers no ping; who is refused is told why, and what to do."""
    world = built_on_the_peer(timeout_ms=6000)
    world.partition()
    begun, answers = world.now, asked(world, world.a, "primary")
    world.run_until(lambda: bool(answers))
    assert world.now - begun <= 6000 + 2 * world.a.resource.settings.ping_timeout_ms
    assert answers[0].exit_code == 17 and "before the peer agreed" in answers[0].lines[1]
    assert world.a.resource.state.role == Role.SECONDARY


@pytest.mark.parametrize(("ko_count", "timeouts"), [(3, 3), (0, 7)])
def test_a_peer_that_lives_and_never_answers_is_given_up(ko_count: int, timeouts: int) -> None:
    """As one that never acknowledges a write; with ko-count 0 as by default: an operator waits for the answer."""
    world = built_on_the_peer(timeout_ms=2000, ko_count=ko_count)
    busy(world, world.b, 1_000_000)
    begun, answers = world.now, asked(world, world.a, "primary")
    world.run(2000 * timeouts - 100)
    assert not answers and world.a.resource.state.conn == Conn.CONNECTED
    world.run_until(lambda: bool(answers))
    assert world.now - begun <= 2000 * (timeouts + 1)
    assert answers[0].exit_code == 17 and any("change-not-answered" in line for line in world.a.lines)


def test_who_leaves_is_not_patient() -> None:
    """A disconnect needs no consent in the end: nobody waits longer than `timeout` for it."""
    world = World(3, timeout_ms=2000).pair()
    busy(world, world.a, 1_000_000)
    begun = world.now
    world.ok(world.b, "disconnect")
    assert 2000 <= world.now - begun <= 3000 and world.b.resource.state.conn == Conn.STANDALONE
