# SPDX-License-Identifier: GPL-2.0-or-later
"""From the path of a Unix socket to a connected socket in NBD's transmission phase."""

from __future__ import annotations

import socket

from replblock.device.errors import DeviceError
from replblock.device.handshake import Export, Handshake, HandshakeError

HANDSHAKE_TIMEOUT_S = 10.0          # the engine answers in milliseconds; beyond this it hangs


def connect_export(socket_path: str, export_name: str,
                   timeout_s: float = HANDSHAKE_TIMEOUT_S) -> tuple[socket.socket, Export]:
    """A blocking socket ready for the kernel, and what the server said. Raises DeviceError."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(timeout_s)
        link.connect(socket_path)
        handshake = Handshake(export_name)
        while handshake.export is None:
            data = link.recv(handshake.wanted_bytes)
            if not data:
                raise HandshakeError("the server hung up during the handshake")
            answer = handshake.receive(data)
            if answer:                  # sending nothing to a server that is gone would hide why it went
                link.sendall(answer)
        link.settimeout(None)       # the kernel uses the socket as it is: no timeouts may stay on it
        return link, handshake.export
    except (OSError, HandshakeError) as problem:
        link.close()
        raise DeviceError(f"{socket_path}: export {export_name!r}: {_said(problem)}; is the resource up? "
                          "see: replctl status") from problem
    except BaseException:
        link.close()
        raise


def _said(problem: Exception) -> str:
    return problem.strerror or "no answer in time" if isinstance(problem, OSError) else str(problem)
