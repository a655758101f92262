# SPDX-License-Identifier: GPL-2.0-or-later
"""What a 4 KiB write costs in our own code, without any I/O: python -m bench.core_cost [--protocol C] [--depth 16].

Two real cores and a session of the direct door in one process; sockets and disks take everything at once. The least of
several rounds, so it can be asked beside other work; processes, system calls and cold caches come on top of it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from typing import Any

from replblock.core.requests import Request
from replblock.engine.session import Session
from replblock.nbd.names import REQUEST, REQUEST_MAGIC
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

ROUNDS, CYCLES = 7, 1500
BLOCK_BYTES, EXTENTS, EPOCH_WRITES = 4096, 8, 2000
STEPS = ("from bytes to requests", "begin: log, packets, own disk", "the peer: packets to acks", "acks, answers",
         "the answers' bytes")  # fmt: skip


class Door:
    """What a session needs of the direct door."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.bytes_at_most = 1 << 30
        self.names: tuple[str, ...] = ("0",)
        self.replies: list[Session] = []
        self.batch: list[Request] = []

    def submit(self, requests: list[Request]) -> None:
        self.batch += requests

    def look_up(self, name: str) -> Any: ...
    def entered(self, session: Session) -> None: ...
    def seen_off(self, session: Session) -> None: ...
    def wants(self, session: Session, mask: int) -> None: ...


class Socket:
    """Takes everything."""

    def fileno(self) -> int:
        return -1

    def sendmsg(self, parts: list[bytes]) -> int:
        return sum(map(len, parts))


class Course:
    """A connected pair, and how long each step of a write took."""

    def __init__(self, protocol: str) -> None:
        self.world = World(size_bytes=64 * MIB, protocol=protocol).pair()
        self.a, self.b = self.world.a, self.world.b
        self.said: dict[str, list[Any]] = {}
        for host in (self.a, self.b):
            self._make_quick(host)
        self.door = Door(self.a.resource.size_bytes)
        self.session = Session(self.door, Socket())  # type: ignore[arg-type]
        self.session._negotiation = None
        self.session.flush()
        self.door.replies.clear()
        self.spent_ns = [0] * len(STEPS)
        rng = random.Random(1)
        self._places = [rng.randrange(0, EXTENTS << 22, BLOCK_BYTES) for _ in range(4096)]
        self._data = os.urandom(BLOCK_BYTES)

    def _make_quick(self, host: SimHost) -> None:
        said = self.said[host.name] = []
        host.send = lambda sock, parts: said.extend(parts)  # type: ignore[method-assign]
        host.push = lambda sock: None  # type: ignore[method-assign]
        host.unsent_bytes = lambda sock: 0  # type: ignore[method-assign]
        host.timer = lambda name, delay_ms: None  # type: ignore[method-assign]
        host.now_ms = lambda: time.monotonic_ns() // 1_000_000  # type: ignore[method-assign]
        assert host.port is not None
        host.port.write = lambda offset, data, done: 0  # type: ignore[method-assign]

    def _heard(self, name: str) -> bytes:
        said = b"".join(self.said[name])
        self.said[name].clear()
        return said

    def warm_up(self) -> None:
        """Every extent is in the activity log."""
        for extent in range(EXTENTS):
            self.cycle([extent << 22])
            self.world.run(100)
            self.cycle([])

    def cycle(self, places: list[int]) -> None:
        """One wake-up of each kind."""
        a, b = self.a.resource, self.b.resource
        mine, theirs = a.links.link, b.links.link
        assert mine is not None and theirs is not None
        raw = b"".join(REQUEST.pack(REQUEST_MAGIC, 0, 1, 7, at, BLOCK_BYTES) + self._data for at in places)
        clock = time.perf_counter_ns
        begun = [clock()]
        self.session._take(self.session._decoder.receive(raw))
        begun.append(clock())
        batch, self.door.batch = self.door.batch, []
        a.submit(batch)
        a.end_wakeup()
        if a.on_sent(mine.data):
            a.end_wakeup()
        begun.append(clock())
        packets = self._heard("a")
        begun.append(clock())
        b.on_bytes(theirs.data, packets)
        b.end_wakeup()
        begun.append(clock())
        acks = self._heard("b")
        begun.append(clock())
        if acks:
            a.on_bytes(mine.meta, acks)
        a.end_wakeup()
        begun.append(clock())
        for session in self.door.replies:
            session.flush()
        self.door.replies.clear()
        begun.append(clock())
        for step, number in enumerate((0, 1, 3, 5, 6)):
            self.spent_ns[step] += begun[number + 1] - begun[number]

    def end_epoch(self) -> None:
        """Outside the measured time."""
        self.a.resource.primary.close_epoch()
        self.a.resource.end_wakeup()
        link, peers = self.a.resource.links.link, self.b.resource.links.link
        assert link is not None and peers is not None
        self.b.resource.on_bytes(peers.data, self._heard("a"))
        while not self.said["b"]:
            self.world.run(20)
        self.a.resource.on_bytes(link.meta, self._heard("b"))

    def run(self, cycles: int, depth: int) -> list[float]:
        """µs per write of every step."""
        self.spent_ns = [0] * len(STEPS)
        log = self.a.resource.primary.log
        for number in range(cycles):
            at = number * depth % (len(self._places) - depth)
            self.cycle(self._places[at : at + depth])
            if len(log.current.requests) > EPOCH_WRITES:
                self.end_epoch()
        return [spent / cycles / depth / 1000 for spent in self.spent_ns]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.core_cost", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--protocol", choices=("A", "B", "C"), default="C")
    parser.add_argument("--depth", type=int, default=16, help="writes in a wake-up")
    options = parser.parse_args()
    course = Course(options.protocol)
    course.warm_up()
    course.run(CYCLES, options.depth)
    best = [min(step) for step in zip(*(course.run(CYCLES, options.depth) for _ in range(ROUNDS)), strict=True)]
    for name, spent_us in zip(STEPS, best, strict=True):
        print(f"{name:32} {spent_us:5.2f} µs")
    print(f"{'both nodes':32} {sum(best):5.2f} µs per write")
    return 0


if __name__ == "__main__":
    sys.exit(main())
