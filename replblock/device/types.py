# SPDX-License-Identifier: GPL-2.0-or-later
"""The values that go in and out of this room; what must survive a restart of the engine can be written as JSON."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

MODES = ("auto", "nbd", "fuse", "none")

#: Larger requests are split anyway: a write of the peer protocol carries at most 1 MiB. The kernel's own default for
#: nbd (128 or 1280 KiB, by version) either costs throughput or splits badly.
MAX_SECTORS_KIB = 1024


class Host(NamedTuple):
    """Where the kernel shows itself, and where devices are claimed; tests give directories of their own."""

    dev: str = "/dev"
    proc: str = "/proc"
    sys: str = "/sys"
    claims: str = "/run/replblock-devices"      # one for the machine, however many nodes run on it


class Reservation(NamedTuple):
    """A kernel device set aside for a name, from `up` to `down`."""

    backend: str                    # nbd, fuse or none
    name: str                       # wanted device name, "" for none
    kernel_device: str              # /dev/nbd15, /dev/loop128, "" for none
    device_index: int = -1
    major: int = 0
    minor: int = 0
    made_node: bool = False         # the name is a node of ours, not the kernel's own

    @property
    def kernel_name(self) -> str:
        """`nbd15`: the name in /sys/block."""
        return self.kernel_device.rpartition("/")[2]

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Reservation:
        return cls(**json.loads(text))


class AttachSpec(NamedTuple):
    """What to attach and under which name."""

    socket_path: str                # Unix socket of the NBD server
    export: str                     # name of the export: the volume number
    name: str                       # wanted device name
    run_directory: str              # for the file nbdfuse serves, its process number and its log
    mode: str = "auto"
    reservation: Reservation | None = None     # of `reserve_name`; without one it lasts from attach to detach
    identifier: str = ""            # guards a kernel nbd against strangers' RECONFIGURE; default: from the name
    connections: int = 1            # nbd: more than one breaks a restart; fuse: any


class Attached(NamedTuple):
    """An attached device. Everything another process needs to detach it is in here."""

    backend: str
    name: str                       # the name to open: /dev/drbd0, or the NBD URI
    kernel_device: str              # "" for none
    size_bytes: int
    socket_path: str
    export: str
    reservation: Reservation
    owns_reservation: bool = False
    identifier: str = ""
    mount_path: str = ""            # fuse: the file nbdfuse serves
    helper_pid: int = 0             # fuse: nbdfuse
    helper_started: int = 0         # its start time: process numbers are used again

    def to_json(self) -> str:
        return json.dumps(self._asdict() | {"reservation": self.reservation._asdict()})

    @classmethod
    def from_json(cls, text: str) -> Attached:
        values: dict[str, Any] = json.loads(text)
        return cls(**values | {"reservation": Reservation(**values["reservation"])})


class Probe(NamedTuple):
    """The back end a mode leads to here; "" and the reason if there is none."""

    backend: str
    reason: str = ""


def nbd_uri(socket_path: str, export: str) -> str:
    """`nbd+unix:///0?socket=/run/replblock/r0.sock`"""
    from urllib.parse import quote

    return f"nbd+unix:///{quote(export, safe='')}?socket={quote(socket_path)}"
