# SPDX-License-Identifier: GPL-2.0-or-later
"""THIN_RESYNC: zeroes are told with a word, and written only where something else stands."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from replblock.core.thin import only_zeroes
from replblock.wire.commands import Cmd
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

BLOCK = 4096


def half_zero(seed: int = 5, **changes: Any) -> World:
    """Two equal disks of 8 MiB, `a` Primary; data in every other MiB."""
    return with_data(World(seed, **changes))


def with_data(world: World) -> World:
    world.pair()
    for megabyte in range(0, 7, 2):
        world.write(world.a, megabyte * MIB, world.rng.randbytes(MIB))
    world.flush(world.a)
    world.settle()
    return world


def received(host: SimHost, cmd: Cmd) -> list[int]:
    """Lengths of the bodies of this command that come in from now on."""
    lengths: list[int] = []
    inner = host.resource._data_handlers[cmd]

    def listen(body: memoryview) -> None:
        lengths.append(len(body))
        inner(body)

    host.resource._data_handlers[cmd] = listen
    return lengths


def zeroings(host: SimHost) -> list[tuple[int, int, bool]]:
    """What this disk is asked to zero from now on."""
    calls: list[tuple[int, int, bool]] = []
    disk = host.resource.disk
    inner = disk.zero  # type: ignore[union-attr]

    def zero(offset: int, length: int, may_punch: bool, done: Any) -> int:
        calls.append((offset, length, may_punch))
        return inner(offset, length, may_punch, done)

    disk.zero = zero  # type: ignore[union-attr, method-assign]
    return calls


def test_zeroes_travel_as_a_word() -> None:
    world = half_zero()
    data, words = received(world.b, Cmd.RS_DATA_REPLY), received(world.b, Cmd.RS_DEALLOCATED)
    calls = zeroings(world.b)
    world.ok(world.b, "invalidate")
    world.settle()
    assert world.same_data()
    assert sum(length - 24 for length in data) == 4 * MIB
    assert words and set(words) == {16}
    assert calls == [], "what is zero already is not written"
    told = [line.split("] ")[1] for line in world.lines if "[resync-zeroes]" in line]
    zeroes = world.a.resource.size_bytes - 4 * MIB
    assert told[-2:] == [f"{zeroes >> 10}K were zeroes: told, not sent"] * 2


@pytest.mark.parametrize("granularity", [0, 4096])
def test_what_stood_there_is_zeroed(granularity: int) -> None:
    """Holes are punched where the configuration allows it, and nowhere else."""
    world = half_zero(rs_discard_granularity=granularity)
    for content in (world.b.disk.content, world.b.disk.durable):
        content[MIB + BLOCK : MIB + 2 * BLOCK] = b"rot!" * (BLOCK // 4)
    calls = zeroings(world.b)
    world.ok(world.b, "invalidate")
    world.settle()
    assert world.same_data()
    assert calls and all(start <= MIB + BLOCK < start + length for start, length, _ in calls)
    assert {punch for _, _, punch in calls} == {bool(granularity)}


@pytest.mark.parametrize("one", "ab")
def test_only_if_both_know_it(one: str) -> None:
    world = World(5)
    host = {"a": world.a, "b": world.b}[one]
    host.settings = replace(host.settings, offer_features=0b1101)  # type: ignore[attr-defined]
    with_data(world)
    data = received(world.b, Cmd.RS_DATA_REPLY)
    world.ok(world.b, "invalidate")
    world.settle()
    assert world.same_data()
    assert sum(length - 24 for length in data) > 7 * MIB


@pytest.mark.parametrize("seed", range(12))
def test_writes_meet_it(seed: int) -> None:
    """Slow disks, and an application that writes and zeroes on the source."""
    world = half_zero(seed, protocol="ABC"[seed % 3], resync_rate_kib=8000)
    for host in (world.a, world.b):
        host.disk.slow_share, host.disk.slow_ms = 0.7, 5
    for content in (world.b.disk.content, world.b.disk.durable):
        content[:] = bytes(random.Random(seed).randbytes(BLOCK)) * (len(content) // BLOCK)
    world.ok(world.b, "invalidate")
    chance = random.Random(seed)
    while not world.in_sync():
        size = chance.choice((512, 4096, 65536))
        at = chance.randrange(0, 7 * MIB - size) // 512 * 512
        world.write(world.a, at, bytes(size) if chance.random() < 0.5 else chance.randbytes(size))
        world.run(20)
    world.settle()
    assert world.same_data()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 512, 4096, 131072, 1 << 20])
def test_only_zeroes(length: int) -> None:
    data = bytearray(length)
    for view in (data, bytes(data), memoryview(data)):
        assert only_zeroes(view)
    for at in {0, length // 2, length - 1}:
        data[at] = 1
        for view in (data, bytes(data), memoryview(data)):
            assert not only_zeroes(view)
        data[at] = 0
