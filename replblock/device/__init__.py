# SPDX-License-Identifier: GPL-2.0-or-later
"""From the socket of an NBD server to a device that can be mounted, and back.

    reservation = reserve_name("/dev/drbd0")                      # at `up`: the name exists
    attached = attach(AttachSpec(socket_path, "0", "/dev/drbd0", run_directory, reservation=reservation))
    in_use(attached) or detach(attached)                          # at demotion
    release_name(reservation)                                     # at `down`: the name is gone
"""

from __future__ import annotations

from replblock.device.backends import attach, detach, probe, reattach, release_name, reserve_name, resize, survives
from replblock.device.errors import DeviceError, DeviceInUseError
from replblock.device.reclaim import Protection, protect
from replblock.device.types import Attached, AttachSpec, Host, Probe, Reservation, nbd_uri
from replblock.device.usage import held_exclusively, in_use

__all__ = [
    "attach", "detach", "probe", "reattach", "release_name", "reserve_name", "resize", "survives", "in_use",
    "held_exclusively", "protect", "nbd_uri", "Attached", "AttachSpec", "Host", "Probe", "Protection", "Reservation",
    "DeviceError", "DeviceInUseError",
]
