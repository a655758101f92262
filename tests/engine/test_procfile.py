# SPDX-License-Identifier: GPL-2.0-or-later
"""`RUN/proc` over several engines, some of them dead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from replblock.engine.procfile import AlreadyUp, LifeLock, Publisher, is_held
from replblock.status import model
from tests.engine.conftest import wait_for


def status(name: str, minor: int) -> dict[str, object]:
    return model.resource(name=name, devices=[model.device(minor=minor, disk_state="UpToDate")])


def test_resources_are_merged_and_leave_one_by_one(tmp_path: Path) -> None:
    locks = [LifeLock(tmp_path, name) for name in ("r0", "r1")]
    one, two = Publisher(tmp_path, "r0"), Publisher(tmp_path, "r1")
    one.publish(status("r0", 0))
    two.publish(status("r1", 4))
    proc = tmp_path / "proc"
    wait_for(lambda: proc.exists() and " 0: cs:" in proc.read_text() and " 4: cs:" in proc.read_text())
    one.withdraw()
    assert " 0: cs:" not in proc.read_text() and " 4: cs:" in proc.read_text()
    two.withdraw()
    assert not proc.exists()
    for lock in locks:
        lock.release()


def test_a_dead_engines_snapshot_is_dropped(tmp_path: Path) -> None:
    dead = LifeLock(tmp_path, "r0")
    Publisher(tmp_path, "r0").publish(status("r0", 0))
    wait_for((tmp_path / "proc").exists)
    dead.release()  # as the kernel does when a process dies
    living = LifeLock(tmp_path, "r1")
    publisher = Publisher(tmp_path, "r1")
    publisher.publish(status("r1", 1))
    wait_for(lambda: " 1: cs:" in (tmp_path / "proc").read_text())
    assert " 0: cs:" not in (tmp_path / "proc").read_text()
    assert not (tmp_path / "r0.status").exists()
    publisher.withdraw()
    living.release()


def test_one_engine_for_a_resource(tmp_path: Path) -> None:
    lock = LifeLock(tmp_path, "r0")
    with pytest.raises(AlreadyUp):
        LifeLock(tmp_path, "r0", patience_s=0)
    lock.release()
    LifeLock(tmp_path, "r0", patience_s=0).release()


def test_asking_whether_somebody_lives_is_in_nobodys_way(tmp_path: Path) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_held(tmp_path / "r0.lock")

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(100):
        LifeLock(tmp_path, "r0").release()
    stop.set()
    thread.join()
