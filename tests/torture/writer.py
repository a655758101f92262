# SPDX-License-Identifier: GPL-2.0-or-later
"""The application: connections over NBD with several requests in flight, and an oracle that hears of every answer."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import nbd

from tests.torture.oracle import SECTOR, Oracle, Violation, payload

POLL_MS = 20
LOST = (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN)


class Client(threading.Thread):
    """One NBD connection. Ends when told to, or when the door is gone."""

    def __init__(self, number: int, uri: str, oracle: Oracle, seed: int, spots: list[int], depth: int, pace_s: float,
                 flush_share: float, state: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.oracle = oracle
        self.rng = random.Random(seed)
        self.spots, self.depth, self.pace_s, self.state = spots, depth, pace_s, state
        self.flush_share = flush_share
        self.stopping = threading.Event()
        self.in_flight = 0
        self.answered = 0
        self.refused: list[str] = []
        """Requests that got an error for an answer: no single fault may cause that."""
        self.violation: Violation | None = None
        self.lost = ""
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)

    def run(self) -> None:
        try:
            while not self.stopping.is_set() and not self.lost and self.violation is None:
                while self.in_flight < self.depth:
                    self._submit()
                self.handle.poll(POLL_MS)
                if self.pace_s:
                    time.sleep(self.pace_s)
            while self.in_flight and not self.lost:
                self.handle.poll(POLL_MS)
        except nbd.Error as error:
            self.lost = str(error)
        except Violation as violation:
            self.violation = violation

    def _submit(self) -> None:
        rng = self.rng
        kind = rng.random()
        block = rng.choice(self.spots) + rng.randrange(8)
        first = block * 8
        sectors = rng.choice((8, 8, 8, 8, 16, 64, 1, 3))
        if sectors < 8:
            first += rng.randrange(8 - sectors)
        self.in_flight += 1
        if kind < 0.78:
            self._write(first, sectors, kind < 0.04)
        elif kind < 0.81:
            self._zero(first, sectors)
        elif kind < 0.95:
            self._read(first, sectors)
        elif kind < 1 - self.flush_share:
            self._write(first, sectors, False)
        else:
            submitted = self.oracle.tick()
            self._send(self.handle.aio_flush, lambda state: self.oracle.flushed(submitted, state))

    def _write(self, first: int, sectors: int, fua: bool) -> None:
        write = self.oracle.begin(first, sectors)
        buffer = nbd.Buffer.from_bytearray(bytearray(payload(self.number, write)))
        flags = nbd.CMD_FLAG_FUA if fua else 0
        self._send(self.handle.aio_pwrite, lambda state: self.oracle.ack(write, fua, state), buffer, first * SECTOR,
                   flags=flags)  # fmt: skip

    def _zero(self, first: int, sectors: int) -> None:
        write = self.oracle.begin(first, sectors, zero=True)
        self._send(self.handle.aio_zero, lambda state: self.oracle.ack(write, False, state), sectors * SECTOR,
                   first * SECTOR)  # fmt: skip

    def _read(self, first: int, sectors: int) -> None:
        submitted = self.oracle.tick()
        buffer = nbd.Buffer(sectors * SECTOR)

        def answered(state: str) -> None:
            self.oracle.reads += 1
            data = bytes(buffer.to_bytearray())
            self.oracle.check(data, lambda w: w.acked is not None and w.acked < submitted, f"a read in {state}", first)

        self._send(self.handle.aio_pread, answered, buffer, first * SECTOR)

    def _send(self, call: Callable[..., Any], good: Callable[[str], None], *args: Any, **flags: Any) -> None:
        kept = args     # the buffer must live as long as the request

        def completed(error: Any) -> int:
            nonlocal kept
            kept = ()
            self.in_flight -= 1
            number = int(error.value) if hasattr(error, "value") else int(error)
            if number in LOST or self.lost:
                self.lost = self.lost or "the connection broke"
                return 1
            self.answered += 1
            if number:
                self.refused.append(f"{call.__name__}: {errno.errorcode.get(number, number)} in {self.state()}")
                return 1
            try:
                good(self.state())
            except Violation as violation:
                self.violation = violation
            return 1

        try:
            call(*args, completion=completed, **flags)
        except nbd.Error as error:
            self.lost = self.lost or str(error)

    def close(self) -> None:
        try:
            self.handle.shutdown()
        except nbd.Error:
            pass


class Application:
    """The clients of the present primary."""

    def __init__(self, oracle: Oracle, rng: random.Random, size_bytes: int, pace_s: float) -> None:
        self.oracle = oracle
        self.rng = rng
        self.pace_s = pace_s
        blocks = size_bytes // 4096 - 24
        # few places, so that writes meet; and some over the whole device, so that the activity log has work
        self.spots = [rng.randrange(blocks) for _ in range(rng.choice((4, 60, 60, 600)))]
        self.depth = rng.choice((1, 4, 8, 16))
        self.flush_share = rng.choice((0.0, 0.005, 0.05))
        self.clients: list[Client] = []

    def begin(self, uri: str, state: Callable[[], str]) -> None:
        assert not self.clients
        for number in range(2):
            self.clients.append(Client(number, uri, self.oracle, self.rng.randrange(1 << 30), self.spots, self.depth,
                                       self.pace_s, self.flush_share, state))  # fmt: skip
        for client in self.clients:
            client.start()

    @property
    def answered(self) -> int:
        return sum(client.answered for client in self.clients)

    def look(self) -> bool:
        """Whether the clients still go on. Raises Violation for an error or a stale read."""
        for client in self.clients:
            if client.violation is not None:
                raise client.violation
            if client.refused:
                raise Violation(f"requests failed although data was within reach: {client.refused[:5]}")
        return not any(client.lost for client in self.clients)

    def work(self, answers: int, patience_s: float = 60.0) -> None:
        """Until so many more requests are answered; or the door is gone."""
        goal, end = self.answered + answers, time.monotonic() + patience_s
        while self.look() and self.answered < goal:
            if time.monotonic() > end:
                raise Violation(f"no more answers within {patience_s:g} s: {self.answered} of {goal}, in flight "
                                f"{[client.in_flight for client in self.clients]}")  # fmt: skip
            time.sleep(0.005)

    def end(self, patience_s: float = 60.0) -> None:
        """Wait for the answers, then close; of a primary that died, none come."""
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join(patience_s)
            if client.is_alive():
                raise Violation(f"{client.in_flight} requests were never answered")
        self.look()
        for client in self.clients:
            client.close()
        self.clients.clear()

    def flush(self, uri: str) -> None:
        """A flush by itself, while no client runs."""
        submitted = self.oracle.tick()
        handle = nbd.NBD()
        handle.connect_uri(uri)
        handle.flush()
        handle.shutdown()
        self.oracle.flushed(submitted, "by itself")

    def abandon(self) -> None:
        """The run is over, whatever its state."""
        for client in self.clients:
            client.stopping.set()
            client.lost = client.lost or "abandoned"
        for client in self.clients:
            client.join(5)
        self.clients.clear()
