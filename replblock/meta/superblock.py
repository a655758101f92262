# SPDX-License-Identifier: GPL-2.0-or-later
"""The 4096-byte v08 superblock (DRBD 8.4 on-disk format; drbdmeta agrees)."""
from __future__ import annotations

import struct
from enum import IntFlag
from typing import NamedTuple

from replblock.meta.errors import MetadataError, NoMetadata
from replblock.meta.layout import Buffer, Field, Layout

SUPERBLOCK_BYTES = 4096
MAGIC_V07 = 0x8374026A        # in 0.7 it stands at byte 28
MAGIC_V08 = 0x8374026B        # written by create-md and apply-al
MAGIC_UNCLEAN = 0x8374026C    # written by an attached 8.4 node on every update
MAGIC_V09 = 0x8374026D
BYTES_PER_BIT = 4096          # the kernel refuses anything else
UUID_JUST_CREATED = 4         # current UUID of metadata that never met a peer
CREATED_AL_EXTENTS = 257      # al_nr_extents as create-md leaves it
DEFAULT_AL_STRIPES = 1
DEFAULT_AL_STRIPE_SIZE_4K = 8


class Flag(IntFlag):
    """MDF_* of DRBD 8.4. Unknown bits are kept as they are."""

    CONSISTENT = 0x001        # disk state was better than Inconsistent
    PRIMARY_IND = 0x002       # was Primary: after a crash the activity log must be applied
    CONNECTED_IND = 0x004     # connection state was beyond WFReportParams
    FULL_SYNC = 0x008         # bitmap was being set completely: every bit counts as set
    WAS_UP_TO_DATE = 0x010    # disk state was better than Outdated
    PEER_OUT_DATED = 0x020    # peer's disk was Inconsistent or Outdated
    CRASHED_PRIMARY = 0x040   # crashed while Primary, not yet resynced
    AL_CLEAN = 0x080          # activity log applied
    AL_DISABLED = 0x100       # al-updates no: the log says nothing
    WENT_ON_ALONE = 1 << 24   # ours: written to without the peer since the bitmap's generation began
    LOST_WRITES = 1 << 25     # ours: a write or flush failed under a Primary; the peer may have what is missing here
    PEERS_LAST_COPY = 1 << 26  # ours: when last connected, a Primary without a good disk of its own worked on this one

    def without(self, others: int) -> Flag:
        """These bits cleared. Unlike `& ~`, which in Python means the named bits only, this keeps unknown ones."""
        return Flag(int(self) & ~int(others))


SUPERBLOCK = Layout("superblock", SUPERBLOCK_BYTES, ">", (
    #     name                        type offset meaning
    Field("la_size_sectors",            "Q",  0, "last agreed device size; 0 = never attached"),
    Field("uuid_current",               "Q",  8, "current generation; bit 0 = was Primary"),
    Field("uuid_bitmap",                "Q", 16, "generation the bitmap is relative to; 0 = bitmap not in use"),
    Field("uuid_history0",              "Q", 24, "younger history"),
    Field("uuid_history1",              "Q", 32, "older history"),
    Field("device_uuid",                "Q", 40, "random per device, informational"),
    # 48..55 reserved
    Field("flags",                      "I", 56, "Flag"),
    Field("magic",                      "I", 60, "MAGIC_V08 or MAGIC_UNCLEAN"),
    Field("md_size_sectors",            "I", 64, "size of all metadata areas"),
    Field("al_offset_sectors",          "i", 68, "activity log, relative to the superblock"),
    Field("al_nr_extents",              "I", 72, "slots of the activity log at the last attach"),
    Field("bm_offset_sectors",          "i", 76, "bitmap, relative to the superblock"),
    Field("bm_bytes_per_bit",           "I", 80, "BYTES_PER_BIT"),
    Field("la_peer_max_bio_size_bytes", "I", 84, "last agreed largest request"),
    Field("al_stripes",                 "I", 88, "0 together with the next field 0 means the default"),
    Field("al_stripe_size_4k",          "I", 92, "blocks of 4 KiB in a stripe"),
))

