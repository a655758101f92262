# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of Heartbeat's resource script, with a `replctl` that says what the test wants.

How Heartbeat itself takes them is tested in tests/e2e/test_heartbeat.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "replblock" / "cluster" / "resource.d" / "replblock"


def run(tmp_path: Path, replctl: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The script with this shell text as its replctl; pauses are short."""
    for name, text in (("replctl", f'echo "$*" >> {tmp_path}/calls\n{replctl}'), ("sleep", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return subprocess.run([str(SCRIPT), *words], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True,
                          text=True, timeout=30)  # fmt: skip


def calls(tmp_path: Path) -> list[str]:
    return [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]


ANSWERS = (
    # replctl role says                                       and exits   so this node's words are
    ("Primary/Secondary",                                          0,     "running (Primary)"),
    ("Primary/Unknown",                                            0,     "running (Primary)"),
    ("Secondary/Primary",                                          0,     "stopped (Secondary)"),
    ("Secondary/Unknown",                                          0,     "stopped (Secondary)"),
    ("0: Failure: (127) Device minor not allocated",              10,     "stopped (down)"),
    ("/etc/drbd.conf:3: expected '{'",                            10,     "stopped (down)"),
    ("'r0' not defined in your config (for this host).",           1,     "stopped (down)"),
    ("Traceback (most recent call last):",                         1,     "unclear, may be running"),
    ("r0: 'role' did not end within 5 seconds",                    5,     "unclear, may be running"),
    ("/run/replblock: Permission denied",                         20,     "unclear, may be running"),
    ("replctl: not found",                                       127,     "unclear, may be running"),
)  # fmt: skip


@pytest.mark.parametrize(("answer", "code", "words"), ANSWERS)
def test_status(tmp_path: Path, answer: str, code: int, words: str) -> None:
    to = "" if code == 0 else ">&2"
    done = run(tmp_path, f'echo "{answer}" {to}; exit {code}', "r0", "status")
    assert done.stdout == words + "\n"
    assert done.returncode == {"running (Primary)": 0, "unclear, may be running": 4}.get(words, 3)


@pytest.mark.parametrize("name", ["BOOK", "OK", "running", "not-running"])
def test_no_name_gets_into_the_words(tmp_path: Path, name: str) -> None:
    """A Secondary of that name would be taken for the owner, or the owner for nothing."""
    replctl = f'echo "{name}: resync running OK" >&2; echo Secondary/Primary'
    assert run(tmp_path, replctl, name, "status").stdout == "stopped (Secondary)\n"


@pytest.mark.parametrize("words", [(), ("start",), ("r0",), ("all", "start"), ("r0", "monitor"), ("-h", "status")])
def test_what_is_not_understood_prints_no_state(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, "echo Primary/Secondary", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "calls").exists()


def test_a_refused_start_is_tried_six_times(tmp_path: Path) -> None:
    done = run(tmp_path, "case $1 in role) echo Secondary/Primary;; *) exit 11;; esac", "r0", "start")
    assert done.returncode == 1
    assert calls(tmp_path) == ["role", *["primary"] * 6]


def test_a_start_that_succeeds_at_last(tmp_path: Path) -> None:
    fourth = f"[ $(grep -c primary {tmp_path}/calls) = 4 ]"
    replctl = f"case $1 in role) echo Secondary/Primary;; *) {fourth} || exit 11;; esac"
    assert run(tmp_path, replctl, "r0", "start").returncode == 0
    assert calls(tmp_path) == ["role", *["primary"] * 4]


def test_a_refused_stop_is_not_called_a_success(tmp_path: Path) -> None:
    done = run(tmp_path, "case $1 in role) echo Primary/Secondary;; *) exit 11;; esac", "r0", "stop")
    assert done.returncode == 1
    assert calls(tmp_path) == ["role", "secondary"] * 3


def test_a_crashing_replctl_stops_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "echo Traceback >&2; exit 1", "r0", "stop").returncode == 1
    assert run(tmp_path, "exit 127", "r0", "stop").returncode == 1


def test_an_engine_that_is_down_is_started_and_meets_its_peer_first(tmp_path: Path) -> None:
    replctl = "case $1 in role) echo '(127)' >&2; exit 10;; wait-connect) exit 5;; esac"
    assert run(tmp_path, replctl, "r0", "start").returncode == 0
    assert calls(tmp_path) == ["role", "up", "wait-connect", "primary"]


def test_an_engine_that_cannot_be_started(tmp_path: Path) -> None:
    assert run(tmp_path, "exit 10", "r0", "start").returncode == 1
    assert calls(tmp_path) == ["role", "up"]
    (tmp_path / "calls").unlink()
    assert run(tmp_path, "exit 10", "r0", "stop").returncode == 0
    assert calls(tmp_path) == ["role"]
