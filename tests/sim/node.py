# SPDX-License-Identifier: GPL-2.0-or-later
"""One node of the simulated world: everything the core asks of its host (replblock.core.host)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from replblock.core.resource import Resource
from replblock.core.settings import Settings
from tests.room import into_room
from tests.sim.disk import OpenDisk, Platter
from tests.sim.network import Pipe
from tests.sim.world import MACHINE_MS, Sim


class Crash(BaseException):
    """The fuse of a node burnt down: it dies before its next action."""


class Node:
    """A machine with one disk and, while it is on, an engine."""

    def __init__(self, sim: Sim, name: str, settings: Settings, blocks: int, created: bool) -> None:
        self.sim = sim
        self.name = name
        self.settings = settings
        self.peer: Node
        self.resource: Resource
        self.platter = Platter(self, blocks, created)
        self.machine_on = True
        self.on = False
        self.life = 0
        self.handling = False
        self.fuse: int | None = None
        self.fuse_power = False
        self.busy_until = 0
        """SIGSTOP: nothing is handled before."""
        self.batch = 0.0
        """How often an event finds the engine at work and waits for others: one wake-up then handles them all."""
        self.wall_offset_s = 0
        self.handlers: Callable[[Node, str], int] = lambda node, name: 0
        self.watchers: list[Callable[[Any, Any], bool]] = []
        """What is to happen with a change of state; it goes when it has happened."""
        self.dials_ms: list[int] = []
        self.said: Counter[str] = Counter()
        """How often each rule was logged, in all lives."""
        self.orders: Counter[str] = Counter()
        """How often each command was given."""
        self.numbers = 0
        self.port: OpenDisk | None = None
        self._forget()

    def _forget(self) -> None:
        self.pipes: dict[int, Pipe] = {}
        self.queues: dict[int, list[bytes]] = {}
        self.timers: dict[str, int] = {}
        self.dialing: set[int] = set()
        self.unread: set[int] = set()
        self.pushed: set[int] = set()
        self.waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """What happened while the process was stopped."""
        self.listening = False
        self.port = None
        self.ports: list[OpenDisk] = []
        """All of this life: one that is refused, or waits, takes the place of `port` as well."""

    # --- life and death ---

    def boot(self) -> None:
        """Start the engine (and the machine)."""
        self.life += 1
        self._forget()
        self.fuse = None
        self.busy_until = 0
        self.on = True
        if not self.machine_on:
            self.machine_on = True
            self.sim.network.kick()
        self.resource = Resource(self.settings, self)  # type: ignore[arg-type]

    def die(self, power: bool) -> None:
        """kill -9 of the engine, or power loss of the machine."""
        if power:
            if not self.machine_on:
                return
            self.sim.network.power_lost(self)
            self.machine_on = False
        elif not self.on:
            return
        self.sim.note(f"{self.name} {'loses power' if power else 'is killed'}")
        was_on, self.on = self.on, False
        self.life += 1
        self.sim.oracle.dies(self, power, was_on)
        if power:
            self.platter.cut()
        else:
            for sock, pipe in self.pipes.items():
                pipe.of(self).finish(self.sim.rng.random() < 0.4 or sock in self.dialing)
            self.platter.stop()
        self._forget()
        self.sim.oracle.died(self, power, was_on)

    def dies_of_it(self, life: int, power: bool) -> None:
        """The machine follows its disk."""
        if self.on and self.life == life:
            self.die(power)

    def stop(self) -> None:
        """The engine ends in good order (after `down`)."""
        self.die(False)

    def act(self) -> None:
        """Before each action: the fuse may have burnt down."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise Crash

    def wake(self, fn: Callable[..., None], *args: Any) -> None:
        """One wake-up of the engine with one event."""
        self._wake(self.life, fn, args)

    def _wake(self, life: int, fn: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.life != life or not self.on:
            return
        if self.waiting or self.busy_until > self.sim.now:
            if not self.waiting:
                self.sim.at(self.busy_until, self.resume, life)
            self.waiting.append((fn, args))
            return
        if self.batch and self.sim.rng.random() < self.batch:
            self.busy_until = self.sim.now + self.sim.rng.choice((1, 2, 4, 12))
            self.waiting.append((fn, args))
            self.sim.at(self.busy_until, self.resume, life)
            return
        self._handle(fn, args)

    def resume(self, life: int) -> None:
        """What came meanwhile, in the order in which it came; an operator may have ended the stop early."""
        if self.life != life or not self.on:
            return
        if self.busy_until > self.sim.now:
            self.sim.at(self.busy_until, self.resume, life)
            return
        waiting, self.waiting = self.waiting, []
        if self.batch:
            self._handle_all(waiting)
            return
        for number, (fn, args) in enumerate(waiting):
            self._handle(fn, args)
            if self.life != life or not self.on:
                return
            if self.busy_until > self.sim.now:
                self.waiting = waiting[number + 1 :] + self.waiting
                self.sim.at(self.busy_until, self.resume, life)
                return

    def _handle(self, fn: Callable[..., None], args: tuple[Any, ...]) -> None:
        inner, self.handling = self.handling, True
        try:
            fn(*args)
            self._finish()
        except Crash:
            if inner:  # an operator's next command, given in the answer to one: all of it dies
                raise
            self.die(self.fuse_power)
        finally:
            self.handling = inner

    def _handle_all(self, waiting: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        """One wake-up with many events."""
        self.handling = True
        try:
            for fn, args in waiting:
                fn(*args)
                if not self.on:
                    return
            self._finish()
        except Crash:
            self.die(self.fuse_power)
        finally:
            self.handling = False

    def later(self, delay_ms: int, fn: Callable[..., None], *args: Any) -> None:
        """Something for this life of the engine, after a while."""
        self.sim.at(self.sim.now + delay_ms, self._wake, self.life, fn, args)

    def _finish(self) -> None:
        resource = self.resource
        resource.end_wakeup()
        left = [*resource.primary._out, *resource.primary._local]
        assert not left or not self.on, f"{self.name}: a wake-up left something that is neither sent nor written"
        if self.queues or self.pushed:
            for sock in [*self.queues, *sorted(self.pushed - self.queues.keys())]:
                if self._push(sock) or sock in self.pushed:
                    self.pushed.discard(sock)
                    resource.on_sent(sock)
            if self.queues:
                for sock in list(self.queues):
                    if self._push(sock):
                        self.pushed.add(sock)

    # --- what happens to it ---

    def received(self, sock: int, pipe: Pipe, data: bytes) -> None:
        if self.pipes.get(sock) is pipe:
            rng = self.sim.rng
            if len(data) > 1 and rng.random() < 0.1:
                cut = rng.randrange(1, len(data))
                self.resource.on_bytes(sock, data[:cut])
                data = data[cut:]
                if self.pipes.get(sock) is not pipe:
                    return
                data = into_room(self.resource, sock, data)
                if self.pipes.get(sock) is not pipe:
                    return
            if data:
                self.resource.on_bytes(sock, data)

    def accepted(self, sock: int) -> None:
        if sock in self.pipes:
            self.resource.on_accepted(sock, self.peer.name)

    def closed(self, sock: int, pipe: Pipe, error: int) -> None:
        if self.pipes.get(sock) is pipe:
            del self.pipes[sock]
            self.queues.pop(sock, None)
            pipe.of(self).reset()
            self.resource.on_closed(sock, error)

    def dialed(self, sock: int, error: int) -> None:
        if sock in self.dialing:
            self.dialing.discard(sock)
            self.resource.on_dialed(sock, error)

    def tcp_took(self, sock: int, pipe: Pipe) -> None:
        """Bytes arrived at the other side: there is room in the buffer again."""
        if sock in self.queues and self.pipes.get(sock) is pipe:
            self.wake(self._go_on, sock)

    def _go_on(self, sock: int) -> None:
        if self._push(sock):
            self.resource.on_sent(sock)

    # --- replblock.core.host.Host ---

    def now_ms(self) -> int:
        return self.sim.now

    def wall_s(self) -> int:
        return 1_700_000_000 + self.wall_offset_s + self.sim.now // 1000

    def random64(self) -> int:
        number = self.sim.rng.getrandbits(64)
        while number | 1 in self.sim.drawn:  # events may have the same seed of chance; generations are never the same
            number = self.sim.rng.getrandbits(64)
        self.sim.drawn.add(number | 1)
        return number

    def random_bytes(self, count: int) -> bytes:
        return self.sim.rng.randbytes(count)

    def log(self, level: str, rule: str, text: str) -> None:
        self.sim.lines.append(f"{self.sim.now - MACHINE_MS:8} {self.name} {level} [{rule}] {text}")
        self.sim.oracle.said(self, rule)
        self.said[rule] += 1

    def new_sock(self) -> int:
        self.numbers += 1
        return self.numbers

    def listen(self, wanted: bool) -> None:
        self.listening = wanted

    def dial(self) -> int:
        self.act()
        sock = self.new_sock()
        self.dials_ms.append(self.sim.now)
        self.dialing.add(sock)
        self.sim.at(self.sim.now + self.sim.rng.randrange(1, 4), self._dial, self.life, sock)
        return sock

    def _dial(self, life: int, sock: int) -> None:
        if self.life == life and self.on and sock in self.dialing:
            self.sim.network.dial(self, sock)

    def send(self, sock: int, parts: Any) -> None:
        if sock in self.pipes:
            self.act()
            self.queues.setdefault(sock, []).extend(map(bytes, parts))

    def push(self, sock: int) -> None:
        """The core hears at the end of the wake-up that TCP took it all."""
        self.act()
        if self._push(sock):
            self.pushed.add(sock)

    def _push(self, sock: int) -> bool:
        """Hand to TCP what it takes; whether that was everything."""
        pipe = self.pipes.get(sock)
        parts = self.queues.pop(sock, None)
        if pipe is None or parts is None:
            return False
        flow = pipe.of(self)
        if flow.ended:
            return False
        room = self.sim.network.sndbuf_bytes - flow.waiting
        size = sum(map(len, parts))
        if size <= room:
            flow.put("data", b"".join(parts))
            return True
        taken = 0
        while room > 0:
            part = parts[taken]
            if len(part) > room:
                flow.put("data", b"".join([*parts[:taken], part[:room]]))
                parts[taken] = part[room:]
                break
            room -= len(part)
            taken += 1
            if not room:
                flow.put("data", b"".join(parts[:taken]))
        del parts[:taken]
        self.queues[sock] = parts
        return False

    def unsent_bytes(self, sock: int) -> int:
        queue = self.queues.get(sock)
        return sum(map(len, queue)) if queue else 0

    def part(self, data: int, meta: int) -> None:
        self.push(data)
        for sock in (data, meta):
            self.close(sock)

    def close(self, sock: int) -> None:
        self.act()
        self.queues.pop(sock, None)
        self.dialing.discard(sock)
        pipe = self.pipes.pop(sock, None)
        if pipe is not None:
            pipe.of(self).finish(bool(pipe.other(pipe.of(self)).items) or self.sim.rng.random() < 0.1)

    def hold(self, sock: int, held: bool) -> None:
        """The core queues what still comes; the hint only saves memory."""

    def ping_was_answered(self, sock: int) -> bool:
        return False

    def meta_ready(self, sock: int, version: int, leftover: Any) -> None:
        """No guard here."""

    def timer(self, name: str, delay_ms: int | None) -> None:
        if delay_ms is None:
            self.timers.pop(name, None)
            return
        at = self.sim.now + delay_ms
        if self.timers.get(name) != at:
            self.timers[name] = at
            self.sim.at(at, self._wake_timer, self.life, name, at)

    def _wake_timer(self, life: int, name: str, at: int) -> None:
        if self.life == life and self.timers.get(name) == at:
            self._wake(life, self._timer, (name, at))

    def _timer(self, name: str, at: int) -> None:
        if self.timers.get(name) == at:
            del self.timers[name]
            self.resource.on_timer(name)

    def run_handler(self, name: str, env: dict[str, str], done: Callable[[int], None]) -> None:
        self.act()
        self.later(10, self._handler, name, done)

    def _handler(self, name: str, done: Callable[[int], None]) -> None:
        self.sim.note(f"{self.name} runs the handler {name}")
        done(self.handlers(self, name))

    def state_changed(self, old: Any, new: Any) -> None:
        self.sim.oracle.state_changed(self, old, new)
        self.watchers = [each for each in self.watchers if not each(old, new)]

    def flush_failed(self) -> None:
        self.sim.oracle.flush_failed(self)

    def fatal(self, rule: str, text: str) -> None:
        raise AssertionError(f"{self.name}: fatal {rule}: {text}")

    # --- what an operator does ---

    def open_disk(self) -> dict[str, Any]:
        """The arguments of `attach`."""
        if self.resource.meta is None:
            self.sim.oracle.comes_back(self)
        self.port = OpenDisk(self.platter)
        self.ports.append(self.port)
        return {"disk": self.port, "geometry": self.platter.geometry}

    def disk_opened(self) -> None:
        """Whoever reads its metadata begins anew with it: what a failed flush has lost shows from here on."""
        if self.platter.spoiled and not self.platter.under_way and self.resource.meta is None:
            self.platter.opened()
            self.sim.oracle.cache_dropped(self)

    @property
    def metadata_under_way(self) -> bool:
        return any(port.meta_queue for port in self.ports)

    @property
    def state(self) -> Any:
        return self.resource.state

    @property
    def doors_open(self) -> bool:
        return self.on and self.resource.doors_open
