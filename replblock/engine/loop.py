# SPDX-License-Identifier: GPL-2.0-or-later
"""The event loop of one resource: one thread, epoll, and the implementation of core.host.Host.

`lock` is held while the core runs and let go around epoll_wait. Whoever holds it may enter the core, so a door's thread
that finds the loop asleep does the work itself and spares two wake-ups (`hand_over`); otherwise it leaves its requests
in a deque and rings. Everything that comes from other threads (finished disk jobs, handlers) comes through `post`.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from replblock.core.host import HandlerDone
from replblock.core.requests import Request
from replblock.engine.inside import EngineSide
from replblock.engine.network import Addresses, Network
from replblock.engine.polling import Polling
from replblock.engine.timers import Timers

MAX_EVENTS = 64
FLUSH_ROUNDS = 8
"""A core that answers `on_sent` with more to send gets this many rounds, then other events have their turn."""
FOREVER_MS = 1 << 62
TRACE_FRAMES = 30
ENTER_AFTER = 32
"""A door's thread enters the core itself when so many requests in a row came alone; 0: never."""


class Waiter(Protocol):
    """A door's thread: how many of its requests are unanswered, and whether it is in the core itself just now."""

    pending: int
    inside: bool


_eventfd_write = ctypes.PyDLL(None).eventfd_write
"""Unlike os.eventfd_write it keeps the interpreter: a waiter that wakes up would take it from the loop in mid-batch."""
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


def _die(rule: str, text: str) -> None:
    os._exit(1)


