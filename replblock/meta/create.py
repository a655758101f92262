# SPDX-License-Identifier: GPL-2.0-or-later
"""``create-md``: new v08 metadata, refused where it would damage what somebody may still need."""
from __future__ import annotations

from collections.abc import Callable

from replblock.meta import geometry
from replblock.meta.blockdev import SECTOR_BYTES, BlockDevice
from replblock.meta.errors import MetadataError, NeedsConfirmation, WouldDamage
from replblock.meta.findings import Finding, What
from replblock.meta.geometry import Geometry, Kind, Placement
from replblock.meta.offline import initialize_log, write_superblock
from replblock.meta.probe import probe
from replblock.meta.superblock import (
    DEFAULT_AL_STRIPE_SIZE_4K,
    DEFAULT_AL_STRIPES,
    SUPERBLOCK_BYTES,
    Superblock,
)

MAX_PEER_MAX_BIO_SIZE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_MAX_ZEROED_BM_BYTES = 128 << 20   # of an external bitmap when nobody says how large the data is: 4 TiB of data
_CREATED = "initializing activity log\nWriting meta data...\nNew drbd meta data block successfully created.\n"


def create_md(
    device: BlockDevice,
    placement: Placement,
    *,
    random64: Callable[[], int],
    name: str = "DEVICE",
    data_device_sectors: int | None = None,
    al_stripes: int = DEFAULT_AL_STRIPES,
    al_stripe_size_4k: int = DEFAULT_AL_STRIPE_SIZE_4K,
    peer_max_bio_size_bytes: int = 0,
    confirmed: bool = False,
    force: bool = False,
) -> str:
    """Write fresh metadata and return drbdmeta's words about it.

    ``device`` holds the metadata, ``data_device_sectors`` is the size of the data device where that is another one.
    Raises MetadataError (does not fit), NeedsConfirmation (other DRBD metadata or unknown data: ``confirmed``) or
    WouldDamage (a recognised file system, container or partition table reaches into the area: only ``force``).
    Nothing is written when it raises.
    """
    if not 0 <= peer_max_bio_size_bytes <= MAX_PEER_MAX_BIO_SIZE_BYTES:
        raise MetadataError(f"peer-max-bio-size {peer_max_bio_size_bytes} is not in 0..{MAX_PEER_MAX_BIO_SIZE_BYTES}",
                            rule="bad-bio-size", exit_code=10)
    where = geometry.of(placement, device.size_sectors, data_device_sectors, al_stripes, al_stripe_size_4k)
    if data_device_sectors is not None and where.data_sectors < min(data_device_sectors, geometry.MAX_DATA_SECTORS):
        need = geometry.flexible_device_sectors_for(data_device_sectors)
        raise MetadataError(f"{name}: too small: its bitmap covers {where.data_sectors // 2} KiB, the data device has "
                            f"{data_device_sectors // 2} KiB; it needs {need // 2} KiB", rule="too-small")
    if not force:
        refuse_damage(device, where, name=name, confirmed=confirmed)
    device.pwrite(bytes(SUPERBLOCK_BYTES), where.superblock_offset_bytes)  # no old superblock over new areas
    device.sync()
    _zero_bitmap(device, where, data_device_sectors)
    initialize_log(device, where)
    device.sync()
    write_superblock(device, where, Superblock(
        device_uuid=random64() & ((1 << 64) - 1),
        md_size_sectors=where.md_size_sectors,
        al_offset_sectors=where.al_offset_sectors,
        bm_offset_sectors=where.bm_offset_sectors,
        la_peer_max_bio_size_bytes=peer_max_bio_size_bytes,
        al_stripes=al_stripes,
        al_stripe_size_4k=al_stripe_size_4k,
    ))
    return _CREATED


def refuse_damage(device: BlockDevice, where: Geometry, *, name: str, confirmed: bool) -> None:
    """Raise WouldDamage or NeedsConfirmation for the first finding in the way; return when there is none."""
    findings = probe(device)
    for finding in findings:
        if finding.what in (What.FILE_SYSTEM, What.CONTAINER, What.TABLE) and _in_the_way(finding, where):
            raise WouldDamage(_damage_text(finding, where, device, name), advice=room_advice(finding, where, name),
                              rule=f"{finding.what.name.lower()}-in-the-way", exit_code=40)
    for finding in findings:
        if finding.what in (What.DRBD, What.UNKNOWN) and not confirmed:
            place = f" at byte {finding.start_bytes}" if finding.what is What.DRBD else ""
            raise NeedsConfirmation(f"{name}: {finding.name} is already in place{place}",
                                    advice=("confirm, or repeat with --force, to replace it",),
                                    rule=f"{finding.what.name.lower()}-in-place")


def room_advice(finding: Finding, where: Geometry, name: str) -> tuple[str, ...]:
    """Commands that make the metadata fit beside what was found, the harmless ones first."""
    if where.kind is not Kind.INTERNAL:
        return (f"choose another metadata device, or clear this one: wipefs -a {name}",
                f"or destroy it knowingly: repeat with --force (this ends the {finding.name})")
    lines = []
    if finding.shrink:
        room = where.bm_offset_bytes // finding.unit_bytes * finding.unit_bytes
        command = finding.shrink.format(dev=name, kib=room >> 10, bytes=room)
        lines.append(f"shrink it to make room: {command}")
    if finding.end_bytes is not None:
        total = geometry.internal_device_sectors_for(-(-finding.end_bytes // SECTOR_BYTES), where.al_stripes,
                                                     where.al_stripe_size_4k)
        lines.append(f"or make {name} at least {total // 2} KiB large, e.g.: lvextend -L {total // 2}k {name}")
    external = geometry.flexible_device_sectors_for(where.data_sectors - where.bm_offset_sectors)
    lines.append(f"or keep metadata elsewhere: meta-disk /dev/OTHER; (a device of at least {external // 2} KiB)")
    lines.append(f"or destroy it knowingly: repeat with --force (this ends the {finding.name})")
    return tuple(lines)


def _in_the_way(finding: Finding, where: Geometry) -> bool:
    """Internal metadata also takes everything behind it away from the data, so only an end before it is safe."""
    return finding.overlaps(where.start_bytes, (1 << 63) if where.kind is Kind.INTERNAL else where.end_bytes)


def _damage_text(finding: Finding, where: Geometry, device: BlockDevice, name: str) -> str:
    end = device.size_sectors * SECTOR_BYTES if finding.end_bytes is None else finding.end_bytes
    start = "the metadata would begin" if where.kind is Kind.INTERNAL else "the metadata would lie"
    return (f"{name}: {finding.name} found, it ends at {-(-end // 1024)} KiB; {start} at "
            f"{where.start_bytes // 1024} KiB (device: {device.size_sectors // 2} KiB)")


def _zero_bitmap(device: BlockDevice, where: Geometry, data_device_sectors: int | None) -> None:
    if where.kind is Kind.INTERNAL:
        size = where.bm_size_bytes
    elif data_device_sectors is None:
        size = min(where.bm_size_bytes, _MAX_ZEROED_BM_BYTES)
    else:
        size = min(where.bm_size_bytes, geometry.bitmap_bytes_in_use(data_device_sectors))
    zeros = bytes(_CHUNK_BYTES)
    for at in range(0, size, _CHUNK_BYTES):
        device.pwrite(zeros[:size - at], where.bm_offset_bytes + at)
