# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks of nothing but zeroes in a resync: a word on the wire, and no write where they are zero already."""

from __future__ import annotations

from collections.abc import Callable

from replblock.core.host import PENDING, Buffer, Disk, Done

_ZEROES = bytes(1 << 20)
_FIRST_BYTES = 64


def only_zeroes(data: Buffer) -> bool:
    """Are these at most 1 MiB all zero? Data that is not is mostly seen at its first bytes."""
    if bytes(data[:_FIRST_BYTES]).strip(b"\0"):
        return False
    whole = data.tobytes() if isinstance(data, memoryview) else data  # views are compared item by item, bytes at once
    return len(whole) <= len(_ZEROES) and whole == _ZEROES[: len(whole)]


def make_zero(
    disk: Disk, offset_bytes: int, length_bytes: int, may_punch: bool, wanted: Callable[[], bool], done: Done
) -> int:
    """Zero this range if it is not zero yet. Returns 0, an errno, or PENDING: then `done` is called with one of them.

    A read is cheaper than a write, and leaves a thin volume thin. `wanted` is asked after the read: nothing is written
    any more where it says no.
    """

    def read(error: int, data: Buffer) -> None:
        result = 0
        if wanted() and (error or not only_zeroes(data)):  # what cannot be read may still be written
            result = disk.zero(offset_bytes, length_bytes, may_punch, done)
        if result != PENDING:
            done(result)

    found = disk.read(offset_bytes, length_bytes, read)
    if isinstance(found, int):
        return found if found == PENDING else disk.zero(offset_bytes, length_bytes, may_punch, done)
    return 0 if only_zeroes(found) else disk.zero(offset_bytes, length_bytes, may_punch, done)
