# SPDX-License-Identifier: GPL-2.0-or-later
"""Back end nbd: the kernel's own NBD client gets one socket in its transmission phase.

One socket, because with more the request timer kills live ones; no request timeout and a dead-connection timeout of
weeks, because a stall must not become an I/O error; `queue/io_timeout` of a second, because only that timer makes the
kernel send again what an old socket lost.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time

from replblock.device import names, netlink, sysfs, usage
from replblock.device.errors import DeviceError
from replblock.device.handshake import Export
from replblock.device.negotiate import connect_export
from replblock.device.netlink import Netlink
from replblock.device.types import MAX_SECTORS_KIB, Attached, AttachSpec, Host, Reservation

NAME = "nbd"
IO_TIMEOUT_MS = 1000
BLOCK_SIZES = (512, 1024, 2048, 4096)
BUSY_PATIENCE_S = 3.0           # udev opens a device that changes, and an opener of an idle nbd blocks CONNECT
GONE_PATIENCE_S = 10.0
RETRY_STEP_S = 0.05             # the kernel needs a moment to see that an old socket is dead
REATTACH_PATIENCE_S = 10.0
MEMORY_SHARE = 512              # a request is at most this part of the memory; sixteen of them 3 %
MIN_SECTORS_KIB = 64
CAPABLE_MODES = "set: attach fuse, or attach none"


def missing(host: Host) -> str:
    """Why this back end cannot be used here, "" if it can. Loads the module if that is all it takes."""
    try:
        netlink.message_class()
    except DeviceError as problem:
        return str(problem)
    if os.geteuid() != 0:
        return "kernel nbd needs root"
    if not names.nbd_indices(host):
        modprobe = shutil.which("modprobe", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if modprobe:
            subprocess.run([modprobe, "-q", "nbd"], check=False, capture_output=True)
    return "" if names.nbd_indices(host) else "the kernel has no nbd (modprobe nbd)"


def attach(spec: AttachSpec, reservation: Reservation, host: Host) -> Attached:
    link, export = connect_export(spec.socket_path, spec.export)
    identifier = spec.identifier or f"replblock {spec.name}"
    with link:
        _connect(reservation, export, link.fileno(), identifier, host)
    attached = Attached(NAME, spec.name, reservation.kernel_device, export.size_bytes, spec.socket_path, spec.export,
                        reservation, identifier=identifier)
    tune(reservation, host)
    if not sysfs.wait_until(lambda: sysfs.size_bytes(reservation.kernel_name, host) == export.size_bytes,
                            GONE_PATIENCE_S):
        detach(attached, True, host)
        raise DeviceError(f"{spec.name}: the kernel did not take the size of {export.size_bytes} bytes; see: dmesg")
    return attached


def block_size(export: Export) -> int:
    """What the kernel shows as logical block: the smallest the server takes, as DRBD's devices show 512."""
    return next((size for size in BLOCK_SIZES if size >= export.block_size_min), BLOCK_SIZES[-1])


def _connect(reservation: Reservation, export: Export, descriptor: int, identifier: str, host: Host) -> None:
    request = netlink.connect_message(reservation.device_index, export.size_bytes, block_size(export), export.flags,
                                      [descriptor], identifier)
    deadline = time.monotonic() + BUSY_PATIENCE_S
    with Netlink() as kernel:
        while True:
            try:
                kernel.send(request)
                return
            except OSError as problem:
                if problem.errno == errno.EBUSY and time.monotonic() < deadline:
                    time.sleep(RETRY_STEP_S)
                    continue
                raise _refused(reservation, problem, host) from problem


def _refused(reservation: Reservation, problem: OSError, host: Host) -> Exception:
    """A taken device can be left to whoever took it if only the name is ours: FileExistsError asks for another."""
    if problem.errno != errno.EBUSY:
        return DeviceError(f"{reservation.name}: {reservation.kernel_device} cannot be connected: "
                           f"{problem.strerror}; see: dmesg, or {CAPABLE_MODES}")
    taken = not names.nbd_is_free(reservation.device_index, host)
    who = names.nbd_owner(reservation.device_index, host) if taken else "a program that has it open"
    text = f"{reservation.kernel_device} is taken by {who}; see: fuser -v {reservation.kernel_device}"
    if taken and reservation.made_node:
        return FileExistsError(errno.EEXIST, text, reservation.name)
    return DeviceError(f"{reservation.name}: {text}")


def tune(reservation: Reservation, host: Host) -> None:
    """The queue's knobs, which each CONNECT and some RECONFIGUREs reset."""
    queue = f"{host.sys}/block/{reservation.kernel_name}/queue"
    sysfs.write(f"{queue}/io_timeout", IO_TIMEOUT_MS)
    sysfs.write(f"{queue}/max_sectors_kb", request_kib(host))


