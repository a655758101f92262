# SPDX-License-Identifier: GPL-2.0-or-later
"""The device of one resource: its name from start to stop, the device behind it while this node is primary.

The calls block (mounts are looked for, caches written back); `Engine` makes them in a thread of their own. What is
attached stands in `RUN/RES.device`, so that a later process can let go of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from replblock import device
from replblock.device import Attached, AttachSpec, DeviceError, DeviceInUseError, Reservation
from replblock.engine.door import Door
from replblock.engine.procfile import replace

KERNEL_LEAVES_S = 3.0
"""How long a kernel that let go of its device may take to close its connection."""
CLIENTS_LEAVE_S = 0.3
"""The same for a program that said goodbye just before the command came."""


class DeviceKeeper:
    """One thread at a time."""

    def __init__(
        self, run_dir: Path, resource: str, name: str, mode: str, socket_path: Path, export: str,
        log: Callable[[str, str, str], None],
    ) -> None:  # fmt: skip
        self._run_dir = run_dir
        self._file = run_dir / f"{resource}.device"
        self._name = name
        self._mode = mode
        self._socket_path = socket_path
        self._export = export
        self._log = log
        self.reservation: Reservation | None = None
        self.attached: Attached | None = None

    @property
    def uri(self) -> str:
        return device.nbd_uri(str(self._socket_path), self._export)

    @property
    def kernel_device(self) -> str:
        """What the name stands for at this moment; "" while nothing is attached."""
        attached = self.attached
        return "" if attached is None else attached.kernel_device or attached.name

    def reserve(self) -> None:
        """The name exists from now on. Raises DeviceError."""
        if self.reservation is None:
            self._drop_leftover()
            self.reservation = device.reserve_name(self._name, self._mode)

    def attach(self) -> None:
        """When this returns the name can be opened. Raises DeviceError."""
        if self.attached is not None:
            return
        self.reserve()
        spec = AttachSpec(
            str(self._socket_path), self._export, self._name, str(self._run_dir), self._mode, self.reservation
        )
        try:
            self.attached = device.attach(spec)
        except OSError as error:
            raise DeviceError(f"{self._name}: cannot be attached: {error}") from error
        self.reservation = self.attached.reservation
        replace(self._file, self.attached.to_json())

    def in_use(self) -> list[str]:
        return device.in_use(self.attached) if self.attached is not None else []

    def detach(self, door: Door) -> None:
        """Let go of the device and see the last client off. Raises DeviceInUseError, with everything as it was.

        The door is shut already, so nobody can come in between.
        """
        attached = self.attached
        patience_s = CLIENTS_LEAVE_S
        if attached is not None and attached.backend != "none":
            device.detach(attached)
            self.attached = None
            patience_s = KERNEL_LEAVES_S
        end = time.monotonic() + patience_s
        while door.clients and time.monotonic() < end:
            time.sleep(0.005)
        if door.clients:
            count = door.clients
            problem = DeviceInUseError(self._name, [f"{count} NBD client{'s' if count > 1 else ''} connected"])
            if self.attached is None and attached is not None:
                door.reopen()
                self.attach()
            raise problem
        self.attached = None
        self._file.unlink(missing_ok=True)

    def release(self) -> None:
        """The name is gone. The device must have been detached."""
        if self.reservation is not None:
            device.release_name(self.reservation)
            self.reservation = None
        self._file.unlink(missing_ok=True)

    def _drop_leftover(self) -> None:
        """An engine that was killed left its device behind.

        It must not be served again just like that: the peer may have moved on meanwhile, and what waits in the device
        would be written over that. So it fails for those who still use it.
        """
        try:
            left = Attached.from_json(self._file.read_text())
        except (OSError, ValueError, TypeError, KeyError, json.JSONDecodeError):
            return
        users = device.in_use(left)
        if users:
            text = f"{left.name} was left by an engine that died and gets I/O errors now: {'; '.join(users)}"
            self._log("error", "device-of-the-dead", text)
        device.detach(left, force=True)
        self._file.unlink(missing_ok=True)
