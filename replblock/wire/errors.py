# SPDX-License-Identifier: GPL-2.0-or-later
"""The one error of this room."""

from __future__ import annotations

Packet = tuple[int, int, memoryview]
"""(command, volume, body); the body is a view of immutable bytes and may be kept."""


class ProtocolError(Exception):
    """The peer sent something that cannot be right; the connection must be dropped.

    reason: one sentence that names the packet. cmd: its command number where known. packets: what was complete before
    the bad byte in the same piece of data, so that nothing depends on how the network cut the stream.
    """

    def __init__(self, reason: str, cmd: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cmd = cmd
        self.packets: list[Packet] = []


class NotAgreed(ProtocolError):
    """The two nodes cannot work together until an operator changes something; trying again is useless (StandAlone)."""
