# SPDX-License-Identifier: GPL-2.0-or-later
"""The device of one resource: its name from start to stop, the device behind it while this node is primary.

The calls block (mounts are looked for, caches written back); `Engine` makes them in a thread of their own. What is
attached stands in `RUN/RES.device`, so that a later process can let go of it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from replblock import device
from replblock.device import Attached, AttachSpec, DeviceError, DeviceInUseError, Reservation
from replblock.engine.doors import AnyDoor
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
        self.left: Attached | None = None
        """What the engine before this one had attached and this one may take back."""
        self.seen_generation = 0
        """The generation of the data that the users of the device see, as it stands in the file."""

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

    def attach(self, generation: int = 0) -> None:
        """When this returns the name can be opened. Raises DeviceError."""
        if self.attached is not None:
            return
        self.seen_generation = generation
        self.reserve()
        spec = AttachSpec(
            str(self._socket_path), self._export, self._name, str(self._run_dir), self._mode, self.reservation
        )
        try:
            self.attached = device.attach(spec)
        except OSError as error:
            raise DeviceError(f"{self._name}: cannot be attached: {error}") from error
        self.reservation = self.attached.reservation
        self._write_down()

    def note_generation(self, generation: int) -> None:
        """The data that the users see got another name."""
        if self.attached is not None and generation != self.seen_generation:
            self.seen_generation = generation
            with contextlib.suppress(OSError):  # with the old name in the file a restart is refused: that is safe
                self._write_down()

    def grow(self, size_bytes: int, at_once: bool) -> None:
        """The device is larger now. Raises DeviceError when who uses it sees that later.

        `at_once`: connections that stand take requests for what is new; nbdkit's keep the size they began with.
        """
        attached = self.attached
        if attached is None or attached.size_bytes >= size_bytes:
            return
        if attached.backend == "nbd" and not at_once:
            raise DeviceError(f"{attached.name} keeps its size until the engine has a new connection with the kernel; "
                              "run: replctl restart")
        self.attached = device.resize(attached, size_bytes)
        self._write_down()

    def _write_down(self) -> None:
        assert self.attached is not None
        text = {"attached": json.loads(self.attached.to_json()), "generation": f"{self.seen_generation:016X}"}
        replace(self._file, json.dumps(text))

    def in_use(self) -> list[str]:
        return device.in_use(self.attached) if self.attached is not None else []

    def detach(self, door: AnyDoor) -> None:
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

    def refuse_restart(self, door: AnyDoor) -> None:
        """Raises DeviceInUseError if somebody uses the device and would lose it with this process."""
        attached = self.attached
        if attached is None or device.survives(attached):
            return
        users = device.in_use(attached)
        if door.clients and attached.backend == "none":
            users.append(f"{door.clients} NBD client{'s' if door.clients > 1 else ''} connected")
        if users:
            raise DeviceInUseError(self._name, users)

    def release(self) -> None:
        """The name is gone. The device must have been detached."""
        if self.reservation is not None:
            device.release_name(self.reservation)
            self.reservation = None
        self._file.unlink(missing_ok=True)

    # ---- what an engine that died left behind

    def _read_leftover(self) -> Attached | None:
        """And the generation its users saw."""
        try:
            found = json.loads(self._file.read_text())
            left = Attached.from_json(json.dumps(found["attached"]))
            self.seen_generation = int(found["generation"], 16)
            return left
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep_leftover(self, survivor: bool = False) -> bool:
        """Leave it as it is until it is known whether it may be taken back; False if there is none.

        `survivor`: only a device whose users have noticed nothing yet.
        """
        left = self._read_leftover()
        self.left = left if left is not None and (device.survives(left) or not survivor) else None
        if self.left is not None:
            self.reservation = self.left.reservation
        return self.left is not None

    @property
    def left_name(self) -> str:
        return "" if self.left is None else self.left.name

    def take_back(self) -> None:
        """The device of the engine before, for its users as if nothing had happened. Raises DeviceError."""
        left = self.left
        assert left is not None
        if device.survives(left):
            left = left._replace(socket_path=str(self._socket_path))  # the configuration may name another door now
            self.attached = device.reattach(left)
            self.left = None
        else:
            device.detach(left, force=True)
            self.left = self.reservation = None
            self.attach(self.seen_generation)

    def fail_left(self, why: str) -> None:
        """It must not be served any more: it fails for those who still use it. Raises DeviceError."""
        left, self.left = self.left, None
        if left is not None:
            self._fail(left, why)

    def _drop_leftover(self) -> None:
        """An engine that was killed left its device behind, and this one was not told to take it back.

        It must not be served again just like that: the peer may have moved on meanwhile, and what waits in the device
        would be written over that. So it fails for those who still use it.
        """
        left = self._read_leftover()
        if left is not None:
            self._fail(left, "left by an engine that died; to keep it: replctl restart")

    def _fail(self, left: Attached, why: str) -> None:
        users = device.in_use(left)
        if users:
            text = f"{left.name} gets I/O errors now ({why}): {'; '.join(users)}"
            self._log("error", "device-of-the-dead", text)
        device.detach(left, force=True)
        self._file.unlink(missing_ok=True)
