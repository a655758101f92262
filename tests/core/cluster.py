# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of nodes under an application that remembers what it was promised: the stage for `campaign`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk, Role
from tests.core.oracle import Oracle, Write, acknowledged, payload
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

WIDER_FROM = 10_000
ASIDE_FROM = 1_000_000_000


class Cluster:
    """Two nodes, the application's memory, and what is watched all the time."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.rng = rng = random.Random(seed)
        self.protocol = rng.choice("ABC")
        self.world = World(
            seed,
            protocol=self.protocol,
            offer_ordered=rng.random() < 0.6,
            al_extents=rng.choice([2, 7, 67]),
            size_bytes=rng.choice([8, 24]) * MIB,
            use_rle=rng.random() < 0.5,
            data_integrity_alg=rng.choice(["", "crc32c"]),
            cram_hmac_alg=rng.choice(["", "sha256"]),
            shared_secret="x",
            max_epoch_size=rng.choice([3, 100, 2048]),
            resync_rate_kib=rng.choice([4 << 20, 4 << 20, 20000]),
            offer_features=rng.choice([0b1101, 0b1101, 0, 1]),
        )
        if seed >= WIDER_FROM:
            self._widen(random.Random(seed + 1))
        if seed >= ASIDE_FROM:
            for host in (self.world.a, self.world.b):
                host.settings = replace(host.settings, c_min_rate_kib=(0, 1, 250)[seed % 3])  # type: ignore[attr-defined]
        w = self.world
        w.split = rng.random() < 0.3
        w.slow_tcp = rng.choice([0.0, 0.0, 0.3])
        w.delay_ms = rng.choice([1, 2, 15])
        share = rng.choice([0.0, 0.3, 1.0])
        w.a.disk.slow_share = w.b.disk.slow_share = share
        w.a.disk.slow_ms = w.b.disk.slow_ms = rng.choice([2, 5, 30])
        self.oracle = Oracle()
        self.pending: list[tuple[Request, Any, SimHost, int]] = []
        self.trace = trace
        self.splits_expected = False
        w.watchers.append(self._watch)
        w.pair()
        assert w.same_data()
        self.prim = w.a
        self.size = w.a.resource.size_bytes
        # few places, so that writes meet
        self.spots = [rng.randrange(0, self.size // 4096 - 40) for _ in range(rng.choice([3, 40]))]

    def _widen(self, rng: random.Random) -> None:
        """Settings that came later; older seeds keep the life they were recorded with."""
        for host in (self.world.a, self.world.b):
            host.settings = replace(  # type: ignore[attr-defined]
                host.settings,  # type: ignore[attr-defined]
                on_io_error=rng.choice(["detach", "detach", "pass_on"]),
                on_no_data_accessible=rng.choice(["io-error", "suspend-io"]),
                al_updates=rng.random() < 0.9,
                c_plan_ahead=rng.choice([0, 20]),
                max_in_flight_bytes=rng.choice([64 << 20, 300_000]),
                ping_int_ms=rng.choice([10_000, 700]),
            )

    # --- what is watched all the time

    def note(self, text: str) -> None:
        self.world.lines.append(f"{self.world.now:7} **** {text}")

    def _watch(self, host: SimHost, old: Any, new: Any) -> None:
        if old.role != Role.PRIMARY and new.role == Role.PRIMARY:
            assert new.disk == Disk.UP_TO_DATE or new.pdsk == Disk.UP_TO_DATE, "promoted without data"

    def _answered(self, request: Request) -> None:
        found = [entry for entry in self.pending if entry[0] is request]
        assert found, f"answered twice, or never asked: {request.op} at {request.offset_bytes}"
        self.pending.remove(found[0])
        _, what, host, life = found[0]
        if host.life != life:
            return
        if self.trace:
            self.note(f"answered {request.op.name} {request.offset_bytes // 4096} {what} errno {request.errno}")
        if isinstance(what, Write):
            self.oracle.ack(what, request.errno)
        elif request.op == Op.FLUSH:
            if not request.errno:
                self.oracle.flushed(what)
        elif request.op == Op.READ and not request.errno:
            first = request.offset_bytes // 512
            data = bytes(request.data)
            assert len(data) == request.length_bytes
            self.oracle.check(data, lambda w: w.acked is not None and w.acked < what, "a read", first)

    # --- what an application does

    def submit(self, op: Op, offset: int = 0, length: int = 0, fua: bool = False) -> None:
        """One request to the Primary."""
        host = self.prim
        if not (host.powered and host.resource.doors_open):
            return
        data = b""
        what: Any
        if op == Op.WRITE:
            what = self.oracle.begin(offset, length, False, fua)
            data = payload(what.number, length // 512)
        elif op in (Op.ZERO, Op.TRIM):
            what = self.oracle.begin(offset, length, True, fua)
            what.advice = op == Op.TRIM
        else:
            what = self.oracle.tick()
        if self.trace:
            self.note(f"{host.name} submits {op.name} block {offset / 4096} length {length} {what}")
        request = Request(op, offset, length, self._answered, data, fua=fua)
        self.pending.append((request, what, host, host.life))
        host.resource.submit([request])
        host.finish()

    def work(self, most: int) -> None:
        """Some requests, with some time in between."""
        rng = self.rng
        pace = rng.choice([1, 4, 60])
        for _ in range(rng.randrange(most + 1)):
            offset = rng.choice(self.spots) * 4096 + rng.choice([0, 0, 0, 512, 4096, 8192])
            length = rng.choice([512, 4096, 4096, 8192, 131072])
            kind = rng.random()
            if kind < 0.7:
                self.submit(Op.WRITE, offset, length, fua=kind < 0.05)
            elif kind < 0.85:
                self.submit(Op.READ, offset, length)
            elif kind < 0.93:
                self.submit(rng.choice([Op.TRIM, Op.ZERO]), offset, length, fua=kind < 0.86)
            else:
                self.submit(Op.FLUSH)
            self.world.run(rng.randrange(pace))

    def answers(self) -> None:
        """Every request to a living node is answered."""
        alive = [p for p in self.pending if p[2].powered and p[2].life == p[3]]
        self.pending = [p for p in self.pending if p in alive]
        self.world.run_until(lambda: not self.pending or self._stuck())
        if self._stuck():
            self.settle()

    def forget(self, host: SimHost) -> None:
        """It died: its requests get no answer."""
        self.pending = [p for p in self.pending if p[2] is not host]

    # --- what happens to nodes

    def kill(self, host: SimHost, power: bool) -> None:
        self.calm(host)
        self.note(f"kill {host.name} power={power}")
        other = host.peer
        if power and other.powered and other.resource.state.disk != Disk.UP_TO_DATE:
            self.oracle.only_copy_lost_power()
        self.world.kill(host, power)
        self.forget(host)

    def calm(self, host: SimHost) -> None:
        """A source that dies before the end of its resync is on its disk may have changes of its own.

        Nodes that do not know each other for replblock nodes have to treat that as a split brain.
        """
        if not host.settings.offer_ordered:  # type: ignore[attr-defined]
            self.world.run_until(
                lambda: not host.busy_with_metadata and host.resource.state.conn != Conn.SYNC_SOURCE
            )

    def up(self, host: SimHost) -> None:
        """Start it again; sometimes it is shot again while it starts."""
        w = self.world
        self.note(f"up {host.name}")
        for _ in range(2):
            if self.rng.random() < 0.85:
                break
            w.boot(host)
            host.resource.command("attach", host.open_disk(), lambda answer: None)
            w.run(self.rng.randrange(20))
            self.kill(host, self.rng.random() < 0.5)
        w.up(host)

    def primary(self, host: SimHost) -> None:
        """Promote; a freshly started node may have to talk to its peer first."""
        w = self.world
        for _ in range(50):
            if w.command(host, "primary").exit_code == 0:
                return
            w.run(200)
        raise AssertionError("could not be promoted")

    def check_survivor(self, host: SimHost, what: str) -> None:
        """The Primary is gone: what does the survivor have?"""
        w = self.world
        w.run_until(lambda: host.resource.state.conn == Conn.WF_CONNECTION)
        w.run_until(host.resource.is_idle)
        data = host.disk.data(self.size)
        if self.protocol == "A":
            self.oracle.prefix(data, what)
        else:
            self.oracle.check(data, acknowledged, what)

    def stale(self) -> None:
        """After a fail-over under A the lost tail is history: what is there now is what counts."""
        if self.protocol != "A":
            return
        data = self.prim.disk.data(self.size)
        self.rebase(data)

    def rebase(self, data: bytes) -> None:
        """Forget promises about writes that are not there any more, after they were rightly lost."""
        oracle = self.oracle
        for sector, history in oracle.at.items():
            found = int.from_bytes(data[sector * 512 : sector * 512 + 8], "big")
            kept = [w for w in history if w.number == found]
            if not kept and not found:
                base = Write(0, sector, 1, 0, False)
                base.acked = base.durable = 0
                kept = [base]
            oracle.at[sector] = kept[-1:]
        for write in oracle.writes:
            write.acked = write.acked if write.acked is not None else oracle.tick()