class Loop:
    """Implements core.host.Host; `core` is set once, before `start`."""

    def __init__(
        self,
        addresses: Addresses,
        log: Callable[[str, str, str], None],
        run_handler: Callable[[str, dict[str, str], HandlerDone], None],
        on_state: Callable[[Any, Any], None] = lambda old, new: None,
        on_fatal: Callable[[str, str], None] = _die,
        enter_after: int = ENTER_AFTER,
    ) -> None:
        self.lock = threading.Lock()
        self.core: Any = None
        self.log = log
        self.run_handler = run_handler
        self.on_state = on_state
        self.on_fatal = on_fatal
        self.busy_since = 0.0
        """When the core was entered (monotonic seconds), 0 while it rests: what the guard looks at."""
        self.enter_after = enter_after or 1 << 62
        self.polling = Polling()
        self._alone = 0
        self.at_work: set[Any] = set()
        """Waiters of doors whose requests are under way."""
        self._wants_lock = False
        self._stopping = False
        self._closed = False
        self._sleep_s: float | None = 0.0
        self._sleeps_until_ms = 0
        self._posted: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._requests: deque[list[Request]] = deque()
        self._rung = False
        self.bells: list[int] = []
        """Eventfds of waiters whose requests were answered in this wake-up; rung at its end."""
        self.replies: list[Any] = []
        """Sessions of the direct door that are owed something; flushed at the end of the wake-up."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._bell, select.EPOLLIN)
        self._watched: dict[int, Callable[[int], None]] = {self._bell: self._drain_bell}
        self._timers = Timers()
        self._calls_by_timer: dict[Any, Callable[[], None]] = {}
        self._pings: Any = None
        kind = EngineSide if addresses.family == socket.AF_UNIX else Network
        self.network = self.another_network(kind, addresses)
        self._calls_by_timer["listen"] = self.network.try_listen
        # one call less on the paths that are taken for every packet
        self.send = self.network.send
        self.push = self.network.push
        self.unsent_bytes = self.network.unsent_bytes
        self.close = self.network.close
        self.part = self.network.part
        self.hold = self.network.hold
        self.listen = self.network.listen
        self.dial = self.network.dial
        self._thread = threading.Thread(target=self._run, name="replblock-loop", daemon=True)

    def another_network(self, kind: type[Network], addresses: Addresses) -> Network:
        """Whoever makes it flushes it."""
        return kind(addresses, self._poll, self.watch, self.later, self.timer_call, self.now_ms, self.log)

    # ---- life

    def start(self, core: Any) -> None:
        self.core = self.network.core = core
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the loop; from another thread. Sockets close, nothing more is delivered."""
        self._stopping = True
        self._ring()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        if not self._thread.is_alive() and not self._closed:
            self._closed = True
            self._poll.close()
            os.close(self._bell)

    @property
    def native_id(self) -> int:
        """The system's number of the loop's thread, which must have been started."""
        return self._thread.native_id or 0

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    # ---- Host: clock, chance, log

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_s(self) -> int:
        return int(time.time())

    def random64(self) -> int:
        return int.from_bytes(os.urandom(8), "big")

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def timer(self, name: str, delay_ms: int | None) -> None:
        self._timers.set(name, None if delay_ms is None else self.now_ms() + delay_ms)

    def state_changed(self, old: Any, new: Any) -> None:
        self.on_state(old, new)

    def fatal(self, rule: str, text: str) -> None:
        self.log("error", rule, f"stopping at once: {text}")
        self.on_fatal(rule, text)

    # ---- Host: the guard's part

    def meta_ready(self, sock: int, version: int, leftover: Callable[[], bytes]) -> None:
        link = self.network.meta_ready(sock, version, leftover)
        self._pings = link

    def ping_was_answered(self, sock: int) -> bool:
        link = self.network.links.get(sock)
        pings = link.pings if link is not None else None
        if pings is None or not pings.answered:
            return False
        with pings.lock:
            pings.answered -= 1
        return True

    @property
    def ping_link(self) -> Any:
        """The link that carries pings, or None."""
        link = self._pings
        return link if link is not None and not link.broken else None

    # ---- for the engine's other parts

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Run `call` with the engine's lock held, soon, in the loop's thread. From any thread."""
        self._posted.append((call, args))
        if not self._rung:
            self._ring()

    post = call_soon

    later = call_soon
    """The same, said by code that runs inside a wake-up: after it, not from inside the call that caused it."""

    def timer_call(self, name: Any, delay_ms: int | None, call: Callable[[], None] | None = None) -> None:
        """A timer of the engine's own: calls back instead of going to the core."""
        if call is not None:
            self._calls_by_timer[name] = call
        self._timers.set((name,), None if delay_ms is None else self.now_ms() + delay_ms)

    def watch(self, fd: int, handle: Callable[[int], None] | None) -> None:
        if handle is None:
            self._watched.pop(fd, None)
        else:
            self._watched[fd] = handle

    @property
    def poll(self) -> select.epoll:
        return self._poll

    def hand_over(self, requests: list[Request], waiter: Waiter) -> bool:
        """A door's requests. True if all were answered before this returned; else the waiter's bell will ring.

        A client that sends one request at a time is served by the door's thread itself, which spares a wake-up; of
        many at once the loop gathers the requests (a third faster at depth 16: whoever enters alone there only keeps
        the others from being gathered).
        """
        if len(self.at_work) > 1:
            self._alone = 0
        else:
            self._alone += 1
        if self._alone > self.enter_after and not self._wants_lock and self.lock.acquire(False):
            waiter.inside = True
            try:
                self.busy_since = time.monotonic()
                self.core.submit(requests)
                self._settle()
                deadline_ms = self._timers.next_ms()
                if deadline_ms is not None and deadline_ms < self._sleeps_until_ms:
                    self._ring()
                return not waiter.pending
            except BaseException:
                self._crashed()
                raise
            finally:
                self.busy_since = 0.0
                waiter.inside = False
                self.lock.release()
        self._requests.append(requests)
        if not self._rung:
            self._ring()
        return False

    def enqueue(self, requests: list[Request]) -> None:
        """Requests read in this wake-up: the core gets them with those of other doors when all events are through."""
        self._requests.append(requests)

    # ---- the thread

    def _run(self) -> None:
        wait, poll = self.polling.wait, self._poll
        try:
            while not self._stopping:
                events = wait(poll, self._sleep_s, MAX_EVENTS)
                self._wants_lock = True
                self.lock.acquire()
                self._wants_lock = False
                try:
                    self._wake(events)
                finally:
                    self.busy_since = 0.0
                    self.lock.release()
            with self.lock:
                self.network.close_all()
        except BaseException:
            self._crashed()

    def _wake(self, events: list[tuple[int, int]]) -> None:
        self.busy_since = time.monotonic()
        watched = self._watched
        for fd, mask in events:
            handle = watched.get(fd)
            if handle is not None:
                handle(mask)
        posted = self._posted
        for _ in range(len(posted)):
            call, args = posted.popleft()
            call(*args)
        if self._requests:
            self._submit_queued()
        self._run_timers()
        self._settle()
        self._plan_sleep()

    def _submit_queued(self) -> None:
        queued = self._requests
        batch: list[Request] = []
        for _ in range(len(queued)):
            batch += queued.popleft()
        self.core.submit(batch)

    def _run_timers(self) -> None:
        timers = self._timers
        if not timers:
            return
        now_ms = self.now_ms()
        for _ in range(len(timers)):
            name = timers.pop_due(now_ms)
            if name is None:
                return
            if isinstance(name, tuple):
                self._calls_by_timer[name[0]]()
            else:
                self.core.on_timer(name)

    def _settle(self) -> None:
        """End of a wake-up: the core closes its batch, then everything queued leaves."""
        end_wakeup, flush = self.core.end_wakeup, self.network.flush
        end_wakeup()
        for _ in range(FLUSH_ROUNDS):
            if not flush():
                break
            end_wakeup()
        else:
            if self.network.has_queued:
                self._ring()
        if self.bells:
            ring = _eventfd_write
            for bell in self.bells:
                ring(bell, 1)
            self.bells.clear()
        while self.replies:
            owed = self.replies[:]
            self.replies.clear()
            for session in owed:
                session.flush()

    def _plan_sleep(self) -> None:
        """How long epoll may wait; with the lock held, because a door's thread arms timers too."""
        deadline_ms = self._timers.next_ms()
        if deadline_ms is None:
            self._sleeps_until_ms, self._sleep_s = FOREVER_MS, None
        else:
            self._sleeps_until_ms = deadline_ms
            self._sleep_s = max(0, deadline_ms - self.now_ms()) / 1000

    def _ring(self) -> None:
        self._rung = True
        if not self._closed:
            os.eventfd_write(self._bell, 1)

    def _drain_bell(self, mask: int) -> None:
        # First the counter, then the flag: whoever appends after this rings again.
        os.eventfd_read(self._bell)
        self._rung = False

    def _crashed(self) -> None:
        trace = traceback.format_exc(limit=TRACE_FRAMES).strip()
        self.log("error", "engine-crashed", f"stopping at once, a bug: {trace}")
        self.on_fatal("engine-crashed", trace)
