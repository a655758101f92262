# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that move between the kernel's DRBD 8.4 and replblock: a running pair there and back; after a crash."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.boot import NoGuest
from tests.kernel.conftest import PAIRS
from tests.kernel.guest import COMMAND_S, Result
from tests.kernel.mixed import KERNEL_NET, KernelMachine, resynced_kib
from tests.kernel.network import NetworkError
from tests.kernel.pair import DEVICE, DISK, MOUNTED, PROC, Machine, Pair, two_guests
from tests.kernel.test_replication import STOP, WRITER, check_files, io_errors

pytestmark = pytest.mark.long

SLOW_WRITER = WRITER.replace("import hashlib", "import time, hashlib").replace("print(", "time.sleep(0.02); print(")


class Movable(KernelMachine):
    """A machine with both on it. The kernel's DRBD serves the disk first."""

    in_kernel = True

    def configure(self, text: str) -> None:
        self.furnish()
        self.sh("rm -f /etc/drbd.conf")
        (super() if self.in_kernel else super(KernelMachine, self)).configure(text)

    def try_(self, *words: str, timeout_s: float = COMMAND_S) -> Result:
        return (super() if self.in_kernel else super(KernelMachine, self)).try_(*words, timeout_s=timeout_s)

    @property
    def proc_text(self) -> str:
        return self.guest.run("cat", "/proc/drbd" if self.in_kernel else PROC).out

    def log(self) -> str:
        return self.kernel_log() if self.in_kernel else Machine.log(self)

    def drbds_tools_accept(self) -> None:
        """The metadata, while nothing uses it."""
        said = self.guest.run("drbdmeta", "--force", "0", "v08", DISK, "internal", "dump-md")
        assert said.code == 0 and 'version "v08"' in said.out, said

    def move(self, pair: Pair) -> None:
        """Stop this node, and start it in the other world on the same disk."""
        self.do("down", "r0")
        self.drbds_tools_accept()
        self.in_kernel = not self.in_kernel
        self.configure(pair.config)
        self.do("up", "r0")


@pytest.fixture
def movable(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two nodes of the kernel's, in sync, dados Primary with ext3 mounted."""
    made = two_guests(disk_mib=128)
    try:
        guests = made.__enter__()
    except (NoGuest, NetworkError) as reason:
        pytest.skip(str(reason))
    try:
        pair = Pair([Movable(guest) for guest in guests])
        request.node.stash.setdefault(PAIRS, []).append(pair)
        try:
            pair.configure(KERNEL_NET)
        except NoGuest as reason:
            pytest.skip(str(reason))
        pair.set_up(first_sync=False)
        pair.dados.sh(f"mkfs.ext3 -q {DEVICE}")
        pair.dados.mount()
        yield pair
    finally:
        made.__exit__(None, None, None)


def little(machine: Machine) -> None:
    """The last resync, if there was one, was no full one."""
    assert all(kib < 100 << 10 for kib in resynced_kib(machine)), machine.log()[-3000:]


def test_pair_there_and_back(movable: Pair) -> None:
    """Secondary first, a role swap, then the other one: under a writer, without a full sync; then back the same way."""
    first, second = movable.machines
    assert isinstance(first, Movable) and isinstance(second, Movable)
    promised: list[str] = []
    for into_kernel in (False, True):
        first.sh(f"rm -f {STOP}; mkdir -p {MOUNTED}/{into_kernel}")
        writer = first.begin_python(SLOW_WRITER, f"{MOUNTED}/{into_kernel}", "100000", "20000", STOP)
        writer.wait_for(lambda lines: len(lines) > 5, "files are written")
        second.move(movable)
        movable.settle()
        assert second.in_kernel == into_kernel
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 5, "files are written")    # noqa: B023
        first.sh(f"touch {STOP}")
        assert writer.wait().code == 0
        promised += writer.lines
        first.umount()                      # the one interruption
        first.do("secondary", "r0")
        second.do("primary", "r0")
        second.mount()
        second.sh(check_files(promised))
        first.move(movable)
        movable.settle()
        for machine in movable.machines:
            little(machine)
            assert not [line for line in io_errors(machine.kernel_log()) if "nbd" in line or "I/O" in line]
        first, second = second, first
    first.umount()
    first.sh(f"e2fsck -fn {DEVICE}")
    movable.assert_same_data()
    for machine in movable.machines:
        machine.do("down", "r0")
        assert isinstance(machine, Movable)
        machine.drbds_tools_accept()


@pytest.mark.parametrize("into_kernel", [False, True], ids=["kernel-to-replblock", "replblock-to-kernel"])
def test_crashed_disk(movable: Pair, into_kernel: bool) -> None:
    """A Primary loses its power; the other kind of node replays its disk's activity log, and little is sent."""
    first, second = movable.machines
    assert isinstance(first, Movable) and isinstance(second, Movable)
    first.umount()
    if into_kernel:
        first.do("secondary", "r0")
        first.move(movable)
        movable.settle()
    else:
        first.do("secondary", "r0")         # mkfs touched all extents: the log begins anew
        movable.settle()
    first.do("down", "r0")
    first.do("up", "r0")
    movable.settle()
    first.do("primary", "r0")
    first.mount()
    writer = first.begin_python(WRITER, MOUNTED, "100000", "50000", STOP)
    writer.wait_for(lambda lines: len(lines) > 20, "files are written")
    first.guest.kill()
    promised = writer.lines
    second.wait_state("ro:Secondary/Unknown")
    first.in_kernel = into_kernel
    movable.come_back(first)
    first.do("up", "r0")
    movable.settle()
    assert resynced_kib(second)[-1] > 0
    little(second)
    little(first)
    movable.assert_same_data()
    second.do("primary", "r0")
    second.mount()
    second.sh(check_files(promised))
    second.umount()
    second.sh(f"e2fsck -fn {DEVICE}")
