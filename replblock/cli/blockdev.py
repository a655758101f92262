# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk or a file as the metadata operations want it: opened for us alone, errors as sentences."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from types import TracebackType

from replblock.cli.errors import CANNOT, Stop

SECTOR_BYTES = 512


class BlockDevice:
    """`size_sectors`, `pread`, `pwrite`, `sync` on a block device or a regular file.

    A block device is opened O_EXCL, which fails while it is mounted or claimed; a file is locked with flock, which the
    engine does too. `shared` leaves both out, for reading beside a running engine. Raises Stop with the file's name and
    what to do.
    """

    def __init__(self, path: str, write: bool, what: str = "disk", shared: bool = False) -> None:
        self.path = path
        self._fd = _open(path, write, what, shared)
        try:
            size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            os.close(self._fd)
            raise Stop(CANNOT, f"{path}: its size cannot be found: {error.strerror}") from None
        self.size_sectors = size_bytes // SECTOR_BYTES

    def pread(self, length: int, offset_bytes: int) -> bytes:
        """Up to `length` bytes; fewer only at the end."""
        parts = []
        while length:
            part = os.pread(self._fd, length, offset_bytes)
            if not part:
                break
            parts.append(part)
            length -= len(part)
            offset_bytes += len(part)
        return b"".join(parts)

    def pwrite(self, data: bytes, offset_bytes: int) -> None:
        """All of `data`."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset_bytes)
            view = view[done:]
            offset_bytes += done

    def sync(self) -> None:
        """fsync: a file may have grown new blocks."""
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> BlockDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: str, write: bool, what: str, shared: bool) -> int:
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISBLK(mode):
            return os.open(path, flags | (0 if shared else os.O_EXCL))
        if not stat.S_ISREG(mode):
            raise Stop(CANNOT, f"{path}: '{what}' must be a block device or a file",
                       "check it in the configuration: replctl dump")
        fd = os.open(path, flags)
    except OSError as error:
        raise Stop(CANNOT, f"open({path}) failed: {error.strerror}", _advice(path, what, error.errno or 0)) from None
    if shared:
        return fd
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Stop(CANNOT, f"open({path}) failed: another process has locked it", f"see who: fuser -v {path}") from None
    return fd


def _advice(path: str, what: str, number: int) -> str:
    if number == errno.ENOENT:
        if path.startswith("/dev/"):  # a file made there would only hide the missing disk
            return f"'{what}' in the configuration names it; is the disk plugged in? see: lsblk"
        return f"'{what}' in the configuration names it; to try with a file: truncate -s 1G {path}"
    if number in (errno.EACCES, errno.EPERM):
        return f"run it as root, or give yourself the right to: ls -l {path}"
    if number == errno.EROFS:
        return f"it is read-only; see: blockdev --getro {path}"
    if number == errno.EBUSY:
        return f"it is mounted or claimed; see: lsblk {path}; fuser -vm {path}"
    return f"look at it: ls -l {path}"
