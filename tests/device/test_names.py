# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes and claims, on a machine made of plain files: which kernel device a name gets, what is never replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from replblock.device import names
from replblock.device.errors import DeviceError
from replblock.device.types import Host, Reservation

NBD_MAJOR = 43


class Machine:
    """/sys and /dev of a kernel with some nbd devices, 16 minors apart as with partitions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = Host(str(root / "dev"), str(root / "proc"), str(root / "sys"), str(root / "claims"))
        (root / "dev").mkdir()
        (root / "proc").mkdir()

    def add(self, kernel_name: str, major: int, minor: int, size_sectors: int = 0) -> None:
        block = self.root / "sys" / "block" / kernel_name
        block.mkdir(parents=True)
        (block / "dev").write_text(f"{major}:{minor}\n")
        number = self.root / "sys" / "dev" / "block" / f"{major}:{minor}"
        number.mkdir(parents=True)
        (number / "uevent").write_text(f"MAJOR={major}\nMINOR={minor}\nDEVNAME={kernel_name}\n")
        shown = self.root / "sys" / "class" / "block" / kernel_name
        shown.mkdir(parents=True)
        (shown / "size").write_text(f"{size_sectors}\n")

    def connect(self, index: int, pid: int, comm: str) -> None:
        (self.root / "sys" / "block" / f"nbd{index}" / "pid").write_text(f"{pid}\n")
        (self.root / "proc" / str(pid)).mkdir()
        (self.root / "proc" / str(pid) / "comm").write_text(f"{comm}\n")

    def name(self, name: str) -> str:
        return str(self.root / "dev" / name)


pytestmark = pytest.mark.root       # mknod


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    for index in range(4):
        made.add(f"nbd{index}", NBD_MAJOR, 16 * index)
    yield made


def test_the_node_has_the_number_of_a_free_device(machine: Machine) -> None:
    """From the top, so that whoever takes the first free one does not meet us."""
    reservation = names.reserve("nbd", machine.name("drbd0"), machine.host)
    found = os.lstat(machine.name("drbd0"))
    assert stat.S_ISBLK(found.st_mode) and found.st_rdev == os.makedev(NBD_MAJOR, 48)
    assert (reservation.kernel_device, reservation.device_index) == (machine.name("nbd3"), 3)
    assert Reservation.from_json(reservation.to_json()) == reservation


def test_asked_again_it_gives_the_same(machine: Machine) -> None:
    """`up` after a crash finds what it had, even while a later name took another."""
    first = names.reserve("nbd", machine.name("drbd0"), machine.host)
    other = names.reserve("nbd", machine.name("drbd1"), machine.host)
    assert first.device_index != other.device_index
    assert names.reserve("nbd", machine.name("drbd0"), machine.host) == first
    os.unlink(machine.name("drbd0"))
    assert names.reserve("nbd", machine.name("drbd0"), machine.host) == first
    assert os.path.lexists(machine.name("drbd0"))


def test_released_it_is_gone_and_free(machine: Machine) -> None:
    reservation = names.reserve("nbd", machine.name("drbd0"), machine.host)
    names.release(reservation, machine.host)
    assert not os.path.lexists(machine.name("drbd0"))
    assert names.reserve("nbd", machine.name("drbd1"), machine.host).device_index == reservation.device_index
    names.release(reservation, machine.host)            # once more: the new owner keeps it
    assert os.path.lexists(machine.name("drbd1"))
    assert names.reserve("nbd", machine.name("drbd2"), machine.host).device_index != reservation.device_index


def test_a_connected_device_is_not_taken(machine: Machine) -> None:
    machine.connect(3, 4711, "qemu-nbd")
    assert names.reserve("nbd", machine.name("drbd0"), machine.host).device_index == 2


def test_a_claim_whose_node_is_gone_is_stale(machine: Machine) -> None:
    """/run may outlive /dev in a container; a claim without its node holds nothing."""
    names.reserve("nbd", machine.name("drbd0"), machine.host)
    os.unlink(machine.name("drbd0"))
    assert names.reserve("nbd", machine.name("drbd1"), machine.host).device_index == 3


def test_the_kernels_own_name_is_that_device(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_canonical_index", lambda backend, name: 1)
    os.mknod(machine.name("nbd1"), 0o660 | stat.S_IFBLK, os.makedev(NBD_MAJOR, 16))
    reservation = names.reserve("nbd", machine.name("nbd1"), machine.host)
    assert not reservation.made_node and reservation.device_index == 1
    names.release(reservation, machine.host)
    assert os.path.lexists(machine.name("nbd1"))        # the kernel's node stays
    machine.connect(1, 4711, "qemu-nbd")
    with pytest.raises(DeviceError, match=r"is taken by pid 4711 \(qemu-nbd\); run: nbd-client -d"):
        names.reserve("nbd", machine.name("nbd1"), machine.host)


def test_none_left(machine: Machine) -> None:
    for index in range(4):
        machine.connect(index, 100 + index, "x")
    with pytest.raises(DeviceError, match="no nbd device is free; run: modprobe"):
        names.reserve("nbd", machine.name("drbd0"), machine.host)
    assert not os.path.lexists(machine.name("drbd0"))


def stand_in_the_way(machine: Machine, what: str) -> None:
    path = machine.name("drbd0")
    if what == "file":
        Path(path).write_text("data")
    elif what == "directory":
        os.mkdir(path)
    elif what == "symlink":
        os.symlink(machine.name("nbd0"), path)
    else:
        machine.add(what, 147, 0, size_sectors=2048)
        os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(147, 0))


@pytest.mark.parametrize(("what", "complaint"), [
    ("file", "exists and is no block device"), ("directory", "exists and is no block device"),
    ("symlink", "exists and is no block device"), ("drbd0", "is the kernel's own drbd0"),
    ("sdb", "belongs to the device sdb, which is in use"),
])
def test_what_is_not_ours_is_never_replaced(machine: Machine, what: str, complaint: str) -> None:
    stand_in_the_way(machine, what)
    before = os.lstat(machine.name("drbd0"))
    with pytest.raises(DeviceError, match=f"drbd0: {complaint}"):
        names.reserve("nbd", machine.name("drbd0"), machine.host)
    assert os.lstat(machine.name("drbd0")) == before
    assert os.listdir(machine.host.claims) == ["lock"]              # and nothing stays claimed


@pytest.mark.parametrize("number", [(147, 7), (NBD_MAJOR, 0)], ids=["dead", "free nbd"])
def test_a_node_that_leads_nowhere_is_replaced(machine: Machine, number: tuple[int, int]) -> None:
    os.mknod(machine.name("drbd0"), 0o600 | stat.S_IFBLK, os.makedev(*number))
    names.reserve("nbd", machine.name("drbd0"), machine.host)
    assert names.node_number(machine.name("drbd0")) == (NBD_MAJOR, 48)


def test_a_node_somebody_else_made_meanwhile_is_left(machine: Machine) -> None:
    reservation = names.reserve("nbd", machine.name("drbd0"), machine.host)
    os.unlink(machine.name("drbd0"))
    os.mknod(machine.name("drbd0"), 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    names.release(reservation, machine.host)
    assert names.node_number(machine.name("drbd0")) == (8, 0)


def test_a_name_in_a_directory_of_its_own(machine: Machine) -> None:
    names.reserve("nbd", machine.name("drbd/by-res/r0/0"), machine.host)
    assert names.node_number(machine.name("drbd/by-res/r0/0")) == (NBD_MAJOR, 48)


def test_none_claims_nothing(machine: Machine) -> None:
    reservation = names.reserve("none", machine.name("drbd0"), machine.host)
    names.release(reservation, machine.host)
    assert not os.path.exists(machine.host.claims)
