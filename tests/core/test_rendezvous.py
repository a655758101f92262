# SPDX-License-Identifier: GPL-2.0-or-later
"""How two nodes that dial each other end up with one pair of connections, whatever the order of events."""

from __future__ import annotations

import itertools
import random

import pytest

from replblock.core.rendezvous import Rendezvous
from replblock.core.settings import Settings
from replblock.state.names import Conn

from .world import World


class Node:
    """The ports of one node; connections are (other node, its socket)."""

    def __init__(self, own: str, peer: str, rng: random.Random) -> None:
        self.rng = rng
        self.peer: Node
        self.numbers = itertools.count(1)
        self.open: dict[int, tuple[Node, int] | None] = {}
        self.timers: set[str] = set()
        self.dials: list[int] = []
        self.inbox: list[tuple[str, int, int]] = []
        self.pair: tuple[int, int, bool] | None = None
        settings = Settings(own_address=own, peer_address=peer)
        self.rendezvous = Rendezvous(self, settings, self.met)

    def met(self, data: int, meta: int, resolve: bool) -> None:
        self.pair = (data, meta, resolve)

    def listen(self, wanted: bool) -> None: ...

    def dial(self) -> int:
        sock = next(self.numbers)
        self.open[sock] = None
        self.dials.append(sock)
        return sock

    def send(self, sock: int, parts: list[bytes]) -> None:
        target = self.open.get(sock)
        if target is not None:
            node, theirs = target
            cmd = int.from_bytes(b"".join(parts)[4:6], "big")
            node.inbox.append(("first", theirs, cmd))

    def close(self, sock: int) -> None:
        target = self.open.pop(sock, None)
        if target is not None:
            node, theirs = target
            node.inbox.append(("closed", theirs, 0))

    def timer(self, name: str, delay_ms: int | None) -> None:
        (self.timers.discard if delay_ms is None else self.timers.add)(name)

    def random64(self) -> int:
        return self.rng.getrandbits(64)

    # --- one event each

    def connect_one(self) -> None:
        sock = self.dials.pop(0)
        if sock not in self.open:
            return
        theirs = next(self.peer.numbers)
        self.open[sock] = (self.peer, theirs)
        self.peer.open[theirs] = (self, sock)
        self.peer.inbox.append(("accepted", theirs, 0))
        self.rendezvous.on_dialed(sock, 0)

    def handle_one(self) -> None:
        what, sock, cmd = self.inbox.pop(0)
        if sock not in self.open:
            return
        if what == "accepted":
            self.rendezvous.on_accepted(sock)
        elif what == "first":
            if self.pair is None:
                self.rendezvous.on_first(sock, cmd)
        else:
            del self.open[sock]
            if self.pair is not None and sock in self.pair[:2]:
                self.pair = None
                self.rendezvous.start(True)
            elif self.pair is None:
                self.rendezvous.on_closed(sock)


@pytest.mark.parametrize("seed", range(300))
def test_crossing_connects_end_in_one_pair(seed: int) -> None:
    """Both dial, events in any order: the ends agree on both connections and on who resolves conflicts."""
    rng = random.Random(seed)
    a, b = Node("10.0.0.1:7788", "10.0.0.2:7788", rng), Node("10.0.0.2:7788", "10.0.0.1:7788", rng)
    a.peer, b.peer = b, a
    a.rendezvous.start(True)
    b.rendezvous.start(rng.random() < 0.5)
    for _ in range(600):
        choices = [node.connect_one for node in (a, b) if node.dials]
        choices += [node.handle_one for node in (a, b) if node.inbox]
        if not choices:
            if a.pair and b.pair:
                break
            for node in (a, b):
                if node.rendezvous.active and "rendezvous" in node.timers:
                    node.timers.discard("rendezvous")
                    node.rendezvous.on_timer("rendezvous")
            continue
        rng.choice(choices)()
    assert a.pair and b.pair, (a.pair, b.pair)
    assert a.open[a.pair[0]] == (b, b.pair[0]) and a.open[a.pair[1]] == (b, b.pair[1])
    assert a.pair[2] != b.pair[2]
    assert len(a.dials) + len(a.inbox) == 0


@pytest.mark.parametrize("who", ["a", "b"])
def test_either_side_may_come_first(who: str) -> None:
    """One node is up long before the other."""
    world = World(2)
    first, second = (world.a, world.b) if who == "a" else (world.b, world.a)
    world.up(first)
    world.run(25_000)
    world.up(second)
    world.run_until(lambda: all(h.resource.state.conn == Conn.CONNECTED for h in (world.a, world.b)), 15_000)
    assert len(first.dials_ms) < 8


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", bytes(64), b"\x83\x74\x02\x67\x00\x00\x00\x00"]
)
def test_strangers_do_not_disturb(garbage: bytes) -> None:
    """Whoever says something else is thrown out; the peer is still found, and an established pair lives on."""
    from .simhost import Pipe, SimHost

    world = World(3)
    world.up(world.a)
    stranger = SimHost(world, "stranger")
    stranger.powered = False

    def knock() -> int:
        world.a.numbers += 1
        sock = world.a.numbers
        pipe = Pipe(world, ((stranger, 1), (world.a, sock)))
        world.a.pipes[sock] = pipe
        world.a.resource.on_accepted(sock, "10.0.0.2")
        if sock in world.a.pipes:
            world.a.resource.on_bytes(sock, garbage)
        world.a.finish()
        return sock

    sock = knock()
    world.up(world.b)
    world.run_until(lambda: all(h.resource.state.conn == Conn.CONNECTED for h in (world.a, world.b)), 40_000)
    assert sock not in world.a.pipes
    sock = knock()
    world.run(5_000)
    assert sock not in world.a.pipes
    assert world.a.resource.state.conn == Conn.CONNECTED


def test_nobody_there_is_no_storm() -> None:
    """A lonely node dials at connect-int, give or take a seventh."""
    world = World(4)
    world.up(world.a)
    world.run(600_000)
    assert 50 <= len(world.a.dials_ms) <= 72
