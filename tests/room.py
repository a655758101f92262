# SPDX-License-Identifier: GPL-2.0-or-later
"""The rest of a half packet received where the core wants it: what engine.network does for large ones, for any size."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch


def into_room(core: Any, sock: int, data: bytes) -> bytes:
    """What of data did not belong into the core's room."""
    with patch("replblock.wire.stream.ROOM_FROM_BYTES", 1):
        room = core.room(sock)
    if room is None:
        return data
    count = min(len(room), len(data))
    room[:count] = data[:count]
    core.on_filled(sock, count)
    return data[count:]
