# SPDX-License-Identifier: GPL-2.0-or-later
"""What drbdmeta does while nothing runs: read, show and change metadata on a block device object.

``placement`` says where the metadata stands on ``device`` (the device that holds it). Every function raises
NoMetadata or MetadataError when there is no valid v08 metadata, and then has written nothing.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replblock.meta import activity_log, geometry, texts
from replblock.meta.activity_log import EXTENT_BM_BYTES
from replblock.meta.blockdev import BLOCK_BYTES, SECTOR_BYTES, BlockDevice, read_padded
from replblock.meta.errors import MetadataError, NoMetadata
from replblock.meta.geometry import Geometry, Placement
from replblock.meta.superblock import MAGIC_V08, SUPERBLOCK_BYTES, Flag, Superblock

_CHUNK_BYTES = 1 << 20        # reading and writing a bitmap goes by such pieces
MAX_DEVICE_UUID = (1 << 64) - 1


class Metadata(NamedTuple):
    """A valid superblock and where everything is. ``note`` is drbdmeta's line about a corrected size, or ""."""

    superblock: Superblock
    geometry: Geometry
    note: str = ""


class AppliedLog(NamedTuple):
    """Result of apply_al: drbdmeta's exit code, its words, and what the log said."""

    exit_code: int
    remarks: tuple[str, ...]
    marked_bits: int          # newly set
    rule: str                 # of activity_log.Replay; "not-needed": was no Primary; "forced-full": all marked


def read_metadata(device: BlockDevice, placement: Placement, data_device_sectors: int | None = None) -> Metadata:
    """Find and check the superblock. An agreed size beyond what the placement allows is cut, with a note."""
    offset = geometry.superblock_offset_bytes(placement, device.size_sectors)
    if offset < 0 or offset + SUPERBLOCK_BYTES > device.size_sectors * SECTOR_BYTES:
        raise NoMetadata(f"device of {device.size_sectors} sectors cannot hold {placement.kind} metadata",
                         rule="too-small")
    block = Superblock.unpack(read_padded(device, SUPERBLOCK_BYTES, offset))
    where = geometry.check(block, placement, device.size_sectors, data_device_sectors)
    if block.la_size_sectors <= where.data_sectors:
        return Metadata(block, where)
    note = texts.truncation_note(block.la_size_sectors, where.data_sectors)
    return Metadata(block._replace(la_size_sectors=where.data_sectors), where, note)


def write_superblock(device: BlockDevice, where: Geometry, block: Superblock) -> None:
    """Write and make durable."""
    device.pwrite(block.pack(), where.superblock_offset_bytes)
    device.sync()


def get_gi(device: BlockDevice, placement: Placement) -> str:
    """``get-gi``: the generation identifiers in one line."""
    block, _where, note = read_metadata(device, placement)
    return f"{note}{texts.gi_line(block)}\n"


def show_gi(device: BlockDevice, placement: Placement) -> str:
    """``show-gi``: the same with a legend and the flags in words."""
    block, _where, note = read_metadata(device, placement)
    return note + texts.show_gi_text(block)


def dstate(device: BlockDevice, placement: Placement) -> str:
    """``dstate`` of a resource that is down."""
    block, _where, note = read_metadata(device, placement)
    return f"{note}{texts.disk_state(block)}\n"


def dump_md(device: BlockDevice, placement: Placement, *, header: texts.DumpHeader | None = None, force: bool = False,
            show_flags: bool = False) -> Iterator[str]:
    """``dump-md`` in pieces (the whole text of a large bitmap may be hundreds of MB).

    Unclean metadata needs ``force``: its bitmap lacks what is only in the activity log. ``show_flags`` prints the
    real flags where drbdmeta 9.22 prints 0x00000000. Checks happen at the call, not at the first piece.
    """
    block, where, note = read_metadata(device, placement)
    if not block.clean and not force:
        raise MetadataError('Found meta data is "unclean", please apply-al first', rule="unclean")
    bm_bytes = min(geometry.bitmap_bytes_in_use(block.la_size_sectors), where.bm_size_bytes)
    pieces = texts.dump_text(block, where, _bitmap_chunks(device, where, bm_bytes), bm_bytes,
                             header or texts.DumpHeader(), show_flags)
    return (piece for part in ((note,), pieces) for piece in part)


def set_gi(device: BlockDevice, placement: Placement, text: str, *, dry_run: bool = False) -> str:
    """``set-gi``: change UUIDs and flags by a string of get-gi's form; says before and after. May write."""
    block, where, note = read_metadata(device, placement)
    wanted = texts.parse_gi(text, block)
    if not dry_run:
        write_superblock(device, where, wanted)
    return f"{note}previously {texts.gi_line(block)}\nset GI to  {texts.gi_line(wanted)}\n"


def outdate(device: BlockDevice, placement: Placement) -> None:
    """``outdate``: not to be promoted any more. Raises (exit code 5) on an inconsistent disk."""
    block, where, _note = read_metadata(device, placement)
    if Flag.CONSISTENT not in block.flags:
        raise MetadataError("Device is inconsistent.", rule="inconsistent", exit_code=5)
    write_superblock(device, where, block._replace(flags=block.flags.without(Flag.WAS_UP_TO_DATE)))


def invalidate(device: BlockDevice, placement: Placement) -> None:
    """``invalidate``: the next connection must bring everything from the peer."""
    block, where, _note = read_metadata(device, placement)
    flags = block.flags.without(Flag.CONSISTENT | Flag.WAS_UP_TO_DATE) | Flag.FULL_SYNC
    write_superblock(device, where, block._replace(flags=flags))


