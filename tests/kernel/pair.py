# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock on two guests, as an operator has it: /etc/drbd.conf, replctl, /dev/drbd0, a mounted ext3."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.doors import DOOR
from tests.e2e.pair import ROOT, section
from tests.e2e.waiting import wait_until
from tests.kernel.guest import COMMAND_S, MIB, Command, Guest, Result
from tests.kernel.kernels import find
from tests.kernel.network import Network
from tests.kernel.qemu import find_qemu

NAMES = {"dados": 1, "backup": 2}
DEVICE, DISK, MOUNTED = "/dev/drbd0", "/dev/guestdisk", "/mnt/data"
PROC = "/run/replblock/proc"
PATIENCE_S = 180.0

#: Quick to look for a peer and to ask after it; slow to believe that it is dead, the machine may be busy.
NET: dict[str, object] = {
    "protocol": "C", "connect-int": 1, "ping-int": 1, "timeout": 9, "ko-count": 30, "ping-timeout": 100,
}
DISK_OPTIONS: dict[str, object] = {"resync-rate": "2G", "c-plan-ahead": 0, "c-min-rate": 0}

#: What DRBD's own tools do not know.
OURS_ONLY = f"replblock {{ attach nbd; door {DOOR}; }}"


class Machine:
    """A guest with replblock."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.name = guest.name

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT)}

    def try_(self, *words: str, timeout_s: float = COMMAND_S) -> Result:
        """replctl; any exit code."""
        return self.guest.run(sys.executable, "-m", "replblock.cli.main", *words, env=self.env, timeout_s=timeout_s)

    def do(self, *words: str, timeout_s: float = COMMAND_S) -> str:
        """replctl, which must succeed; its output."""
        done = self.try_(*words, timeout_s=timeout_s)
        assert done.code == 0, f"{self.name}: replctl {' '.join(words)}: exit {done.code}\n{done.err}{done.out}"
        return done.out

    def refused(self, *words: str, code: int) -> str:
        """replctl, which must fail with this exit code; what it said."""
        done = self.try_(*words)
        assert done.code == code, f"{self.name}: replctl {' '.join(words)}: {done}"
        return done.err

    def begin_python(self, program: str, *words: str, timeout_s: float = 600.0) -> Command:
        """A program of the tests that runs in the guest."""
        return self.guest.begin("/usr/bin/python3", "-u", "-c", program, *words, timeout_s=timeout_s)

    def sh(self, script: str, timeout_s: float = COMMAND_S) -> str:
        return self.guest.sh(script, timeout_s)

    def write_file(self, path: str, text: str) -> None:
        self.sh(f"printf %s {shlex.quote(text)} >{shlex.quote(path)}")

    def configure(self, text: str) -> None:
        self.write_file("/etc/drbd.conf", text)

    @property
    def proc_text(self) -> str:
        """As /proc/drbd has it."""
        return self.guest.run("cat", PROC).out

    @property
    def proc(self) -> str:
        """The resource's line of it, "" while nothing is up."""
        return next((line for line in self.proc_text.splitlines() if " cs:" in line), "")

    def wait_state(self, *wanted: str, patience_s: float = PATIENCE_S) -> None:
        """Until all of `wanted` (`cs:Connected`, `ds:UpToDate/UpToDate`) are true."""
        wait_until(lambda: set(wanted) <= set(self.proc.split()),
                   lambda: f"{self.name}: {wanted}; is: {self.proc}\n{self.log()[-3000:]}", patience_s)  # fmt: skip

    def log(self) -> str:
        return self.guest.run("cat", "/run/replblock/r0.log").out

    def kernel_log(self) -> str:
        return self.guest.run("dmesg").out

    def mount(self) -> None:
        self.sh(f"mkdir -p {MOUNTED} && mount -t ext3 {DEVICE} {MOUNTED}")

    def umount(self) -> None:
        self.sh(f"umount {MOUNTED}")


