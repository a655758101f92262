# SPDX-License-Identifier: GPL-2.0-or-later
"""Two volumes in one resource, on one connection with the kernel's DRBD 8.4: replblock has an engine for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.pair import section
from tests.e2e.waiting import wait_until
from tests.kernel.mixed import KERNEL_NET, SCRIBBLER, MixedPair
from tests.kernel.pair import DISK_OPTIONS, NET, OURS_ONLY, Machine

pytestmark = pytest.mark.long

NUMBERS = (0, 1)
SIZE_MIB = 16


def device(number: int) -> str:
    return f"/dev/drbd{number}"


def loop(number: int) -> str:
    return f"/dev/loop{5 + number}"


def lines(machine: Machine) -> list[str]:
    """Both volumes, as /proc/drbd has them."""
    return [line for line in machine.proc_text.splitlines() if " cs:" in line]


def wait_both(machine: Machine, *wanted: str) -> None:
    wait_until(lambda: len(lines(machine)) == 2 and all(set(wanted) <= set(line.split()) for line in lines(machine)),
               lambda: f"{machine.name}: {wanted}; is: {machine.proc_text}")  # fmt: skip


def settle(mixed: MixedPair) -> None:
    for machine in mixed.machines:
        wait_both(machine, "cs:Connected", "ds:UpToDate/UpToDate")


def scribble(machine: Machine, number: int, seed: str, count: int = 60) -> None:
    machine.sh(f"python3 -c {shlex.quote(SCRIBBLER)} {device(number)} {seed}{number} {count} 8")


def assert_same(mixed: MixedPair) -> None:
    settle(mixed)
    for number in NUMBERS:
        sums = [machine.sh(f"sync; head -c {8 << 20} {loop(number)} | sha256sum") for machine in mixed.machines]
        assert sums[0] == sums[1], f"volume {number}"


@contextmanager
def two_volumes(mixed: MixedPair, **net: object) -> Iterator[None]:
    """Connected, in sync, dados Primary of both."""
    mixed.blank()
    hosts = "".join(
        f"    on {machine.name} {{ address {machine.guest.address}:7788;\n" + "".join(
            f"        volume {number} {{ device {device(number)}; disk {loop(number)}; meta-disk internal; }}\n"
            for number in NUMBERS
        ) + "    }\n" for machine in mixed.machines
    )  # fmt: skip
    mixed.config = (
        f"resource r0 {{\n    {section('net', {**NET, **KERNEL_NET, **net})}\n    {section('disk', DISK_OPTIONS)}\n"
        f"    {OURS_ONLY}\n{hosts}}}\n"
    )
    try:
        for machine in mixed.machines:
            for number in NUMBERS:
                node, file = loop(number), f"/root/v{number}"
                machine.sh(f"modprobe loop 2>/dev/null || true; test -e {node} || mknod {node} b 7 {5 + number};"
                           f" rm -f {file}; truncate -s {SIZE_MIB}M {file}; losetup {node} {file}")  # fmt: skip
            machine.configure(mixed.config)
            machine.do("create-md", "r0")
            machine.do("up", "r0")
        for machine in mixed.machines:
            wait_both(machine, "cs:Connected")
        mixed.dados.do("new-current-uuid", "--clear-bitmap", *(["r0"] if mixed.dados is mixed.ours else ["r0/0"]))
        if mixed.dados is mixed.kernel:
            mixed.dados.do("new-current-uuid", "--clear-bitmap", "r0/1")
        settle(mixed)
        mixed.dados.do("primary", "r0")
        yield
    finally:
        for machine in mixed.machines:
            machine.try_("down", "r0")
            machine.sh(" && ".join(f"losetup -d {loop(number)}" for number in NUMBERS) + " || true")


@pytest.mark.parametrize("protocol", "ABC")
def test_both_volumes_are_written_at_once(mixed: MixedPair, protocol: str) -> None:
    """Epochs of one connection: their acks count the writes of both, or either side would drop it."""
    with two_volumes(mixed, protocol=protocol):
        command = " & ".join(
            f"fio --name=v{number} --filename={device(number)} --rw=randwrite --bs=4k --iodepth=8 --ioengine=libaio"
            f" --direct=1 --fdatasync=8 --size=6m --verify=crc32c --do_verify=1 --output=/root/fio{number}"
            for number in NUMBERS
        )  # fmt: skip
        mixed.dados.sh(f"{command} & wait", timeout_s=300)
        assert_same(mixed)
        lost = re.findall(r"BrokenPipe|NetworkFailure|ProtocolError|BarrierAck", mixed.kernel.log())
        assert not lost


def test_short_outage(mixed: MixedPair) -> None:
    """What was written alone is copied, on both volumes, and no more."""
    with two_volumes(mixed):
        for number in NUMBERS:
            scribble(mixed.dados, number, "before")
        mixed.backup.do("disconnect", "r0")
        wait_both(mixed.dados, "ro:Primary/Unknown")
        for number in NUMBERS:
            scribble(mixed.dados, number, "alone", 20)
        mixed.backup.do("connect", "r0")
        assert_same(mixed)


def test_roles_change_sides(mixed: MixedPair) -> None:
    with two_volumes(mixed):
        mixed.dados.do("secondary", "r0")
        mixed.backup.do("primary", "r0")
        for number in NUMBERS:
            scribble(mixed.backup, number, "back")
        assert_same(mixed)
