# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines whose process 1 is systemd, with udev and logind: the units do what docs/installation.md says of them."""

from __future__ import annotations

import pytest

from replblock.meta.superblock import Flag
from tests.e2e.pair import ROOT
from tests.e2e.waiting import wait_until
from tests.kernel.guest import Result
from tests.kernel.pair import DEVICE, DISK, Machine, Pair
from tests.kernel.test_replication import STOP, WRITER, check_files, io_errors

SRV = "/srv/replicated"
MOUNT = "srv-replicated.mount"
FSTAB = f"{DEVICE} {SRV} ext3 noauto,x-systemd.requires=replblock-promote@r0.service 0 0\n"
ENGINE, PROMOTED, GUARD = "replblock@r0", "replblock-promote@r0", "replblock-shutdown-guard"
#: The watchdog of a real machine waits a minute.
IMPATIENT = "[Service]\nWatchdogSec=8\n"

pytestmark = [pytest.mark.long, pytest.mark.machines(init="systemd", memory_mib=384)]


def install(machine: Machine) -> None:
    """As from a checkout, by the documented command."""
    machine.sh(f"cd / && {ROOT}/.venv/bin/replctl install-scripts && mkdir -p {SRV}")
    machine.write_file("/etc/fstab", FSTAB)
    machine.sh("systemctl daemon-reload && udevadm control --reload")


def systemctl(machine: Machine, *words: str) -> Result:
    return machine.guest.run("systemctl", *words)


def is_active(machine: Machine, *units: str) -> list[str]:
    return machine.guest.run("systemctl", "is-active", *units).out.split()


def begin(pair: Pair) -> Machine:
    """Both up by their units, blank disks known to be equal, a file system on the device, both Secondary."""
    for machine in pair.machines:
        install(machine)
        machine.do("create-md", "r0")
        machine.sh(f"systemctl enable --now {ENGINE}")
    first = pair.dados
    first.wait_state("cs:Connected")
    first.do("new-current-uuid", "--clear-bitmap", "r0")
    pair.settle()
    first.do("primary", "r0")
    first.sh(f"mkfs.ext3 -q {DEVICE}")
    first.do("secondary", "r0")
    return first


def test_a_mount_from_fstab_and_a_planned_move(pair: Pair) -> None:
    """Starting the mount promotes the resource; stopping the engine's unit lets go of all in order."""
    first, second = begin(pair), pair.backup
    first.sh(f"systemctl start {MOUNT}")
    assert is_active(first, ENGINE, PROMOTED, MOUNT) == ["active"] * 3
    assert first.sh(f"findmnt -n -o SOURCE {SRV}").strip() == DEVICE
    first.sh(f"echo first >{SRV}/file")

    first.sh(f"systemctl stop {ENGINE}")
    assert is_active(first, ENGINE, PROMOTED, MOUNT) == ["inactive"] * 3
    second.wait_state("cs:WFConnection", "ds:UpToDate/DUnknown")
    first.sh(f"systemctl start {MOUNT}")
    pair.settle()
    assert first.sh(f"cat {SRV}/file") == "first\n"

    first.sh(f"systemctl stop {MOUNT} {PROMOTED}")
    second.sh(f"systemctl start {MOUNT}")
    assert second.sh(f"cat {SRV}/file") == "first\n"
    second.sh(f"systemctl stop {MOUNT} {PROMOTED}")
    pair.assert_same_data()
    for machine in pair.machines:
        assert not io_errors(machine.kernel_log())


def test_an_engine_that_dies_or_stands_still(pair: Pair) -> None:
    """Killed, stopped until the watchdog ends it, or renewed: the next one serves the mounted, busy device."""
    first = begin(pair)
    first.sh(f"mkdir -p /run/systemd/system/{ENGINE}.service.d")
    first.write_file(f"/run/systemd/system/{ENGINE}.service.d/impatient.conf", IMPATIENT)
    first.sh(f"systemctl daemon-reload && systemctl restart {ENGINE} && systemctl start {MOUNT}")
    pair.settle()
    writer = first.begin_python(WRITER, SRV, "100000", "100000", STOP)
    for how in ("kill -KILL $PID", "kill -STOP $PID", f"systemctl restart {ENGINE}", "replctl restart r0"):
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 5, "files are written")    # noqa: B023
        before = first.sh(f"systemctl show -P MainPID {ENGINE}")
        first.sh(f"PID={before}\n{how}")
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 5, f"the writer goes on after {how}")  # noqa: B023
        assert first.sh(f"systemctl show -P MainPID {ENGINE}") not in (before, "0\n")
    first.sh(f"touch {STOP}")
    assert writer.wait().code == 0, writer.err
    assert is_active(first, PROMOTED, MOUNT) == ["active"] * 2
    first.sh(check_files(writer.lines))
    assert not io_errors(first.kernel_log())
    pair.settle()
    first.sh(f"systemctl stop {MOUNT} {PROMOTED}")
    pair.assert_same_data()


def test_shutdown(pair: Pair) -> None:
    """With the peer gone the guard is asked first; and a machine that is shut down leaves nothing to be resynced."""
    first, second = begin(pair), pair.backup
    first.sh(f"systemctl start {MOUNT} && systemctl enable --now {GUARD}")
    first.sh(f"echo flushed >{SRV}/file && sync {SRV}/file")
    second.guest.kill()
    first.wait_state("cs:WFConnection")
    wait_until(lambda: "replblock" in first.guest.run("systemd-inhibit", "--list", "--no-pager").out,
               "the guard holds its inhibitor", 60)  # fmt: skip
    refused = systemctl(first, "poweroff", "--check-inhibitors=yes")
    assert refused.code != 0 and "the only good copy is here" in refused.err + refused.out, refused
    assert is_active(first, MOUNT) == ["active"]

    pair.come_back(second)
    install(second)
    second.sh(f"systemctl enable --now {ENGINE}")
    pair.settle()
    wait_until(lambda: "replblock" not in first.guest.run("systemd-inhibit", "--list", "--no-pager").out,
               "the guard lets go", 60)  # fmt: skip
    first.guest.begin("systemctl", "poweroff", "--check-inhibitors=yes")
    wait_until(lambda: "guest: ended" in first.guest.last_words(), first.guest.last_words, 120)
    second.wait_state("cs:WFConnection", "ds:UpToDate/DUnknown")

    first.guest.kill()
    pair.come_back(first)
    said = first.sh(f"drbdmeta 0 v08 {DISK} internal dump-md")
    flags = int(next(line for line in said.splitlines() if " flags " in line).split()[1].rstrip(";"), 16)
    assert not flags & Flag.PRIMARY_IND, said
    install(first)
    first.sh(f"systemctl enable --now {ENGINE}")
    pair.settle()
    met = [line for line in second.log().splitlines() if "new-connection: connected" in line]
    assert "connected without resync" in met[-1], met
    second.sh(f"systemctl start {MOUNT}")
    assert second.sh(f"cat {SRV}/file") == "flushed\n"
