# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor that Heartbeat starts: when it moves the service, and when not. In guests: tests/kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.pair import ROOT
from tests.e2e.waiting import wait_until

MONITOR = ROOT / "replblock" / "cluster" / "lib" / "service-monitor"
HERE, ELSEWHERE = "127.0.0.1", "192.0.2.1"


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def said(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@contextmanager
def monitor(directory: Path, check: str, address: str = HERE) -> Iterator[tuple[Path, Path]]:
    """What it does goes to two files: each check, each standby with the number of checks before it."""
    checks, moves = directory / "checks", directory / "moves"
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MONITOR_PERIOD_S": "0.01", "MONITOR_TRIES": "3",
           "HB_STANDBY": program(directory / "standby", f"wc -l <{checks} >>{moves}")}  # fmt: skip
    command = program(directory / "check", f"echo x >>{checks}; {check}")
    process = subprocess.Popen([MONITOR, address, command], env=env)
    try:
        yield checks, moves
    finally:
        process.kill()
        process.wait()


def test_the_third_failure_in_a_row_moves_it_and_only_once(tmp_path: Path) -> None:
    with monitor(tmp_path, "false") as (checks, moves):
        wait_until(lambda: len(said(checks)) > 15, "checks go on")
    assert said(moves) == ["3"]


def test_single_failures_move_nothing(tmp_path: Path) -> None:
    """Two of three fail."""
    with monitor(tmp_path, f"[ $(( $(wc -l <{tmp_path}/checks) % 3 )) = 0 ]") as (checks, moves):
        wait_until(lambda: len(said(checks)) > 15, "checks go on")
    assert said(moves) == []


def test_another_nodes_service_is_not_checked(tmp_path: Path) -> None:
    sleeps = program(tmp_path / "sleep", f"echo x >>{tmp_path}/sleeps; exec /bin/sleep 0.01")
    env = {"PATH": f"{Path(sleeps).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    process = subprocess.Popen([MONITOR, ELSEWHERE, "touch", tmp_path / "checked"], env=env)
    try:
        wait_until(lambda: len(said(tmp_path / "sleeps")) > 15, "it goes on")
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "checked").exists()


def test_without_a_command_heartbeat_gives_it_up() -> None:
    assert subprocess.run([MONITOR, HERE], capture_output=True).returncode == 100
