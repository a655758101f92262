# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing is attached: programs that speak NBD use the URI."""

from __future__ import annotations

from replblock.device.negotiate import connect_export
from replblock.device.types import Attached, AttachSpec, Host, Reservation, nbd_uri

NAME = "none"


def missing(host: Host) -> str:
    return ""


def attach(spec: AttachSpec, reservation: Reservation, host: Host) -> Attached:
    """Checks that the export can be opened, so that `primary` means the same as with a device."""
    link, export = connect_export(spec.socket_path, spec.export)
    link.close()
    return Attached(NAME, nbd_uri(spec.socket_path, spec.export), "", export.size_bytes, spec.socket_path,
                    spec.export, reservation)


def detach(attached: Attached, force: bool, host: Host) -> None:
    """Clients of the URI are the engine's own affair: it knows its connections."""


def reattach(attached: Attached, host: Host) -> Attached:
    """Clients of the URI connect again by themselves."""
    return attached
