# SPDX-License-Identifier: GPL-2.0-or-later
"""Growing again and again while engines die, links break, disks go and come: nothing acknowledged is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from replblock.core.requests import Op, Request
from replblock.meta.geometry import internal
from replblock.state.names import Conn, Disk, Role
from tests.core.test_resize import geometry_of, grown, moved_offline

from .world import MIB, SimHost, World

BLOCK = 4096
EVENTS = 60


class Weather:
    """`a` is Primary whenever it can be; engines are killed, machines keep their power."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.world = world = World(
            seed, protocol="C", al_extents=rng.choice([2, 7, 67]), offer_ordered=rng.random() < 0.7,
            offer_features=rng.choice([0b1101, 0]), on_no_data_accessible=rng.choice(["io-error", "suspend-io"]),
        )  # fmt: skip
        world.split = rng.random() < 0.3
        world.a.disk.slow_ms = world.b.disk.slow_ms = rng.choice([2, 5, 30])
        world.pair()
        self.stamp = 0
        self.pending: list[tuple[Request, int, int]] = []
        self.may: dict[int, list[int]] = {}
        """Block → the stamp that was acknowledged last, and those that came later."""
        self.answers: list[Any] = []

    def event(self) -> None:
        """One, then a little time."""
        weighted = {
            self.write: 30, self.resize: 8, self.enlarge: 4, self.kill: 2, self.up: 4, self.cut: 2, self.heal: 4,
            self.detach: 1, self.attach: 3, self.wait: 5, self.swap_in: 4,
        }  # fmt: skip
        self.rng.choices(list(weighted), list(weighted.values()))[0](self.rng.choice([self.world.a, self.world.b]))
        self.world.run(self.rng.choice([0, 0, 1, 2, 3, 5, 8, 15, 40]))
        self._note()

    def _order(self, host: SimHost, verb: str, **args: Any) -> None:
        if host.powered:
            host.resource.command(verb, args, self.answers.append)
            host.finish()

    def write(self, host: SimHost) -> None:
        host = self.world.a
        if not (host.powered and host.resource.doors_open):
            return
        size = host.resource.size_bytes // BLOCK
        block = self.rng.choice([0, 1, size - 1, self.rng.randrange(size)])
        self.stamp += 1
        data = self.stamp.to_bytes(8, "big") * (BLOCK // 8)
        self.may.setdefault(block, [0]).append(self.stamp)
        self.pending.append((self.world.submit(host, Op.WRITE, block * BLOCK, data=data), block, self.stamp))

    def _note(self) -> None:
        for entry in self.pending[:]:
            request, block, stamp = entry
            if self.world.answered(request):
                self.pending.remove(entry)
                if not request.errno:
                    may = self.may[block]
                    self.may[block] = [s for s in may if s >= stamp] if stamp in may else may

    def resize(self, host: SimHost) -> None:
        self._order(host, "resize", assume_peer_has_space=self.rng.random() < 0.1)
        if self.rng.random() < 0.2:
            self._order(host.peer, "resize")

    def enlarge(self, host: SimHost) -> None:
        for one in (self.world.a, self.world.b) if self.rng.random() < 0.7 else (host,):
            if len(one.disk.content) < 48 * MIB:
                one.disk.enlarge(self.rng.choice([MIB, 4 * MIB, 64 << 10, BLOCK]))

    def kill(self, host: SimHost) -> None:
        if host.powered:
            self.world.kill(host)
            self.pending = [entry for entry in self.pending if host is not self.world.a]

    def up(self, host: SimHost) -> None:
        if not host.powered:
            self.world.boot(host)
            self.attach(host)
            self._order(host, "connect")

    def attach(self, host: SimHost) -> None:
        if not host.powered or host.resource.disk is not None or host.busy_with_metadata:
            return
        host.disk.geometry = geometry_of(host)
        if internal(len(host.disk.content) // 512).start_bytes < host.disk.geometry.end_bytes \
                and geometry_of(host) != internal(len(host.disk.content) // 512):  # fmt: skip
            host.disk.enlarge(4 * MIB)      # it grew by too little to be moved
        moved_offline(host)
        self._order(host, "attach", **host.open_disk())

    def detach(self, host: SimHost) -> None:
        self._order(host, "detach")

    def cut(self, host: SimHost) -> None:
        self.world.partition()

    def heal(self, host: SimHost) -> None:
        if self.world.links_down:
            self.world.heal()

    def wait(self, host: SimHost) -> None:
        self.world.run(self.rng.choice([100, 1000, 8000]))

    def swap_in(self, host: SimHost) -> None:
        a = self.world.a
        # alone it could be on older data than it worked on without a disk: a split brain, and no test of this
        if a.powered and a.resource.state.role != Role.PRIMARY and self.world.in_sync():
            self._order(a, "primary")

    def mend(self) -> None:
        """Both up, connected, in sync, `a` Primary; then the last growth, on disks that surely have room."""
        world = self.world
        for turn in range(40):
            self.heal(world.a)
            for host in (world.a, world.b):
                if turn % 8 == 7:       # whoever has no disk, and saw newer data than it can have, forgets that
                    self.kill(host)
                self.up(host)
                self.attach(host)
                if host.resource.state.conn == Conn.STANDALONE:
                    self._order(host, "connect")
            self.swap_in(world.a)
            world.run(12_000)
            if world.in_sync() and world.a.resource.state.role == Role.PRIMARY:
                break
        assert world.in_sync(), "\n".join(world.lines[-60:])
        world.settle()
        self._note()
        for host in (world.a, world.b):
            host.disk.enlarge(MIB)
        world.ok(self.rng.choice([world.a, world.b]), "resize")
        size = min(internal(len(host.disk.content) // 512).data_sectors for host in (world.a, world.b))
        world.run_until(lambda: all(h.resource.size_sectors == size for h in (world.a, world.b)))
        world.settle()


@pytest.mark.parametrize("seed", range(24))
def test_growing_in_any_weather(seed: int) -> None:
    weather = Weather(seed)
    for _ in range(EVENTS):
        weather.event()
    weather.mend()
    world = weather.world
    marked = world.a.resource.meta.bitmap.count if world.a.resource.meta is not None else -1
    for host in (world.a, world.b):
        assert host.resource.state.disk == Disk.UP_TO_DATE
    content = world.a.disk.content
    for block, may in weather.may.items():
        stamp = int.from_bytes(content[block * BLOCK : block * BLOCK + 8], "big")
        assert stamp in may, (block, stamp, may)
    if not marked:
        grown(world, world.a.resource.size_sectors)
