# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts inside the offline operations: whatever arrived, nothing that was known is forgotten."""

from __future__ import annotations

import random

import pytest

from replblock.meta import activity_log as al
from replblock.meta import geometry, offline
from replblock.meta.create import create_md
from replblock.meta.errors import MetadataError
from replblock.meta.superblock import MAGIC_UNCLEAN, Flag, Superblock
from tests.meta.tools import INTERNAL, CrashingDevice, MemoryDevice

SECTORS = 4096
EXTENTS = (0, 1, 3)
CRASHED_SECTORS = 1 << 15


def crashed_primary() -> bytes:
    """The image of a node that crashed as Primary with three hot extents."""
    where = geometry.internal(CRASHED_SECTORS)
    device = MemoryDevice(CRASHED_SECTORS)
    block = Superblock(32_000, md_size_sectors=where.md_size_sectors, al_offset_sectors=where.al_offset_sectors,
                       bm_offset_sectors=where.bm_offset_sectors, magic=MAGIC_UNCLEAN,
                       flags=Flag.PRIMARY_IND | Flag.CONSISTENT)  # fmt: skip
    offline.initialize_log(device, where)
    device.pwrite(al.pack_transaction(0, list(enumerate(EXTENTS)), 0, [], 67), where.al_offset_bytes)
    device.pwrite(block.pack(), where.superblock_offset_bytes)
    return bytes(device.data)


@pytest.mark.parametrize("seed", range(8))
def test_apply_al_interrupted_anywhere_still_marks_everything(seed: int) -> None:
    """After any cut, applying again leaves every extent of the log marked: the log is forgotten last."""
    image = crashed_primary()
    device = CrashingDevice(CRASHED_SECTORS, image)
    assert offline.apply_al(device, INTERNAL).rule == "replayed"
    where = geometry.internal(CRASHED_SECTORS)
    for after in device.images(random.Random(seed).getrandbits(16)):
        survivor = MemoryDevice(CRASHED_SECTORS, after)
        assert offline.apply_al(survivor, INTERNAL).exit_code == 0
        for extent in EXTENTS:
            assert survivor.pread(128, where.bm_offset_bytes + 128 * extent) == b"\xff" * 128
    assert offline.read_metadata(device, INTERNAL).superblock.clean


@pytest.mark.parametrize("seed", range(8))
def test_create_md_interrupted_anywhere_leaves_nothing_that_looks_valid(seed: int) -> None:
    """Either the old metadata untouched, or none, or the complete new one; never an old superblock over new areas."""
    old = MemoryDevice(SECTORS)
    create_md(old, INTERNAL, random64=lambda: 0x01D)
    where = geometry.internal(SECTORS)
    old.pwrite(b"\xaa" * 100, where.bm_offset_bytes)
    before = bytes(old.data)
    device = CrashingDevice(SECTORS, before)
    create_md(device, INTERNAL, random64=lambda: 0x2E3, force=True)
    for after in device.images(random.Random(seed).getrandbits(16)):
        survivor = MemoryDevice(SECTORS, after)
        try:
            uuid = offline.read_dev_uuid(survivor, INTERNAL)
        except MetadataError:
            continue
        if uuid == 0x01D:
            assert after == before
        else:
            assert not any(survivor.pread(where.bm_size_bytes, where.bm_offset_bytes))
            assert offline.read_log(survivor, where).rule == "never-used"
    assert bytes(device.data) == after


def test_outside_of_the_metadata_nothing_is_ever_written() -> None:
    """Every operation on a device full of data: the data area and the pad behind the superblock stay as they were."""
    sectors = SECTORS + 5
    where = geometry.internal(sectors)
    device = CrashingDevice(sectors, b"\xda" * (sectors * 512))
    create_md(device, INTERNAL, random64=lambda: 1, force=True)
    offline.set_gi(device, INTERNAL, "1:2:3:4:1:1:1")
    offline.outdate(device, INTERNAL)
    offline.apply_al(device, INTERNAL)
    offline.invalidate(device, INTERNAL)
    offline.write_dev_uuid(device, INTERNAL, 5)
    offline.wipe_md(device, INTERNAL)
    assert device.data[: where.start_bytes] == b"\xda" * where.start_bytes
    assert device.data[where.end_bytes :] == b"\xda" * (5 * 512)
    assert min(offset for _, offset, _ in device.writes) == where.start_bytes
