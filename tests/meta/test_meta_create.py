# SPDX-License-Identifier: GPL-2.0-or-later
"""create-md beside and against what already stands on the device (invariant 10: nothing is damaged without force)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.meta import geometry, offline
from replblock.meta.create import create_md
from replblock.meta.errors import MetadataError, NeedsConfirmation, WouldDamage
from replblock.meta.findings import What
from replblock.meta.geometry import Kind, Placement
from replblock.meta.probe import probe
from replblock.meta.superblock import Superblock
from tests.meta.tools import FLEXIBLE, INTERNAL, FileDevice, MemoryDevice, drbdmeta

MIB = 2048  # sectors
SIZE = 64 * MIB
FULL = SIZE * 512
HALF = FULL // 2
INDEX_0 = Placement(Kind.INDEXED, 0)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout


def advised(error: MetadataError, begin: str) -> str:
    """The command in the piece of advice that begins so."""
    return next(line for line in error.advice if line.startswith(begin)).removeprefix(begin).strip()


def le(number: int, length: int) -> bytes:
    return number.to_bytes(length, "little")


def put(device: MemoryDevice, *pieces: tuple[int, bytes]) -> MemoryDevice:
    for offset, data in pieces:
        device.pwrite(data, offset)
    return device


# --- real file systems -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_ext_is_refused_and_the_advised_command_makes_room(tmp_path: Path, kind: str) -> None:
    """The refusal names the file system and its end; after the very command it advises, nothing is in the way."""
    disk = FileDevice(tmp_path / "disk", SIZE)
    run(f"mkfs.{kind}", "-q", "-F", str(disk.path))
    before = disk.path.read_bytes()
    with pytest.raises(WouldDamage) as caught:
        create_md(disk, INTERNAL, random64=lambda: 1, name=str(disk.path))
    error = caught.value
    assert error.rule == "file_system-in-the-way" and error.exit_code == 40
    assert error.text == (f"{disk.path}: {kind} file system found, it ends at 65536 KiB; the metadata would begin at "
                          "65496 KiB (device: 65536 KiB)")  # fmt: skip
    assert disk.path.read_bytes() == before
    assert drbdmeta(disk.path, INTERNAL, "get-gi").exit_code == 1
    for command in advised(error, "shrink it to make room:").split(" && "):
        assert subprocess.run(command.replace("e2fsck -f", "e2fsck -fy"), shell=True, capture_output=True, check=False,
                              timeout=60).returncode in (0, 1)  # fmt: skip
    with disk.path.open("r+b") as file:
        file.truncate(FULL)  # resize2fs also cuts the file, where a real device keeps its size
    create_md(disk, INTERNAL, random64=lambda: 1)
    assert drbdmeta(disk.path, INTERNAL, "get-gi").out.startswith("0000000000000004:")
    run("e2fsck", "-fn", str(disk.path))


def test_enlarging_by_the_advised_amount_makes_room(tmp_path: Path) -> None:
    disk = FileDevice(tmp_path / "disk", SIZE)
    run("mkfs.ext4", "-q", "-F", str(disk.path))
    with pytest.raises(WouldDamage) as caught:
        create_md(disk, INTERNAL, random64=lambda: 1, name="/dev/vg/lv")
    assert advised(caught.value, "or make").endswith("lvextend -L 65576k /dev/vg/lv")
    with disk.path.open("r+b") as file:
        file.truncate(65_576 * 1024 - 4096)
    with pytest.raises(WouldDamage):
        create_md(disk, INTERNAL, random64=lambda: 1)
    with disk.path.open("r+b") as file:
        file.truncate(65_576 * 1024)
    create_md(disk, INTERNAL, random64=lambda: 1)
    run("e2fsck", "-fn", str(disk.path))


@pytest.mark.parametrize("block", [1024, 4096])
def test_a_file_system_that_leaves_room_needs_no_force(tmp_path: Path, block: int) -> None:
    disk = FileDevice(tmp_path / "disk", SIZE)
    where = geometry.internal(SIZE)
    run("mkfs.ext4", "-q", "-F", "-b", str(block), str(disk.path), f"{where.bm_offset_bytes // 1024}K")
    create_md(disk, INTERNAL, random64=lambda: 1)
    run("e2fsck", "-fn", str(disk.path))
    assert [one.name for one in probe(disk)] == ["ext4 file system", "internal DRBD metadata v08"]


def test_one_block_too_long_is_refused(tmp_path: Path) -> None:
    disk = FileDevice(tmp_path / "disk", SIZE)
    last_free_kib = geometry.internal(SIZE).bm_offset_bytes // 1024
    run("mkfs.ext4", "-q", "-F", "-b", "1024", str(disk.path), f"{last_free_kib + 1}K")
    with pytest.raises(WouldDamage):
        create_md(disk, INTERNAL, random64=lambda: 1)


def test_force_and_external_metadata(tmp_path: Path) -> None:
    """--force goes through; on a metadata device any file system is in the way, wherever it ends."""
    disk = FileDevice(tmp_path / "disk", SIZE)
    run("mkfs.ext4", "-q", "-F", str(disk.path), "16M")
    with pytest.raises(WouldDamage) as caught:
        create_md(disk, FLEXIBLE, random64=lambda: 1, confirmed=True)
    assert "wipefs -a" in caught.value.advice[0]
    create_md(disk, FLEXIBLE, random64=lambda: 1, force=True)
    assert drbdmeta(disk.path, FLEXIBLE, "get-gi").exit_code == 0


def test_swap(tmp_path: Path) -> None:
    disk = FileDevice(tmp_path / "disk", SIZE)
    disk.path.chmod(0o600)
    run("mkswap", str(disk.path))
    with pytest.raises(WouldDamage, match=r"swap space found, it ends at 65536 KiB"):
        create_md(disk, INTERNAL, random64=lambda: 1)
    run("mkswap", str(disk.path), "65496")
    create_md(disk, INTERNAL, random64=lambda: 1)


# --- by magic bytes ----------------------------------------------------------------------------------------------


def gpt(end: int) -> tuple[tuple[int, bytes], ...]:
    protective = b"\0\0\0\0\xee\0\0\0" + le(1, 4) + le(end // 512 - 1, 4)
    return (512, b"EFI PART" + bytes(24) + le(end // 512 - 1, 8)), (510, b"\x55\xaa"), (446, protective)


def mbr(end: int) -> tuple[tuple[int, bytes], ...]:
    return (510, b"\x55\xaa"), (446, b"\x80\0\0\0\x83\0\0\0" + le(2048, 4) + le(end // 512 - 2048, 4))


def lvm(end: int) -> tuple[tuple[int, bytes], ...]:
    return ((512, b"LABELONE" + le(1, 8) + bytes(4) + le(32, 4) + b"LVM2 001" + b"u" * 32 + le(end, 8)),)


def fat(end: int, at: int, name: bytes) -> tuple[tuple[int, bytes], ...]:
    return (11, le(512, 2)), (32, le(end // 512, 4)), (at, name), (510, b"\x55\xaa")


SIZED: dict[str, Callable[[int], tuple[tuple[int, bytes], ...]]] = {
    "xfs file system": lambda end: ((0, b"XFSB" + (4096).to_bytes(4, "big") + (end // 4096).to_bytes(8, "big")),),
    "btrfs file system": lambda end: ((65_600, b"_BHRfS_M"), (65_648, le(end * 9, 8)), (65_745, le(end, 8))),
    "ntfs file system": lambda end: ((3, b"NTFS    " + le(512, 2)), (40, le(end // 512 - 1, 8)), (510, b"\x55\xaa")),
    "exfat file system": lambda end: ((3, b"EXFAT   "), (72, le(end // 512, 8)), (108, b"\x09")),
    "vfat file system": lambda end: fat(end, 82, b"FAT32   "),
    "vfat file system ": lambda end: fat(end, 54, b"FAT16   "),
    "iso9660 file system": lambda end: ((32_769, b"CD001"), (32_848, le(end // 2048, 4)), (32_896, le(2048, 2))),
    "squashfs file system": lambda end: ((0, b"hsqs"), (40, le(end, 8))),
    "erofs file system": lambda end: ((1024, b"\xe2\xe1\xf5\xe0"), (1036, b"\x0c"), (1060, le(end // 4096, 4))),
    "f2fs file system": lambda end: ((1024, b"\x10\x20\xf5\xf2"), (1040, le(12, 4)), (1060, le(end // 4096, 8))),
    "reiser file system": lambda end: ((65_536, le(end // 4096, 4)), (65_580, le(4096, 2)), (65_588, b"ReIsEr2Fs")),
    "ext4 file system": lambda end: (
        (1028, le(end // 4096, 4)), (1048, le(2, 4)), (1080, b"\x53\xef"), (1120, le(0x40, 4)),
    ),
    "LVM physical volume": lvm,
    "md RAID member": lambda end: ((4096, le(0xA92B4EFC, 4)), (4096 + 128, le(2048, 8) + le(end // 512 - 2048, 8))),
    "swap space": lambda end: ((1028, le(end // 4096 - 1, 4)), (4086, b"SWAPSPACE2")),
    "swap space ": lambda end: ((1028, le(end // 65_536 - 1, 4)), (65_526, b"SWAPSPACE2")),
    "GPT partition table": gpt,
    "MBR partition table": mbr,
}
UNSIZED: dict[str, tuple[tuple[int, bytes], ...]] = {
    "LUKS encrypted volume": ((0, b"LUKS\xba\xbe\0\x02"),),
    "jfs file system": ((32_768, b"JFS1"),),
    "gfs2 file system": ((65_536, b"\x01\x16\x19\x70"),),
    "ocfs2 file system": ((4096, b"OCFSV2"),),
    "bcache device": ((4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),),
    "bcachefs file system": ((4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),),
    "suspend-to-disk image": ((4086, b"S1SUSPEND\0"),),
    "md RAID member": ((FULL - 8192, le(0xA92B4EFC, 4)),),
    "md RAID member ": ((FULL - 65_536, le(0xA92B4EFC, 4)),),
    "zfs pool member": (((128 << 10) + 4096, le(0x00BAB10C, 8)),),
    "zfs pool member ": ((FULL - (128 << 10), (0x00BAB10C).to_bytes(8, "big")),),
    "GPT partition table (backup copy)": ((FULL - 512, b"EFI PART"),),
}


@pytest.mark.parametrize("name", SIZED)
def test_what_says_its_size(name: str) -> None:
    """Recognised; refused when it reaches into the metadata, allowed when it ends before; always refused outside."""
    whole = put(MemoryDevice(SIZE), *SIZED[name](FULL))
    assert [one.name for one in probe(whole)] == [name.strip()]
    before = bytes(whole.data)
    with pytest.raises(WouldDamage, match=r"it ends at 65536 KiB") as caught:
        create_md(whole, INTERNAL, random64=lambda: 1, confirmed=True)
    assert len(caught.value.advice) >= 3 and whole.data == before and not whole.syncs
    half = put(MemoryDevice(SIZE), *SIZED[name](HALF))
    assert probe(half)[0].end_bytes == HALF
    with pytest.raises(WouldDamage):
        create_md(half, FLEXIBLE, random64=lambda: 1)
    create_md(half, INTERNAL, random64=lambda: 1)
    offline.get_gi(half, INTERNAL)


@pytest.mark.parametrize("name", UNSIZED)
def test_what_claims_the_whole_device(name: str) -> None:
    device = put(MemoryDevice(SIZE), *UNSIZED[name])
    assert [one.name for one in probe(device)] == [name.strip()]
    for placement in (INTERNAL, FLEXIBLE):
        with pytest.raises(WouldDamage):
            create_md(device, placement, random64=lambda: 1, confirmed=True)
    create_md(device, INTERNAL, random64=lambda: 1, force=True)


def test_not_everything_with_a_boot_signature_is_a_partition_table() -> None:
    assert not [one for one in probe(put(MemoryDevice(SIZE), (510, b"\x55\xaa"))) if one.what is What.TABLE]
    odd = put(MemoryDevice(SIZE), (510, b"\x55\xaa"), (446, b"\x17" + b"\x83" * 15))
    assert [one.what for one in probe(odd)] == [What.UNKNOWN]


def test_unknown_data_needs_a_word_of_confirmation() -> None:
    device = put(MemoryDevice(SIZE), (5000, b"somebody's own format"))
    with pytest.raises(NeedsConfirmation) as caught:
        create_md(device, INTERNAL, random64=lambda: 1)
    assert caught.value.rule == "unknown-in-place" and not device.syncs
    create_md(device, INTERNAL, random64=lambda: 1, confirmed=True)


# --- other DRBD metadata -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v07", "v08", "v09"])
@pytest.mark.parametrize("placement", [INTERNAL, FLEXIBLE], ids=["int", "flex"])
def test_metadata_in_place_needs_confirmation(tmp_path: Path, version: str, placement: Placement) -> None:
    """Made by drbdmeta, in the same place or the other: named, left alone, replaced when confirmed."""
    if (version, placement) == ("v07", FLEXIBLE):
        placement = INDEX_0  # 0.7 had no flexible external metadata in practice
    disk = FileDevice(tmp_path / "disk", 300 * MIB)
    assert drbdmeta(disk.path, placement, "create-md", "1", version=version).exit_code == 0
    before = disk.path.read_bytes()
    found = [one for one in probe(disk) if one.what is What.DRBD]
    assert [version in one.name for one in found] == [True]
    if version != "v08":
        with pytest.raises(MetadataError) as nothing:
            offline.get_gi(disk, placement)
        assert nothing.value.rule in (f"version-{version[1:]}", "nothing-there")
    for wanted in (INTERNAL, FLEXIBLE):
        with pytest.raises(NeedsConfirmation) as caught:
            create_md(disk, wanted, random64=lambda: 1)
        assert version in caught.value.text and caught.value.rule == "drbd-in-place"
    assert disk.path.read_bytes() == before
    create_md(disk, INTERNAL, random64=lambda: 7, confirmed=True)
    assert drbdmeta(disk.path, INTERNAL, "get-gi").out.startswith("0000000000000004:")
    assert drbdmeta(disk.path, INTERNAL, "read-dev-uuid").out == "0000000000000007\n"


def test_a_slot_of_a_shared_device_is_seen() -> None:
    """Slots of an indexed device are found whichever of them is asked for."""
    device = MemoryDevice(2 * 262_144)
    create_md(device, Placement(Kind.INDEXED, 1), random64=lambda: 1, data_device_sectors=SIZE)
    seen = r"indexed \[1\] DRBD metadata v08 is already in place at byte 134217728"
    with pytest.raises(NeedsConfirmation, match=seen):
        create_md(device, INDEX_0, random64=lambda: 1, data_device_sectors=SIZE)


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sectors", "placement", "options", "rule"),
    [
        (2047, INTERNAL, {}, "too-small"),
        (2047, FLEXIBLE, {}, "too-small"),
        (262_143, INDEX_0, {}, "too-small"),
        (262_144, Placement(Kind.INDEXED, 1), {}, "too-small"),
        (262_144, INDEX_0, {"al_stripes": 2}, "al-size"),
        (262_144, INTERNAL, {"al_stripe_size_4k": 7}, "al-size"),
        (2048, FLEXIBLE, {"data_device_sectors": 1 << 30}, "too-small"),
        (262_144, INDEX_0, {"data_device_sectors": 1 << 40}, "too-small"),
        (4096, INTERNAL, {"peer_max_bio_size_bytes": (1 << 20) + 1}, "bad-bio-size"),
    ],
)
def test_what_does_not_fit(sectors: int, placement: Placement, options: dict[str, int], rule: str) -> None:
    device = MemoryDevice(sectors)
    with pytest.raises(MetadataError) as caught:
        create_md(device, placement, random64=lambda: 1, force=True, **options)  # type: ignore[arg-type]
    assert caught.value.rule == rule and "\n" not in str(caught.value) and not any(device.data)


@given(st.lists(st.tuples(st.integers(0, 70_000), st.binary(min_size=1, max_size=40)), max_size=6), st.data())
def test_probing_random_bytes_never_raises(pieces: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Also with real signatures over nonsense fields, and on devices of any small size."""
    device = MemoryDevice(data.draw(st.integers(0, 300)))
    real = data.draw(st.lists(st.sampled_from([*SIZED.values()]), max_size=2))
    everything = [*(piece for make in real for piece in make(FULL)), *pieces]
    for offset, raw in everything:
        fits = raw[: max(0, len(device.data) - offset)]
        if fits:
            device.pwrite(fits, offset)
    assert all(one.start_bytes >= 0 and (one.end_bytes is None or one.end_bytes > 0) for one in probe(device))


def test_the_superblock_of_a_created_device_is_the_documented_one() -> None:
    device = MemoryDevice(SIZE)
    create_md(device, INTERNAL, random64=lambda: 0xABC)
    where = geometry.internal(SIZE)
    expected = Superblock(device_uuid=0xABC, md_size_sectors=80, al_offset_sectors=-64, bm_offset_sectors=-72)
    assert offline.read_metadata(device, INTERNAL) == (expected, where, "")
