# SPDX-License-Identifier: GPL-2.0-or-later
"""From the configuration of a volume to its open disk: opening, finding the metadata, claiming both."""

from __future__ import annotations

import os
from collections.abc import Callable

from replblock.conf import VolumeView
from replblock.engine import backing
from replblock.engine.backing import DiskError, lock_range, open_backing, reopen, size_sectors
from replblock.engine.disk import POOL_THREADS, FileDisk
from replblock.meta.errors import MetadataError, NoMetadata
from replblock.meta.geometry import Geometry, Kind, Placement, check, superblock_offset_bytes
from replblock.meta.moving import at_former_size
from replblock.meta.probe import find_drbd
from replblock.meta.superblock import Superblock

SUPERBLOCK_BYTES = 4096

NO_METADATA = (119, "No valid meta-data signature found.")
WRONG_METADATA = (116, "Lower device / meta device / index combination invalid.")


def placement_of(volume: VolumeView) -> Placement:
    """How `meta-disk` of this volume places the metadata."""
    meta = volume.meta_disk
    return Placement(Kind(meta.kind), meta.index or 0)


def open_disk(
    volume: VolumeView, resource: str, post: Callable[..., None], *, io: str = "buffered", threads: int = POOL_THREADS,
    former_sizes: tuple[int, ...] = (),
) -> tuple[FileDisk, Geometry]:
    """Open and claim the disk of a volume and find its metadata. Raises DiskError; then nothing stays open.

    `former_sizes`: how large it was when it was in use, in sectors, as far as that is known.
    """
    placement = placement_of(volume)
    data = open_backing(volume.disk, direct=io == "direct")
    if placement.kind is Kind.INTERNAL:
        meta, meta_path = reopen(data, volume.disk), volume.disk
    else:
        meta_path = volume.meta_disk.path or ""
        if _same(meta_path, volume.disk):
            raise DiskError(WRONG_METADATA, f"{meta_path} is disk and meta-disk at once; use: meta-disk internal")
        meta = open_backing(meta_path, is_meta=True, shared=placement.kind is Kind.INDEXED)
    data_sectors, meta_sectors = size_sectors(data), size_sectors(meta)
    former = former_sizes if placement.kind is Kind.INTERNAL else ()
    superblock = _superblock(placement, meta.fd, meta_sectors, meta_path, resource, former)
    try:
        geometry = check(superblock, placement, meta_sectors, data_sectors)
    except MetadataError as error:
        problem = backing.META_TOO_SMALL if error.rule == "too-small" else WRONG_METADATA
        raise DiskError(problem, f"{meta_path}: {error.text}") from None
    if placement.kind is Kind.INDEXED:
        lock_range(meta, meta_path, geometry.superblock_offset_bytes, geometry.md_size_sectors * 512)
    disk = FileDisk(
        data, meta, geometry, post,
        path=volume.disk,
        direct=io == "direct",
        disk_flushes=bool(volume.options["disk-flushes"]),
        md_flushes=bool(volume.options["md-flushes"]),
        threads=threads,
    )  # fmt: skip
    return disk, geometry


def _superblock(
    placement: Placement, fd: int, meta_sectors: int, path: str, resource: str, former_sizes: tuple[int, ...]
) -> Superblock:
    offset = superblock_offset_bytes(placement, meta_sectors)
    try:
        found = os.pread(fd, SUPERBLOCK_BYTES, offset) if offset >= 0 else b""
    except OSError as error:
        raise DiskError(backing.META_IO_ERROR, f"{path}: {error.strerror}") from None
    if len(found) < SUPERBLOCK_BYTES:
        raise DiskError(backing.META_TOO_SMALL, f"{path} is too small to hold metadata")
    try:
        return Superblock.unpack(found)
    except NoMetadata as error:
        if at_former_size(_Looked(fd, meta_sectors), former_sizes) is not None:
            grew = f"{path} grew to {meta_sectors // 2} KiB while it was not in use"
            advice = f"its metadata lies where it was; run: replctl check-resize {resource}"
            raise DiskError(NO_METADATA, f"{grew}, and {advice}") from None
        elsewhere = _elsewhere(fd, meta_sectors)
        raise DiskError(NO_METADATA, f"{path}: {error.text}{elsewhere}; run: replctl create-md {resource}") from None
    except MetadataError as error:
        raise DiskError(WRONG_METADATA, f"{path}: {error.text}") from None


class _Looked:
    """A descriptor as the probe wants it: only for looking."""

    def __init__(self, fd: int, sectors: int) -> None:
        self._fd = fd
        self.size_sectors = sectors

    def pread(self, length: int, offset_bytes: int) -> bytes:
        return os.pread(self._fd, length, offset_bytes)

    def pwrite(self, data: bytes, offset_bytes: int) -> object:
        raise NotImplementedError

    def sync(self) -> object:
        raise NotImplementedError


def _elsewhere(fd: int, sectors: int) -> str:
    """Metadata that stands where the configuration does not look for it: of DRBD 0.7, or placed otherwise."""
    try:
        found = find_drbd(_Looked(fd, sectors))
    except OSError:
        return ""
    names = ", ".join(f"{finding.name} at byte {finding.start_bytes}" for finding in found)
    return f"; but there is {names}" if names else ""


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
