# SPDX-License-Identifier: GPL-2.0-or-later
"""The vocabulary of ``probe``: what a finding is, and how a signature is written down."""
from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from replblock.meta.blockdev import SECTOR_BYTES, BlockDevice, read_padded
from replblock.meta.geometry import Placement


class What(StrEnum):
    """The sort of thing found; it decides how strongly creating metadata is refused."""

    FILE_SYSTEM = "file system"
    CONTAINER = "container"          # volume manager, encryption, RAID, swap
    TABLE = "partition table"
    DRBD = "drbd"
    UNKNOWN = "unknown data"


class Finding(NamedTuple):
    """One thing recognised. ``end_bytes`` None: it does not say, or reaches to the end by its nature."""

    what: What
    name: str                        # "ext4 file system"
    start_bytes: int
    end_bytes: int | None
    shrink: str = ""                 # command that makes it end by {kib}/{bytes}/{blocks} on {dev}; "" = cannot shrink
    unit_bytes: int = 1024           # what the new end must be a multiple of
    placement: Placement | None = None  # where other DRBD metadata stands

    def overlaps(self, start_bytes: int, end_bytes: int) -> bool:
        """Whether it reaches into [start_bytes, end_bytes)."""
        return self.start_bytes < end_bytes and (self.end_bytes is None or self.end_bytes > start_bytes)


class Reader:
    """Reads beyond the end as zero and remembers nothing; integers of either byte order."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self.size_bytes = device.size_sectors * SECTOR_BYTES

    def bytes(self, offset_bytes: int, length: int) -> bytes:
        """``length`` bytes, zero-padded."""
        return read_padded(self._device, length, offset_bytes)

    def little(self, offset_bytes: int, length: int) -> int:
        """A little-endian unsigned integer."""
        return int.from_bytes(self.bytes(offset_bytes, length), "little")

    def big(self, offset_bytes: int, length: int) -> int:
        """A big-endian unsigned integer."""
        return int.from_bytes(self.bytes(offset_bytes, length), "big")


class Signature(NamedTuple):
    """A row: magic bytes at any of the offsets; where it ends; how it shrinks."""

    what: What
    name: str
    offsets_bytes: tuple[int, ...]
    magics: tuple[bytes, ...]
    end: Callable[[Reader, int], int | None]   # given the offset at which the magic was found
    shrink: str = ""
    refine: Callable[[Reader], str] | None = None   # a more exact name
    valid: Callable[[Reader], bool] | None = None   # for magics too short to trust
    unit: Callable[[Reader], int] | None = None     # what an end must be a multiple of