class Pair:
    """Two machines that know of each other; their disks are blank, nothing is up."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = tuple(machines)
        self.dados, self.backup = machines
        self.config = ""

    def other(self, machine: Machine) -> Machine:
        return self.backup if machine is self.dados else self.dados

    def configure(self, net: Mapping[str, object] | None = None, disk: Mapping[str, object] | None = None,
                  more: str = "") -> None:  # fmt: skip
        hosts = "".join(
            f"    on {machine.name} {{ device {DEVICE}; disk {DISK}; address {machine.guest.address}:7788;"
            " meta-disk internal; }\n" for machine in self.machines
        )  # fmt: skip
        self.config = (
            f"resource r0 {{\n    {section('net', {**NET, **(net or {})})}\n"
            f"    {section('disk', {**DISK_OPTIONS, **(disk or {})})}\n    {OURS_ONLY}\n"
            f"    {more}\n{hosts}}}\n"
        )
        for machine in self.machines:
            machine.configure(self.config)

    def set_up(self, first_sync: bool = True) -> None:
        """Metadata, both up and in sync, dados Primary. Without a first sync: the blank disks are known to be equal."""
        for machine in self.machines:
            machine.do("create-md", "r0")
            machine.do("up", "r0")
        for machine in self.machines:
            machine.wait_state("cs:Connected")
        if not first_sync:
            self.dados.do("new-current-uuid", "--clear-bitmap", "r0")
            self.settle()
        self.dados.do("primary", *(["--force"] if first_sync else []), "r0")
        self.settle()

    def settle(self, patience_s: float = PATIENCE_S) -> None:
        for machine in self.machines:
            machine.wait_state("cs:Connected", "ds:UpToDate/UpToDate", patience_s=patience_s)

    def come_back(self, machine: Machine) -> None:
        """Switch a guest on after its power cut; its configuration was in memory."""
        machine.guest.start()
        machine.guest.wait_ready()
        machine.configure(self.config)

    def assert_same_data(self) -> None:
        """The data areas of both disks, byte by byte, seen from outside."""
        self.settle()
        differing = self.differing_mib()
        assert not differing, f"the disks differ in the MiB {differing}"

    def differing_mib(self) -> list[int]:
        """Where the data areas differ now."""
        for machine in self.machines:
            machine.guest.run("sync")
        size = int(self.dados.sh("blockdev --getsize64 " + DISK))
        metadata = metadata_bytes(size)
        with self.dados.guest.disk.open("rb") as mine, self.backup.guest.disk.open("rb") as theirs:
            pieces = [min(MIB, size - metadata - at) for at in range(0, size - metadata, MIB)]
            return [at for at, length in enumerate(pieces) if mine.read(length) != theirs.read(length)]

    def sections(self) -> list[tuple[str, str]]:
        """For the report of a failed test."""
        found = []
        for machine in self.machines:
            if machine.guest.is_on:
                try:
                    found.append((f"{machine.name}: log", machine.log()[-8000:]))
                    found.append((f"{machine.name}: kernel log", machine.kernel_log()[-3000:]))
                except (OSError, AssertionError):
                    pass
            found.append((f"{machine.name}: console", machine.guest.last_words()[-1500:]))
        return found


def metadata_bytes(size_bytes: int) -> int:
    """Room that internal metadata takes at the end of a small device: superblock, activity log, bitmap, 4 KiB each."""
    bitmap = -(-size_bytes // (4096 * 8 * 4096)) * 4096
    return 4096 + 32768 + bitmap


@contextmanager
def two_guests(memory_mib: int = 256, disk_mib: int = 64, init: str = "") -> Iterator[list[Guest]]:
    """Both booted; everything of them is gone afterwards. Raises NoGuest, NetworkError.

    With `init="systemd"` on a kernel as distributions ship it: systemd wants control groups.
    """
    kernel = find_qemu() if init == "systemd" else find()
    directory = Path(tempfile.mkdtemp(prefix="rb-guests-"))
    try:
        network = Network(len(NAMES))
        try:
            guests = [Guest(kernel, network, name, number, NAMES, directory / name, memory_mib, disk_mib, init)
                      for name, number in NAMES.items()]  # fmt: skip
            try:
                for guest in guests:
                    guest.start()
                for guest in guests:
                    guest.wait_ready()
                yield guests
            finally:
                for guest in guests:
                    guest.kill()
        finally:
            network.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def two_machines(
    remember: Callable[[Pair], None] = lambda pair: None, memory_mib: int = 256, disk_mib: int = 64, init: str = ""
) -> Iterator[Pair]:
    """Two guests configured as a pair. Raises NoGuest, NetworkError."""
    with two_guests(memory_mib, disk_mib, init) as guests:
        pair = Pair([Machine(guest) for guest in guests])
        remember(pair)
        pair.configure()
        yield pair
