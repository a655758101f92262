# SPDX-License-Identifier: GPL-2.0-or-later
"""csums-alg: what is equal is not sent, what differs is; and only a digest that proves it is believed."""

from __future__ import annotations

import random

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk
from replblock.wire.digests import digest
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

BLOCK = 4096


def alike(seed: int = 3, **changes: object) -> World:
    """Two equal disks with something on them, `a` Primary."""
    world = World(seed, csums_alg="sha256", **changes).pair()  # type: ignore[arg-type]
    for megabyte in range(7):
        world.write(world.a, megabyte * MIB, world.rng.randbytes(MIB))
    world.flush(world.a)
    world.settle()
    return world


def rot(host: SimHost, block: int) -> None:
    """The disk forgets what it had, and says nothing."""
    for content in (host.disk.content, host.disk.durable):
        content[block * BLOCK : (block + 1) * BLOCK] = b"rot!" * (BLOCK // 4)


def said(world: World, rule: str) -> list[str]:
    return [line for line in world.lines if f"[{rule}]" in line]


def received_kib(world: World) -> int:
    return int(world.b.resource.status()["devices"][0]["replblock-counters"]["nr"])


def test_only_what_differs_is_sent() -> None:
    world = alike()
    for block in (0, 7, 300, 301, 1500):
        rot(world.b, block)
    before, bits = received_kib(world), world.b.resource.meta.bitmap.bits  # type: ignore[union-attr]
    world.ok(world.b, "invalidate")
    world.settle()
    assert world.same_data()
    assert 20 <= received_kib(world) - before <= 5 * 1024, "requests are of up to 1 MiB"
    total = bits * 4
    for line in said(world, "resync-checksums")[-2:]:
        words = line.split("] ")[1]
        assert words.startswith(tuple(f"{n} % had equal checksums, eliminated: " for n in range(35, 100)))
        assert words.endswith(f"K total {total}K")


def test_nothing_differs() -> None:
    world = alike()
    before = received_kib(world)
    world.ok(world.b, "invalidate")
    world.settle()
    assert received_kib(world) == before
    assert "100 % had equal checksums" in said(world, "resync-checksums")[-1]


@pytest.mark.parametrize("seed", range(12))
def test_writes_meet_the_comparison(seed: int) -> None:
    """Slow disks, an application on the source, blocks that differ here and there."""
    world = alike(seed, protocol="ABC"[seed % 3], resync_rate_kib=8000)
    for host in (world.a, world.b):
        host.disk.slow_share, host.disk.slow_ms = 0.7, 5
    for _ in range(60):
        rot(world.b, world.rng.randrange(1700))
    world.ok(world.b, "invalidate")
    chance = random.Random(seed)
    while not world.in_sync():
        data = bytes([chance.randrange(256)]) * chance.choice((512, 4096, 20_000 // 512 * 512))
        if chance.random() < 0.2:
            data = world.a.disk.data(8 * MIB)[: len(data)]  # what is there already
        world.submit(world.a, Op.WRITE, chance.randrange(3000) * 2048 // 512 * 512, len(data), data)
        world.run(chance.randrange(12))
    world.settle()
    assert world.same_data()
    assert said(world, "resync-checksums")


def test_a_checksum_that_finds_accidents_is_not_believed() -> None:
    """DRBD takes crc32c for csums-alg. Whoever asks with it gets the data."""
    world = World(4, csums_alg="crc32c").pair()
    world.ok(world.b, "invalidate")
    world.settle()
    assert said(world, "csums-alg-not-believed")
    assert not said(world, "resync-checksums")
    before = received_kib(world)
    checksums = world.b.resource.sync.checksums
    begin = checksums.begin_target

    def as_a_kernel_does() -> None:
        begin()
        checksums._digest = digest("crc32c")

    checksums.begin_target = as_a_kernel_does  # type: ignore[method-assign]
    world.ok(world.b, "invalidate")
    world.settle()
    assert received_kib(world) - before == world.b.resource.meta.bitmap.bits * 4  # type: ignore[union-attr]
    assert "0 % had equal" in said(world, "resync-checksums")[-1]


def test_only_after_a_crash_of_the_primary() -> None:
    world = alike(csums_after_crash_only=True)
    world.ok(world.b, "invalidate")
    world.settle()
    assert not said(world, "resync-checksums")
    world.kill(world.a)
    world.run_until(lambda: world.b.resource.state.conn < Conn.CONNECTED)
    world.ok(world.b, "primary")
    world.write(world.b, 0, b"n" * BLOCK)
    world.up(world.a)
    world.settle()
    assert world.same_data()
    assert said(world, "resync-checksums")


def test_a_write_that_failed_meanwhile_is_not_called_equal() -> None:
    """The target lost a write that came between its question and the answer: the block stays marked there."""
    world = alike(on_io_error="pass_on", resync_rate_kib=4000)
    world.ok(world.b, "invalidate")
    world.run_until(lambda: world.b.resource.state.conn == Conn.SYNC_TARGET)
    checksums = world.b.resource.sync.checksums
    world.run_until(lambda: bool(checksums._asked))
    first = min(checksums._asked)
    world.b.resource.sync.target.write_failed(first * BLOCK, first * BLOCK + 512)
    world.run_until(lambda: first not in checksums._asked)
    assert world.b.resource.meta.bitmap.count_range(first, first + 1)  # type: ignore[union-attr]
    world.settle()
    assert world.same_data()


def test_an_unreadable_block_is_written_anew() -> None:
    world = alike(on_io_error="pass_on")
    world.b.disk.fail_reads = True
    before = received_kib(world)
    world.ok(world.b, "invalidate")
    world.settle()
    assert world.b.resource.state.disk == Disk.UP_TO_DATE
    assert received_kib(world) - before == world.b.resource.meta.bitmap.bits * 4  # type: ignore[union-attr]


def test_a_target_that_is_primary() -> None:
    """Its own writes wait for what is asked about."""
    world = alike(resync_rate_kib=20_000)
    for block in (0, 7, 300, 301, 1500):
        rot(world.a, block)
    world.ok(world.a, "invalidate")
    while not world.in_sync():
        world.submit(world.a, Op.WRITE, world.rng.randrange(1700) * BLOCK, 512, bytes([world.rng.randrange(256)]) * 512)
        world.run(3)
    world.settle()
    assert world.same_data() and said(world, "resync-checksums")
