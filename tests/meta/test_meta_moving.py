# SPDX-License-Identifier: GPL-2.0-or-later
"""check-resize: as drbdmeta moves internal metadata to the end of a disk that grew; and power cuts meanwhile."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from replblock.meta import activity_log as al
from replblock.meta import geometry, moving, offline
from replblock.meta.errors import MetadataError, NoMetadata
from replblock.meta.geometry import SLOT_SECTORS
from replblock.meta.superblock import MAGIC_UNCLEAN, Flag, Superblock
from tests.meta.tools import INTERNAL, CrashingDevice, FileDevice, MemoryDevice, drbdmeta, no_traces

MINOR = 700_017
SAME_BITMAP = [(4096, 8192), (4096, 200_000), (300_001, 390_003)]
MORE_BITMAP = [(4096, 2 * SLOT_SECTORS), (SLOT_SECTORS, SLOT_SECTORS + 512), (300_001, 1_000_003)]
"""drbdmeta 9.22 moves the bitmap to a wrong place where it takes more blocks than before (later ones do not)."""


def fill(device: MemoryDevice | FileDevice, sectors: int, seed: int) -> Superblock:
    """Metadata of a crashed Primary, with marks and a log, as a disk of this size has it."""
    rng = random.Random(seed)
    where = geometry.internal(sectors)
    block = Superblock(
        la_size_sectors=where.data_sectors, md_size_sectors=where.md_size_sectors, magic=MAGIC_UNCLEAN,
        al_offset_sectors=where.al_offset_sectors, bm_offset_sectors=where.bm_offset_sectors,
        flags=Flag.PRIMARY_IND | Flag.CONSISTENT | Flag.WAS_UP_TO_DATE, uuid_current=rng.getrandbits(64),
    )  # fmt: skip
    bits = geometry.bitmap_bytes_in_use(where.data_sectors)
    used = -(-where.data_sectors // 64)
    device.pwrite(rng.randbytes(used // 8 * 8).ljust(bits, b"\0"), where.bm_offset_bytes)
    offline.initialize_log(device, where)
    device.pwrite(al.pack_transaction(0, [(0, 0)], 0, [], 67), where.al_offset_bytes)
    device.pwrite(block.pack(), where.superblock_offset_bytes)
    return block


def known(device: MemoryDevice | FileDevice) -> tuple[Superblock, bytes, bytes]:
    """What the metadata of the device says, wherever it lies: superblock without places, log, bitmap in use."""
    block, where, _note = offline.read_metadata(device, INTERNAL)
    bitmap = device.pread(-(-block.la_size_sectors // 64), where.bm_offset_bytes)
    plain = block._replace(md_size_sectors=0, al_offset_sectors=0, bm_offset_sectors=0)
    return plain, device.pread(where.al_size_bytes, where.al_offset_bytes), bitmap


def test_as_drbdmeta_moves_it(tmp_path: Path) -> None:
    """The same bytes where the metadata lies then."""
    for number, (old, new) in enumerate(SAME_BITMAP):
        ours, theirs = (FileDevice(tmp_path / f"{name}{number}", old) for name in ("ours", "theirs"))
        for device in (ours, theirs):
            fill(device, old, number)
        line = ["drbdmeta", "--force", str(MINOR), "v08", str(theirs.path), "internal"]
        with no_traces(MINOR):
            for command in ("apply-al", "check-resize"):        # the first one remembers the size
                ran = subprocess.run([*line, command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
                assert ran.returncode == 0, ran
                with theirs.path.open("r+b") as file:
                    file.truncate(new * 512)
        assert offline.apply_al(ours, INTERNAL).exit_code == 0
        with ours.path.open("r+b") as file:
            file.truncate(new * 512)
        assert moving.check_resize(ours, [old]).rule == "moved"
        assert moving.check_resize(ours, [old]).rule == "in-place"
        where = geometry.internal(new)
        used = where.bm_offset_bytes + geometry.bitmap_bytes_in_use(geometry.internal(old).data_sectors)
        for start, end in ((where.bm_offset_bytes, used), (where.al_offset_bytes, where.end_bytes)):
            assert ours.pread(end - start, start) == theirs.pread(end - start, start), (old, new)


def test_drbdmeta_reads_the_same_after_the_move(tmp_path: Path) -> None:
    for number, (old, new) in enumerate(SAME_BITMAP + MORE_BITMAP):
        device = FileDevice(tmp_path / f"disk{number}", old)
        fill(device, old, number)
        assert offline.apply_al(device, INTERNAL).exit_code == 0
        before = drbdmeta(device.path, INTERNAL, "dump-md")
        with device.path.open("r+b") as file:
            file.truncate(new * 512)
        assert drbdmeta(device.path, INTERNAL, "dump-md").exit_code != 0
        assert moving.check_resize(device, [old]).rule == "moved"
        after = drbdmeta(device.path, INTERNAL, "dump-md")
        assert before.exit_code == after.exit_code == 0
        assert bitmap(before.out) == bitmap(after.out)


def bitmap(dump: str) -> str:
    """From the agreed size on, which comes behind the places."""
    return dump[dump.index("la-size-sect") :]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("old", "new"), [(4096, 8192), (4096, 4200)])
def test_interrupted_anywhere_it_is_still_found(old: int, new: int, seed: int) -> None:
    """After any cut, doing it again leaves the same metadata at the end; the data before it is untouched."""
    before = MemoryDevice(old, random.Random(seed).randbytes(old * 512))
    fill(before, old, seed)
    whole = known(before)
    data_bytes = geometry.internal(old).start_bytes
    device = CrashingDevice(new, bytes(before.data))
    moving.check_resize(device, [old])
    for after in [*device.images(random.Random(seed).getrandbits(16)), bytes(device.data)]:
        survivor = MemoryDevice(new, after)
        moving.check_resize(survivor, [new - 8, old])
        assert known(survivor) == whole
        assert survivor.data[:data_bytes] == before.data[:data_bytes]
        assert moving.at_former_size(survivor, [old]) is None or survivor.data[: len(after)] != device.data


def test_nothing_is_guessed() -> None:
    """Without the former size, or with a wrong one, nothing is found and nothing is written."""
    device = MemoryDevice(8192)
    fill(device, 4096, 1)
    before = bytes(device.data)
    for former in ((), (0,), (4096 - 8, 4096 + 8), (8192,), (1 << 40, -8)):
        with pytest.raises(NoMetadata):
            moving.check_resize(device, former)
    assert device.data == before


def test_the_new_place_must_not_lie_over_the_old_one() -> None:
    """A crash in the middle would find neither."""
    need = geometry.internal(4096).md_size_sectors
    for more in range(8, need, 8):
        device = MemoryDevice(4096 + more)
        fill(device, 4096, 1)
        before = bytes(device.data)
        with pytest.raises(MetadataError, match=f"grow it by {(need - more) // 2} KiB more") as refused:
            moving.check_resize(device, [4096])
        assert refused.value.rule == "metadata-overlaps" and device.data == before
    device = MemoryDevice(4096 + need)
    fill(device, 4096, 1)
    assert moving.check_resize(device, [4096]).rule == "moved"


def test_what_is_remembered() -> None:
    path = "/dev/vg/with space"
    text = moving.remembered_text(path, [12345, 678, 9, 10, 11])
    assert moving.remembered_sizes(text, path) == (12345, 678, 9, 10)
    assert moving.remembered_sizes(text, "/dev/vg/other") == ()
    for broken in ("", "x", "12 ", f"-5 {path}", f"1e5 {path}", f"1,,2 {path}", f" {path}"):
        assert moving.remembered_sizes(broken, path) == ()
