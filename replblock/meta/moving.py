# SPDX-License-Identifier: GPL-2.0-or-later
"""Internal metadata of a disk that grew while nothing ran: found by the size it had, moved to the new end.

Same effect as drbdmeta's check-resize. The old size must be known: metadata of another device may lie in what was
added, or in the data, and a search could not tell it apart.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from replblock.meta import geometry
from replblock.meta.blockdev import BlockDevice, read_padded
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import INTERNAL, Geometry
from replblock.meta.offline import Metadata, read_metadata, write_superblock
from replblock.meta.superblock import SUPERBLOCK_BYTES, Superblock

_CHUNK_BYTES = 1 << 20
SIZES_KEPT = 4


class Moved(NamedTuple):
    """What check_resize found or did: `rule` is in-place or moved."""

    rule: str
    superblock: Superblock
    geometry: Geometry


def overlap_bytes(old: Geometry, new: Geometry) -> int:
    """By how much the new place lies over the old one: nothing may be written there before the new one counts."""
    moves = (old.superblock_offset_bytes, old.bm_offset_bytes) != (new.superblock_offset_bytes, new.bm_offset_bytes)
    return max(0, old.end_bytes - new.start_bytes) if moves else 0


def too_close(over_bytes: int) -> str:
    """What to do about that."""
    return f"the disk grew by less than its metadata takes: grow it by {over_bytes // 1024} KiB more at least"


def remembered_text(path: str, sizes_sectors: Sequence[int]) -> str:
    """What is kept beside a disk in use: how large it was, the last time first."""
    return f"{','.join(map(str, sizes_sectors[:SIZES_KEPT]))} {path}\n"


def remembered_sizes(text: str, path: str) -> tuple[int, ...]:
    """The sizes of that disk when it was in use, in sectors; none if it was another one, or nobody knows."""
    numbers, _, name = text.rstrip("\n").partition(" ")
    words = numbers.split(",")
    if name != path or not all(word.isascii() and word.isdigit() for word in words):
        return ()
    return tuple(map(int, words[:SIZES_KEPT]))


def at_former_size(device: BlockDevice, former_sizes: Sequence[int]) -> Metadata | None:
    """The metadata of a disk that had one of these sizes, if that is where valid metadata lies; the first one counts.

    More than one: who dies while the metadata moves leaves it in the old place, or in the new one.
    """
    for sectors in former_sizes:
        offset = geometry.superblock_offset_bytes(INTERNAL, sectors)
        if offset >= 0 and sectors < device.size_sectors:
            try:
                block = Superblock.unpack(read_padded(device, SUPERBLOCK_BYTES, offset))
                return Metadata(block, geometry.check(block, INTERNAL, sectors))
            except MetadataError:
                continue
    return None


def check_resize(device: BlockDevice, former_sizes: Sequence[int]) -> Moved:
    """Move internal metadata to where it belongs, unless it is there. Raises MetadataError.

    The new place is complete and durable before its superblock, that one before the old place is wiped: a crash at any
    point leaves one that is found.
    """
    try:
        block, where, _note = read_metadata(device, INTERNAL)
        return Moved("in-place", block, where)
    except MetadataError as error:
        found = at_former_size(device, former_sizes)
        if found is None:
            raise error
    block, old, _note = found
    new = geometry.internal(device.size_sectors, block.al_stripes, block.al_stripe_size_4k)
    over = overlap_bytes(old, new)
    if over:
        raise MetadataError(too_close(over), rule="metadata-overlaps")
    _copy(device, old.bm_offset_bytes, new.bm_offset_bytes, min(old.bm_size_bytes, new.bm_size_bytes))
    _zero(device, new.bm_offset_bytes + old.bm_size_bytes, new.bm_size_bytes - old.bm_size_bytes)
    _copy(device, old.al_offset_bytes, new.al_offset_bytes, old.al_size_bytes)
    device.sync()
    block = block._replace(md_size_sectors=new.md_size_sectors, al_offset_sectors=new.al_offset_sectors,
                           bm_offset_sectors=new.bm_offset_sectors)
    write_superblock(device, new, block)
    _zero(device, old.start_bytes, old.end_bytes - old.start_bytes)
    device.sync()
    return Moved("moved", block, new)


def _copy(device: BlockDevice, source: int, target: int, length: int) -> None:
    for at in range(0, length, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, length - at)
        device.pwrite(read_padded(device, size, source + at), target + at)


def _zero(device: BlockDevice, start: int, length: int) -> None:
    for at in range(0, max(0, length), _CHUNK_BYTES):
        device.pwrite(bytes(min(_CHUNK_BYTES, length - at)), start + at)
