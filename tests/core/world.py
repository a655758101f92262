# SPDX-License-Identifier: GPL-2.0-or-later
"""A little world for two cores: simulated clock, network and disks, all from one seed.

Not a mock of the core's parts: both nodes run the real core, state, wire and meta rooms; only what the core asks
of the world (see replblock.core.host) is played here.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from replblock.core.requests import Op, Request
from replblock.core.resource import Resource
from replblock.core.settings import Settings
from replblock.meta.geometry import Geometry, internal
from replblock.meta.superblock import Superblock
from replblock.state.names import Conn, Disk, Role

MIB = 1 << 20


class PowerLost(Exception):
    """A call came from a node that has no power."""


class SimDisk:
    """A disk with a volatile cache: `cut` keeps what was flushed and any subset of the rest."""

    def __init__(self, world: World, size_bytes: int, name: str) -> None:
        self.world = world
        self.name = name
        self.content = bytearray(size_bytes)
        self.durable = bytearray(size_bytes)
        self.unflushed: list[tuple[int, bytes]] = []
        self.device_sectors = size_bytes // 512
        self.geometry: Geometry = internal(self.device_sectors)
        self.data_sectors = self.geometry.data_sectors
        self.owner: SimHost | None = None
        self.slow_share = 0.3
        self.fail_writes = False
        self.fail_reads = False
        self.write_log: list[tuple[int, int]] = []

    # --- as the core sees it

    def _later(self, done: Callable[..., None], *args: Any, most_ms: int = 5) -> None:
        owner = self.owner
        life = owner.life if owner else 0

        def run() -> None:
            if owner is not None and owner.life == life and owner.powered:
                done(*args)
                owner.finish()

        self.world.after(self.world.rng.randrange(1, most_ms + 1), run)

    def _put(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= len(self.content)
        self.content[offset : offset + len(data)] = data
        self.unflushed.append((offset, bytes(data)))

    def write(self, offset: int, data: Any, done: Callable[[int], None]) -> int:
        assert offset + len(data) <= self.data_sectors * 512, "a write beyond the data area"
        if self.fail_writes:
            return errno.EIO
        data = bytes(data)
        if self.world.rng.random() < self.slow_share:
            def run(error: int) -> None:
                self._put(offset, data)
                done(error)
            self._later(run, 0)
            return -1
        self._put(offset, data)
        return 0

    def write_fua(self, offset: int, data: Any, done: Callable[[int], None]) -> None:
        data = bytes(data)

        def run(error: int) -> None:
            if not error:
                self._put(offset, data)
                self.durable[offset : offset + len(data)] = data
            done(error)

        self._later(run, errno.EIO if self.fail_writes else 0)

    def zero(self, offset: int, length: int, may_punch: bool, done: Callable[[int], None]) -> int:
        return self.write(offset, bytes(length), done)

    def read(self, offset: int, length: int, done: Callable[[int, Any], None]) -> Any:
        assert offset + length <= self.data_sectors * 512
        if self.fail_reads:
            return errno.EIO
        if self.world.rng.random() < self.slow_share:
            def run() -> None:
                done(0, bytes(self.content[offset : offset + length]))
            self._later(run)
            return -1
        return bytes(self.content[offset : offset + length])

    def flush(self, done: Callable[[int], None]) -> None:
        covered = list(self.unflushed)

        def run() -> None:
            for offset, data in covered:
                self.durable[offset : offset + len(data)] = data
            self.unflushed = self.unflushed[len(covered) :] if self.unflushed[: len(covered)] == covered else self.unflushed
            done(errno.EIO if self.fail_writes else 0)

        self._later(run)

    def meta_write(self, blocks: Any, done: Callable[[int], None]) -> None:
        blocks = [(o, bytes(b)) for o, b in blocks]
        owner = self.owner
        assert owner is not None
        owner.meta_queue.append((self, blocks, done))
        if len(owner.meta_queue) == 1:
            self._next_meta(owner)

    def _next_meta(self, owner: SimHost) -> None:
        disk, blocks, done = owner.meta_queue[0]

        def run() -> None:
            if not self.fail_writes:
                for offset, data in blocks:
                    self.content[offset : offset + len(data)] = data
                    self.durable[offset : offset + len(data)] = data
            owner.meta_queue.pop(0)
            if owner.meta_queue:
                owner.meta_queue[0][0]._next_meta(owner)
            done(errno.EIO if self.fail_writes else 0)

        disk._later(run)

    def meta_read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def close(self) -> None:
        self.owner = None

    # --- as the world sees it

    def cut(self) -> None:
        """Power loss: flushed data stays, of the rest any subset of writes, in any combination."""
        image = bytearray(self.durable)
        for offset, data in self.unflushed:
            if self.world.rng.random() < 0.5:
                image[offset : offset + len(data)] = data
        self.content = image
        self.durable = bytearray(image)
        self.unflushed = []
        self.owner = None

    def data(self) -> bytes:
        return bytes(self.content[: self.data_sectors * 512])


class Pipe:
    """One TCP connection: two directions, ordered, with delay."""

    def __init__(self, world: World, ends: tuple[tuple[SimHost, int], tuple[SimHost, int]]) -> None:
        self.world = world
        self.ends = ends
        self.open = True
        self.last_ms = [0, 0]

    def side(self, host: SimHost, sock: int) -> int:
        return 0 if self.ends[0] == (host, sock) else 1

    def carry(self, side: int, data: bytes) -> None:
        world = self.world
        if world.links_down:
            return
        other, sock = self.ends[1 - side]
        at = max(self.last_ms[side], world.now + world.rng.randrange(0, world.delay_ms + 1))
        self.last_ms[side] = at

        def arrive() -> None:
            if not world.links_down and other.pipes.get(sock) is self:
                rest = data
                while rest:
                    n = world.rng.randrange(1, len(rest) + 1) if world.split else len(rest)
                    if other.pipes.get(sock) is self:
                        other.resource.on_bytes(sock, rest[:n])
                    rest = rest[n:]
                other.finish()

        world.at(at, arrive)

    def close(self, side: int) -> None:
        world = self.world
        self.open = False
        other, sock = self.ends[1 - side]
        at = max(self.last_ms[side], world.now + 1)

        def arrive() -> None:
            if not world.links_down and other.pipes.get(sock) is self:
                del other.pipes[sock]
                other.resource.on_closed(sock, 0)
                other.finish()

        world.at(at, arrive)


class SimHost:
    """Clock, chance, network and timers of one node."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.powered = False
        self.peer: SimHost
        self.resource: Resource
        self.pipes: dict[int, Pipe] = {}
        self.queues: dict[int, list[bytes]] = {}
        self.held: set[int] = set()
        self.listening = False
        self.numbers = 0
        self.timers: dict[str, int] = {}
        self.meta_queue: list[Any] = []
        self.lines: list[str] = []
        self.handlers: dict[str, int] = {}
        self.handler_calls: list[str] = []
        self.disk: SimDisk | None = None

    def now_ms(self) -> int:
        return self.world.now

    def wall_s(self) -> int:
        return 1_700_000_000 + self.world.now // 1000

    def random64(self) -> int:
        return self.world.rng.getrandbits(64)

    def random_bytes(self, count: int) -> bytes:
        return self.world.rng.randbytes(count)

    def log(self, level: str, rule: str, text: str) -> None:
        self.lines.append(f"{self.world.now:7} {self.name} {level} [{rule}] {text}")
        self.world.lines.append(self.lines[-1])

    def listen(self, wanted: bool) -> None:
        self.listening = wanted

    def dial(self) -> int:
        self.numbers += 1
        sock = self.numbers
        life = self.life

        def run() -> None:
            if self.life != life or not self.powered or sock in self.dead_dials:
                return
            other = self.peer
            if self.world.links_down:
                self.resource.on_dialed(sock, errno.EHOSTUNREACH)
            elif not (other.powered and other.listening):
                self.resource.on_dialed(sock, errno.ECONNREFUSED)
            else:
                other.numbers += 1
                theirs = other.numbers
                pipe = Pipe(self.world, ((self, sock), (other, theirs)))
                self.pipes[sock] = pipe
                other.pipes[theirs] = pipe
                self.resource.on_dialed(sock, 0)
                other.resource.on_accepted(theirs, self.name)
                other.finish()
            self.finish()

        self.world.after(self.world.rng.randrange(1, 4), run)
        return sock

    dead_dials: set[int] = set()

    def send(self, sock: int, parts: Any) -> None:
        if sock in self.pipes:
            self.queues.setdefault(sock, []).extend(bytes(p) for p in parts)

    def push(self, sock: int) -> None:
        parts = self.queues.pop(sock, None)
        pipe = self.pipes.get(sock)
        if parts and pipe is not None:
            pipe.carry(pipe.side(self, sock), b"".join(parts))

    def unsent_bytes(self, sock: int) -> int:
        return sum(map(len, self.queues.get(sock, ())))

    def close(self, sock: int) -> None:
        self.queues.pop(sock, None)
        pipe = self.pipes.pop(sock, None)
        if pipe is not None:
            pipe.close(pipe.side(self, sock))

    def hold(self, sock: int, held: bool) -> None:
        pass  # the core queues what still comes; the hint only saves memory

    def ping_was_answered(self, sock: int) -> bool:
        return False

    def meta_ready(self, sock: int, version: int, leftover: Any) -> None:
        pass

    def timer(self, name: str, delay_ms: int | None) -> None:
        if delay_ms is None:
            self.timers.pop(name, None)
            return
        at = self.world.now + delay_ms
        self.timers[name] = at
        life = self.life

        def run() -> None:
            if self.life == life and self.powered and self.timers.get(name) == at:
                del self.timers[name]
                self.resource.on_timer(name)
                self.finish()

        self.world.at(at, run)

    def run_handler(self, name: str, env: dict[str, str], done: Callable[[int], None]) -> None:
        self.handler_calls.append(name)
        life = self.life

        def run() -> None:
            if self.life == life and self.powered:
                done(self.handlers.get(name, 0))
                self.finish()

        self.world.after(10, run)

    def state_changed(self, old: Any, new: Any) -> None:
        pass

    def fatal(self, rule: str, text: str) -> None:
        raise AssertionError(f"{rule}: {text}")

    def finish(self) -> None:
        """The end of a wake-up."""
        if not self.powered:
            return
        self.resource.end_wakeup()
        for sock in list(self.queues):
            self.push(sock)
        for sock in list(self.pipes):
            self.resource.on_sent(sock)
        for sock in list(self.queues):
            self.push(sock)


