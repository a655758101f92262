# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a device, each as one line that names the device and the next command."""

from __future__ import annotations

from collections.abc import Sequence


class DeviceError(Exception):
    """One line for the operator."""


class DeviceInUseError(DeviceError):
    """Somebody holds the device; `reasons` says who, in the order found. DRBD's code for it is -12, exit 11."""

    def __init__(self, name: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{name} is held open: {'; '.join(reasons)}; unmount or stop it, then try again")
        self.reasons = list(reasons)
