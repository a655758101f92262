# SPDX-License-Identifier: GPL-2.0-or-later
"""Random lives of a Primary whose own copy does not count, with a peer that loses power again and again.

    python -m tests.core.test_last_copy_lives FIRST LAST
"""

from __future__ import annotations

import random
import sys
from functools import partial

import pytest

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk

from .oracle import Oracle, Write, acknowledged, durable, payload
from .world import MIB, World


class Life:
    """One seed: what was answered is there for every read, and at the end on the peer's disk for good."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.policy = rng.choice(["io-error", "suspend-io"])
        self.resyncing = rng.random() < 0.4
        self.world = w = World(
            seed, size_bytes=16 * MIB, protocol=rng.choice("ABC"), offer_ordered=rng.random() < 0.5, ping_int_ms=700,
            on_no_data_accessible=self.policy, al_extents=rng.choice([2, 7]), max_epoch_size=rng.choice([3, 100]),
            offer_features=rng.choice([0b1101, 0b1101, 0]), max_in_flight_bytes=rng.choice([300_000, 64 << 20]),
            resync_rate_kib=rng.choice([500, 4 << 20]),
        )  # fmt: skip
        w.pair()
        w.delay_ms = rng.choice([1, 10])
        for disk in (w.a.disk, w.b.disk):
            disk.slow_share, disk.slow_ms = rng.choice([0.0, 0.3, 1.0]), rng.choice([2, 30])
        self.oracle = Oracle()
        self.open = 0
        self.spots = [rng.randrange(0, 3900) * 4096 for _ in range(rng.choice([3, 12]))]
        w.ok(w.a, "invalidate" if self.resyncing else "detach")
        w.run(500)  # the peer's new generation is on its disk
        self.size = w.a.resource.size_bytes

    def submit(self) -> None:
        rng, w = self.rng, self.world
        offset, length = rng.choice(self.spots), rng.choice([512, 4096, 4096, 65536])
        kind = rng.random()
        op = Op.WRITE if kind < 0.6 else Op.ZERO if kind < 0.7 else Op.READ if kind < 0.85 else Op.FLUSH
        fua, data, what = False, b"", 0
        write: Write | None = None
        if op in (Op.WRITE, Op.ZERO):
            fua = rng.random() < 0.1
            write = self.oracle.begin(offset, length, op == Op.ZERO, fua)
            data = payload(write.number, length // 512) if op == Op.WRITE else b""
        else:
            what = self.oracle.tick()
        if op == Op.FLUSH:
            offset = length = 0
        self.open += 1
        request = Request(op, offset, length, partial(self.answered, write, what), data, fua=fua)
        w.a.resource.submit([request])
        w.a.finish()

    def answered(self, write: Write | None, what: int, request: Request) -> None:
        self.open -= 1
        if write is not None:
            self.oracle.ack(write, request.errno)
        elif request.op == Op.FLUSH and not request.errno:
            self.oracle.flushed(what)
        elif request.op == Op.READ and not request.errno:
            check = partial(self.before, what)
            self.oracle.check(bytes(request.data), check, "a read", request.offset_bytes // 512)

    @staticmethod
    def before(what: int, write: Write) -> bool:
        return write.acked is not None and write.acked < what

    def work(self) -> None:
        pace = self.rng.choice([1, 3, 40])
        for _ in range(self.rng.randrange(30)):
            self.submit()
            self.world.run(self.rng.randrange(pace))

    def trouble(self) -> None:
        rng, w = self.rng, self.world
        if not self.resyncing and w.a.resource.state.conn != Conn.CONNECTED:
            return
        kind = rng.choice(["power", "power", "kill", "cut"])
        if kind == "cut":
            w.partition()
        else:
            w.kill(w.b, kind == "power")
            if kind == "power" and not self.resyncing:
                self.oracle.check(w.b.disk.data(self.size), durable, "a power loss")
        if rng.random() < 0.5:
            self.work()
        w.run(rng.choice([0, 10, 3000]))
        if rng.random() < 0.5:
            self.work()
        if kind == "cut":
            w.heal()
        else:
            w.up(w.b)

    def back(self) -> bool:
        state = self.world.a.resource.state
        if self.world.b.resource.state.conn < Conn.CONNECTED:
            return False  # the Primary has not noticed yet
        return state.conn >= Conn.CONNECTED and (state.disk == Disk.UP_TO_DATE or state.pdsk == Disk.UP_TO_DATE)

    def live(self) -> None:
        w = self.world
        for _ in range(self.rng.randrange(1, 5)):
            self.work()
            self.trouble()
            w.run(self.rng.choice([0, 20, 400]))
            if self.resyncing and w.a.resource.state.disk == Disk.UP_TO_DATE and w.in_sync():
                w.command(w.a, "invalidate")
        if self.resyncing and w.a.resource.state.conn == Conn.STANDALONE:
            w.ok(w.a, "connect")  # an invalidate was cut in two: the operator says it again
        w.run_until(self.back, 200_000)
        w.run_until(lambda: not self.open)
        w.flush(w.a)
        self.oracle.flushed(self.oracle.tick())
        if self.resyncing:
            w.settle()
            assert w.same_data()
        assert not w.a.resource.primary._again and w.a.resource.primary._kept_bytes == 0
        self.oracle.check(w.b.disk.data(self.size), acknowledged, "the end")
        self.oracle.check(bytes(w.b.disk.durable[: self.size]), durable, "the end, after a power loss")


@pytest.mark.parametrize("seed", range(40))
def test_a_life_on_the_peers_copy(seed: int) -> None:
    """Nothing that was answered is lost, nothing answered twice or never."""
    Life(seed).live()


if __name__ == "__main__":
    bad = 0
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            Life(number).live()
        except AssertionError as error:
            bad += 1
            print(number, str(error)[:300].replace("\n", " "), flush=True)
    print(bad, "bad")
