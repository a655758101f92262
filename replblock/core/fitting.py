# SPDX-License-Identifier: GPL-2.0-or-later
"""Is a disk that is to be attached large enough? A device never shrinks under its users, or unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblock.core.host import Disk as DiskPort
from replblock.meta.geometry import Geometry
from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Conn, Role

if TYPE_CHECKING:
    from replblock.core.resource import Resource


def misfit(r: Resource, disk: DiskPort, geometry: Geometry, superblock: Superblock) -> str:
    """Why it is too small, or nothing."""
    usable = min(disk.data_sectors, geometry.data_sectors)
    wanted = r.settings.size_sectors
    if wanted and wanted > usable:
        return (
            f"(111) Low.dev. smaller than requested DRBD-dev. size: {wanted // 2} KiB wanted by 'size', "
            f"{usable // 2} KiB there"
        )
    in_use = r.size_sectors
    if usable < in_use and (r.state.conn >= Conn.CONNECTED or r.state.role == Role.PRIMARY):
        return (
            f"(111) Low.dev. smaller than requested DRBD-dev. size: the device in use has {in_use // 2} KiB, "
            f"this disk offers {usable // 2} KiB"
        )
    if superblock.la_size_sectors > usable and superblock.flags & Flag.CONSISTENT:
        return (
            f"(170) Implicit device shrinking not allowed: the device had {superblock.la_size_sectors // 2} KiB, "
            f"the disk offers {usable // 2} KiB"
        )
    return ""
