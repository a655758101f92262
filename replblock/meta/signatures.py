# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of ``probe``: magic bytes and size fields of public on-disk formats."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from replblock.meta.findings import Finding, Reader, Signature, What

_FS, _BOX, _TABLE = What.FILE_SYSTEM, What.CONTAINER, What.TABLE
_EXT_JOURNAL = 0x4            # compatible feature
_EXT_64BIT = 0x80             # incompatible feature
_EXT4_INCOMPAT = 0x40 | 0x80 | 0x200 | 0x400 | 0x1000 | 0x8000 | 0x10000  # extents, 64bit, flex_bg, ea_inode, …
_EXT4_RO_COMPAT = 0x8 | 0x10 | 0x20 | 0x40 | 0x400                        # huge_file, uninit_bg, dir_nlink, …, csum
_PAGE_ENDS = tuple(page - 10 for page in (4096, 8192, 16_384, 65_536))  # swap's magic closes the first page
_MD_MAGIC = (0xA92B4EFC).to_bytes(4, "little")
_ZFS_LABEL_BYTES = 256 << 10
_ZFS_RING_BYTES = 128 << 10   # the second half of a label holds uberblocks, at least 1 KiB apart
_ZFS_MAGICS = tuple((0x00BAB10C).to_bytes(8, order) for order in ("little", "big"))
_BCACHE = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_BCACHEFS = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
_MAX_LOG = 16                 # block sizes beyond 64 KiB are damage, not sizes


def _whole(_read: Reader, _at: int) -> int | None:
    """It claims the device as a whole, or keeps no size."""
    return None


def _times(count: int, unit_bytes: int) -> int | None:
    """A size from two fields; nonsense (zero) counts as unknown."""
    return count * unit_bytes or None


def _ext_block(read: Reader) -> int:
    return 1024 << min(read.little(1024 + 24, 4), _MAX_LOG)


def _ext_end(read: Reader, _at: int) -> int | None:
    high = read.little(1024 + 0x150, 4) if read.little(1024 + 96, 4) & _EXT_64BIT else 0
    return _times(high << 32 | read.little(1024 + 4, 4), _ext_block(read))


def _ext_name(read: Reader) -> str:
    if read.little(1024 + 96, 4) & _EXT4_INCOMPAT or read.little(1024 + 100, 4) & _EXT4_RO_COMPAT:
        return "ext4 file system"
    return "ext3 file system" if read.little(1024 + 92, 4) & _EXT_JOURNAL else "ext2 file system"


def _fat_end(read: Reader, _at: int) -> int | None:
    return _times(read.little(19, 2) or read.little(32, 4), read.little(11, 2))


def _swap_end(read: Reader, at: int) -> int | None:
    return _times(read.little(1028, 4) + 1, at + 10)   # the magic closes the first page: that is the page size


def _label(read: Reader) -> int:
    """Offset of LVM's label, in one of the first four sectors."""
    return next((at for at in range(0, 2048, 512) if read.bytes(at, 8) == b"LABELONE"), 0)


def _lvm_end(read: Reader, _at: int) -> int | None:
    at = _label(read)
    return _times(read.little(at + read.little(at + 20, 4) + 32, 8), 1)


def _md_end(read: Reader, at: int) -> int | None:
    """md 1.1 and 1.2 keep the superblock in front: data ends where it says; 1.0 and 0.90 sit at the end."""
    return _times(read.little(at + 128, 8) + read.little(at + 136, 8), 512)


def _f2fs_end(read: Reader, _at: int) -> int | None:
    return _times(read.little(1024 + 36, 8), 1 << min(read.little(1024 + 16, 4), _MAX_LOG))


def _sized(offset: int, length: int, unit: int | Callable[[Reader], int], order: str = "little",
           more: int = 0) -> Callable[[Reader, int], int | None]:
    """End = (field + more) * unit."""
    def end(read: Reader, _at: int) -> int | None:
        count = read.little(offset, length) if order == "little" else read.big(offset, length)
        return _times(count + more, unit if isinstance(unit, int) else unit(read)) if count else None
    return end


