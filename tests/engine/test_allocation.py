# SPDX-License-Identifier: GPL-2.0-or-later
"""Holes of a file: none is claimed where there is data, whatever pieces are asked for."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from replblock.engine.allocation import everything, extents
from replblock.nbd.names import HOLE, ZERO

SIZE = 4 << 20


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Some data here and there, also in the last, short block."""
    path, chance = tmp_path / "sparse", random.Random(1)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for _ in range(40):
            file.seek(chance.randrange(SIZE - 9000))
            file.write(chance.randbytes(chance.choice([1, 512, 5000, 9000])))
        file.seek(SIZE - 10)
        file.write(b"x" * 10)
    return path


@pytest.mark.parametrize("most", [1, 3, 4096])
def test_what_is_called_a_hole_reads_as_zeroes(sparse: Path, most: int) -> None:
    content, chance = sparse.read_bytes(), random.Random(2)
    fd = os.open(sparse, os.O_RDONLY)
    holes = 0
    try:
        for _ in range(200):
            start = chance.randrange(0, SIZE, 512)
            length = chance.choice([512, 4096, 1 << 20, SIZE])
            found = extents(fd, start, min(length, SIZE - start), most)
            at = start
            assert 1 <= len(found) <= most
            for one in found:
                assert one.length_bytes > 0 and one.length_bytes % 512 == 0
                assert one.flags in (0, HOLE | ZERO)
                assert not one.flags or not any(content[at : at + one.length_bytes])
                holes += bool(one.flags)
                at += one.length_bytes
            assert at <= start + length and (len(found) == most or at == min(start + length, SIZE))
    finally:
        os.close(fd)
    assert holes


def test_a_file_without_holes_and_one_that_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.write_bytes(b"d" * 65536)
    with open(path, "rb") as file:
        assert extents(file.fileno(), 4096, 8192) == everything(8192)
    reader, writer = os.pipe()
    assert extents(reader, 0, 8192) == everything(8192)
    os.close(reader)
    os.close(writer)
    with open("/dev/zero", "rb") as device:
        assert sum(one.length_bytes for one in extents(device.fileno(), 0, 8192)) == 8192


def test_a_file_that_ends_before_the_device_does_is_a_hole_there(sparse: Path) -> None:
    with open(sparse, "rb") as file:
        assert extents(file.fileno(), SIZE, 4096) == [(4096, HOLE | ZERO)]
        last = extents(file.fileno(), SIZE - 512, 4096)
    assert last == [(512, 0), (3584, HOLE | ZERO)]
