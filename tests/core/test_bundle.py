# SPDX-License-Identifier: GPL-2.0-or-later
"""Several volumes on one connection: each is replicated as if it were alone, and they live and die together."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from tests.core.bundled import BundledWorld
from tests.core.world import MIB


@pytest.mark.parametrize("numbers", [(0, 1), (3,), (2, 0, 7)])
@pytest.mark.parametrize("protocol", "ABC")
def test_each_is_replicated(protocol: str, numbers: tuple[int, ...]) -> None:
    world = BundledWorld(3, numbers, protocol=protocol).begin()
    for count, (number, host) in enumerate(world.volumes["a"].items()):
        world.write(host, count * 65536, bytes([number + 1]) * 65536)
        world.flush(host)
    world.settle()
    assert world.same_data()
    contents = {bytes(host.disk.data(3 * MIB)) for host in world.volumes["b"].values()}
    assert len(contents) == len(numbers), "each has its own"


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("protocol", "ABC")
@pytest.mark.parametrize("seed", range(6))
def test_writers_that_flush_at_the_same_time(seed: int, protocol: str, ordered: bool) -> None:
    """Epochs of the volumes cross; a power cut of the other node loses nothing that was flushed."""
    world = BundledWorld(seed, (0, 1, 2), protocol=protocol, offer_ordered=ordered).begin()
    rng = random.Random(seed)
    for host in world.everybody:
        host.disk.slow_share, host.disk.slow_ms = 0.5, 6
    pending = []
    for _ in range(150):
        host = rng.choice(list(world.volumes["a"].values()))
        if rng.random() < 0.25:
            pending.append(world.submit(host, Op.FLUSH))
        else:
            size, at = rng.choice((512, 4096, 16384)), rng.randrange(0, 2 * MIB) // 512 * 512
            pending.append(world.submit(host, Op.WRITE, at, size, rng.randbytes(size)))
        world.run(rng.randrange(4))
    for request in pending:
        assert world.wait(request).errno == 0
    for host in world.volumes["a"].values():
        world.flush(host)
    if protocol == "C":
        for number, host in world.volumes["b"].items():
            mine = world.volumes["a"][number].disk
            assert bytes(host.disk.durable[: 3 * MIB]) == bytes(mine.content[: 3 * MIB])
    world.settle()
    assert world.same_data()


@pytest.mark.parametrize("who", ["a0", "a1", "b0", "b1"])
@pytest.mark.parametrize("power", [False, True])
def test_one_engine_dies(who: str, power: bool) -> None:
    """All volumes lose the peer; when it is back all meet it, and what each missed is copied."""
    world = BundledWorld(7).begin()
    victim = next(host for host in world.everybody if host.name == who)
    for host in world.volumes["a"].values():
        world.write(host, 0, b"before!!" * 512)
        world.flush(host)
    world.kill(victim, power)
    alive = [host for host in world.everybody if host is not victim]
    world.run_until(lambda: all(host.resource.state.conn < Conn.CONNECTED for host in alive))
    for host in world.volumes["a"].values():
        if host is not victim:
            world.write(host, MIB, b"alone..." * 512)
    world.run(3000)
    assert all(host.resource.state.conn == Conn.WF_CONNECTION for host in alive), "not without all of them"
    world.up(victim)
    world.settle()
    assert world.same_data()


def test_the_bundle_dies() -> None:
    world = BundledWorld(8).begin()
    node = world.b
    for sock in list(node.pipes):
        pipe = node.pipes.pop(sock)
        pipe.close(pipe.side(node, sock))
    for sock in list(node.inside.pipes):  # type: ignore[attr-defined]
        node.inside.close(sock)  # type: ignore[attr-defined]
    node.listening = False
    world.start_bundle(node)
    world.run_until(lambda: not world.in_sync())
    for host in world.volumes["a"].values():
        world.write(host, 0, b"meanwhile" * 512 + b"." * 3584)
    world.settle()
    assert world.same_data()


def test_the_network_is_cut() -> None:
    world = BundledWorld(9, connect_int_ms=1000).begin()
    world.partition()
    world.run_until(lambda: all(host.resource.state.conn < Conn.CONNECTED for host in world.everybody))
    for host in world.volumes["a"].values():
        world.write(host, 4096, b"cut" * 4096)
    world.heal()
    world.settle()
    assert world.same_data()


@pytest.mark.parametrize("first", ["a0", "a1", "b0", "b1"])
def test_disconnect_and_connect(first: str) -> None:
    """One volume after the other, as an operator's command does it."""
    world = BundledWorld(10).begin()
    hosts = sorted(world.everybody, key=lambda host: (host.name[0] != first[0], host.name != first))[:2]
    for host in hosts:
        world.ok(host, "disconnect")
    assert all(host.resource.state.conn == Conn.STANDALONE for host in hosts)
    for host in world.volumes["a"].values():
        world.write(host, 8192, b"apart..." * 512)
    world.run(5000)
    others = [host for host in world.everybody if host not in hosts]
    assert all(host.resource.state.conn == Conn.WF_CONNECTION for host in others)
    for host in hosts:
        world.ok(host, "connect")
    world.settle()
    assert world.same_data()


