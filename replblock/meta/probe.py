# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands on a device before metadata is written to it: what it is, where it ends, how it can give room."""
from __future__ import annotations

from replblock.meta import geometry
from replblock.meta.blockdev import SECTOR_BYTES, BlockDevice, read_padded
from replblock.meta.findings import Finding, Reader, Signature, What
from replblock.meta.geometry import SLOT_SECTORS, Kind, Placement
from replblock.meta.signatures import SIGNATURES, tables
from replblock.meta.superblock import SUPERBLOCK_BYTES, foreign_version

_LOOK_BYTES = 68 * 1024       # the beginning that must be empty to call a device empty (superblocks end here at last)
_V07_FIXED_SECTORS = 262_144  # 0.7 kept internal metadata in a fixed 128 MiB at the end


def probe(device: BlockDevice) -> list[Finding]:
    """Everything recognised on the device, DRBD metadata last. Damaged superblocks never raise."""
    read = Reader(device)
    found = [finding for row in SIGNATURES if (finding := _match(row, read)) is not None]
    found = [*found, *tables(read, found)]
    drbd = find_drbd(device)
    if not found and not drbd and any(read.bytes(0, _LOOK_BYTES)):
        found.append(Finding(What.UNKNOWN, "data of an unknown kind", 0, None))
    return found + drbd


def _match(row: Signature, read: Reader) -> Finding | None:
    for offset in row.offsets_bytes:
        at = offset if offset >= 0 else read.size_bytes + offset
        if any(read.bytes(at, len(magic)) == magic for magic in row.magics) and (row.valid is None or row.valid(read)):
            name = row.refine(read) if row.refine else row.name
            end = row.end(read, at)
            unit = row.unit(read) if row.unit else 1024
            return Finding(row.what, name, 0, end, row.shrink if end is not None else "", unit)
    return None


def find_drbd(device: BlockDevice) -> list[Finding]:
    """DRBD metadata of any version in any of its places. One that cannot be true here is still named."""
    size = device.size_sectors
    # sector, what to call it, where it would stand, versions that can stand there
    places: list[tuple[int, str, Placement, tuple[str, ...]]] = [
        (geometry.internal_superblock_sector(size), "internal", geometry.INTERNAL, ("v07", "v08", "v09")),
        ((size & ~7) - _V07_FIXED_SECTORS, "fixed-size internal", geometry.INTERNAL, ("v07",)),
        (0, "external", geometry.FLEXIBLE, ("v07", "v08", "v09")),
    ]
    for slot in range(1, min(size // SLOT_SECTORS, geometry.MAX_INDEX + 1)):
        places.append((SLOT_SECTORS * slot, f"indexed [{slot}]", Placement(Kind.INDEXED, slot), ("v07", "v08", "v09")))
    found: dict[int, Finding] = {}
    for sector, place, placement, versions in places:
        start = sector * SECTOR_BYTES
        version = foreign_version(read_padded(device, SUPERBLOCK_BYTES, start))[:3] if sector >= 0 else ""
        if version in versions:
            found.setdefault(start, Finding(What.DRBD, f"{place} DRBD metadata {version}", start,
                                            start + SUPERBLOCK_BYTES, placement=placement))
    return [found[start] for start in sorted(found)]
