# SPDX-License-Identifier: GPL-2.0-or-later
"""What a supervisor hears of an engine: the test listens where systemd would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replblock.engine import client, launch
from replblock.engine.notify import Notifier
from tests.engine.nodes import Node, nodes

PATIENCE_S = 30
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE_S)
        yield sock


@pytest.mark.parametrize("abstract", [False, True])
def test_the_socket_is_a_path_or_an_abstract_name(tmp_path: Path, abstract: bool) -> None:
    name = f"@replblock-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(PATIENCE_S)
        environment = {"NOTIFY_SOCKET": name, "PATH": "/bin"}
        notifier = Notifier(environment)
        assert environment == {"PATH": "/bin"}, "a handler's script must not speak for the engine"
        notifier.ready()
        notifier.status("Connected")
        notifier.status("Connected")
        notifier.alive()
        assert [sock.recv(100) for _ in range(3)] == [b"READY=1", b"STATUS=Connected", b"WATCHDOG=1"]


@pytest.mark.parametrize(
    ("usec", "pid", "due_ms"),
    [("60000000", "", 30000), ("60000000", "41", 30000), ("60000000", "42", 0), ("", "", 0), ("soon", "", 0)],
)
def test_the_watchdog_is_fed_twice_in_its_time_if_it_is_ours(usec: str, pid: str, due_ms: int) -> None:
    told = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notifier(told, pid=41).watchdog_ms == due_ms


def test_nobody_listens() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": "/nowhere/at/all"}):
        notifier = Notifier(dict(environment))
        notifier.ready()
        notifier.alive()
    assert Notifier({"WATCHDOG_USEC": "1000000"}).watchdog_ms == 0


@pytest.fixture
def alpha(tmp_path: Path, port: Callable[[], int]) -> Iterator[Node]:
    with nodes(tmp_path, port) as (alpha, _):
        yield alpha


def test_an_engine_in_the_foreground_reports_from_ready_to_stopping(
    alpha: Node, supervisor: socket.socket, tmp_path: Path
) -> None:
    """As replblock@.service runs it: the process that was started is the engine, and says so itself."""
    command = [sys.executable, "-m", "replblock.cli.main", "-c", str(alpha.config), "--host", alpha.host,
               "new-resource", "--supervised", "r0"]  # fmt: skip
    environment = {**os.environ, "REPLBLOCK_RUN": str(alpha.run), "PYTHONPATH": launch.paths.python_path(),
                   "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}  # fmt: skip
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, cwd=ROOT) as engine:
        try:
            heard = []
            while heard.count(b"WATCHDOG=1") < 3:
                heard.append(supervisor.recv(1000))
            assert b"READY=1" in heard
            assert any(line.startswith(b"STATUS=Unconfigured") for line in heard), heard
            assert client.is_up(alpha.run, "r0")
            assert client.call(alpha.run, "r0", "stop", {}, PATIENCE_S)["exit_code"] == 0
            while b"STOPPING=1" not in heard:
                heard.append(supervisor.recv(1000))
            assert engine.wait(PATIENCE_S) == 0
        finally:
            engine.kill()


def test_an_engine_that_is_left_behind_does_not_speak_for_the_unit_that_started_it(
    alpha: Node, supervisor: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`replctl up` called by a cluster manager's own unit."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    alpha.start()
    assert client.call(alpha.run, "r0", "stop", {}, PATIENCE_S)["exit_code"] == 0
    supervisor.setblocking(False)
    with pytest.raises(BlockingIOError):
        supervisor.recv(100)
