# SPDX-License-Identifier: GPL-2.0-or-later
"""The name of the device, from `up` to `down`: a block device node, never a symlink.

`/proc/mounts`, init scripts and cluster agents must see the configured name, so it is a node of its own with the
number of the kernel device behind it. To have that number before the device is attached, a kernel device is set
aside: a claim file says for whom.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from replblock.device import loop, sysfs
from replblock.device.errors import DeviceError
from replblock.device.types import Host, Reservation

NODE_MODE = stat.S_IFBLK | 0o660
NBD_CANONICAL = re.compile(r"nbd(\d+)")


def reserve(backend: str, name: str, host: Host) -> Reservation:
    """Set a kernel device aside and make the node. Raises DeviceError; then nothing was changed."""
    if backend == "none":
        return Reservation("none", name, "")
    with _lock(host):
        existing = _ours(backend, name, host)
        index = _pick(backend, name, host) if existing is None else existing
        kernel_name = f"{_prefix(backend)}{index}"
        try:
            made = _reservation(backend, name, index, host)
            _claim(kernel_name, name, host)
            return made
        except BaseException:
            if existing is None:
                _drop(backend, kernel_name, index, host)
            raise


def release(reservation: Reservation, host: Host) -> None:
    """Remove the node, if it is still the one we made, and give the kernel device back."""
    if reservation.backend == "none":
        return
    with _lock(host):
        if reservation.made_node and node_number(reservation.name) == (reservation.major, reservation.minor):
            os.unlink(reservation.name)
        if _claimed_by(reservation.kernel_name, host) in ("", reservation.name):
            _drop(reservation.backend, reservation.kernel_name, reservation.device_index, host)


def node_number(path: str) -> tuple[int, int] | None:
    """(major, minor) of a block device node; None for anything else, a symlink too."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (os.major(found.st_rdev), os.minor(found.st_rdev)) if stat.S_ISBLK(found.st_mode) else None


def make_node(path: str, major: int, minor: int, host: Host) -> None:
    """The node in one step: whoever opens the name gets the old device or the new one, never nothing.

    Raises DeviceError when something stands there that is not ours to replace.
    """
    if node_number(path) == (major, minor):
        return
    _refuse_foreign(path, host)
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    temporary = tempfile.mktemp(prefix=".replblock-", dir=directory)    # mknod fails if somebody was faster
    try:
        os.mknod(temporary, NODE_MODE, os.makedev(major, minor))
        os.chmod(temporary, 0o660)                                      # whatever the umask is
        _give_to_group_disk(temporary)
        os.rename(temporary, path)
    except OSError as problem:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise DeviceError(f"{path}: the device node cannot be made: {problem.strerror}; "
                          "run it as root, or set: attach none") from problem


def _give_to_group_disk(path: str) -> None:
    import grp

    try:
        os.chown(path, 0, grp.getgrnam("disk").gr_gid)
    except (KeyError, OSError):
        pass


def _refuse_foreign(path: str, host: Host) -> None:
    """Only a node that leads nowhere may be replaced: a free nbd or loop device under another name, or none."""
    if not os.path.lexists(path):
        return
    number = node_number(path)
    if number is None:
        raise DeviceError(f"{path}: exists and is no block device; move it away, or configure another device name")
    kernel_name = sysfs.device_of(*number, host)
    if not kernel_name:
        return
    if kernel_name == os.path.basename(path):
        raise DeviceError(f"{path}: is the kernel's own {kernel_name}; configure another device name")
    if sysfs.size_bytes(kernel_name, host) or not kernel_name.startswith(("nbd", "loop")):
        raise DeviceError(f"{path}: belongs to the device {kernel_name}, which is in use; "
                          "configure another device name, or stop what made it")


def _prefix(backend: str) -> str:
    return "nbd" if backend == "nbd" else "loop"


def _canonical_index(backend: str, name: str) -> int | None:
    """`/dev/nbd3` with back end nbd is device 3 itself."""
    found = NBD_CANONICAL.fullmatch(os.path.basename(name))
    return int(found[1]) if found and backend == "nbd" and os.path.dirname(name) == "/dev" else None


