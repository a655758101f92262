# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the three metadata areas lie, for the three placements of v08 (DRBD 8.4 on-disk format; drbdmeta agrees)."""
from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from replblock.meta.blockdev import SECTOR_BYTES
from replblock.meta.errors import MetadataError
from replblock.meta.superblock import DEFAULT_AL_STRIPE_SIZE_4K, DEFAULT_AL_STRIPES, Superblock

SUPERBLOCK_SECTORS = 8
BLOCK_SECTORS = 8
SLOT_SECTORS = 262_144              # 128 MiB for every index of an indexed metadata device
DATA_SECTORS_PER_BM_SECTOR = 32_768  # 512 * 8 bits of 4 KiB
DATA_SECTORS_PER_BM_BLOCK = 262_144  # a whole 4 KiB of bitmap: 128 MiB of data
MAX_DATA_SECTORS = 1 << 51          # 1 EiB: what the 8.4 kernel can address
MIN_MD_DEVICE_SECTORS = 2_048       # the kernel refuses a metadata device below 1 MiB
MAX_INDEX = 255
MIN_AL_SECTORS = 64                 # 32 KiB
MAX_AL_SECTORS = (16 << 30) // SECTOR_BYTES
MAX_INT32 = (1 << 31) - 1           # offsets are signed 32-bit sector numbers
MAX_MD_SIZE_SECTORS = (1 << 32) - 8


class Kind(StrEnum):
    """How ``meta-disk`` places metadata; the values are the words of messages."""

    INTERNAL = "internal"
    FLEXIBLE = "flexible"
    INDEXED = "indexed"


class Placement(NamedTuple):
    """Kind, and the slot number for indexed metadata."""

    kind: Kind
    slot: int = 0

    @classmethod
    def parse(cls, word: str) -> Placement:
        """drbdmeta's words: internal, flex-internal, flex-external, or 0..255. Raises MetadataError."""
        if word in ("internal", "flex-internal"):
            return cls(Kind.INTERNAL)
        if word == "flex-external":
            return cls(Kind.FLEXIBLE)
        if word.isascii() and word.isdigit() and int(word) <= MAX_INDEX:
            return cls(Kind.INDEXED, int(word))
        raise MetadataError(f"'{word}' is not a metadata index: use internal, flex-external or 0..{MAX_INDEX}",
                            rule="bad-index")


INTERNAL = Placement(Kind.INTERNAL)
FLEXIBLE = Placement(Kind.FLEXIBLE)


class Geometry(NamedTuple):
    """Absolute places in bytes on the metadata device, and the superblock's own relative sector numbers."""

    kind: Kind
    superblock_offset_bytes: int
    al_offset_bytes: int
    al_size_bytes: int
    bm_offset_bytes: int
    bm_size_bytes: int
    data_sectors: int          # usable data size: the least of backing device, bitmap space and MAX_DATA_SECTORS
    md_size_sectors: int
    al_offset_sectors: int     # relative to the superblock, signed
    bm_offset_sectors: int     # relative to the superblock, signed
    al_stripes: int
    al_stripe_size_4k: int

    @property
    def start_bytes(self) -> int:
        """First byte any of the three areas occupies."""
        return min(self.superblock_offset_bytes, self.al_offset_bytes, self.bm_offset_bytes)

    @property
    def end_bytes(self) -> int:
        """One past the last byte any of the three areas occupies."""
        return max(self.superblock_offset_bytes + SUPERBLOCK_SECTORS * SECTOR_BYTES,
                   self.al_offset_bytes + self.al_size_bytes, self.bm_offset_bytes + self.bm_size_bytes)


def internal(device_sectors: int, al_stripes: int = DEFAULT_AL_STRIPES,
             al_stripe_size_4k: int = DEFAULT_AL_STRIPE_SIZE_4K) -> Geometry:
    """Metadata at the end of the data device itself. Raises MetadataError when it does not fit."""
    al_sectors = _al_sectors(al_stripes, al_stripe_size_4k)
    _at_least(device_sectors, MIN_MD_DEVICE_SECTORS, "internal metadata")
    bm_sectors = bitmap_sectors(device_sectors)
    superblock = internal_superblock_sector(device_sectors)
    al_offset, bm_offset = -al_sectors, -(al_sectors + bm_sectors)
    if superblock + bm_offset <= 0:
        raise MetadataError(f"device of {device_sectors} sectors is too small: metadata alone needs "
                            f"{-bm_offset + SUPERBLOCK_SECTORS}", rule="too-small")
    return _geometry(Kind.INTERNAL, superblock, al_offset, bm_offset, bm_sectors,
                     data_sectors=superblock + bm_offset, md_size_sectors=bm_sectors + al_sectors + SUPERBLOCK_SECTORS,
                     al=(al_stripes, al_stripe_size_4k))