def read_dev_uuid(device: BlockDevice, placement: Placement) -> int:
    """``read-dev-uuid``: the device's own number."""
    return read_metadata(device, placement).superblock.device_uuid


def write_dev_uuid(device: BlockDevice, placement: Placement, device_uuid: int) -> None:
    """``write-dev-uuid``: 64 bits, normally random."""
    if not 0 <= device_uuid <= MAX_DEVICE_UUID:
        raise MetadataError(f"device uuid {device_uuid:#x} is not a 64-bit number", rule="bad-device-uuid")
    block, where, _note = read_metadata(device, placement)
    write_superblock(device, where, block._replace(device_uuid=device_uuid))


def wipe_md(device: BlockDevice, placement: Placement) -> str:
    """``wipe-md``: the superblock becomes zero; bitmap and log stay, meaningless. The caller has confirmed."""
    try:
        where = read_metadata(device, placement).geometry
    except MetadataError:
        return "There appears to be no drbd meta data to wipe out?\n"
    device.pwrite(bytes(SUPERBLOCK_BYTES), where.superblock_offset_bytes)
    device.sync()
    return "Wiping meta data...\nDRBD meta data block successfully wiped out.\n"


def apply_al(device: BlockDevice, placement: Placement, *, force: bool = False) -> AppliedLog:
    """``apply-al``: after a crash as Primary mark every extent of the log out of sync; then log and flags are clean.

    A log that is needed but cannot be read leaves everything as it was and answers exit code 1; ``force`` then marks
    the whole device. This is stricter than drbdmeta, which calls metadata with the clean magic and a ruined log done.
    """
    block, where, note = read_metadata(device, placement)
    log = read_log(device, where)
    needed = Flag.PRIMARY_IND in block.flags
    remarks = [note.rstrip("\n")] if note else []
    remarks += log.remarks
    marked, rule, full = 0, log.rule if needed else "not-needed", False
    if needed and not log.usable:
        if not force:
            return AppliedLog(1, tuple(remarks), 0, log.rule)
        rule, full = "forced-full", True
    bm_bytes = min(geometry.bitmap_bytes_in_use(block.la_size_sectors), where.bm_size_bytes)
    if needed and (full or log.slots):
        extents = range(bm_bytes // EXTENT_BM_BYTES) if full else log.extents
        marked, more = mark_extents(device, where, bm_bytes, extents)
        remarks += [*more, f"Marked additional {texts.size_text(marked * 4)} as out-of-sync based on AL."]
        device.sync()  # the log may only be forgotten when the bitmap says the same
    elif needed and rule == "replayed":
        remarks.append("Nothing to do.")
    initialize_log(device, where)
    device.sync()
    write_superblock(device, where, block._replace(magic=MAGIC_V08, flags=block.flags | Flag.AL_CLEAN))
    return AppliedLog(0, tuple(remarks), marked, rule)


def read_log(device: BlockDevice, where: Geometry) -> activity_log.Replay:
    """Decode the activity log as it stands on the device."""
    area = read_padded(device, where.al_size_bytes, where.al_offset_bytes)
    blocks = [area[at:at + BLOCK_BYTES] for at in range(0, len(area), BLOCK_BYTES)]
    return activity_log.replay(blocks, where.al_stripes, where.al_stripe_size_4k)


def initialize_log(device: BlockDevice, where: Geometry) -> None:
    """Write every block of the log as INITIALIZED; the caller syncs."""
    blocks = activity_log.initialized_block() * (min(where.al_size_bytes, _CHUNK_BYTES) // BLOCK_BYTES)
    for at in range(0, where.al_size_bytes, len(blocks)):
        device.pwrite(blocks[:where.al_size_bytes - at], where.al_offset_bytes + at)


def mark_extents(device: BlockDevice, where: Geometry, bm_bytes: int,
                 extents: Sequence[int]) -> tuple[int, list[str]]:
    """Set all bits of these 4 MiB extents on disk; (bits newly set, remarks about extents beyond). Caller syncs.

    ``extents`` ascending. Touches each 4 KiB block of the bitmap once.
    """
    remarks = []
    by_block: dict[int, bytearray] = {}
    newly = 0
    for extent in extents:
        at = extent * EXTENT_BM_BYTES
        if at >= bm_bytes:
            remarks.append(f"extent {extent} beyond end of bitmap! ({at} >= {bm_bytes})")
            continue
        index, within = divmod(at, BLOCK_BYTES)
        if index not in by_block:
            _write_blocks(device, where, by_block)
            by_block = {index: bytearray(read_padded(device, BLOCK_BYTES, where.bm_offset_bytes + index * BLOCK_BYTES))}
        old = int.from_bytes(by_block[index][within:within + EXTENT_BM_BYTES], "little")
        newly += EXTENT_BM_BYTES * 8 - old.bit_count()
        by_block[index][within:within + EXTENT_BM_BYTES] = b"\xff" * EXTENT_BM_BYTES
    _write_blocks(device, where, by_block)
    return newly, remarks


def _write_blocks(device: BlockDevice, where: Geometry, blocks: dict[int, bytearray]) -> None:
    for index, block in blocks.items():
        device.pwrite(bytes(block), where.bm_offset_bytes + index * BLOCK_BYTES)


def _bitmap_chunks(device: BlockDevice, where: Geometry, bm_bytes: int) -> Iterator[bytes]:
    for at in range(0, bm_bytes, _CHUNK_BYTES):
        yield read_padded(device, min(_CHUNK_BYTES, bm_bytes - at), where.bm_offset_bytes + at)
