# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock with the kernel's DRBD 8.4 as its peer: protocols, options, orders. Each once with either as Primary."""

from __future__ import annotations

import re

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.mixed import MixedPair, resynced_kib, scribble
from tests.kernel.pair import DEVICE, DISK
from tests.kernel.test_replication import STOP, WRITER, check_files

DISK_KIB = 32 << 10


@pytest.mark.parametrize("protocol", [pytest.param("A", marks=pytest.mark.long),
                                      pytest.param("B", marks=pytest.mark.long), "C"])  # fmt: skip
def test_first_sync_and_ext3(mixed: MixedPair, protocol: str) -> None:
    """Everything is sent once; files on ext3; both nodes mount it in turn, three times."""
    mixed.begin({"protocol": protocol}, first_sync=True)
    assert DISK_KIB - 100 < resynced_kib(mixed.ours)[-1] < DISK_KIB
    mixed.assert_agree()
    first, second = mixed.dados, mixed.backup
    first.sh(f"mkfs.ext3 -q {DEVICE}")
    lines: list[str] = []
    for machine in (first, second, first, second):
        machine.do("primary", "r0")
        machine.sh(f"e2fsck -fn {DEVICE}")
        machine.mount()
        if lines:
            machine.sh(check_files(lines))
        machine.sh(f"rm -rf /mnt/data/* {STOP}")
        lines = machine.begin_python(WRITER, "/mnt/data", "10", "200000", STOP).wait().out.splitlines()
        assert len(lines) == 10
        machine.umount()
        machine.do("secondary", "r0")
        mixed.assert_agree()
    for machine in mixed.machines:
        machine.do("down", "r0")


@pytest.mark.long
@pytest.mark.parametrize("how", ["disconnected", "disconnected-by-the-peer", "unplugged"])
@pytest.mark.parametrize("protocol", "AC")
def test_short_outage(mixed: MixedPair, how: str, protocol: str) -> None:
    """What the Primary wrote meanwhile, and no more, is sent to the Secondary when it is back."""
    mixed.begin({"protocol": protocol})
    scribble(mixed.dados, "before")
    leaving = mixed.dados if how == "disconnected" else mixed.backup
    if how == "unplugged":
        mixed.backup.guest.cut()
    else:
        leaving.do("disconnect", "r0")
    mixed.dados.wait_state("ro:Primary/Unknown")
    scribble(mixed.dados, "alone", 50)
    if how == "unplugged":
        mixed.backup.guest.heal()
    else:
        leaving.do("connect", "r0")
    mixed.settle()
    assert 0 < resynced_kib(mixed.ours)[-1] <= 150 * 4
    mixed.assert_agree()


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["sha1", "md5", "crc32c"])
def test_data_integrity(mixed: MixedPair, algorithm: str) -> None:
    mixed.begin({"data-integrity-alg": algorithm}, first_sync=True)
    scribble(mixed.dados, algorithm)
    mixed.swap(mixed.backup)
    scribble(mixed.backup, "back")
    mixed.assert_agree()


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["sha1", "md5"])
def test_shared_secret(mixed: MixedPair, algorithm: str) -> None:
    """With the same secret they connect; with another one both say so and do not."""
    mixed.begin({"cram-hmac-alg": algorithm, "shared-secret": '"of both"'})
    scribble(mixed.dados, algorithm)
    mixed.assert_agree()
    mixed.backup.do("disconnect", "r0")
    text = mixed.backup.sh("cat /etc/drbd.conf").replace("of both", "of one")
    mixed.backup.write_file("/etc/drbd.conf", text)
    mixed.backup.do("adjust", "r0")
    wait_until(lambda: "uthentication of peer failed" in mixed.kernel.log() + mixed.ours.log(), mixed.ours.log)
    wait_until(lambda: all("cs:Connected" not in machine.proc for machine in mixed.machines), "nobody is connected")


