# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the connection that change on one node while it stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn
from replblock.wire.commands import Cmd
from replblock.wire.handshake import Protocol

from .simhost import SimHost
from .world import World


def adjust(world: World, host: SimHost, **changes: Any) -> None:
    host.settings = replace(host.settings, **changes)  # type: ignore[attr-defined]
    world.ok(host, "net_options", settings=host.settings)  # type: ignore[attr-defined]
    world.run(100)


@pytest.mark.parametrize("before", "ABC")
@pytest.mark.parametrize("after", "ABC")
@pytest.mark.parametrize("primary", [True, False])
def test_the_protocol_changes_under_writes(before: str, after: str, primary: bool) -> None:
    """adjust on one node is enough: no connection is lost, every write is answered, the other node follows."""
    world = World(3, protocol=before).pair()
    world.b.disk.slow_share, world.b.disk.slow_ms = 1, 20
    writes = [world.submit(world.a, Op.WRITE, n * 4096, 4096, bytes([n + 1]) * 4096) for n in range(10)]
    adjust(world, world.a if primary else world.b, protocol=after, after_sb_0pri="discard-local")
    writes += [world.submit(world.a, Op.WRITE, n * 4096, 4096, bytes([n + 101]) * 4096) for n in range(10)]
    for write in writes:
        assert world.wait(write).errno == 0
    world.flush(world.a)
    world.settle()
    assert world.same_data()
    assert world.a.resource.links.losses == world.b.resource.links.losses == 0
    other = world.b if primary else world.a
    assert other.resource.settings.protocol == after
    assert other.resource.settings.after_sb_0pri == "discard-remote"
    world.partition()
    world.heal()
    world.run_until(world.in_sync)  # the running settings of both agree


def test_a_flush_after_the_change_to_c_covers_what_was_written_before() -> None:
    """The promise of C holds from the answer of adjust on."""
    world = World(4, protocol="A").pair()
    world.b.disk.slow_share, world.b.disk.slow_ms = 1, 50
    world.write(world.a, 0, b"x" * 4096)
    adjust(world, world.a, protocol="C")
    world.flush(world.a)
    assert bytes(world.b.disk.durable[:4096]) == b"x" * 4096


@pytest.mark.parametrize(
    ("change", "version"),
    [({"verify_alg": "sha1"}, 101), ({"data_integrity_alg": "crc32c"}, 101), ({"protocol": "A"}, 97)],
)
def test_what_cannot_be_told_is_agreed_anew(change: dict[str, Any], version: int) -> None:
    """Both nodes adjusted, one after the other, as before."""
    world = World(5, version_max=version).pair()
    adjust(world, world.a, **change)
    assert world.a.resource.links.losses >= 1  # several, if the other took a while
    adjust(world, world.b, **change)
    for host in (world.a, world.b):
        if host.resource.state.conn == Conn.STANDALONE:
            world.ok(host, "connect")
    world.run_until(world.in_sync)


def test_an_update_that_makes_no_sense_costs_the_connection() -> None:
    """Numbers of a peer."""
    world = World(6).pair()
    world.a.resource.links.send_connection(Cmd.PROTOCOL_UPDATE, Protocol(7, 0, 0, 0, 0, 0, "").pack(101))
    world.a.finish()
    world.run(100)
    assert any("[protocol-error]" in line for line in world.b.lines)
    assert world.b.resource.settings.protocol == "C"
    world.settle()


@pytest.mark.parametrize("what", ["resync", "verify"])
def test_a_new_rate_holds_for_what_runs_already(what: str) -> None:
    world = World(5, size_bytes=8 << 20, resync_rate_kib=256, c_plan_ahead=0, verify_alg="sha1").pair()
    world.ok(world.b, "verify" if what == "verify" else "invalidate")
    conn = Conn.VERIFY_S if what == "verify" else Conn.SYNC_TARGET
    world.run_until(lambda: world.b.resource.state.conn == conn)
    world.run(1000)
    assert world.b.resource.state.conn == conn
    adjust(world, world.b, resync_rate_kib=1 << 20)
    world.run(2000)     # at the old rate: half a minute
    assert world.b.resource.state.conn == Conn.CONNECTED
