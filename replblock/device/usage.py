# SPDX-License-Identifier: GPL-2.0-or-later
"""Who uses a device. Kernel nbd counts no openers, so they are looked for where the kernel shows them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from replblock.device import sysfs
from replblock.device.errors import DeviceError, DeviceInUseError
from replblock.device.types import Attached, Host, Reservation

BLKFLSBUF = 0x1261
_Numbers = frozenset[tuple[int, int]]


def in_use(attached: Attached, host: Host | None = None, ignore_pids: Collection[int] = ()) -> list[str]:
    """The reasons why the device cannot be detached, none if it can.

    Reads /proc of every process: milliseconds to tens of them. The caller's own descriptors do not count.
    """
    host = host or Host()
    reservation = attached.reservation
    if not reservation.kernel_name:
        return []
    numbers = frozenset(sysfs.family(reservation.kernel_name, host))
    reasons = [*_mounts(numbers, host), *_swaps(numbers, host), *_holders(reservation, numbers, host),
               *_openers(reservation, numbers, host, {os.getpid(), *ignore_pids})]
    if not reasons and not _can_be_had_alone(attached.kernel_device):
        reasons.append("held exclusively by the kernel or a program that cannot be seen from here")
    return reasons


@contextmanager
def held_exclusively(attached: Attached, host: Host | None = None) -> Iterator[int]:
    """A descriptor that keeps mounts and other exclusive users away until the end of the block.

    Raises DeviceInUseError with the reasons. A plain open is still possible: nobody can forbid it, so the block
    should be short.
    """
    host = host or Host()
    descriptor = _open_alone(attached.kernel_device)
    reasons = in_use(attached, host) if descriptor is None else in_use_plainly(attached, host)
    if descriptor is None or reasons:
        if descriptor is not None:
            os.close(descriptor)
        raise DeviceInUseError(attached.name, reasons or ["held exclusively for a moment by another program"])
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def in_use_plainly(attached: Attached, host: Host) -> list[str]:
    """Openers alone: what an exclusive descriptor does not tell."""
    numbers = frozenset(sysfs.family(attached.reservation.kernel_name, host))
    return list(_openers(attached.reservation, numbers, host, {os.getpid()}))


def write_back(descriptor: int, name: str) -> None:
    """Everything written to the device reaches the engine, and nothing stays in the page cache.

    Raises DeviceError: what could not be written is lost if the device goes away now.
    """
    try:
        os.fsync(descriptor)
        fcntl.ioctl(descriptor, BLKFLSBUF, 0)
    except OSError as problem:
        raise DeviceError(f"{name}: cached data could not be written: {problem.strerror}; "
                          "see: replctl status --verbose") from problem


def _mounts(numbers: _Numbers, host: Host) -> Iterator[str]:
    """Every mount namespace is looked at once: a container may have mounted the device."""
    seen: set[str] = set()
    for pid in ("self", *_pids(host)):  # self first: in a chroot our own view of a mount point is the useful one
        try:
            space = os.readlink(f"{host.proc}/{pid}/ns/mnt")
        except OSError:
            continue
        if space not in seen:
            seen.add(space)
            own = space == _own_space(host)
            for line in sysfs.read(f"{host.proc}/{pid}/mountinfo").splitlines():
                place = _mounted_here(line, numbers, f"{host.proc}/{pid}/root")
                if place is not None:
                    yield f"mounted at {place}" + ("" if own else f" in the mount namespace of pid {pid}")


def _own_space(host: Host) -> str:
    try:
        return os.readlink(f"{host.proc}/self/ns/mnt")
    except OSError:
        return ""


def _mounted_here(line: str, numbers: _Numbers, root: str) -> str | None:
    """The mount point in a line of mountinfo (proc(5)), if it is of our device.

    `root` is how the mounter's files are reached: the same name may be another device in its /dev.
    """
    fields = line.split(" ")
    if len(fields) < 10:
        return None
    source = _plain(fields[fields.index("-") + 2]) if "-" in fields[6:] else ""
    major, _, minor = fields[2].partition(":")
    if (int(major), int(minor)) in numbers or (source.startswith("/") and _number_of(root + source) in numbers):
        return _plain(fields[4])        # btrfs has numbers of its own: there only the source tells
    return None


def _plain(text: str) -> str:
    """Undo the octal escapes of the kernel."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _number_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (os.major(found.st_rdev), os.minor(found.st_rdev)) if stat.S_ISBLK(found.st_mode) else None


def _swaps(numbers: _Numbers, host: Host) -> Iterator[str]:
    for line in sysfs.read(f"{host.proc}/swaps").splitlines()[1:]:
        path = _plain(line.split()[0])
        if _number_of(path) in numbers:
            yield f"used as swap ({path})"


def _holders(reservation: Reservation, numbers: _Numbers, host: Host) -> Iterator[str]:
    """Devices on top: device mapper and md in `holders`, loop devices by their file."""
    for major, minor in sorted(numbers):
        try:
            holders = sorted(os.listdir(f"{host.sys}/dev/block/{major}:{minor}/holders"))
        except OSError:
            continue
        for holder in holders:
            label = sysfs.read(f"{host.sys}/block/{holder}/dm/name")
            yield f"held by {holder}" + (f" ({label})" if label else "")
    try:
        loops = [entry for entry in os.listdir(f"{host.sys}/block") if entry.startswith("loop")]
    except OSError:
        return
    for entry in sorted(loops):
        path = sysfs.read(f"{host.sys}/block/{entry}/loop/backing_file")
        if path.startswith("/dev/") and entry != reservation.kernel_name and _number_of(path) in numbers:
            yield f"held by {entry}"


def _openers(reservation: Reservation, numbers: _Numbers, host: Host, ignored: Collection[int]) -> Iterator[str]:
    for pid in _pids(host):
        if pid not in ignored and _has_open(pid, reservation, numbers, host):
            comm = sysfs.read(f"{host.proc}/{pid}/comm")
            yield f"opened by pid {pid}" + (f" ({comm})" if comm else "")


def _has_open(pid: int, reservation: Reservation, numbers: _Numbers, host: Host) -> bool:
    base = f"{host.proc}/{pid}/fd"
    try:
        entries = os.listdir(base)
    except OSError:                     # gone, or not ours to look at
        return False
    for entry in entries:
        try:
            target = os.readlink(f"{base}/{entry}")
            # Only what may be a device is looked at closer: a stat elsewhere may hang on a dead network mount.
            if "/dev/" in target or target.removesuffix(" (deleted)") == reservation.name:
                found = os.stat(f"{base}/{entry}")
                if stat.S_ISBLK(found.st_mode) and (os.major(found.st_rdev), os.minor(found.st_rdev)) in numbers:
                    return True
        except OSError:
            continue
    return False


def _pids(host: Host) -> list[int]:
    return sorted(int(entry) for entry in os.listdir(host.proc) if entry.isdigit())


def _open_alone(device: str) -> int | None:
    """A descriptor nobody else can have; None if somebody has."""
    try:
        return os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno == errno.EBUSY:
            return None
        raise DeviceError(f"{device}: cannot be opened: {problem.strerror}; see: dmesg") from problem


def _can_be_had_alone(device: str) -> bool:
    try:
        descriptor = _open_alone(device)
    except DeviceError:                 # no device behind the node: nobody holds it either
        return True
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
