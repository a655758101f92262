# SPDX-License-Identifier: GPL-2.0-or-later
"""A little world for two cores: simulated clock, network and disks, all from one seed.

Not a mock of the core's parts: both nodes run the real core, state, wire and meta rooms; only what the core asks
of the world (see replblock.core.host) is played here.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from replblock.core.requests import Op, Request
from replblock.core.resource import Resource
from replblock.core.settings import Settings
from replblock.meta.superblock import Superblock
from replblock.state.names import Conn, Disk, Role
from tests.core.simdisk import SimDisk
from tests.core.simhost import SimHost

MIB = 1 << 20


class World:
    """Two nodes on one clock."""

    def __init__(
        self, seed: int = 1, size_bytes: int = 8 * MIB, settings: Settings | None = None, **changes: Any
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.delay_ms = 2
        self.split = False
        self.slow_tcp = 0.0
        """Chance that TCP takes nothing in a wake-up."""
        self.watchers: list[Callable[[SimHost, Any, Any], None]] = []
        self.links_down = False
        self.lines: list[str] = []
        base = settings or Settings(c_plan_ahead=0, resync_rate_kib=4 << 20, c_min_rate_kib=0)
        base = replace(base, **changes)
        self.a = self._node("a", "10.0.0.1:7788", "10.0.0.2:7788", base, size_bytes)
        self.b = self._node("b", "10.0.0.2:7788", "10.0.0.1:7788", base, size_bytes)
        self.a.peer, self.b.peer = self.b, self.a

    def _node(self, name: str, own: str, peer: str, base: Settings, size_bytes: int) -> SimHost:
        host = SimHost(self, name)
        host.settings = replace(base, node=name, own_address=own, peer_address=peer)  # type: ignore[attr-defined]
        host.disk = SimDisk(self, size_bytes, name)
        g = host.disk.geometry
        block = Superblock(
            md_size_sectors=g.md_size_sectors,
            al_offset_sectors=g.al_offset_sectors,
            bm_offset_sectors=g.bm_offset_sectors,
        )
        host.disk.content[g.superblock_offset_bytes : g.superblock_offset_bytes + 4096] = block.pack()
        host.disk.durable[:] = host.disk.content
        return host

    # --- time

    def at(self, when: int, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.events, (when, self.counter, action))

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.at(self.now + delay_ms, action)

    def run(self, ms: int) -> None:
        """Let this much time pass."""
        end = self.now + ms
        while self.events and self.events[0][0] <= end:
            when, _, action = heapq.heappop(self.events)
            self.now = when
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], most_ms: int = 60_000) -> None:
        """Run until something is true; fails when it does not come true."""
        end = self.now + most_ms
        while not condition():
            assert self.events and self.events[0][0] <= end, "\n".join(["it never came true:", *self.lines[-40:]])
            when, _, action = heapq.heappop(self.events)
            self.now = when
            action()

    # --- operators

    def boot(self, host: SimHost) -> None:
        """Start the engine of a node."""
        host.life += 1
        host.powered = True
        host.pipes.clear()
        host.queues.clear()
        host.timers.clear()
        host.dialing.clear()
        host.closed_dials.clear()
        host.listening = False
        host.resource = Resource(host.settings, host)  # type: ignore[attr-defined,arg-type]

    def command(self, host: SimHost, verb: str, most_ms: int = 60_000, **args: Any) -> Any:
        """An operator's command, until it is answered."""
        answers: list[Any] = []
        host.resource.command(verb, args, answers.append)
        host.finish()
        self.run_until(lambda: bool(answers), most_ms)
        return answers[0]

    def ok(self, host: SimHost, verb: str, **args: Any) -> None:
        """A command that must succeed."""
        answer = self.command(host, verb, **args)
        assert answer.exit_code == 0, (verb, answer, self.lines[-30:])

    def up(self, host: SimHost, connect: bool = True) -> None:
        """boot, attach, connect."""
        self.boot(host)
        self.ok(host, "attach", **host.open_disk())
        if connect:
            self.ok(host, "connect")

    def pair(self, sync: bool = True) -> World:
        """Both nodes up and in sync, `a` Primary."""
        self.up(self.a)
        self.up(self.b)
        self.run_until(lambda: all(h.resource.state.conn == Conn.CONNECTED for h in (self.a, self.b)))
        if sync:
            self.ok(self.a, "primary", force=True)
            self.settle()
        return self

    def in_sync(self) -> bool:
        """Both Connected and UpToDate."""
        return all(
            h.powered and h.resource.state.conn == Conn.CONNECTED and h.resource.state.disk == Disk.UP_TO_DATE
            and h.resource.state.pdsk == Disk.UP_TO_DATE for h in (self.a, self.b)
        )  # fmt: skip

    def settle(self) -> None:
        """Wait until both are in sync and idle."""
        self.run_until(
            lambda: self.in_sync()
            and all(
                h.resource.is_idle() and h.resource.primary.log.empty and not h.busy_with_metadata
                for h in (self.a, self.b)
            )
        )

    def kill(self, host: SimHost, power: bool = False) -> None:
        """kill -9 of the engine (the page cache stays), or power loss of the machine."""
        host.powered = False
        host.life += 1
        for sock in list(host.pipes):
            pipe = host.pipes.pop(sock)
            if not power:
                pipe.close(pipe.side(host, sock))
        host.listening = False
        host.port = None
        if power:
            host.disk.cut()
        else:
            host.disk.stop()

    def partition(self) -> None:
        """Nothing crosses the network any more."""
        self.links_down = True

    def heal(self) -> None:
        """The network is back; old connections stay dead."""
        self.links_down = False
        for host in (self.a, self.b):
            for sock in list(host.pipes):
                if host.pipes.pop(sock, None) is not None and host.powered:
                    host.resource.on_closed(sock, 0)
                    host.finish()

    def listen_in(self, host: SimHost) -> None:
        """Every packet goes through the tables and functions that a test may replace, none straight (straight.py)."""
        link = host.resource.links.link
        assert link is not None
        link.meta_in.write_acks = lambda data: []  # type: ignore[method-assign]
        host.resource.secondary._goes_straight = lambda *args: False  # type: ignore[method-assign]

    # --- the application

    def submit(self, host: SimHost, op: Op, offset: int = 0, length: int = 0, data: bytes = b"", **kw: Any) -> Request:
        """Begin a request; `request.data` and `errno` are valid once `answered(request)`."""
        request = Request(op, offset, length or len(data), self._answered, data, **kw)
        self.kept.append(request)
        host.resource.submit([request])
        host.finish()
        return request

    def _answered(self, request: Request) -> None:
        assert id(request) not in self.answers, "a request was answered twice"
        self.answers.add(id(request))

    @property
    def answers(self) -> set[int]:
        return self.__dict__.setdefault("_answers", set())

    @property
    def kept(self) -> list[Request]:
        return self.__dict__.setdefault("_kept", [])

    def answered(self, request: Request) -> bool:
        return id(request) in self.answers

    def wait(self, request: Request) -> Request:
        """Until it is answered."""
        self.run_until(lambda: self.answered(request))
        return request

    def write(self, host: SimHost, offset: int, data: bytes, **kw: Any) -> Request:
        """Write and wait."""
        request = self.wait(self.submit(host, Op.WRITE, offset, len(data), data, **kw))
        assert request.errno == 0
        return request

    def flush(self, host: SimHost) -> None:
        """Flush and wait."""
        assert self.wait(self.submit(host, Op.FLUSH)).errno == 0

    def read(self, host: SimHost, offset: int, length: int) -> bytes:
        """Read and wait."""
        request = self.wait(self.submit(host, Op.READ, offset, length))
        assert request.errno == 0
        return bytes(request.data)

    def same_data(self) -> bool:
        """Are both data areas byte-identical?"""
        size = self.a.resource.size_bytes
        return self.a.disk.data(size) == self.b.disk.data(size)


PRIMARY, SECONDARY = Role.PRIMARY, Role.SECONDARY
