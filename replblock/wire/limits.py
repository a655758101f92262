# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes that bound what is sent, accepted and buffered."""

from __future__ import annotations

from typing import Final

VERSION_MIN: Final = 86
VERSION_MAX: Final = 101

MAX_PAYLOAD_BYTES: Final = 1 << 20      # a kernel peer of protocol 100 sends up to 1 MiB whatever we announce
MAX_DIGEST_BYTES: Final = 64            # sha512, the longest digest DRBD can be configured with
MAX_NAME_BYTES: Final = 64              # algorithm names with their final NUL
SOCKET_BUFFER_BYTES: Final = 4096       # header and bitmap data together fill at most one such buffer
CHALLENGE_BYTES: Final = 64
MAX_CHALLENGE_BYTES: Final = 128
MAX_DISCARD_BYTES: Final = 128 << 20    # one P_TRIM or P_ZEROES, if WSAME was agreed
MAX_DISCARD_PLAIN_BYTES: Final = 4 << 20        # … and if not
MAX_HEADER_BYTES: Final = 16
MAX_BODY_BYTES: Final = 28 + MAX_DIGEST_BYTES + MAX_PAYLOAD_BYTES
MAX_BUFFERED_BYTES: Final = MAX_HEADER_BYTES + MAX_BODY_BYTES

# The peer may run ahead of us by what it sends between its own agreement on a version and ours: the hand-shake packets
# and a ping, a few hundred bytes a volume.
MAX_HELD_BYTES: Final = 64 << 10


def max_bio_bytes(version: int) -> int:
    """Largest write or read reply of an agreed version: 32 KiB to 94, 128 KiB to 99, 1 MiB since 100."""
    if version >= 100:
        return MAX_PAYLOAD_BYTES
    return 128 << 10 if version >= 95 else 32 << 10


def max_discard_bytes(features: int) -> int:
    """Largest P_TRIM or P_ZEROES under the agreed features."""
    return MAX_DISCARD_BYTES if features & 4 else MAX_DISCARD_PLAIN_BYTES
