# SPDX-License-Identifier: GPL-2.0-or-later
"""The systemd units, judged by systemd-analyze; and the guard that they start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2] / "replblock" / "cluster"
UNITS = sorted((HERE / "systemd").iterdir())


def filled_in(directory: Path) -> Path:
    """The units as installed, their programs being ones that exist."""
    directory.mkdir()
    for unit in UNITS:
        text = re.sub(r"@REPLCTL@|@LIB@/[\w-]+", "/bin/true", unit.read_text())
        assert "@" not in "".join(line for line in text.splitlines() if line.startswith("Exec"))
        (directory / unit.name).write_text(text)
    return directory


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say(unit: Path, tmp_path: Path) -> None:
    """Man pages of other packages may be missing; anything else is a mistake."""
    units = filled_in(tmp_path / "units")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", str(units / unit.name)],
                          capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:/lib/systemd/system"})  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "replblock" in line]
    assert not ours and done.returncode == 0, done


def test_systemd_would_notice_a_mistake(tmp_path: Path) -> None:
    units = filled_in(tmp_path / "units")
    unit = units / "replblock@.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True,
                          env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:/lib/systemd/system"})  # fmt: skip
    assert "WatchdogSecs" in done.stderr


GUARD = HERE / "lib" / "shutdown-guard"


def tools(directory: Path, dstate: str) -> dict[str, str]:
    """A replctl with resource r0 in this state (the file `state` may change it), and a recorder of inhibitors."""
    directory.mkdir(exist_ok=True)
    (directory / "state").write_text(dstate)
    inhibit = f'echo $$ >> {directory}/held; [ "$1" = --what=shutdown ] && [ "$2" = --mode=block ] && exec sleep 1000'
    for name, text in (
        ("replctl", f"case $1 in sh-resources) echo r0;; dstate) cat {directory}/state;; esac"),
        ("systemd-inhibit", inhibit),
    ):
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}", "REPLCTL": "replctl", "PAUSE": "0.05"}


@pytest.mark.parametrize(
    ("dstate", "code", "said"),
    [
        ("UpToDate/UpToDate", 0, ""),
        ("UpToDate/Inconsistent", 1, "r0: peer is Inconsistent\n"),
        ("UpToDate/DUnknown", 1, "r0: peer is DUnknown\n"),
        ("Inconsistent/UpToDate", 0, ""),
        ("Consistent/DUnknown", 0, ""),
        ("UpToDate/UpToDate\nUpToDate/Outdated", 1, "r0: peer is Outdated\n"),
        ("", 0, ""),
    ],
)
def test_when_this_node_has_the_only_good_copy(tmp_path: Path, dstate: str, code: int, said: str) -> None:
    done = subprocess.run([str(GUARD), "--once"], env=tools(tmp_path, dstate), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, said)


def test_the_guard_holds_an_inhibitor_as_long_as_needed(tmp_path: Path) -> None:
    from tests.e2e.waiting import wait_for_end, wait_until

    held = tmp_path / "t" / "held"
    environment = tools(tmp_path / "t", "UpToDate/DUnknown")
    with subprocess.Popen([str(GUARD)], env=environment, stdout=subprocess.DEVNULL) as guard:
        try:
            wait_until(lambda: held.exists() and held.read_text().strip(), "an inhibitor")
            holder = int(held.read_text())
            (tmp_path / "t" / "state").write_text("UpToDate/UpToDate")
            assert wait_for_end(holder), "the inhibitor outlived its reason"
            (tmp_path / "t" / "state").write_text("UpToDate/Outdated")
            wait_until(lambda: len(held.read_text().split()) == 2, "another inhibitor")
            second = int(held.read_text().split()[1])
            guard.send_signal(signal.SIGTERM)
            assert guard.wait(30) == 0
            assert wait_for_end(second), "the inhibitor outlived the guard"
        finally:
            guard.kill()


def test_the_tools_of_these_tests_are_there() -> None:
    assert shutil.which("systemd-analyze"), "run: make setup"
