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
from typing import Any, NamedTuple

from replblock.core.requests import Op, Request
from replblock.core.resource import Resource
from replblock.core.settings import Settings
from replblock.meta.geometry import Geometry, internal
from replblock.meta.superblock import Superblock
from replblock.state.names import Conn, Disk, Role

MIB = 1 << 20


class PowerLost(Exception):
    """A call came from a node that has no power."""


class Cached(NamedTuple):
    """A write in the volatile cache of a disk."""

    number: int
    offset: int
    data: bytes


class SimDisk:
    """A disk with a volatile cache: `cut` keeps what was flushed and any subset of the rest."""

    def __init__(self, world: World, size_bytes: int, name: str) -> None:
        self.world = world
        self.name = name
        self.content = bytearray(size_bytes)
        self.durable = bytearray(size_bytes)
        self.unflushed: list[Cached] = []
        self.number = 0
        self.newest: dict[int, int] = {}
        """Sector → number of the write that the medium holds."""
        self.under_way: list[tuple[int, bytes]] = []
        self.device_sectors = size_bytes // 512
        self.geometry: Geometry = internal(self.device_sectors)
        self.slow_share = 0.3
        self.slow_ms = 5
        self.fail_writes = False
        self.fail_reads = False
        self.fail_flushes = False
        self.fail_meta = False

    def put(self, offset: int, data: bytes, durable: bool = False) -> None:
        """A write reaches the cache; with `durable` the medium too."""
        assert offset + len(data) <= len(self.content)
        self.content[offset : offset + len(data)] = data
        self.number += 1
        cached = Cached(self.number, offset, data)
        if durable:
            self.commit(cached)
        else:
            self.unflushed.append(cached)

    def commit(self, cached: Cached) -> None:
        """A cached write reaches the medium; what is newer there stays."""
        offset, data, newest = cached.offset, cached.data, self.newest
        for at in range(0, len(data), 512):
            sector = (offset + at) >> 9
            if newest.get(sector, 0) < cached.number:
                newest[sector] = cached.number
                self.durable[offset + at : offset + at + 512] = data[at : at + 512]

    def arrived(self, entry: tuple[int, bytes]) -> None:
        """A write is under way no more."""
        if entry in self.under_way:
            self.under_way.remove(entry)

    def stop(self) -> None:
        """The engine was killed: of what was under way, any sectors arrive, in any combination."""
        rng = self.world.rng
        for offset, data in self.under_way:
            for at in range(0, len(data), 512):
                if rng.random() < 0.5:
                    self.put(offset + at, data[at : at + 512])
        self.under_way.clear()

    def cut(self) -> None:
        """Power loss: flushed data stays, of the rest any sectors, in any combination."""
        self.stop()
        rng = self.world.rng
        for cached in self.unflushed:
            kind = rng.random()
            if kind < 0.4:
                self.commit(cached)
            elif kind < 0.5:
                for at in range(0, len(cached.data), 512):
                    if rng.random() < 0.5:
                        self.commit(Cached(cached.number, cached.offset + at, cached.data[at : at + 512]))
        self.content = bytearray(self.durable)
        self.unflushed = []

    def data(self, size_bytes: int = -1) -> bytes:
        """The data area."""
        return bytes(self.content[: self.geometry.data_sectors * 512 if size_bytes < 0 else size_bytes])


