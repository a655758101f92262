# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock@.service carried out step by step, as systemd does it: its command lines, its notify socket, its signals.

That systemd reads the unit as we mean it is tested in tests/cluster/test_units.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.e2e.pair import ROOT, Node, Pair, Result
from tests.e2e.waiting import PATIENCE_S, wait_until

LIB = ROOT / "replblock" / "cluster" / "lib"
UNIT = ROOT / "replblock" / "cluster" / "systemd" / "replblock@.service"


class Unit:
    """replblock@r0.service on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.main: subprocess.Popen[bytes] | None = None
        replctl = node.directory / "replctl"
        replctl.write_text(f'#!/bin/sh\nexec {sys.executable} -m replblock.cli.main -c {node.config} "$@"\n')
        replctl.chmod(0o755)
        node.env = {**node.env, "REPLCTL": str(replctl)}
        self.lines: dict[str, list[str]] = {}
        for line in UNIT.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                filled = value.replace("@REPLCTL@", str(replctl)).replace("@LIB@", str(LIB))
                filled = filled.replace("%I", "r0").replace("%i", "r0")
                self.lines.setdefault(key, []).append(filled)

    def only(self, key: str) -> str:
        [value] = self.lines[key]
        return value

    def call(self, key: str) -> Result:
        result = self.node.run(*self.only(key).split())
        self.node._note_pid()
        return result

    def start(self) -> Result:
        """Until READY=1, then ExecStartPost; a failure of that ends the main process."""
        assert self.only("Type") == "notify"
        path = str(self.node.directory / "notify")
        Path(path).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            sock.settimeout(PATIENCE_S)
            environment = {**self.node.environment, "NOTIFY_SOCKET": path}
            self.main = subprocess.Popen(self.only("ExecStart").split(), env=environment, stdin=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)  # fmt: skip
            while b"READY=1" not in sock.recv(1000):
                pass
        self.node.pids.add(self.main.pid)
        post = self.call("ExecStartPost")
        if post.code:
            self.terminate()
        return post

    def stop(self) -> Result:
        """ExecStop, then SIGTERM to the main process if it is still there."""
        assert self.main is not None
        stopped = self.call("ExecStop")
        if stopped.code == 0:
            self.main.wait(PATIENCE_S)
        else:
            os.kill(self.main.pid, signal.SIGTERM)
        return stopped

    def terminate(self) -> None:
        assert self.main is not None
        os.kill(self.main.pid, signal.SIGTERM)
        self.main.wait(PATIENCE_S)

    def would_restart(self) -> bool:
        """Restart=on-failure: after an unclean exit code or signal."""
        assert self.only("Restart") == "on-failure" and self.main is not None
        return self.main.wait(PATIENCE_S) != 0


@pytest.fixture
def units(pair: Pair) -> Iterator[tuple[Unit, Unit]]:
    """Started on both nodes, connected, UpToDate; the first one is Primary."""
    pair.make_disks()
    made = Unit(pair.a), Unit(pair.b)
    for unit in made:
        started = unit.start()
        assert started.code == 0, started
    pair.clean()
    pair.a.do("primary", "r0")
    yield made
    for unit in made:
        if unit.main is not None and unit.main.poll() is None:
            unit.main.kill()
            unit.main.wait()


def write(node: Node, content: bytes) -> None:
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    handle.pwrite(content, 0)
    handle.shutdown()


def test_start_reload_stop(units: tuple[Unit, Unit], pair: Pair) -> None:
    assert all(unit.main is not None and unit.main.pid == unit.node.pid for unit in units), "not the main process"
    pair.configure(net={"max-buffers": 4000})
    for unit in units:
        assert unit.node.do("-d", "adjust", "r0") != ""
        assert unit.call("ExecReload").code == 0
        assert unit.node.do("-d", "adjust", "r0") == ""
    assert pair.a.state() == "Primary Connected Established UpToDate/UpToDate"
    for unit in units:
        assert unit.stop().code == 0
        assert not unit.would_restart()
        assert unit.node.state() == "down"


def test_a_resource_taken_down_by_hand_stays_down(units: tuple[Unit, Unit]) -> None:
    units[1].node.do("down", "r0")
    assert not units[1].would_restart()


def test_an_engine_that_crashed_comes_back_as_a_secondary(units: tuple[Unit, Unit], pair: Pair) -> None:
    """… and is brought up to date by the peer, which has taken over meanwhile."""
    dead, peer = units
    write(dead.node, b"before".ljust(4096))
    dead.node.kill()
    assert dead.would_restart()
    peer.node.wait_state("Connecting")
    peer.node.do("primary", "r0")
    write(peer.node, b"after".ljust(4096))
    started = dead.start()
    assert started.code == 0, started
    dead.node.wait_state("Secondary Connected Established UpToDate/UpToDate")
    pair.assert_same_data()
    assert pair.a.disk.read_bytes()[:5] == b"after"


def test_an_engine_leaves_for_the_next_one_of_its_unit(units: tuple[Unit, Unit], pair: Pair) -> None:
    """`restart --leave`, by which `systemctl restart` renews an engine: refused while a client would lose it."""
    unit = units[0]
    handle = nbd.NBD()
    handle.connect_uri(unit.node.uri)
    refused = unit.node.try_("restart", "--leave", "r0")
    assert refused.code == 11 and "would not survive" in refused.err
    handle.pwrite(b"3" * 4096, 0)
    handle.shutdown()
    del handle
    wait_until(lambda: unit.node.try_("restart", "--leave", "r0").code == 0, "it leaves once nobody uses the device")
    assert unit.would_restart()
    assert unit.node.try_("restart", "--leave", "r0").code == 0
    assert unit.node.state() == "down", "not the supervisor started an engine"
    assert unit.start().code == 0
    unit.node.wait_state("Secondary Connected Established UpToDate/UpToDate")
    pair.assert_same_data()


def test_an_engine_without_a_supervisor_does_not_leave(pair: Pair) -> None:
    pair.make_disks()
    pair.a.do("up", "r0")
    refused = pair.a.try_("restart", "--leave", "r0")
    assert refused.code == 1 and "no supervisor" in refused.err and "replctl restart r0" in refused.err
    assert pair.a.state() != "down"


def test_a_stop_is_refused_while_the_device_is_in_use(units: tuple[Unit, Unit]) -> None:
    """Both ways that systemd has, the command and the signal; the client never notices."""
    used = units[0]
    handle = nbd.NBD()
    handle.connect_uri(used.node.uri)
    handle.pwrite(b"1" * 4096, 0)
    assert used.stop().code == 11
    used.node.wait_log("stop-refused")
    handle.pwrite(b"2" * 4096, 4096)
    handle.flush()
    assert used.main is not None and used.main.poll() is None
    assert used.node.state() == "Primary Connected Established UpToDate/UpToDate"
    handle.shutdown()
    del handle
    wait_until(lambda: used.stop().code == 0, "a stop once nobody uses the device")
    assert not used.would_restart()


def test_a_disk_that_is_wrong_fails_the_unit(pair: Pair) -> None:
    pair.a.make_disk(metadata=False)
    unit = Unit(pair.a)
    started = unit.start()
    assert started.code == 10 and "No valid meta-data signature found" in started.err
    assert unit.main is not None and unit.main.returncode == 0
    assert unit.node.state() == "down"


def test_an_engine_that_runs_already_is_not_taken_over(units: tuple[Unit, Unit]) -> None:
    """Two supervisors for one resource: the second is told, and nothing happens to what runs."""
    first = units[0]
    second = first.call("ExecStart")
    assert second.code == 20 and "is up already" in second.err
    assert first.main is not None and first.main.poll() is None
    assert first.node.state() == "Primary Connected Established UpToDate/UpToDate"