def flexible(md_sectors: int, data_device_sectors: int | None = None, al_stripes: int = DEFAULT_AL_STRIPES,
             al_stripe_size_4k: int = DEFAULT_AL_STRIPE_SIZE_4K) -> Geometry:
    """Metadata alone on a device, bitmap up to its end. Without a data device's size only the bitmap limits."""
    al_sectors = _al_sectors(al_stripes, al_stripe_size_4k)
    _at_least(md_sectors, MIN_MD_DEVICE_SECTORS, "flexible external metadata")
    md_size = min(md_sectors, MAX_MD_SIZE_SECTORS)
    bm_offset = SUPERBLOCK_SECTORS + al_sectors
    room = md_size - bm_offset
    if room < BLOCK_SECTORS:
        raise MetadataError(f"metadata device of {md_sectors} sectors is too small: superblock and activity log need "
                            f"{bm_offset}, the bitmap at least {BLOCK_SECTORS}", rule="too-small")
    usable = room * DATA_SECTORS_PER_BM_SECTOR
    return _geometry(Kind.FLEXIBLE, 0, SUPERBLOCK_SECTORS, bm_offset, room,
                     data_sectors=usable if data_device_sectors is None else min(usable, data_device_sectors),
                     md_size_sectors=md_size, al=(al_stripes, al_stripe_size_4k))


def indexed(index: int, data_device_sectors: int | None = None, md_sectors: int | None = None) -> Geometry:
    """Slot ``index`` of 128 MiB on a shared metadata device; its activity log is always 1 stripe of 8 blocks."""
    if not 0 <= index <= MAX_INDEX:
        raise MetadataError(f"metadata index {index} is not in 0..{MAX_INDEX}", rule="bad-index")
    if md_sectors is not None:
        _at_least(md_sectors, SLOT_SECTORS * (index + 1), f"metadata index {index}")
    al_sectors = _al_sectors(DEFAULT_AL_STRIPES, DEFAULT_AL_STRIPE_SIZE_4K)
    bm_offset = SUPERBLOCK_SECTORS + al_sectors
    room = SLOT_SECTORS - bm_offset
    usable = room * DATA_SECTORS_PER_BM_SECTOR
    return _geometry(Kind.INDEXED, SLOT_SECTORS * index, SUPERBLOCK_SECTORS, bm_offset, room,
                     data_sectors=usable if data_device_sectors is None else min(usable, data_device_sectors),
                     md_size_sectors=SLOT_SECTORS, al=(DEFAULT_AL_STRIPES, DEFAULT_AL_STRIPE_SIZE_4K))


def of(placement: Placement, device_sectors: int, data_device_sectors: int | None = None,
       al_stripes: int = DEFAULT_AL_STRIPES, al_stripe_size_4k: int = DEFAULT_AL_STRIPE_SIZE_4K) -> Geometry:
    """The geometry of any placement; ``device_sectors`` is the size of the device that holds the metadata."""
    if placement.kind is Kind.INTERNAL:
        return internal(device_sectors, al_stripes, al_stripe_size_4k)
    if placement.kind is Kind.FLEXIBLE:
        return flexible(device_sectors, data_device_sectors, al_stripes, al_stripe_size_4k)
    if (al_stripes, al_stripe_size_4k) != (DEFAULT_AL_STRIPES, DEFAULT_AL_STRIPE_SIZE_4K):
        raise MetadataError(f"indexed metadata has room for an activity log of 1 x 8 blocks only, not {al_stripes} x "
                            f"{al_stripe_size_4k}", rule="al-size")
    return indexed(placement.slot, data_device_sectors, device_sectors)


def superblock_offset_bytes(placement: Placement, device_sectors: int) -> int:
    """Where the superblock must be looked for; negative when the device is too small to hold one."""
    by_kind = {Kind.INTERNAL: internal_superblock_sector(device_sectors), Kind.FLEXIBLE: 0,
               Kind.INDEXED: SLOT_SECTORS * placement.slot}
    return by_kind[placement.kind] * SECTOR_BYTES


def internal_superblock_sector(device_sectors: int) -> int:
    """The last 4 KiB that is aligned to 4 KiB."""
    return (device_sectors & ~7) - SUPERBLOCK_SECTORS