def test_both_ask_to_leave_at_once() -> None:
    world = BundledWorld(11).begin()
    answers: list[int] = []
    for host in world.volumes["b"].values():
        host.resource.command("disconnect", {}, lambda answer: answers.append(answer.exit_code))
        host.finish()
    world.run_until(lambda: len(answers) == 2)
    assert answers == [0, 0]
    assert all(host.resource.state.conn == Conn.STANDALONE for host in world.volumes["b"].values())


def test_a_peer_that_takes_nothing_for_a_while() -> None:
    """Longer than `timeout`; it answers pings, so it lives, and an engine's pings are answered to that engine."""
    world = BundledWorld(18, timeout_ms=2000, ping_int_ms=1000).begin()
    unsent = world.a.unsent_bytes
    world.a.unsent_bytes = lambda sock: max(1, unsent(sock))  # type: ignore[method-assign]
    for _ in range(20):
        for host in world.volumes["a"].values():
            world.submit(host, Op.WRITE, 0, 4096, b"x" * 4096)
        world.run(400)
    world.a.unsent_bytes = unsent  # type: ignore[method-assign]
    world.settle()
    assert all(host.resource.links.losses == 0 for host in world.everybody)


def test_an_ack_for_nobodys_ping() -> None:
    world = BundledWorld(19).begin()
    world.a.resource.links.send_meta(Cmd.PING_ACK)
    world.a.finish()
    world.run(1000)
    assert world.in_sync()


def test_the_peer_floods_before_it_was_met() -> None:
    """Nothing is kept for somebody who has proved nothing."""
    world = BundledWorld(20, cram_hmac_alg="sha256", shared_secret="x")
    for node in (world.a, world.b):
        world.start(node)
    bundle: Any = world.a.resource
    world.run_until(lambda: bundle.links.link is not None)
    assert not bundle._met
    with pytest.raises(ProtocolError, match="before the handshake"):
        bundle.on_meta_packets([(int(Cmd.PING), 0, memoryview(b""))])


def test_roles_change_sides() -> None:
    world = BundledWorld(12).begin()
    for host in world.volumes["a"].values():
        world.ok(host, "secondary")
    for host in world.volumes["b"].values():
        world.ok(host, "primary")
        world.write(host, 0, host.name.encode() * 2048)
    world.settle()
    assert world.same_data()


def test_compressed_writes_count() -> None:
    """An epoch has them, too; what is inside of the envelope tells."""
    world = BundledWorld(17, compression="lz4").begin()
    for host in world.volumes["a"].values():
        world.write(host, 0, b"text that shrinks " * 4096)
        world.flush(host)
        world.write(host, 2 * MIB, world.rng.randbytes(65536))
        world.flush(host)
    world.settle()
    assert world.same_data()
    assert all(host.resource.links.losses == 0 for host in world.everybody)


def test_the_peer_proves_itself_once() -> None:
    """cram-hmac is the connection's: the engines have nothing to prove to their own node."""
    world = BundledWorld(13, cram_hmac_alg="sha256", shared_secret="of both").begin()
    said = [line for line in world.lines if "Peer authenticated" in line]
    assert len(said) == 2


def differing(world: BundledWorld) -> None:
    """Neither node goes on, nor tries again and again; no disk changes."""
    for node in (world.a, world.b):
        world.start(node)
    world.run(500)
    before = [bytes(host.disk.content) for host in world.everybody]
    world.run(60_000)
    assert len(world.a.dials_ms) + len(world.b.dials_ms) < 60
    assert all(host.resource.state.conn < Conn.CONNECTED for host in world.everybody)
    assert [bytes(host.disk.content) for host in world.everybody] == before


def test_another_secret() -> None:
    world = BundledWorld(14, cram_hmac_alg="sha256", shared_secret="of a")
    world.b.settings = replace(world.b.settings, shared_secret="of b")  # type: ignore[attr-defined]
    differing(world)
    assert any("shared-secret" in line for line in world.lines)
    assert len(world.a.dials_ms) + len(world.b.dials_ms) < 8, "nobody tries again"


@pytest.mark.parametrize(("mine", "theirs", "which"), [((0, 1), (0, 2), 2), ((0,), (0, 1), 1), ((3,), (4,), 4)])
def test_other_volumes_there(mine: tuple[int, ...], theirs: tuple[int, ...], which: int) -> None:
    world = BundledWorld(15, mine, numbers_there=theirs)
    differing(world)
    assert any(f"the peer has a volume {which}, of which this node has none" in line for line in world.lines)


def test_a_peer_from_before_volumes() -> None:
    world = BundledWorld(16)
    world.b.settings = replace(world.b.settings, version_max=96)  # type: ignore[attr-defined]
    differing(world)
    assert any("speaks protocol 96, which knows of one volume" in line for line in world.lines)
