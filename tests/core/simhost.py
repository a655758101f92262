# SPDX-License-Identifier: GPL-2.0-or-later
"""One simulated node: clock, chance, network, timers, as replblock.core.host asks for them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.core.resource import Resource
from tests.core.simdisk import OpenDisk, SimDisk
from tests.room import into_room

if TYPE_CHECKING:
    from tests.core.world import World


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
                while rest and other.pipes.get(sock) is self:
                    n = world.rng.randrange(1, len(rest) + 1) if world.split else len(rest)
                    other.resource.on_bytes(sock, rest[:n])
                    rest = rest[n:]
                    if rest and other.pipes.get(sock) is self:
                        rest = into_room(other.resource, sock, rest)
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

    def part(self, data: int, meta: int) -> None:
        self.push(data)
        for sock in (data, meta):
            self.close(sock)

    def close(self, sock: int) -> None:
        if sock in self.queues:
            self.push(sock)  # what is queued gets one try, so that a last answer can leave
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
        if isinstance(self.resource, Resource):  # and no bundle of volumes
            primary = self.resource.primary
            assert not primary._out and not primary._local, "a wake-up left something gathered and not sent or written"
        for sock in list(self.queues):
            self.push(sock)
        for sock in list(self.pipes):
            if not self.queues.get(sock) and not self.resource.on_sent(sock):
                assert not self.queues.get(sock), "nobody had waited for room, and yet there is more to send"
        for sock in list(self.queues):
            self.push(sock)
