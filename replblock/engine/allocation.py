# SPDX-License-Identifier: GPL-2.0-or-later
"""Which parts of the local disk hold data and which are holes: what NBD calls base:allocation."""

from __future__ import annotations

import errno
import os

from replblock.nbd.names import HOLE, ZERO
from replblock.nbd.transmission import Extent

MAX_EXTENTS = 4096
"""In one answer; the client asks again for the rest."""
SECTOR_BYTES = 512


def everything(length_bytes: int) -> list[Extent]:
    """The answer where nobody knows: all of it is data."""
    return [Extent(length_bytes, 0)]


def extents(fd: int, offset_bytes: int, length_bytes: int, most: int = MAX_EXTENTS) -> list[Extent]:
    """At most `most` extents from `offset_bytes` on; a file system that keeps no holes gives one.

    May block. Borders of a hole that lie inside a sector move to its data.
    """
    found: list[Extent] = []
    at, end = offset_bytes, offset_bytes + length_bytes
    try:
        while at < end and len(found) < most:
            data = _seek_data(fd, at, end)
            start = min(end, data - data % SECTOR_BYTES)
            if start > at:
                found.append(Extent(start - at, HOLE | ZERO))
                at = start
                continue
            hole = os.lseek(fd, data, os.SEEK_HOLE)
            stop = min(end, -(-hole // SECTOR_BYTES) * SECTOR_BYTES)
            if stop <= at:
                break           # no answer to rely on
            found.append(Extent(stop - at, 0))
            at = stop
    except OSError:
        pass
    return found or everything(length_bytes)


def _seek_data(fd: int, at: int, end: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end      # nothing but a hole up to the end of the file
        raise
