# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices for the metadata tests, and drbdmeta as the judge."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from replblock.meta.geometry import Geometry, Kind, Placement

SECTOR = 512
INTERNAL = Placement(Kind.INTERNAL)
FLEXIBLE = Placement(Kind.FLEXIBLE)
_STATE_DIRS = (Path("/var/lib/drbd"), Path("/run/lock"), Path("/var/lock"))


def word(placement: Placement) -> str:
    """drbdmeta's name of a placement."""
    return {Kind.INTERNAL: "internal", Kind.FLEXIBLE: "flex-external"}.get(placement.kind, str(placement.slot))


class MemoryDevice:
    """A small device in memory."""

    def __init__(self, size_sectors: int, data: bytes = b"") -> None:
        self.data = bytearray(data.ljust(size_sectors * SECTOR, b"\0"))
        self.syncs = 0

    @property
    def size_sectors(self) -> int:
        return len(self.data) // SECTOR

    def pread(self, length: int, offset_bytes: int) -> bytes:
        assert offset_bytes >= 0
        return bytes(self.data[offset_bytes : offset_bytes + length])

    def pwrite(self, data: bytes, offset_bytes: int) -> None:
        assert offset_bytes >= 0 and offset_bytes + len(data) <= len(self.data)
        self.data[offset_bytes : offset_bytes + len(data)] = data

    def sync(self) -> None:
        self.syncs += 1


class CrashingDevice(MemoryDevice):
    """Remembers every write and which sync covers it, so that a test can lose what was not yet synced."""

    def __init__(self, size_sectors: int, data: bytes = b"") -> None:
        super().__init__(size_sectors, data)
        self.before = bytes(self.data)
        self.writes: list[tuple[int, int, bytes]] = []  # (syncs finished before, offset, data)

    def pwrite(self, data: bytes, offset_bytes: int) -> None:
        self.writes.append((self.syncs, offset_bytes, bytes(data)))
        super().pwrite(data, offset_bytes)

    def images(self, pick: int) -> Iterator[bytes]:
        """The device after a power cut in each epoch between syncs; `pick` chooses which unsynced writes arrived."""
        for epoch in range(self.syncs + 1):
            image = bytearray(self.before)
            for number, (synced, offset, data) in enumerate(self.writes):
                if synced < epoch or (synced == epoch and pick >> (number % 16) & 1):
                    image[offset : offset + len(data)] = data
            yield bytes(image)


class FileDevice:
    """A (sparse) file, so that drbdmeta can work on the same bytes."""

    def __init__(self, path: Path, size_sectors: int | None = None) -> None:
        self.path = path
        if size_sectors is not None:
            path.unlink(missing_ok=True)
            with path.open("wb") as file:
                file.truncate(size_sectors * SECTOR)

    @property
    def size_sectors(self) -> int:
        return self.path.stat().st_size // SECTOR

    def pread(self, length: int, offset_bytes: int) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), length, offset_bytes)

    def pwrite(self, data: bytes, offset_bytes: int) -> None:
        with self.path.open("r+b") as file:
            assert os.pwrite(file.fileno(), data, offset_bytes) == len(data)

    def sync(self) -> None:
        pass

    def areas(self, where: Geometry, bm_bytes: int | None = None) -> tuple[bytes, bytes, bytes]:
        """Superblock, activity log and (the beginning of) the bitmap."""
        bitmap = where.bm_size_bytes if bm_bytes is None else min(bm_bytes, where.bm_size_bytes)
        return (
            self.pread(4096, where.superblock_offset_bytes),
            self.pread(where.al_size_bytes, where.al_offset_bytes),
            self.pread(bitmap, where.bm_offset_bytes),
        )


class Result(NamedTuple):
    exit_code: int
    out: str
    err: tuple[str, ...]


@contextmanager
def no_traces(minor: int) -> Iterator[None]:
    """drbdmeta remembers sizes per minor number and leaves its locks: both must not outlive the call."""
    traces = [folder / name for folder in _STATE_DIRS for name in (f"drbd-minor-{minor}.lkbd", f"drbd-147-{minor}")]
    try:
        yield
    finally:
        for trace in traces:
            trace.unlink(missing_ok=True)


def drbdmeta(path: Path, placement: Placement, *command: str, version: str = "v08") -> Result:
    """Run drbdmeta on a regular file (that needs --force). Its minor number is nobody else's."""
    minor = 800_000 + os.getpid() % 200_000
    line = ["drbdmeta", "--force", str(minor), version, str(path), word(placement), *command]
    with no_traces(minor):
        ran = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    noise = ("ioctl(", "Ignoring additional arguments")
    err = tuple(one for one in ran.stderr.splitlines() if one and not one.startswith(noise))
    return Result(ran.returncode, ran.stdout, err)
