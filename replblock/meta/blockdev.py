# SPDX-License-Identifier: GPL-2.0-or-later
"""The little a metadata operation needs from a block device, and how it is read without surprises."""
from __future__ import annotations

from typing import Protocol

SECTOR_BYTES = 512
BLOCK_BYTES = 4096


class BlockDevice(Protocol):
    """A file, a partition or a fake. Errors of the medium are OSError and pass through unchanged."""

    @property
    def size_sectors(self) -> int:
        """Whole size in sectors of 512 bytes."""

    def pread(self, length: int, offset_bytes: int) -> bytes:
        """Exactly ``length`` bytes, fewer only at the end of the device."""

    def pwrite(self, data: bytes, offset_bytes: int) -> object:
        """Write all of ``data``."""

    def sync(self) -> object:
        """Return when everything written so far is on stable storage."""


def read_padded(device: BlockDevice, length: int, offset_bytes: int) -> bytes:
    """``length`` bytes; whatever lies outside the device reads as zero, so a short device needs no special case."""
    size_bytes = device.size_sectors * SECTOR_BYTES
    if offset_bytes < 0 or offset_bytes >= size_bytes:
        return bytes(length)
    return bytes(device.pread(min(length, size_bytes - offset_bytes), offset_bytes)).ljust(length, b"\0")