class World:
    """Two nodes on one clock."""

    def __init__(self, seed: int = 1, size_bytes: int = 8 * MIB, settings: Settings | None = None, **changes: Any) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.delay_ms = 2
        self.split = False
        self.links_down = False
        self.lines: list[str] = []
        base = settings or Settings(c_plan_ahead=0, resync_rate_kib=4 << 20)
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
            md_size_sectors=g.md_size_sectors, al_offset_sectors=g.al_offset_sectors, bm_offset_sectors=g.bm_offset_sectors
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
        host.meta_queue = []
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
        disk = host.disk
        assert disk is not None
        disk.owner = host
        self.ok(host, "attach", disk=disk, geometry=disk.geometry)
        if connect:
            self.ok(host, "connect")

    def pair(self, sync: bool = True) -> World:
        """Both nodes up and in sync, `a` Primary."""
        self.up(self.a)
        self.up(self.b)
        self.run_until(lambda: self.a.resource.state.conn == Conn.CONNECTED and self.b.resource.state.conn == Conn.CONNECTED)
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
            lambda: self.in_sync() and all(h.resource.is_idle() and not h.meta_queue for h in (self.a, self.b))
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
        if power and host.disk is not None:
            host.disk.cut()
        elif host.disk is not None:
            host.disk.owner = None

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

    # --- the application

    def submit(self, host: SimHost, op: Op, offset: int = 0, length: int = 0, data: bytes = b"", **kw: Any) -> Request:
        """Begin a request; `request.data` and `errno` are valid once `answered(request)`."""
        request = Request(op, offset, length or len(data), lambda r: self.answers.add(id(r)), data, **kw)
        self.kept.append(request)
        host.resource.submit([request])
        host.finish()
        return request

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
        assert self.a.disk is not None and self.b.disk is not None
        size = self.a.resource.size_bytes
        return self.a.disk.data()[:size] == self.b.disk.data()[:size]


PRIMARY, SECONDARY = Role.PRIMARY, Role.SECONDARY
