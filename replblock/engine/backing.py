# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a backing device or file so that nobody else works on it, and errors in DRBD's words."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

SECTOR_BYTES = 512
TMPFS_MAGIC = 0x01021994
BLKROGET = 0x125E

# Numbers and texts as drbdsetup prints them (DRBD 8.4 configuration errors).
CANNOT_OPEN = (104, "Can not open backing device.")
CANNOT_OPEN_META = (105, "Can not open meta device.")
LOWER_CLAIMED = (114, "Lower device is already claimed. This usually means it is mounted.")
META_CLAIMED = (115, "Meta device is already claimed. This usually means it is mounted.")
LOWER_TOO_SMALL = (111, "Low.dev. smaller than requested DRBD-dev. size.")
META_TOO_SMALL = (112, "Meta device too small.")
META_IO_ERROR = (118, "IO error(s) occurred during initial access to meta-data.")


class DiskError(Exception):
    """The disk cannot be used. `code` and `text` are DRBD's, `detail` names the file and what to do."""

    def __init__(self, problem: tuple[int, str], detail: str) -> None:
        self.code, self.text = problem
        self.detail = detail
        super().__init__(f"({self.code}) {self.text} {detail}")


def in_memory(fd: int) -> bool:
    """Is it a file of a tmpfs? What os.fstatvfs does not tell."""
    answer = (ctypes.c_long * 32)()         # struct statfs begins with f_type, a long wherever Linux runs but s390
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.fstatfs(fd, ctypes.byref(answer)) == 0 and answer[0] == TMPFS_MAGIC


class Descriptor:
    """A file descriptor that closes when its last user lets go: a direct read may outlive the detach that ended it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_backing(path: str, *, is_meta: bool = False, shared: bool = False, direct: bool = False) -> Descriptor:
    """Open for reading and writing, exclusively unless `shared` (several resources keep metadata on one device).

    A block device is opened with O_EXCL (mounted, swap, LVM and other engines are refused by the kernel), a file is
    flock'ed. Raises DiskError.
    """
    cannot, claimed = (CANNOT_OPEN_META, META_CLAIMED) if is_meta else (CANNOT_OPEN, LOWER_CLAIMED)
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISBLK(mode):
            flags |= 0 if shared else os.O_EXCL
        elif not stat.S_ISREG(mode):
            raise DiskError(cannot, f"{path} is neither a block device nor a file")
        descriptor = Descriptor(os.open(path, flags))
        if stat.S_ISBLK(mode) and _is_read_only(descriptor.fd):
            raise OSError(errno.EROFS, "read-only")     # root may open it for writing all the same
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskError(claimed, f"{path} is in use (see: lsblk {path}; fuser -v {path})") from None
        hint = {
            errno.ENOENT: "there is no such file or device",
            errno.EROFS: "it is read-only",
            errno.EACCES: "permission denied, or it is read-only (run as root)",
            errno.EPERM: "it is write-protected (immutable file, or blockdev --setrw)",
        }.get(error.errno or 0, error.strerror)
        raise DiskError(cannot, f"{path}: {hint}") from None
    if direct:
        try:
            fcntl.fcntl(descriptor.fd, fcntl.F_SETFL, fcntl.fcntl(descriptor.fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError:
            raise DiskError(cannot, f"{path}: its file system cannot do direct I/O; set: io buffered") from None
    if stat.S_ISREG(mode) and not shared:
        try:
            fcntl.flock(descriptor.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DiskError(claimed, f"{path} is in use by another engine or tool (see: fuser -v {path})") from None
    return descriptor


def _is_read_only(fd: int) -> bool:
    """Whether a block device takes no writes (blockdev --getro)."""
    answer = bytearray(4)
    fcntl.ioctl(fd, BLKROGET, answer)
    return any(answer)


def reopen(original: Descriptor, path: str) -> Descriptor:
    """A second, independent open of what `original` holds (its flags differ, its lock does not matter)."""
    try:
        return Descriptor(os.open(f"/proc/self/fd/{original.fd}", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise DiskError(CANNOT_OPEN, f"{path}: {error.strerror}") from None


def lock_range(descriptor: Descriptor, path: str, offset_bytes: int, length_bytes: int) -> None:
    """Claim one resource's part of a metadata device; held until the descriptor closes. Raises DiskError."""
    # struct flock of 64-bit Linux: type, whence, start, length, pid (0 for locks of an open file description)
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, offset_bytes, length_bytes, 0)
    try:
        fcntl.fcntl(descriptor.fd, _F_OFD_SETLK, wanted)
    except OSError:
        detail = f"{path}: another engine uses this index of the metadata device"
        raise DiskError(META_CLAIMED, detail) from None


_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)  # fcntl has no name for it before Python 3.9's optional constant


def size_sectors(descriptor: Descriptor) -> int:
    """Size of the device or file, whole sectors."""
    return os.lseek(descriptor.fd, 0, os.SEEK_END) // SECTOR_BYTES