SIGNATURES: tuple[Signature, ...] = (
    Signature(_FS, "ext file system", (1024 + 56,), (b"\x53\xef",), _ext_end,
              "e2fsck -f {dev} && resize2fs {dev} {kib}K", _ext_name, unit=_ext_block,
              valid=lambda read: read.little(1024 + 24, 4) <= 6 and read.little(1024 + 4, 4) > 0),
    Signature(_FS, "xfs file system", (0,), (b"XFSB",), _sized(8, 8, lambda read: read.big(4, 4), "big")),
    Signature(_FS, "btrfs file system", (65_536 + 64,), (b"_BHRfS_M",), _sized(65_536 + 0xD1, 8, 1),
              "btrfs filesystem resize {kib}K MOUNTPOINT", unit=lambda _read: 4096),
    Signature(_FS, "ntfs file system", (3,), (b"NTFS    ",), _sized(40, 8, lambda read: read.little(11, 2), more=1),
              "ntfsresize --size {bytes} {dev}"),
    Signature(_FS, "exfat file system", (3,), (b"EXFAT   ",),
              _sized(72, 8, lambda read: 1 << min(read.little(108, 1), _MAX_LOG))),
    Signature(_FS, "vfat file system", (54,), (b"FAT12   ", b"FAT16   ", b"FAT     "), _fat_end,
              "fatresize -s {bytes} {dev}"),
    Signature(_FS, "vfat file system", (82,), (b"FAT32   ",), _fat_end, "fatresize -s {bytes} {dev}"),
    Signature(_FS, "iso9660 file system", (32_769,), (b"CD001",),
              _sized(32_768 + 80, 4, lambda read: read.little(32_768 + 128, 2))),
    Signature(_FS, "squashfs file system", (0,), (b"hsqs",), _sized(40, 8, 1)),
    Signature(_FS, "erofs file system", (1024,), (b"\xe2\xe1\xf5\xe0",),
              _sized(1024 + 36, 4, lambda read: 1 << min(read.little(1024 + 12, 1), _MAX_LOG))),
    Signature(_FS, "f2fs file system", (1024,), (b"\x10\x20\xf5\xf2",), _f2fs_end),
    Signature(_FS, "reiser file system", (65_536 + 52, 8192 + 52), (b"ReIsErFs", b"ReIsEr2F", b"ReIsEr3F"),
              lambda read, at: _times(read.little(at - 52, 4), read.little(at - 8, 2)),
              "resize_reiserfs -s {kib}K {dev}"),
    Signature(_FS, "jfs file system", (32_768,), (b"JFS1",), _whole),
    Signature(_FS, "gfs2 file system", (65_536,), (b"\x01\x16\x19\x70",), _whole),
    Signature(_FS, "ocfs2 file system", (1024, 2048, 4096, 8192), (b"OCFSV2",), _whole),
    Signature(_FS, "bcachefs file system", (4096 + 24,), (_BCACHEFS,), _whole),
    Signature(_BOX, "swap space", _PAGE_ENDS, (b"SWAPSPACE2", b"SWAP-SPACE"), _swap_end,
              "swapoff {dev}; mkswap {dev} {kib}", unit=lambda _read: 4096),
    Signature(_BOX, "suspend-to-disk image", _PAGE_ENDS, (b"S1SUSPEND\0", b"LINHIB0001"), _whole),
    Signature(_BOX, "LVM physical volume", (0, 512, 1024, 1536), (b"LABELONE",), _lvm_end,
              "pvresize --setphysicalvolumesize {kib}k {dev}",
              valid=lambda read: read.bytes(_label(read) + 24, 4) == b"LVM2"),
    Signature(_BOX, "LUKS encrypted volume", (0,), (b"LUKS\xba\xbe",), _whole),
    Signature(_BOX, "bcache device", (4096 + 24,), (_BCACHE,), _whole),
    Signature(_BOX, "md RAID member", (4096, 0), (_MD_MAGIC,), _md_end),
)

# md superblocks that stand relative to the end of the device
_MD_AT_END: tuple[Callable[[int], int], ...] = (
    lambda size: (size // 512 - 16 & ~7) * 512,      # version 1.0
    lambda size: (size & ~0xFFFF) - 0x10000,         # version 0.90
)


def tables(read: Reader, found: Sequence[Finding]) -> list[Finding]:
    """What a plain signature cannot tell: partition tables, md at the end, ZFS labels."""
    more = [*_gpt(read)]
    boot_sector_is_a_file_system = any("fat " in one.name or "ntfs" in one.name for one in found)
    if not more and not boot_sector_is_a_file_system:
        more += _mbr(read)
    if any(read.bytes(at(read.size_bytes), 4) == _MD_MAGIC for at in _MD_AT_END):
        more.append(Finding(_BOX, "md RAID member", 0, None))
    if _is_zfs(read):
        more.append(Finding(_BOX, "zfs pool member", 0, None))
    return more


def _is_zfs(read: Reader) -> bool:
    end = read.size_bytes // _ZFS_LABEL_BYTES * _ZFS_LABEL_BYTES
    for label in (0, _ZFS_LABEL_BYTES, end - 2 * _ZFS_LABEL_BYTES, end - _ZFS_LABEL_BYTES):
        ring = read.bytes(label + _ZFS_LABEL_BYTES - _ZFS_RING_BYTES, _ZFS_RING_BYTES) if label >= 0 else b""
        if any(ring[at:at + 8] in _ZFS_MAGICS for at in range(0, len(ring), 1024)):
            return True
    return False


def _gpt(read: Reader) -> list[Finding]:
    for sector in (512, 4096):
        if read.bytes(sector, 8) == b"EFI PART":
            return [Finding(_TABLE, "GPT partition table", 0, _times(read.little(sector + 32, 8) + 1, sector))]
        if read.bytes(read.size_bytes - sector, 8) == b"EFI PART":
            return [Finding(_TABLE, "GPT partition table (backup copy)", 0, None)]
    return []


def _mbr(read: Reader) -> list[Finding]:
    if read.bytes(510, 2) != b"\x55\xaa":
        return []
    entries = [read.bytes(446 + 16 * i, 16) for i in range(4)]
    if any(entry[0] not in (0, 0x80) for entry in entries):
        return []
    ends = [int.from_bytes(entry[8:12], "little") + int.from_bytes(entry[12:16], "little")
            for entry in entries if entry[4] and entry[12:16] != bytes(4)]
    return [Finding(_TABLE, "MBR partition table", 0, _times(max(ends), 512))] if ends else []