@pytest.mark.long
def test_invalidate(mixed: MixedPair) -> None:
    """From the Secondary its own copy, from the Primary the other's: all of it is sent again."""
    mixed.begin()
    scribble(mixed.dados, "data")
    mixed.backup.do("invalidate", "r0")
    wait_until(lambda: len(resynced_kib(mixed.ours)) == 1, mixed.ours.log)
    mixed.assert_agree()
    mixed.dados.do("invalidate-remote", "r0")
    wait_until(lambda: len(resynced_kib(mixed.ours)) == 2, mixed.ours.log)
    mixed.assert_agree()
    assert all(DISK_KIB - 100 < kib < DISK_KIB for kib in resynced_kib(mixed.ours))


@pytest.mark.long
@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_down_and_up(mixed: MixedPair, who: str) -> None:
    """A clean stop and start: what differs is sent, nothing if nothing differs; the other one may go on meanwhile."""
    mixed.begin()
    scribble(mixed.dados, "data")
    if who == "secondary":
        mixed.backup.do("down", "r0")
        scribble(mixed.dados, "alone", 20)
        mixed.backup.do("up", "r0")
    else:
        mixed.dados.do("down", "r0")
        mixed.backup.do("primary", "r0")
        scribble(mixed.backup, "alone", 20)
        mixed.dados.do("up", "r0")
    mixed.settle()
    assert resynced_kib(mixed.ours)[-1] <= 20 * 4
    mixed.assert_agree()
    for machine in mixed.machines:
        machine.do("down", "r0")
    for machine in mixed.machines:
        machine.do("up", "r0")
    mixed.assert_agree()


@pytest.mark.long
def test_trim_and_zeroes(mixed: MixedPair) -> None:
    """Discarded and zeroed areas are the same on both disks."""
    mixed.begin()
    scribble(mixed.dados, "data", 500)
    for what in ("", "--zeroout"):
        for at, length in ((1 << 20, 3 << 20), (5 << 20 | 4096, 8192), (9 << 20, 12 << 20)):
            mixed.dados.sh(f"blkdiscard {what} --offset {at} --length {length} {DEVICE}")
            if what:
                mixed.dados.sh(f"cmp -n {length} -i {at}:0 {DEVICE} /dev/zero")
    mixed.assert_agree()


@pytest.mark.long
@pytest.mark.parametrize("pieces", [0, 4096, 65536])
def test_zeroes_in_a_resync(mixed: MixedPair, pieces: int) -> None:
    """They are only told, where the target asks for that; what it had there is gone all the same."""
    mixed.begin(disk={"rs-discard-granularity": pieces})
    scribble(mixed.dados, "data", 500, 8)
    for target in (mixed.backup, mixed.dados):
        if target is mixed.dados:
            mixed.swap(mixed.backup)
        target.do("down", "r0")
        target.sh(f"{{ yes {target.name} || true; }} | dd of={DISK} bs=1M seek=12 count=3 iflag=fullblock"
                  " conv=notrunc,fsync status=none")  # fmt: skip
        target.do("up", "r0")
        mixed.settle()
        before = len(resynced_kib(mixed.ours))
        target.do("invalidate", "r0")
        wait_until(lambda before=before: len(resynced_kib(mixed.ours)) > before, mixed.ours.log)
        mixed.assert_agree()
        told = [int(kib) for kib in re.findall(r"(\d+)K were zeroes: told, not sent", mixed.ours.log())]
        if target is mixed.ours:
            assert told[-1] > 16 << 10, told


@pytest.mark.long
@pytest.mark.parametrize("flushing", ["yes", "no"])
@pytest.mark.parametrize("protocol", "ABC")
def test_epochs(mixed: MixedPair, protocol: str, flushing: str) -> None:
    """Many writers that flush: barriers of either node are answered by the other."""
    mixed.begin({"protocol": protocol}, {"disk-flushes": flushing, "md-flushes": flushing})
    mixed.dados.sh(f"fio --name=w --filename={DEVICE} --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1"
                   " --fdatasync=8 --size=16m --verify=crc32c --do_verify=1 --output=/dev/null")  # fmt: skip
    mixed.assert_agree()
