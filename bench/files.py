# SPDX-License-Identifier: GPL-2.0-or-later
"""Backing files: real blocks, so that no round pays for the allocation of what it writes first."""

from __future__ import annotations

import os
import random
from pathlib import Path

CHUNK_BYTES = 4 << 20
PIECE_BYTES = 4096
"""Files are written in such pieces: what a large write leaves in the page cache are folios of megabytes, and every
4 KiB write into one of them then costs the kernel many times as much (ext4, Linux 6.18: 2 µs grew to 8 µs and
more), for each contestant alike, so that the round would measure the file's past."""


def make_file(path: Path, size_bytes: int, *, sparse: bool = False) -> None:
    """A file of that size; unless sparse, allocated and written with incompressible bytes, and flushed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
        if not sparse:
            os.posix_fallocate(fd, 0, size_bytes)
            chunk = random.Random(84).randbytes(CHUNK_BYTES)     # the same on every leg
            for offset in range(0, size_bytes, CHUNK_BYTES):
                for piece in range(0, min(CHUNK_BYTES, size_bytes - offset), PIECE_BYTES):
                    os.pwrite(fd, chunk[piece : piece + PIECE_BYTES], offset + piece)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def flush_file(path: Path) -> None:
    """Write back what a round left dirty, so that the next contestant's round does not pay for it."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def file_system_of(path: Path) -> str:
    """The type of the file system, as in /proc/self/mounts; the longest mount point that holds the path."""
    best, kind = "", "?"
    real = str(path.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, fs_type, *_ = line.split(" ")
        prefix = mount_point.rstrip("/") + "/"
        if (real + "/").startswith(prefix) and len(mount_point) >= len(best):
            best, kind = mount_point, fs_type
    return kind
