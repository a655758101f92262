# SPDX-License-Identifier: GPL-2.0-or-later
"""Invariant 5: whatever differs is marked on one of the disks, or in the memory of the node that lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.meta.recovery import recover
from replblock.meta.superblock import UUID_JUST_CREATED, Flag

if TYPE_CHECKING:
    from tests.sim.node import Node


def unmarked(a: Node, b: Node) -> int | None:
    """The first block that differs and is marked nowhere."""
    if a.platter.content == b.platter.content:
        return None
    known = [bitmap for node in (a, b) for bitmap in _bitmaps(node)]
    if None in known:
        return None  # every block counts as different
    for block in range(a.platter.size_bytes // 4096):
        where = slice(block * 4096, block * 4096 + 4096)
        if a.platter.content[where] != b.platter.content[where]:
            if not any(bitmap.count_range(block, block + 1) for bitmap in known):
                return block
    return None


def _bitmaps(node: Node) -> list[Any]:
    """What an attach of its disk would find, and what it knows if it runs; None: everything counts as different."""
    platter = node.platter
    superblock = platter.superblock
    if superblock.uuid_current & ~1 == UUID_JUST_CREATED:
        return [None]
    flags = int(superblock.flags)
    if flags & Flag.FULL_SYNC or (flags & Flag.AL_DISABLED and flags & (Flag.PRIMARY_IND | Flag.CRASHED_PRIMARY)):
        return [None]
    found = [recover(platter.meta_read, platter.geometry, superblock, platter.size_bytes // 512).bitmap]
    if node.on and node.resource.meta is not None:
        found.append(node.resource.meta.bitmap)
    return found
