# SPDX-License-Identifier: GPL-2.0-or-later
"""The straight way of a write does nothing that the way round does not: packet by packet, answer by answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from replblock.core.requests import Op, Request
from replblock.core.secondary import SecondaryPath
from replblock.core.straight import Straight
from replblock.wire.stream import StreamDecoder

from .simhost import Pipe
from .world import MIB, World

EXTENTS = 4


class Seen:
    """What a history sent, in which order, what it answered, and how often a straight way was taken."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.answers: list[tuple[int, int, bytes]] = []
        self.pinned: list[list[int]] = []
        """The extents of the open epoch, which the activity log must not let go."""
        self.straight = 0
        self.disks: list[bytes] = []


def played(seed: int, protocol: str, straight: bool, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Seen:
    """A history of batches, with a lost connection, a resync and a failing disk in it."""
    seen = Seen()
    carry, begin, read, comes, acks = (
        Pipe.carry, Straight._begin_straight, Straight._read_straight, SecondaryPath._goes_straight,
        StreamDecoder.write_acks,
    )  # fmt: skip

    def carried(pipe: Pipe, side: int, data: bytes) -> None:
        seen.sent.append((pipe.ends[side][0].name, data))
        carry(pipe, side, data)

    def begun(path: Straight, requests: list[Request], at: int) -> int:
        end = begin(path, requests, at) if straight else at
        seen.straight += end - at
        return end

    def was_read(path: Straight, requests: list[Request], at: int) -> int:
        end = read(path, requests, at) if straight else at
        seen.straight += end - at
        return end

    def come(*args: Any) -> bool:
        found = straight and comes(*args)
        seen.straight += found
        return found

    def acked(decoder: StreamDecoder, data: bytes) -> list[bytes]:
        found = acks(decoder, data) if straight else []
        seen.straight += len(found)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Pipe, "carry", carried)
        patch.setattr(Straight, "_begin_straight", begun)
        patch.setattr(Straight, "_read_straight", was_read)
        patch.setattr(Straight, "_write_straight", Straight._write_straight if straight else _nothing)
        patch.setattr(SecondaryPath, "_goes_straight", come)
        patch.setattr(StreamDecoder, "write_acks", acked)
        world = World(seed, size_bytes=(4 * EXTENTS + 1) * MIB, protocol=protocol, **settings)
        _history(world, random.Random(seed), seen)
    seen.disks = [world.a.disk.data(), world.b.disk.data()]
    return seen


def _nothing(path: Straight) -> None:
    pass


def _history(world: World, rng: random.Random, seen: Seen) -> None:
    world.slow_tcp = rng.choice((0.0, 0.3))
    world.split = rng.random() < 0.3
    world.pair()
    a, b = world.a, world.b
    number = 0
    for step in range(60):
        batch = []
        for _ in range(rng.randrange(1, 20)):
            number += 1
            batch.append(_request(rng, number, seen))
        if a.powered and a.resource.doors_open:
            a.resource.submit(batch)
            a.finish()
            seen.pinned.append(sorted(a.resource.primary.log.current.extents))
        world.run(rng.randrange(0, 6))
        if step % 12 == 7:
            world.kill(b, power=rng.random() < 0.5)
            world.run(rng.randrange(0, 30))
            world.up(b)
            world.run(rng.randrange(0, 40))
        if step == 30:
            b.disk.fail_writes = True
        if step == 33:
            b.disk.fail_writes = False
    world.run(2_000)


def _request(rng: random.Random, number: int, seen: Seen) -> Request:
    op = rng.choices((Op.WRITE, Op.READ, Op.FLUSH, Op.ZERO, Op.TRIM), (30, 3, 2, 1, 1))[0]
    length = 0 if op == Op.FLUSH else rng.choice((512, 4096, 4096, 4096, 12288, 65536))
    most = EXTENTS * 4 * MIB - length
    at = 0 if op == Op.FLUSH else rng.choice((rng.randrange(0, most), rng.randrange(0, 64 << 10))) // 512 * 512
    data = rng.randbytes(16) * (length // 16) if op == Op.WRITE else b""
    fua = op == Op.WRITE and rng.random() < 0.05
    return Request(op, at, length, lambda r: seen.answers.append((number, r.errno, bytes(r.data))), data, fua)


@pytest.mark.parametrize("protocol", ["A", "B", "C"])
@pytest.mark.parametrize("seed", range(1, 6))
def test_both_ways_are_one(seed: int, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with an activity log that holds half of the extents, and an epoch that is full soon."""
    monkeypatch.setattr("replblock.core.path.MAX_EPOCH_WRITES_ORDERED", 50 if seed % 2 else 65536)
    settings = {"al_extents": 2} if seed == 3 else {}
    straight = played(seed, protocol, True, monkeypatch, **settings)
    round_about = played(seed, protocol, False, monkeypatch, **settings)
    assert straight.straight > 50 and round_about.straight == 0
    assert straight.answers == round_about.answers
    assert straight.pinned == round_about.pinned and (any(straight.pinned) or seed == 3)
    assert [name for name, _ in straight.sent] == [name for name, _ in round_about.sent]
    for (_, one), (_, other) in zip(straight.sent, round_about.sent, strict=True):
        assert one == other
    assert straight.disks == round_about.disks