class OpenDisk:
    """A disk as one attachment of one life of an engine sees it (replblock.core.host.Disk)."""

    def __init__(self, platter: SimDisk, owner: SimHost) -> None:
        self.platter = platter
        self.owner = owner
        self.life = owner.life
        self.world = platter.world
        self.device_sectors = platter.device_sectors
        self.data_sectors = platter.geometry.data_sectors
        self.meta_queue: list[tuple[list[tuple[int, bytes]], Callable[[int], None]]] = []
        self.open = True
        self.calls = 0

    def _later(self, action: Callable[[], None]) -> None:
        owner = self.owner
        self.calls += 1

        def run() -> None:
            if owner.life == self.life and owner.powered:
                self.calls -= 1
                action()
                owner.finish()

        self.world.after(self.world.rng.randrange(1, self.platter.slow_ms + 1), run)

    def write(self, offset: int, data: Any, done: Callable[[int], None]) -> int:
        assert self.open, "a write after close"
        platter = self.platter
        assert offset + len(data) <= self.data_sectors * 512, "a write beyond the data area"
        if platter.fail_writes:
            return errno.EIO
        if self.world.rng.random() >= platter.slow_share:
            platter.put(offset, bytes(data))
            return 0
        before = bytes(data)
        entry = (offset, before)
        platter.under_way.append(entry)

        def run() -> None:
            assert bytes(data) == before, "the data of a write was changed before it was done"
            platter.arrived(entry)
            if not platter.fail_writes:
                platter.put(offset, before)
            done(errno.EIO if platter.fail_writes else 0)

        self._later(run)
        return -1

    def write_fua(self, offset: int, data: Any, done: Callable[[int], None]) -> None:
        assert self.open
        platter = self.platter
        entry = (offset, bytes(data))
        platter.under_way.append(entry)

        def run() -> None:
            platter.arrived(entry)
            if not platter.fail_writes:
                platter.put(*entry, durable=True)
            done(errno.EIO if platter.fail_writes else 0)

        self._later(run)

    def zero(self, offset: int, length: int, may_punch: bool, done: Callable[[int], None]) -> int:
        return self.write(offset, bytes(length), done)

    def read(self, offset: int, length: int, done: Callable[[int, Any], None]) -> Any:
        assert self.open
        platter = self.platter
        assert offset + length <= self.data_sectors * 512
        if platter.fail_reads:
            return errno.EIO
        if self.world.rng.random() >= platter.slow_share:
            return bytes(platter.content[offset : offset + length])

        def run() -> None:
            if platter.fail_reads:
                done(errno.EIO, b"")
            else:
                done(0, bytes(platter.content[offset : offset + length]))

        self._later(run)
        return -1

    def flush(self, done: Callable[[int], None]) -> None:
        assert self.open
        platter = self.platter
        upto = platter.number

        def run() -> None:
            failed = platter.fail_flushes or platter.fail_writes
            if not failed:
                for cached in platter.unflushed:
                    if cached.number <= upto:
                        platter.commit(cached)
                platter.unflushed = [cached for cached in platter.unflushed if cached.number > upto]
            done(errno.EIO if failed else 0)

        self._later(run)

    def meta_write(self, blocks: Any, done: Callable[[int], None]) -> None:
        assert self.open, "a metadata write after close"
        self.meta_queue.append(([(o, bytes(b)) for o, b in blocks], done))
        if len(self.meta_queue) == 1:
            self._next_meta()

    def _next_meta(self) -> None:
        platter = self.platter
        blocks, done = self.meta_queue[0]
        platter.under_way.extend(blocks)

        def run() -> None:
            for entry in blocks:
                platter.arrived(entry)
                if not platter.fail_meta:
                    platter.put(*entry, durable=True)
            self.meta_queue.pop(0)
            if self.meta_queue:
                self._next_meta()
            done(errno.EIO if platter.fail_meta else 0)

        self._later(run)

    def meta_read(self, offset: int, length: int) -> bytes:
        return bytes(self.platter.content[offset : offset + length])

    def close(self) -> None:
        self.open = False


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
        self.dialing: set[int] = set()
        self.closed_dials: set[int] = set()
        self.listening = False
        self.numbers = 0
        self.timers: dict[str, int] = {}
        self.port: OpenDisk | None = None
        self.dials_ms: list[int] = []
        self.lines: list[str] = []
        self.handlers: dict[str, int] = {}
        self.handler_calls: list[str] = []
        self.disk: SimDisk

    @property
    def busy_with_metadata(self) -> bool:
        return self.port is not None and bool(self.port.meta_queue)

    def open_disk(self) -> dict[str, Any]:
        """The arguments of the command `attach`."""
        self.port = OpenDisk(self.disk, self)
        return {"disk": self.port, "geometry": self.disk.geometry}

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
        self.dials_ms.append(self.world.now)

        def run() -> None:
            if self.life != life or not self.powered:
                return
            if sock in self.closed_dials:
                self.closed_dials.discard(sock)
                return
            self.dialing.discard(sock)
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

        self.dialing.add(sock)
        self.world.after(self.world.rng.randrange(1, 4), run)
        return sock

    def send(self, sock: int, parts: Any) -> None:
        if sock in self.pipes:
            self.queues.setdefault(sock, []).extend(bytes(p) for p in parts)

    def push(self, sock: int) -> None:
        world = self.world
        if world.slow_tcp and sock in self.queues and world.rng.random() < world.slow_tcp:
            world.after(world.rng.randrange(1, 5), self.finish)  # TCP takes nothing for a while
            return
        parts = self.queues.pop(sock, None)
        pipe = self.pipes.get(sock)
        if parts and pipe is not None:
            pipe.carry(pipe.side(self, sock), b"".join(parts))

    def unsent_bytes(self, sock: int) -> int:
        return sum(map(len, self.queues.get(sock, ())))

    def close(self, sock: int) -> None:
        self.queues.pop(sock, None)
        if sock in self.dialing:
            self.dialing.discard(sock)
            self.closed_dials.add(sock)
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
        for watcher in self.world.watchers:
            watcher(self, old, new)

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
            if not self.queues.get(sock):
                self.resource.on_sent(sock)
        for sock in list(self.queues):
            self.push(sock)


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
