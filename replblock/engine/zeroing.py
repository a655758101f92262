# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a range read as zeroes: fallocate where the file system or device can, written zeroes where it cannot."""

from __future__ import annotations

import ctypes
import errno
import os

# <linux/falloc.h>
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
CHUNK_BYTES = 1 << 20
_ZEROES = bytes(CHUNK_BYTES)
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def zero_range(fd: int, offset_bytes: int, length_bytes: int, may_punch: bool) -> None:
    """Zero a range, deallocating it if `may_punch`. Both modes promise zeroes, on files and block devices alike."""
    if not length_bytes:
        return
    for mode in (PUNCH_HOLE, ZERO_RANGE) if may_punch else (ZERO_RANGE,):
        problem = errno.EINTR
        while problem == errno.EINTR:
            if _libc.fallocate(fd, mode | KEEP_SIZE, offset_bytes, length_bytes) == 0:
                return
            problem = ctypes.get_errno()
        if problem not in _NOT_SUPPORTED:
            raise OSError(problem, os.strerror(problem))
    end = offset_bytes + length_bytes
    while offset_bytes < end:
        written = os.pwrite(fd, memoryview(_ZEROES)[: end - offset_bytes], offset_bytes)
        if written <= 0:
            raise OSError(errno.ENOSPC, "nothing written")
        offset_bytes += written
