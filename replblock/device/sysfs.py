# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says about block devices in /sys, as values; a device that is not there is None or empty."""

from __future__ import annotations

import os
from collections.abc import Callable

from replblock.device.types import Host

SECTOR_BYTES = 512


def read(path: str) -> str:
    """The text of a small file, "" if it is not there."""
    try:
        with open(path) as shown:
            return shown.read().strip()
    except OSError:
        return ""


def write(path: str, value: object) -> bool:
    """Set a knob; False if the kernel has none or refuses."""
    try:
        with open(path, "w") as knob:
            knob.write(str(value))
    except OSError:
        return False
    return True


def number(kernel_name: str, host: Host) -> tuple[int, int] | None:
    """(major, minor) of `nbd0`."""
    major, _, minor = read(f"{host.sys}/block/{kernel_name}/dev").partition(":")
    return (int(major), int(minor)) if minor else None


def device_of(major: int, minor: int, host: Host) -> str:
    """The kernel's name of a device number, "" if nothing has it. `nbd0p1` for a partition."""
    lines = read(f"{host.sys}/dev/block/{major}:{minor}/uevent").splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("DEVNAME=")), "")


def size_bytes(kernel_name: str, host: Host) -> int:
    return int(read(f"{host.sys}/class/block/{kernel_name}/size") or 0) * SECTOR_BYTES


def family(kernel_name: str, host: Host) -> list[tuple[int, int]]:
    """The device and its partitions, as device numbers."""
    base = f"{host.sys}/block/{kernel_name}"
    try:
        entries = [base, *(f"{base}/{entry}" for entry in os.listdir(base) if entry.startswith(kernel_name))]
    except OSError:
        return []
    pairs = (read(f"{entry}/dev").partition(":") for entry in entries)
    return [(int(major), int(minor)) for major, _, minor in pairs if minor]


def wait_until(condition: Callable[[], bool], seconds: float, step_seconds: float = 0.01) -> bool:
    """Poll what the kernel offers no notification for. Returns whether it came true."""
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(step_seconds)
    return True
