# SPDX-License-Identifier: GPL-2.0-or-later
"""Users that a test cannot make for real on any machine: swap, device mapper, containers, btrfs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from replblock.device import usage
from replblock.device.types import Attached, Host, Reservation

pytestmark = pytest.mark.root       # mknod

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 43:0 / /srv/with\\040space rw - ext3 {node} rw
41 22 0:55 /vol /data rw,noatime shared:9 master:1 - btrfs {node} rw,subvol=/vol
42 22 43:1 / /part rw - ext3 /dev/nbd0p1 rw
43 22 43:16 / /other rw - ext3 /dev/nbd1 rw
44 22 0:60 / /short - tmpfs
"""


@pytest.fixture
def attached(tmp_path: Path) -> Attached:
    node = tmp_path / "nbd0"
    os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(43, 0))
    block = tmp_path / "sys" / "block" / "nbd0"
    (block / "nbd0p1").mkdir(parents=True)
    (block / "dev").write_text("43:0\n")
    (block / "nbd0p1" / "dev").write_text("43:1\n")
    process = tmp_path / "proc" / "77"
    (process / "ns").mkdir(parents=True)
    os.symlink("mnt:[1]", process / "ns" / "mnt")
    os.symlink("/", process / "root")
    (process / "mountinfo").write_text("")
    os.symlink("77", tmp_path / "proc" / "self")
    return Attached("nbd", str(node), str(node), 0, "", "0", Reservation("nbd", str(node), str(node), 0, 43, 0))


def reasons(attached: Attached, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is found in the made-up /proc and /sys; there is no device to open."""
    root = os.path.dirname(attached.name)
    monkeypatch.setattr(usage, "_can_be_had_alone", lambda device: True)
    return usage.in_use(attached, Host(root, f"{root}/proc", f"{root}/sys", root))


def test_idle(attached: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reasons(attached, monkeypatch) == []


def test_mounts_of_the_device_its_partitions_and_by_source(attached: Attached, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/77/mountinfo").write_text(MOUNTS.format(node=attached.name))
    assert reasons(attached, monkeypatch) == ["mounted at /srv/with space", "mounted at /data", "mounted at /part"]


def test_a_mount_in_a_container(attached: Attached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in (88, 89):                # two processes of one container are one reason
        (tmp_path / f"proc/{pid}/ns").mkdir(parents=True)
        os.symlink("mnt:[2]", tmp_path / f"proc/{pid}/ns/mnt")
        (tmp_path / f"proc/{pid}/mountinfo").write_text("1 0 43:0 / /vol rw - ext3 /dev/nbd0 rw\n")
    assert reasons(attached, monkeypatch) == ["mounted at /vol in the mount namespace of pid 88"]


def test_the_same_name_in_a_container_may_be_another_device(attached: Attached, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/88/ns").mkdir(parents=True)
    os.symlink("mnt:[2]", tmp_path / "proc/88/ns/mnt")
    (tmp_path / "proc/88/root").mkdir()
    (tmp_path / "proc/88/mountinfo").write_text(f"1 0 7:9 / /vol rw - ext3 {attached.name} rw\n")
    assert reasons(attached, monkeypatch) == []


def test_swap(attached: Attached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/swaps").write_text(
        f"Filename Type Size Used Priority\n/dev/nope partition 1 0 -2\n{attached.name} partition 1 0 -2\n")
    assert reasons(attached, monkeypatch) == [f"used as swap ({attached.name})"]


def test_device_mapper(attached: Attached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sys/dev/block/43:1/holders/dm-0").mkdir(parents=True)
    (tmp_path / "sys/block/dm-0/dm").mkdir(parents=True)
    (tmp_path / "sys/block/dm-0/dm/name").write_text("vg0-home\n")
    assert reasons(attached, monkeypatch) == ["held by dm-0 (vg0-home)"]


def test_an_unseen_holder_is_still_reported(attached: Attached, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_can_be_had_alone", lambda device: False)
    root = str(tmp_path)
    found = usage.in_use(attached, Host(root, f"{root}/proc", f"{root}/sys", root))
    assert found == ["held exclusively by the kernel or a program that cannot be seen from here"]