def _pick(backend: str, name: str, host: Host) -> int:
    wanted = _canonical_index(backend, name)
    if backend == "nbd":
        # From the top: whoever takes "the first free one" takes it from the bottom.
        candidates = [wanted] if wanted is not None else sorted(nbd_indices(host), reverse=True)
        for index in candidates:
            if nbd_is_free(index, host) and _may_claim(f"nbd{index}", name, host):
                return index
        if wanted is not None:
            raise DeviceError(f"{name}: is taken by {nbd_owner(wanted, host)}; run: nbd-client -d {name}, "
                              "or configure another device name")
        raise DeviceError(f"{name}: no nbd device is free; run: modprobe -r nbd; modprobe nbd nbds_max=64")
    for index in range(loop.FIRST_INDEX, loop.LAST_INDEX + 1):
        if _may_claim(f"loop{index}", name, host) and _loop_is_usable(index, host):
            return index
    raise DeviceError(f"{name}: no loop device is free; see: losetup -a")


def _loop_is_usable(index: int, host: Host) -> bool:
    try:
        if not loop.add(index, host) and loop.backing_file(index, host):
            return False
    except OSError as problem:
        raise DeviceError(f"loop devices cannot be made: {problem.strerror}; run: modprobe loop, "
                          "or set: attach none") from problem
    path = f"{host.dev}/loop{index}"
    if node_number(path) is None:               # a /dev that is no devtmpfs gets no nodes by itself
        os.mknod(path, NODE_MODE, os.makedev(*(sysfs.number(f"loop{index}", host) or (loop.MAJOR, index))))
    return True


def _reservation(backend: str, name: str, index: int, host: Host) -> Reservation:
    kernel_name = f"{_prefix(backend)}{index}"
    number = sysfs.number(kernel_name, host)
    if number is None:
        raise DeviceError(f"{name}: the kernel has no {kernel_name}; run: modprobe {_prefix(backend)}")
    kernel_device = f"{host.dev}/{kernel_name}"
    if name == kernel_device:
        return Reservation(backend, name, kernel_device, index, *number, made_node=False)
    make_node(name, *number, host)
    return Reservation(backend, name, kernel_device, index, *number, made_node=True)


def nbd_indices(host: Host) -> list[int]:
    try:
        names = os.listdir(f"{host.sys}/block")
    except OSError:
        return []
    return [int(found[1]) for found in map(NBD_CANONICAL.fullmatch, names) if found]


def nbd_is_free(index: int, host: Host) -> bool:
    """The kernel shows a process number while a device is connected."""
    base = f"{host.sys}/block/nbd{index}"
    return os.path.isdir(base) and not os.path.exists(f"{base}/pid")


def nbd_owner(index: int, host: Host) -> str:
    """Who holds a connected nbd device, as far as it can be told."""
    base = f"{host.sys}/block/nbd{index}"
    pid = sysfs.read(f"{base}/pid")
    if not pid:
        return _claimed_by(f"nbd{index}", host) or "nobody"
    comm = sysfs.read(f"{host.proc}/{pid}/comm")
    backend = sysfs.read(f"{base}/backend")
    return f"pid {pid}" + (f" ({comm})" if comm else "") + (f", {backend}" if backend else "")


# Claims: one file per kernel device, holding the name it is for. The lock orders reserve and release of all nodes.

@contextmanager
def _lock(host: Host) -> Iterator[None]:
    try:
        os.makedirs(host.claims, mode=0o755, exist_ok=True)
        descriptor = os.open(f"{host.claims}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise DeviceError(f"{host.claims}: {problem.strerror}; devices are attached by root, "
                          "otherwise set: attach none") from problem
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _claimed_by(kernel_name: str, host: Host) -> str:
    return sysfs.read(f"{host.claims}/{kernel_name}")


def _may_claim(kernel_name: str, name: str, host: Host) -> bool:
    """Free, ours, or left behind by somebody whose node is gone."""
    owner = _claimed_by(kernel_name, host)
    return owner in ("", name) or node_number(owner) != sysfs.number(kernel_name, host)


def _claim(kernel_name: str, name: str, host: Host) -> None:
    with open(f"{host.claims}/{kernel_name}", "w") as out:
        out.write(name)


def _ours(backend: str, name: str, host: Host) -> int | None:
    """The index a name already has: `up` after a crash takes up what it had."""
    for entry in sorted(os.listdir(host.claims)):
        found = re.fullmatch(rf"{_prefix(backend)}(\d+)", entry)
        if found and _claimed_by(entry, host) == name and sysfs.number(entry, host) is not None:
            canonical = _canonical_index(backend, name)
            if canonical in (None, int(found[1])):
                return int(found[1])
    return None


def _drop(backend: str, kernel_name: str, index: int, host: Host) -> None:
    try:
        os.unlink(f"{host.claims}/{kernel_name}")
    except FileNotFoundError:
        pass
    if backend == "fuse" and index >= loop.FIRST_INDEX:
        loop.remove(index, host)