def request_kib(host: Host) -> int:
    """How large a request may be: the engine has one in each of its worker threads, and what holds them is locked.

    With requests of 1 MiB a machine of 128 MiB runs out of memory and stands still under a writer: the engine needs
    memory to write back what holds the memory. With those of 128 KiB it writes without end (tests/kernel).
    """
    said = next((line for line in sysfs.read(f"{host.proc}/meminfo").splitlines() if line.startswith("MemTotal:")), "")
    words = said.split()
    share = int(words[1]) // MEMORY_SHARE if len(words) > 1 and words[1].isdigit() else MAX_SECTORS_KIB
    power = 1 << max(share, 1).bit_length() - 1
    return max(MIN_SECTORS_KIB, min(MAX_SECTORS_KIB, power))


def detach(attached: Attached, force: bool, host: Host) -> None:
    """Without `force` an exclusive descriptor is held through write-back and disconnect.

    With it the kernel device stays taken until its users let go of it, and gives them errors.
    """
    if names.nbd_is_free(attached.reservation.device_index, host):
        return
    _refuse_stranger(attached, host)
    if force:
        _disconnect(attached)
        return
    with usage.held_exclusively(attached, host) as descriptor:
        usage.write_back(descriptor, attached.name)
        _disconnect(attached)
    if not sysfs.wait_until(lambda: names.nbd_is_free(attached.reservation.device_index, host), GONE_PATIENCE_S):
        raise DeviceError(f"{attached.name}: the kernel still holds {attached.kernel_device}; "
                          f"see: fuser -v {attached.kernel_device}")


def _disconnect(attached: Attached) -> None:
    with Netlink() as kernel:
        try:
            kernel.send(netlink.disconnect_message(attached.reservation.device_index))
        except OSError as problem:
            raise DeviceError(f"{attached.name}: the kernel does not disconnect: {problem.strerror}; "
                              f"run: nbd-client -d {attached.kernel_device}") from problem


def _refuse_stranger(attached: Attached, host: Host) -> None:
    """Older kernels show no identifier; where one is shown it must be ours."""
    shown = sysfs.read(f"{host.sys}/block/{attached.reservation.kernel_name}/backend")
    if shown and shown != attached.identifier:
        raise DeviceError(f"{attached.name}: {attached.kernel_device} now belongs to {shown!r}, not to us; "
                          "it is left alone")


def reattach(attached: Attached, host: Host) -> Attached:
    """Give the kernel a new socket to the restarted engine; requests that waited are sent again within a second.

    The kernel answers OK and ignores the socket while the old one is not yet dead to it: only a socket that
    outlives our copy of it was taken.
    """
    _refuse_stranger(attached, host)
    deadline = time.monotonic() + REATTACH_PATIENCE_S
    while True:
        link, export = connect_export(attached.socket_path, attached.export)
        with link:
            if export.size_bytes < attached.size_bytes:
                raise DeviceError(f"{attached.name}: the export has shrunk from {attached.size_bytes} to "
                                  f"{export.size_bytes} bytes; unmount it, then run: replctl secondary")
            inode = os.fstat(link.fileno()).st_ino
            _reconfigure(attached, link.fileno())
        if socket_lives(inode, host):
            if export.size_bytes > attached.size_bytes:     # it grew, and could not tell the kernel then
                return resize(attached, export.size_bytes, host)
            tune(attached.reservation, host)
            return attached
        if time.monotonic() >= deadline:
            raise DeviceError(f"{attached.name}: the kernel does not let go of the old connection; see: dmesg, "
                              "then unmount and run: replctl secondary --force")
        time.sleep(RETRY_STEP_S)


def _reconfigure(attached: Attached, descriptor: int) -> None:
    request = netlink.reconfigure_message(attached.reservation.device_index, [descriptor], attached.identifier)
    with Netlink() as kernel:
        try:
            kernel.send(request)
        except OSError as problem:
            raise DeviceError(f"{attached.name}: {attached.kernel_device} cannot be connected again: "
                              f"{problem.strerror}; unmount it, then run: replctl primary") from problem


def socket_lives(inode: int, host: Host) -> bool:
    """Whether somebody, the kernel in this case, still holds a Unix socket that we closed."""
    lines = sysfs.read(f"{host.proc}/net/unix").splitlines()
    return any(len(fields) > 6 and fields[6] == str(inode) for fields in (line.split() for line in lines))


def resize(attached: Attached, size_bytes: int, host: Host) -> Attached:
    """A larger device, while attached and mounted."""
    with Netlink() as kernel:
        try:
            kernel.send(netlink.resize_message(attached.reservation.device_index, size_bytes, attached.identifier))
        except OSError as problem:
            raise DeviceError(f"{attached.name}: the kernel does not take the new size: {problem.strerror}; "
                              "see: dmesg") from problem
    tune(attached.reservation, host)
    return attached._replace(size_bytes=size_bytes)