_MAGIC_AT = SUPERBLOCK.offset("magic")
_MAGIC_V07_AT = 28


class Superblock(NamedTuple):
    """Fields as in the table ``SUPERBLOCK``, in its order."""

    la_size_sectors: int = 0
    uuid_current: int = UUID_JUST_CREATED
    uuid_bitmap: int = 0
    uuid_history0: int = 0
    uuid_history1: int = 0
    device_uuid: int = 0
    flags: Flag = Flag.AL_CLEAN
    magic: int = MAGIC_V08
    md_size_sectors: int = 0
    al_offset_sectors: int = 0
    al_nr_extents: int = CREATED_AL_EXTENTS
    bm_offset_sectors: int = 0
    bm_bytes_per_bit: int = BYTES_PER_BIT
    la_peer_max_bio_size_bytes: int = 0
    al_stripes: int = DEFAULT_AL_STRIPES
    al_stripe_size_4k: int = DEFAULT_AL_STRIPE_SIZE_4K

    @property
    def clean(self) -> bool:
        """True when a kernel would attach it: activity log applied and magic of a finished shutdown."""
        return self.magic == MAGIC_V08 and Flag.AL_CLEAN in self.flags

    def pack(self) -> bytes:
        """The 4096 bytes. Raises MetadataError when a value does not fit its field."""
        try:
            return SUPERBLOCK.pack(*self)
        except struct.error as error:
            raise MetadataError(f"superblock field out of range: {error}", rule="field-out-of-range") from None

    @classmethod
    def unpack(cls, data: Buffer) -> Superblock:
        """From exactly 4096 bytes. Raises NoMetadata or MetadataError saying what was seen instead of v08.

        Only what can be judged without the device is checked here; ``geometry.check`` does the rest.
        """
        if len(data) != SUPERBLOCK_BYTES:
            raise MetadataError(f"superblock is {len(data)} bytes long, not {SUPERBLOCK_BYTES}", rule="short-read")
        seen = foreign_version(data)
        if seen not in ("v08", "v08-unclean"):
            raise _no_v08(seen, data)
        values = SUPERBLOCK.unpack(data)
        block = cls._make(values)._replace(flags=Flag(values[6]))
        if block.al_stripes == 0 and block.al_stripe_size_4k == 0:
            block = block._replace(al_stripes=DEFAULT_AL_STRIPES, al_stripe_size_4k=DEFAULT_AL_STRIPE_SIZE_4K)
        if block.bm_bytes_per_bit != BYTES_PER_BIT:
            raise MetadataError(f"one bitmap bit stands for {block.bm_bytes_per_bit} bytes, only {BYTES_PER_BIT} is "
                                "supported", rule="bytes-per-bit")
        return block


def foreign_version(data: Buffer) -> str:
    """Which DRBD metadata starts here: "v07", "v08", "v08-unclean", "v09" or "" for none."""
    magic = int.from_bytes(data[_MAGIC_AT:_MAGIC_AT + 4], "big")
    by_magic = {MAGIC_V08: "v08", MAGIC_UNCLEAN: "v08-unclean", MAGIC_V09: "v09"}
    if magic in by_magic:
        return by_magic[magic]
    old = int.from_bytes(data[_MAGIC_V07_AT:_MAGIC_V07_AT + 4], "big")
    return "v07" if MAGIC_V07 in (old, magic) else ""


def _no_v08(seen: str, data: Buffer) -> NoMetadata:
    if seen:
        origin = {"v07": "DRBD 0.7", "v09": "DRBD 9"}[seen]
        return NoMetadata(f"metadata of {origin} ({seen}) found, only v08 is supported", rule=f"version-{seen[1:]}")
    magic = int.from_bytes(data[_MAGIC_AT:_MAGIC_AT + 4], "big")
    saw = f"magic 0x{magic:08x} instead of 0x{MAGIC_V08:08x}" if any(data) else "the superblock is all zero"
    return NoMetadata(f"no valid v08 metadata found ({saw})", rule="nothing-there")
