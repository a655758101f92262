# SPDX-License-Identifier: GPL-2.0-or-later
"""The bitmap as an attach finds it: what stands on disk, plus what the activity log says after a crash as Primary.

Same effect as drbdmeta's apply-al, in memory; nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.meta.activity_log import replay
from replblock.meta.bitmap import Bitmap
from replblock.meta.geometry import Geometry
from replblock.meta.superblock import Flag, Superblock

BLOCK_BYTES = 4096
BITS_PER_EXTENT = 1024
PIECE_BYTES = 1 << 20


class Recovered(NamedTuple):
    """`replayed_extents`: 4 MiB extents marked because of the log; `log_usable`: false, everything was marked."""

    bitmap: Bitmap
    replayed_extents: int = 0
    corrupt: int = 0
    log_usable: bool = True


def bits_of(size_sectors: int) -> int:
    """Bits a device of this size needs: one per 4 KiB, rounded up."""
    return -(-size_sectors // 8)


def recover(
    read: Callable[[int, int], bytes], geometry: Geometry, superblock: Superblock, size_sectors: int
) -> Recovered:
    """`read(offset_bytes, length_bytes)` of the metadata device; `size_sectors`: of the device from now on."""
    old_bits = bits_of(superblock.la_size_sectors)
    bitmap = Bitmap(old_bits)
    length = min(-(-old_bits // 8), geometry.bm_size_bytes)
    for at in range(0, length, PIECE_BYTES):
        left = min(PIECE_BYTES, length - at)
        piece = read(geometry.bm_offset_bytes + at, -(-left // 512) * 512)
        bitmap.load_piece(at, piece[:left])
    found = Recovered(bitmap)
    if superblock.flags & Flag.PRIMARY_IND:
        # under AL_CLEAN the log is empty; should it name extents all the same, drbdmeta marks them, too
        found = _apply_log(read, geometry, bitmap, old_bits, bool(superblock.flags & Flag.AL_CLEAN))
    new_bits = bits_of(size_sectors)
    if new_bits != old_bits:
        bitmap.resize(new_bits, True)
    return found


def _apply_log(
    read: Callable[[int, int], bytes], geometry: Geometry, bitmap: Bitmap, bits: int, clean: bool
) -> Recovered:
    area = read(geometry.al_offset_bytes, geometry.al_size_bytes)
    blocks = [area[i : i + BLOCK_BYTES] for i in range(0, len(area), BLOCK_BYTES)]
    log = replay(blocks, geometry.al_stripes, geometry.al_stripe_size_4k)
    if not log.usable and not clean:
        bitmap.fill()  # nobody knows what the crashed Primary was writing
    replayed = 0
    for extent in log.extents:
        first = extent * BITS_PER_EXTENT
        if first < bits:
            bitmap.set_range(first, min(first + BITS_PER_EXTENT, bits))
            replayed += 1
    return Recovered(bitmap, replayed, log.corrupt, log.usable)
