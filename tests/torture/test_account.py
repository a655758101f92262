# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge is judged: a medium that forgets exactly what it may, an oracle that notices what is missing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture.medium import Medium
from tests.torture.oracle import Oracle, Violation, acknowledged, durable, payload
from tests.torture.records import Kind, pack, unpack

DISK_BYTES = 1 << 16


class Worst(random.Random):
    """Everything that may be lost is lost."""

    def random(self) -> float:
        return 0.999

    def choice(self, values):  # type: ignore[no-untyped-def]
        return values[0]


class Disk:
    """A disk whose log a test writes by hand."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "disk"
        self.path.write_bytes(bytes(DISK_BYTES))
        self.medium = Medium(self.path, directory / "log", directory / "durable")

    def log(self, kind: Kind, number: int, offset: int = 0, length: int = 0, result: int = 0,
            data: bytes = b"") -> None:
        with self.medium.log.open("ab") as file:
            file.write(pack(kind, number, offset, length, result) + data)

    def write(self, number: int, offset: int, data: bytes, *, done: bool = True, synced: bool = False) -> None:
        self.log(Kind.WRITE_SYNC if synced else Kind.WRITE, number, offset, len(data), data=data)
        if done:
            with self.path.open("r+b") as file:
                file.seek(offset)
                file.write(data)
            self.log(Kind.WRITTEN, number, result=len(data))

    def sync(self, number: int) -> None:
        self.log(Kind.SYNC, number)
        self.log(Kind.SYNCED, number, result=1)

    def at(self, offset: int) -> bytes:
        return self.path.read_bytes()[offset : offset + 1]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_flush_covers_what_was_complete_when_it_began(disk: Disk) -> None:
    disk.write(1, 0, b"a" * 4096)
    disk.write(2, 4096, b"b" * 4096, done=False)
    disk.log(Kind.SYNC, 3)
    disk.log(Kind.WRITTEN, 2, result=4096)
    disk.write(4, 8192, b"c" * 4096)
    disk.log(Kind.SYNCED, 3, result=1)
    disk.medium.power_loss(Worst())
    assert (disk.at(0), disk.at(4096), disk.at(8192)) == (b"a", b"\0", b"\0")


def test_a_flush_that_failed_or_never_returned_covers_nothing(disk: Disk) -> None:
    disk.write(1, 0, b"a" * 4096)
    disk.log(Kind.SYNC, 2)
    disk.log(Kind.SYNCED, 2, result=0)
    disk.log(Kind.SYNC, 3)
    disk.medium.power_loss(Worst())
    assert disk.at(0) == b"\0"


def test_a_synchronous_write_counts_for_itself_only(disk: Disk) -> None:
    """And what it replaced never comes back over it."""
    disk.write(1, 0, b"a" * 8192)
    disk.write(2, 0, b"b" * 4096, synced=True)
    disk.medium.follow()
    disk.medium.check()
    disk.medium.power_loss(Worst())
    assert (disk.at(0), disk.at(4096)) == (b"b", b"\0")
    disk.write(3, 0, b"c" * 8192)
    disk.write(4, 0, b"d" * 4096, synced=True)
    disk.medium.power_loss(random.Random(next(seed for seed in range(99) if keeps_all(seed))))
    assert (disk.at(0), disk.at(4096)) == (b"d", b"c")


def keeps_all(seed: int) -> bool:
    return random.Random(seed).choice([0.0, 0.0, 0.3, 0.7, 0.95, 1.0]) == 1.0


def test_sectors_are_torn_but_never_mixed_with_what_was_not_written(disk: Disk) -> None:
    seen = set()
    for turn in range(60):
        old, new = b"%c" % (65 + turn % 20), b"%c" % (97 + turn % 20)
        disk.write(3 * turn + 1, 0, old * 4096)
        disk.sync(3 * turn + 2)
        disk.write(3 * turn + 3, 0, new * 4096)
        disk.medium.power_loss(random.Random(turn))
        content = disk.path.read_bytes()[:4096]
        sectors = [content[at : at + 512] for at in range(0, 4096, 512)]
        assert all(sector in (old * 512, new * 512) for sector in sectors)
        seen.add(sum(sector == new * 512 for sector in sectors))
    assert {0, 8} < seen, "never torn"


def test_a_killed_process_leaves_the_page_cache(disk: Disk) -> None:
    disk.write(1, 0, b"a" * 4096)
    disk.write(2, 4096, b"b" * 4096, done=False)
    with disk.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"b" * 512)          # so far it came
    disk.medium.killed()
    disk.medium.check()
    disk.log(Kind.BEGIN, 0)
    disk.sync(1)
    disk.medium.power_loss(Worst())
    assert (disk.at(0), disk.at(4096), disk.at(4096 + 512)) == (b"a", b"b", b"\0")


def test_a_write_around_the_log_is_noticed(disk: Disk) -> None:
    disk.write(1, 0, b"a" * 4096)
    with disk.path.open("r+b") as file:
        file.seek(512)
        file.write(b"x")
    disk.medium.follow()
    with pytest.raises(AssertionError, match="sector 1 "):
        disk.medium.check()


def test_a_record_that_is_not_whole_waits() -> None:
    text = pack(Kind.WRITE, 1, 0, 512, 0) + bytes(512)
    assert [end for _, end in unpack(text)] == [len(text)]
    assert list(unpack(text[:-1])) == list(unpack(text[:20])) == []


# ---- the oracle


def put(data: bytearray, oracle: Oracle, first: int, ack: bool = True) -> None:
    write = oracle.begin(first, 8)
    data[first * 512 : first * 512 + 4096] = payload(0, write)
    if ack:
        oracle.ack(write, False, "")


def test_a_lost_acknowledgement_is_noticed() -> None:
    oracle, data = Oracle(), bytearray(DISK_BYTES)
    put(data, oracle, 8)
    before = bytes(data)
    put(data, oracle, 8)
    oracle.check(bytes(data), acknowledged, "now")
    with pytest.raises(Violation, match="outdated write 1"):
        oracle.check(before, acknowledged, "then")
    oracle.check(before, durable, "after a power loss")
    oracle.flushed(oracle.tick(), "")
    with pytest.raises(Violation, match="outdated write 1"):
        oracle.check(before, durable, "after a flush")


def test_an_unanswered_write_may_be_there_or_not() -> None:
    oracle, data = Oracle(), bytearray(DISK_BYTES)
    put(data, oracle, 0)
    before = bytes(data)
    put(data, oracle, 0, ack=False)
    for one in (before, bytes(data)):
        oracle.check(one, acknowledged, "either")


def test_a_flush_covers_what_was_answered_before_it_was_asked_for() -> None:
    oracle, data = Oracle(), bytearray(DISK_BYTES)
    asked = oracle.tick()
    put(data, oracle, 0)
    oracle.flushed(asked, "")
    oracle.check(bytes(DISK_BYTES), durable, "the write came later")
    oracle.flushed(oracle.tick(), "")
    with pytest.raises(Violation):
        oracle.check(bytes(DISK_BYTES), durable, "now it counts")


def test_a_gap_is_no_prefix() -> None:
    oracle, data = Oracle(), bytearray(DISK_BYTES)
    put(data, oracle, 0)
    put(data, oracle, 8)
    oracle.prefix(bytes(data[:4096]) + bytes(DISK_BYTES - 4096), "the last one is missing")
    with pytest.raises(Violation):
        oracle.prefix(bytes(4096) + bytes(data[4096:]), "the first one is missing")


@pytest.mark.parametrize("at", [0, 40, 511])
def test_damage_and_misplaced_data_are_noticed(at: int) -> None:
    oracle, data = Oracle(), bytearray(DISK_BYTES)
    put(data, oracle, 0)
    data[at] ^= 1
    with pytest.raises(Violation, match="nobody wrote"):
        oracle.check(bytes(data), acknowledged, "damaged")
    data[at] ^= 1
    data[0:512], data[512:1024] = data[512:1024], data[0:512]
    with pytest.raises(Violation, match="data of sector"):
        oracle.check(bytes(data), acknowledged, "misplaced")
