# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can happen to a pair, in random order, under writers that remember what was acknowledged.

After every step both disks are the same, and every block holds the last value that was acknowledged, or a later one
whose answer never came. REPLBLOCK_STORM_SEED replays an order; REPLBLOCK_STORM_STEPS makes it longer.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable

import nbd
import pytest

from tests.e2e.pair import MIB, Node, Pair
from tests.e2e.waiting import wait_until

DISK_BYTES = 32 * MIB
BLOCK_BYTES = 4096
WRITERS = 3
STEPS = int(os.environ.get("REPLBLOCK_STORM_STEPS", "8"))
SEED = os.environ.get("REPLBLOCK_STORM_SEED")


class Memory:
    """What every block may hold: the acknowledged value first, then values whose answer never came."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[bytes]] = {}
        self.acknowledged = 0
        self.refusals: list[str] = []


class Writer(threading.Thread):
    """One NBD connection; writes its own blocks until it is stopped or the door is gone."""

    def __init__(self, memory: Memory, uri: str, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.memory = memory
        self.number = number
        self.rng = random.Random(seed)
        self.stopping = threading.Event()
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)

    def run(self) -> None:
        memory, rng = self.memory, self.rng
        try:
            while not self.stopping.is_set():
                block = rng.randrange(0, 6000 // WRITERS) * WRITERS + self.number
                value = rng.randbytes(64) * (BLOCK_BYTES // 64)
                values = memory.blocks.setdefault(block, [bytes(BLOCK_BYTES)])
                values.append(value)
                self.handle.pwrite(value, block * BLOCK_BYTES, nbd.CMD_FLAG_FUA if rng.random() < 0.02 else 0)
                values[:] = [value]
                memory.acknowledged += 1
                if rng.random() < 0.02:
                    self.handle.flush()
        except nbd.Error as error:
            memory.refusals.append(str(error))

    def stop(self) -> None:
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "a request was never answered"
        try:
            self.handle.shutdown()
        except nbd.Error:
            pass


class Storm:
    """A pair, its present primary, and the writers on it."""

    def __init__(self, pair: Pair, protocol: str, seed: int) -> None:
        self.pair = pair
        self.protocol = protocol
        self.rng = random.Random(seed)
        self.primary = pair.a
        self.memory = Memory()
        self.writers: list[Writer] = []
        self.forgiving = False

    @property
    def secondary(self) -> Node:
        return self.pair.other(self.primary)

    def begin(self) -> None:
        self.memory.refusals.clear()
        self.writers = [Writer(self.memory, self.primary.uri, n, self.rng.randrange(1 << 30)) for n in range(WRITERS)]
        for writer in self.writers:
            writer.start()
        self.some()

    def end(self) -> None:
        for writer in self.writers:
            writer.stop()
        self.writers = []

    def some(self) -> None:
        """Wait until writing went on for a while."""
        goal = self.memory.acknowledged + self.rng.randrange(20, 300)
        wait_until(lambda: self.memory.acknowledged >= goal or self.memory.refusals, "writing goes on")
        assert not self.memory.refusals, self.memory.refusals

    def check(self) -> None:
        """At rest: same data, and what was promised."""
        self.end()
        self.pair.assert_same_data()
        with self.primary.disk.open("rb") as file:
            for block, values in self.memory.blocks.items():
                file.seek(block * BLOCK_BYTES)
                found = file.read(BLOCK_BYTES)
                assert self.forgiving or found in values, f"block {block} holds none of its {len(values)} values"
                values[:] = [found]
        self.forgiving = False

    # ---- what happens

    def disconnect(self) -> None:
        node = self.rng.choice(self.pair.nodes)
        node.do("disconnect", "r0")
        self.some()
        node.do("connect", "r0")

    def kill_secondary(self) -> None:
        self.secondary.kill()
        self.some()
        self.secondary.do("up", "r0")

    def kill_primary(self) -> None:
        self.primary.kill()
        self.end()
        self.forgiving = self.protocol == "A"       # A promises a prefix only
        old = self.primary
        self.secondary.wait_state("Connecting")
        self.primary = self.secondary
        self.primary.do("primary", "r0")
        self.begin()
        old.do("up", "r0")

    def kill_both(self) -> None:
        for node in self.rng.sample(self.pair.nodes, 2):
            node.kill()
        self.end()
        for node in self.rng.sample(self.pair.nodes, 2):
            node.do("up", "r0")
        self.primary.wait_state("Established UpToDate/UpToDate")
        self.primary.do("primary", "r0")
        self.begin()

    def restart_secondary(self) -> None:
        self.secondary.do("down", "r0")
        self.some()
        self.secondary.do("up", "r0")

    def freeze(self) -> None:
        node = self.rng.choice(self.pair.nodes)
        node.signal(signal.SIGSTOP)
        try:
            self.pair.other(node).wait_state("Connecting")
        finally:
            node.signal(signal.SIGCONT)

    def swap(self) -> None:
        self.end()
        self.primary = self.pair.swap(self.primary)
        self.begin()

    def detach_secondary(self) -> None:
        self.secondary.do("detach", "r0")
        self.some()
        self.secondary.do("attach", "r0")

    def detach_primary(self) -> None:
        self.primary.do("detach", "r0")
        self.some()
        self.primary.do("attach", "r0")

    def invalidate(self) -> None:
        self.rng.choice(self.pair.nodes).do("invalidate", "r0")
        self.some()


EVENTS: tuple[Callable[[Storm], None], ...] = (
    Storm.disconnect, Storm.kill_secondary, Storm.kill_primary, Storm.kill_both, Storm.restart_secondary, Storm.freeze,
    Storm.swap, Storm.detach_secondary, Storm.detach_primary, Storm.invalidate,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["A", "B", "C"])
def test_storm(pair: Pair, protocol: str) -> None:
    seed = int(SEED) if SEED else random.SystemRandom().randrange(1 << 30)
    print(f"REPLBLOCK_STORM_SEED={seed}")
    pair.configure(net={"protocol": protocol, "ping-timeout": 10})
    pair.make_disks(DISK_BYTES)
    pair.clean()
    storm = Storm(pair, protocol, seed)
    pair.a.do("primary", "r0")
    storm.begin()
    events = (list(EVENTS) * (STEPS // len(EVENTS) + 1))
    storm.rng.shuffle(events)
    for event in events[:STEPS]:
        print(event.__name__, flush=True)
        event(storm)
        for node in pair.nodes:
            node.wait_state("Established UpToDate/UpToDate")
        storm.some()
        storm.check()
        storm.begin()
    storm.check()
