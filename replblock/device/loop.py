# SPDX-License-Identifier: GPL-2.0-or-later
"""Loop devices by their ioctls (<linux/loop.h>), with numbers of our own choice."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from replblock.device.errors import DeviceError
from replblock.device.types import Host

MAJOR = 7
CTL_ADD, CTL_REMOVE, CLR_FD, CONFIGURE = 0x4C80, 0x4C81, 0x4C01, 0x4C0A
FLAG_DIRECT_IO = 16
BLOCK_SIZE = 512
#: fd, block size; then loop_info64: five numbers, number, type, key size, flags, name, crypt name, key, init; reserved
CONFIG = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 8Q")

#: `losetup -f` hands out the lowest free number: ours begin where it rarely comes.
FIRST_INDEX = 128
LAST_INDEX = 1023


def add(index: int, host: Host) -> bool:
    """Make loop device `index`; False if there is one already."""
    try:
        _control(CTL_ADD, index, host)
    except FileExistsError:
        return False
    return True


def remove(index: int, host: Host) -> None:
    """Take the device away again; a device in use stays."""
    try:
        _control(CTL_REMOVE, index, host)
    except OSError:
        pass


def _control(request: int, index: int, host: Host) -> None:
    control = os.open(f"{host.dev}/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, request, index)
    finally:
        os.close(control)


def backing_file(index: int, host: Host) -> str:
    """The file behind the device, "" if it is free."""
    try:
        with open(f"{host.sys}/block/loop{index}/loop/backing_file") as shown:
            return shown.read().strip()
    except OSError:
        return ""


def bind(device: str, path: str) -> None:
    """Put the file behind the device. Direct: pages are cached once, above the loop, and none stay behind it.

    Raises FileExistsError when the device is taken.
    """
    target = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        source = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            config = CONFIG.pack(source, BLOCK_SIZE, 0, 0, 0, 0, 0, 0, 0, 0, FLAG_DIRECT_IO,
                                 os.fsencode(path)[-63:], b"", b"", 0, 0, *(0,) * 8)
            fcntl.ioctl(target, CONFIGURE, config)
        except OSError as problem:
            if problem.errno == errno.EBUSY:
                raise FileExistsError(errno.EEXIST, "the loop device is taken", device) from problem
            raise DeviceError(f"{device}: could not take {path}: {problem.strerror}; see: dmesg") from problem
        finally:
            os.close(source)
    finally:
        os.close(target)


def unbind(descriptor: int) -> None:
    """Take the file away. At once if the caller's is the only open descriptor, else at the last close."""
    try:
        fcntl.ioctl(descriptor, CLR_FD, 0)
    except OSError as problem:
        if problem.errno != errno.ENXIO:        # was free already
            raise
