# SPDX-License-Identifier: GPL-2.0-or-later
"""Growing in use with the kernel's DRBD 8.4 as the peer: ordered on either node, with either as Primary."""

from __future__ import annotations

import json

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.mixed import KernelMachine, MixedPair, resynced_kib, scribble
from tests.kernel.pair import DEVICE, DISK, MOUNTED, OURS_ONLY, Machine, metadata_bytes

pytestmark = pytest.mark.long

MIB = 1 << 20
LOOP, BACKING = "/dev/loop7", "/root/backing"
DIRECT = "replblock { attach nbd; door direct; }"
BOTH = pytest.mark.parametrize("by", ["ours", "kernel"])


def size_kib(machine: Machine) -> int:
    """Of the device, as its own side sees it."""
    if isinstance(machine, KernelMachine):
        return int(machine.sh("cat /sys/block/drbd0/size")) // 2
    return int(json.loads(machine.do("status", "--json", "r0"))[0]["devices"][0]["size"])


def grown(mixed: MixedPair, kib: int) -> None:
    """Both have it, and what was new is copied."""
    for machine in mixed.machines:
        wait_until(lambda machine=machine: size_kib(machine) == kib,
                   lambda machine=machine: f"{machine.name}: not {kib} KiB\n{machine.log()[-3000:]}")
    mixed.settle()


@BOTH
@pytest.mark.parametrize("clean", [False, True], ids=["copied", "assume-clean"])
def test_a_larger_size_is_allowed(mixed: MixedPair, by: str, clean: bool) -> None:
    """The disks have room: only `size` was in the way."""
    mixed.begin(disk={"size": "16M"})
    scribble(mixed.dados, "before")
    assert [size_kib(machine) for machine in mixed.machines] == [16 << 10] * 2
    begun = len(resynced_kib(mixed.ours))
    mixed.configure(disk={"size": "24M"})
    getattr(mixed, by).do(*(["--", "--assume-clean"] if clean else []), "resize", "r0")
    grown(mixed, 24 << 10)
    assert resynced_kib(mixed.ours)[begun:] == ([] if clean else [8 << 10])
    scribble(mixed.dados, "after")
    mixed.assert_agree()
    for machine in mixed.machines:
        machine.do("down", "r0")
        machine.do("up", "r0")
    mixed.settle()
    assert [size_kib(machine) for machine in mixed.machines] == [24 << 10] * 2


@BOTH
def test_disks_that_grew(mixed: MixedPair, by: str) -> None:
    """The metadata of both moves to the new end; ext3 on the device grows while it is mounted."""
    mixed.blank()
    mixed.configure()
    mixed.config = mixed.config.replace(f"disk {DISK};", f"disk {LOOP};")
    for machine in mixed.machines:
        machine.sh(f"modprobe loop 2>/dev/null || true; test -e {LOOP} || mknod {LOOP} b 7 7;"
                   f" truncate -s 16M {BACKING}; losetup {LOOP} {BACKING}")  # fmt: skip
        machine.configure(mixed.config)
    mixed.ours.configure(mixed.config.replace(OURS_ONLY, DIRECT))
    try:
        mixed.set_up(first_sync=False)
        mixed.dados.sh(f"mkfs.ext3 -q {DEVICE}")
        mixed.dados.mount()
        for machine in mixed.machines:
            # what is new is not the same on both
            machine.sh(f"truncate -s 24M {BACKING}; {{ yes {machine.name} || true; }} | dd of={BACKING} bs=1M seek=16"
                       f" count=8 iflag=fullblock conv=notrunc status=none; losetup -c {LOOP}")  # fmt: skip
        getattr(mixed, by).do("resize", "r0")
        size = 24 * MIB - metadata_bytes(24 * MIB)
        grown(mixed, size >> 10)
        assert int(mixed.dados.sh(f"blockdev --getsize64 {DEVICE}")) == size
        mixed.dados.sh(f"resize2fs {DEVICE}; dd if=/dev/urandom of={MOUNTED}/large bs=1M count=18 status=none; sync")
        mixed.dados.umount()
        mixed.settle()
        for machine in mixed.machines:
            machine.do("secondary", "r0")
        mixed.settle()
        sums = [machine.sh(f"sync; head -c {size} {LOOP} | sha256sum") for machine in mixed.machines]
        assert sums[0] == sums[1]
        for machine in mixed.machines:
            machine.do("down", "r0")
            said = machine.guest.run("drbdmeta", "--force", "0", "v08", LOOP, "internal", "dump-md")
            assert f"la-size-sect {size // 512};" in said.out, said
            machine.do("up", "r0")
        mixed.settle()
        mixed.backup.do("primary", "r0")
        mixed.backup.sh(f"e2fsck -fn {DEVICE}")
    finally:
        for machine in mixed.machines:
            machine.try_("down", "r0")
            machine.sh(f"losetup -d {LOOP}; rm -f {BACKING}")


@BOTH
def test_refusals_are_the_kernels(mixed: MixedPair, by: str) -> None:
    """With its numbers: no Primary; during a resync."""
    mixed.begin()
    machine = getattr(mixed, by)
    mixed.dados.do("secondary", "r0")
    assert "(131)" in machine.refused("resize", "r0", code=10)
    mixed.dados.do("primary", "r0")
    mixed.dados.do("pause-sync", "r0")
    mixed.dados.do("invalidate-remote", "r0")
    assert "(130)" in machine.refused("resize", "r0", code=10)
    mixed.dados.do("resume-sync", "r0")
    mixed.settle()


def test_a_kernel_that_shrinks_is_left(mixed: MixedPair) -> None:
    """replblock does not follow, and says so."""
    mixed.begin()
    before = size_kib(mixed.ours)
    mixed.kernel.do("--", "--size=16M", "resize", "r0")
    mixed.ours.wait_state("cs:StandAlone")
    assert size_kib(mixed.ours) == before
    assert "peer-shrinks" in mixed.ours.log()
    mixed.begin_again()
