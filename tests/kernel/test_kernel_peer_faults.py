# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock with the kernel's DRBD 8.4 as its peer: power cuts, frozen machines, failed disks."""

from __future__ import annotations

import pytest

from tests.kernel.mixed import MixedPair, resynced_kib, scribble
from tests.kernel.pair import DEVICE, DISK, Machine

pytestmark = pytest.mark.long

#: The disk behind a mapping, which can be made to fail.
MAP = f"""
export DM_DISABLE_UDEV=1
[ -e /dev/mapper/control ] || modprobe dm-mod
real=$(readlink -f {DISK})
echo "0 $(blockdev --getsz $real) linear $real 0" | dmsetup create thedisk
ln -sfn /dev/mapper/thedisk {DISK}
"""
FAIL = """
export DM_DISABLE_UDEV=1
echo "0 $(blockdev --getsz /dev/mapper/thedisk) error" | dmsetup load thedisk
dmsetup suspend --noflush --nolockfs thedisk; dmsetup resume thedisk
"""
MEND = """
export DM_DISABLE_UDEV=1
echo "0 $(blockdev --getsz /dev/mapper/thedisk) linear {real} 0" | dmsetup load thedisk
dmsetup suspend --noflush --nolockfs thedisk; dmsetup resume thedisk
"""


@pytest.mark.parametrize("taken_over", [True, False], ids=["taken-over", "alone-again"])
def test_power_cut_of_the_primary(mixed: MixedPair, taken_over: bool) -> None:
    """The extents of the activity log, and what the other one wrote meanwhile, are sent; to whom is as it should be."""
    mixed.begin()
    first, second = mixed.dados, mixed.backup
    scribble(first, "all over", 200)
    first.do("down", "r0")              # the log begins anew
    first.do("up", "r0")
    mixed.settle()
    first.do("primary", "r0")
    first.sh(f"dd if=/dev/urandom of={DEVICE} bs=4k count=4 seek=100 oflag=direct status=none")
    first.guest.kill()
    second.wait_state("ro:Secondary/Unknown")
    if taken_over:
        second.do("primary", "r0")
        scribble(second, "meanwhile", 10)
    mixed.come_back(first)
    first.do("up", "r0")
    mixed.settle()
    assert 16 <= resynced_kib(mixed.ours)[-1] <= (8 << 10) + 40
    mixed.assert_agree()


def test_power_cut_of_the_secondary(mixed: MixedPair) -> None:
    mixed.begin()
    scribble(mixed.dados, "before")
    mixed.backup.guest.kill()
    mixed.dados.wait_state("ro:Primary/Unknown")
    scribble(mixed.dados, "alone", 20)
    mixed.come_back(mixed.backup)
    mixed.backup.do("up", "r0")
    mixed.settle()
    mixed.assert_agree()


def test_power_cut_of_both(mixed: MixedPair) -> None:
    mixed.begin()
    scribble(mixed.dados, "before", 30)
    for machine in mixed.machines:
        machine.guest.kill()
    for machine in mixed.machines:
        mixed.come_back(machine)
        machine.do("up", "r0")
    mixed.settle()
    mixed.assert_agree()


@pytest.mark.parametrize("during", ["idle", "writing"])
def test_frozen_peer(mixed: MixedPair, during: str) -> None:
    """A Secondary that does not answer is given up, by a ping or by ko-count; thawed it gets the rest."""
    net = {"ping-timeout": 20, "ping-int": 2, "timeout": 10, "ko-count": 3}
    mixed.begin(net)
    first, second = mixed.dados, mixed.backup
    second.guest.freeze()
    try:
        if during == "writing":
            scribble(first, "while it is frozen", 20)
        first.wait_state("ro:Primary/Unknown")
        scribble(first, "alone", 20)
    finally:
        second.guest.thaw()
    mixed.settle()
    mixed.assert_agree()


def test_frozen_primary(mixed: MixedPair) -> None:
    """The Secondary gives it up and may be promoted; thawed, the frozen one finds that it was replaced."""
    mixed.begin({"ping-timeout": 20, "ping-int": 2})
    first, second = mixed.dados, mixed.backup
    first.guest.freeze()
    try:
        second.wait_state("ro:Secondary/Unknown")
    finally:
        first.guest.thaw()
    mixed.settle()
    scribble(first, "on")
    mixed.assert_agree()


def failing_disk(mixed: MixedPair, machine: Machine) -> str:
    """In sync, dados Primary, the disk of `machine` can be made to fail. Its real name."""
    mixed.blank()
    real = machine.sh(f"readlink -f {DISK}").strip()
    if "mapper" not in real and "dm-" not in real:
        machine.sh(MAP)
    else:
        real = machine.sh("cat /run/real").strip()
    machine.sh(f"echo {real} >/run/real")
    mixed.configure({}, {"on-io-error": "detach"})
    mixed.set_up(first_sync=False)
    return real


@pytest.mark.parametrize("whose", ["primary", "secondary"])
def test_disk_fails(mixed: MixedPair, whose: str) -> None:
    """It is detached; a Primary works on with the peer's; attached again it gets what it lacks."""
    first = mixed.dados
    victim = first if whose == "primary" else mixed.backup
    real = failing_disk(mixed, victim)
    try:
        scribble(first, "before", 50)
        victim.sh(FAIL)
        scribble(first, "on a bad disk", 20)
        victim.wait_state("ds:Diskless/UpToDate")
        scribble(first, "diskless", 20)
        digest = first.sh(f"dd if={DEVICE} bs=1M iflag=direct status=none | sha256sum")
        victim.sh(MEND.format(real=real))
        victim.do("attach", "r0")
        mixed.settle()
        mixed.assert_agree()
        assert first.sh(f"dd if={DEVICE} bs=1M iflag=direct status=none | sha256sum") == digest
    finally:
        victim.sh(MEND.format(real=real))
        mixed.blank()
        victim.sh(f"DM_DISABLE_UDEV=1 dmsetup remove thedisk; ln -sfn {real} {DISK}")


@pytest.mark.parametrize("whose", ["primary", "secondary"])
def test_detach_and_attach(mixed: MixedPair, whose: str) -> None:
    """By order, in use: a Primary without a disk reads and writes its peer's."""
    mixed.begin()
    first = mixed.dados
    victim = first if whose == "primary" else mixed.backup
    scribble(first, "before", 50, span_mib=8)
    victim.do("detach", "r0")
    victim.wait_state("ds:Diskless/UpToDate")
    scribble(first, "diskless", 30, span_mib=8)
    victim.do("attach", "r0")
    mixed.settle()
    # a Primary's log counts as after a crash, in the kernel
    assert 0 < resynced_kib(mixed.ours)[-1] <= (8 << 10 if victim is first else 30 * 4)
    mixed.assert_agree()