def bitmap_sectors(device_sectors: int) -> int:
    """Sectors of bitmap for that many sectors of device, in whole 4 KiB blocks."""
    return -(-device_sectors // DATA_SECTORS_PER_BM_BLOCK) * BLOCK_SECTORS


def bitmap_bytes_in_use(la_size_sectors: int) -> int:
    """Bytes of bitmap that describe an agreed size, in whole 4 KiB blocks as drbdmeta counts them."""
    return bitmap_sectors(la_size_sectors) * SECTOR_BYTES


def internal_device_sectors_for(data_sectors: int, al_stripes: int = DEFAULT_AL_STRIPES,
                                al_stripe_size_4k: int = DEFAULT_AL_STRIPE_SIZE_4K) -> int:
    """The smallest device (a multiple of 8 sectors) on which internal metadata leaves ``data_sectors`` for data."""
    fixed = _al_sectors(al_stripes, al_stripe_size_4k) + SUPERBLOCK_SECTORS
    total = max(-(-(data_sectors + fixed) // 8) * 8, MIN_MD_DEVICE_SECTORS)
    while (need := -(-(data_sectors + fixed + bitmap_sectors(total)) // 8) * 8) > total:
        total = need  # a larger device may need one bitmap block more
    return total


def flexible_device_sectors_for(data_sectors: int) -> int:
    """The smallest metadata device that serves ``data_sectors`` as flexible external metadata."""
    al_sectors = _al_sectors(DEFAULT_AL_STRIPES, DEFAULT_AL_STRIPE_SIZE_4K)
    return max(SUPERBLOCK_SECTORS + al_sectors + bitmap_sectors(data_sectors), MIN_MD_DEVICE_SECTORS)


def check(block: Superblock, placement: Placement, device_sectors: int,
          data_device_sectors: int | None = None) -> Geometry:
    """The geometry a superblock claims, or MetadataError when it cannot be true on this device.

    Same strictness as drbdmeta: relative offsets must be those of the placement, and for internal metadata also
    those of the device's present size (after growing a device its old metadata counts as not there).
    """
    want = of(placement, device_sectors, data_device_sectors, block.al_stripes, block.al_stripe_size_4k)
    rows = [("al_offset", block.al_offset_sectors, want.al_offset_sectors),
            ("bm_offset", block.bm_offset_sectors, want.bm_offset_sectors)]
    if placement.kind is Kind.INTERNAL:
        rows.append(("md_size_sect", block.md_size_sectors, want.md_size_sectors))
    for name, found, expected in rows:
        if found != expected:
            raise MetadataError(f"no valid v08 metadata: {name} is {found}, a device of {device_sectors} sectors needs "
                                f"{expected} (was the device resized?)", rule=f"wrong-{name.replace('_', '-')}")
    return want


def _al_sectors(al_stripes: int, al_stripe_size_4k: int) -> int:
    sectors = al_stripes * al_stripe_size_4k * BLOCK_SECTORS
    if al_stripes < 1 or not MIN_AL_SECTORS <= sectors <= MAX_AL_SECTORS:
        raise MetadataError(f"activity log of {al_stripes} stripes x {al_stripe_size_4k} blocks is not between 32 KiB "
                            "and 16 GiB", rule="al-size")
    return sectors


def _at_least(sectors: int, least: int, what: str) -> None:
    if sectors < least:
        raise MetadataError(f"device of {sectors} sectors is too small: {what} needs at least {least} "
                            f"({least // 2} KiB)", rule="too-small")


def _geometry(kind: Kind, superblock: int, al_offset: int, bm_offset: int, bm_sectors: int, *, data_sectors: int,
              md_size_sectors: int, al: tuple[int, int]) -> Geometry:
    if max(-bm_offset, bm_offset, md_size_sectors if kind is Kind.INTERNAL else 0) > MAX_INT32:
        raise MetadataError(f"bitmap of {bm_sectors} sectors is too large for v08 metadata", rule="too-large")
    return Geometry(
        kind=kind,
        superblock_offset_bytes=superblock * SECTOR_BYTES,
        al_offset_bytes=(superblock + al_offset) * SECTOR_BYTES,
        al_size_bytes=al[0] * al[1] * BLOCK_SECTORS * SECTOR_BYTES,
        bm_offset_bytes=(superblock + bm_offset) * SECTOR_BYTES,
        bm_size_bytes=bm_sectors * SECTOR_BYTES,
        data_sectors=min(data_sectors, MAX_DATA_SECTORS),
        md_size_sectors=md_size_sectors,
        al_offset_sectors=al_offset,
        bm_offset_sectors=bm_offset,
        al_stripes=al[0],
        al_stripe_size_4k=al[1],
    )
