# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes of this machine with real engines, driven by nothing but the command line; stock scripts as users."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import MIB, Node
from tests.cli.test_metadata import drbdmeta

DISK_MIB = 16
SECONDS = 20


@dataclass
class Pair:
    """Two nodes with one configuration."""

    a: Node
    b: Node

    def connected(self) -> Pair:
        """Fresh metadata on both, up, connected."""
        for node in (self.a, self.b):
            assert node.run("create-md", "r0").code == 0
        for node in (self.a, self.b):
            up = node.run("up", "r0")
            assert up.code == 0, f"{up}{log(node)}"
        for node in (self.a, self.b):
            waited = node.run("wait-connect", f"--wfc-timeout={SECONDS}", "r0")
            assert waited.code == 0, f"{waited}{log(node)}"
        return self

    def synced(self) -> Pair:
        """As connected; then a is Primary and both are UpToDate."""
        self.connected()
        forced = self.a.run("--", "--overwrite-data-of-peer", "primary", "all")
        assert forced.code == 0, forced
        waited = self.a.run("wait-sync", f"--wfc-timeout={SECONDS}", "r0")
        assert waited.code == 0, waited
        assert self.a.run("dstate", "r0").out == "UpToDate/UpToDate\n"
        return self


def log(node: Node) -> str:
    path = node.directory / "run" / "r0.log"
    return path.read_text() if path.exists() else ""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_config(pair: Pair, protocol: str = "C") -> None:
    text = f"""
resource r0 {{
    net {{ protocol {protocol}; connect-int 1; ping-int 3; timeout 9; }}
    startup {{ wfc-timeout {SECONDS}; }}
    replblock {{ attach none; }}
"""
    for node in (pair.a, pair.b):
        text += f"""    on {node.name} {{
        device /dev/drbd0; disk {node.directory}/disk.img; meta-disk internal;
        address 127.0.0.1:{node.env["TEST_PORT"]};
    }}
"""
    for node in (pair.a, pair.b):
        node.config.write_text(text + "}\n")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(Node(tmp_path / "a", "alpha"), Node(tmp_path / "b", "beta"))
    for node in (made.a, made.b):
        node.env["TEST_PORT"] = str(free_port())
        with (node.directory / "disk.img").open("wb") as file:
            file.truncate(DISK_MIB * MIB)
    write_config(made)
    yield made
    for node in (made.a, made.b):
        down = node.run("down", "r0")
        if down.code:
            pid_file = node.directory / "run" / "r0.pid"
            if pid_file.exists():
                os.kill(int(pid_file.read_text()), 9)


def data(node: Node) -> bytes:
    """The disk without its metadata."""
    return (node.directory / "disk.img").read_bytes()[: (DISK_MIB - 1) * MIB]


def test_up_without_metadata_leaves_nothing_behind(pair: Pair) -> None:
    made = pair.a.run("up", "r0")
    assert made.code == 10
    assert made.errors[0].startswith("0: Failure: (119) No valid meta-data signature found.")
    assert "replctl create-md r0" in "".join(made.errors[1:])
    assert pair.a.run("role", "r0").code == 10
    assert pair.a.run("create-md", "r0").code == 0


def test_the_engine_outlives_the_command_that_started_it(pair: Pair) -> None:
    assert pair.a.run("create-md", "r0").code == 0
    assert pair.a.run("up", "r0").code == 0
    time.sleep(0.5)  # the time it would take it to notice
    assert pair.a.run("role", "r0").out == "Secondary/Unknown\n", log(pair.a)
    assert pair.a.run("up", "r0").code == 0
    assert pair.a.run("cstate", "r0").out == "WFConnection\n"


def test_after_a_crash_of_the_engine(pair: Pair) -> None:
    """Its leftovers are no resource that is up, and up starts it again."""
    pair.connected()
    os.kill(int((pair.a.directory / "run" / "r0.pid").read_text()), signal.SIGKILL)
    gone = pair.a.run("role", "r0")
    assert (gone.code, gone.errors[0]) == (10, "0: Failure: (127) Device minor not allocated")
    assert pair.a.run("down", "r0").code == 0
    assert pair.a.run("up", "r0").code == 0
    assert pair.a.run("wait-connect", "r0").code == 0, log(pair.a)


def test_each_volume_has_an_engine(pair: Pair) -> None:
    a = pair.a
    text = a.config.read_text()
    for node in (pair.a, pair.b):
        disk = node.directory / "disk.img"
        text = text.replace(
            f"device /dev/drbd0; disk {disk}; meta-disk internal;",
            f"volume 0 {{ device /dev/drbd0; disk {disk}; meta-disk internal; }}\n"
            f"volume 1 {{ device /dev/drbd1; disk {disk}.1; meta-disk internal; }}",
        )
    a.config.write_text(text)
    (a.directory / "disk.img.1").write_bytes(bytes(8 * MIB))
    assert a.run("create-md", "r0").code == 0
    assert a.run("up", "r0").code == 0
    assert a.run("role", "r0").out == "Secondary/Unknown\n" * 2
    assert a.run("role", "r0/0").out == "Secondary/Unknown\n"
    assert a.run("down", "r0").code == 0
    assert a.run("role", "r0/1").errors[0] == "1: Failure: (127) Device minor not allocated"


def test_first_sync_writing_and_failover(pair: Pair, tmp_path: Path) -> None:
    """Invariant 1 as an operator sees it: what was written on one node is there on the other. Writer: nbdcopy."""
    pair.connected()
    assert pair.a.run("status", "r0").out == (
        "r0 role:Secondary\n  disk:Inconsistent\n  peer role:Secondary\n"
        "    replication:Established peer-disk:Inconsistent\n\n"
    )
    refused = pair.a.run("primary", "r0")
    assert refused.code == 17
    assert refused.errors[0].startswith("0: State change failed: (-2) Need access to UpToDate data")
    assert pair.a.run("primary", "--force", "r0").code == 0
    assert pair.a.run("wait-sync", "r0").code == 0
    refused = pair.b.run("primary", "r0")
    assert (refused.code, refused.errors[0].partition(" [")[0]) == (
        11, "0: State change failed: (-1) Multiple primaries not allowed by config")  # fmt: skip
    pattern = os.urandom(4 * MIB)
    source = tmp_path / "pattern"
    source.write_bytes(pattern)
    uri = pair.a.run("sh-nbd", "r0").out.strip()
    subprocess.run(["nbdcopy", "--flush", str(source), uri], check=True, timeout=60)
    assert pair.a.run("secondary", "r0").code == 0
    assert pair.b.run("primary", "r0").code == 0
    assert pair.b.run("role", "r0").out == "Primary/Secondary\n"
    uri = pair.b.run("sh-nbd", "r0").out.strip()
    copy = tmp_path / "copy"
    subprocess.run(["nbdcopy", uri, str(copy)], check=True, timeout=60)
    assert copy.read_bytes()[: len(pattern)] == pattern
    assert pair.b.run("down", "r0").code == 0
    assert pair.a.run("down", "r0").code == 0
    assert data(pair.a) == data(pair.b)
    for node in (pair.a, pair.b):
        assert drbdmeta(node, "dstate") == "Consistent\n"
        assert node.run("get-gi", "r0").out == drbdmeta(node, "get-gi")
        assert "meta-data: clean" in drbdmeta(node, "show-gi")


def test_secondary_and_down_are_refused_while_the_device_is_open(pair: Pair) -> None:
    pair.synced()
    hold = "import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print('open', flush=True); input()"
    uri = pair.a.run("sh-nbd", "r0").out.strip()
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        for verb in ("secondary", "down"):
            refused = pair.a.run(verb, "r0")
            assert refused.code == 11, refused
            assert "(-12) Device is held open by someone" in refused.errors[0]
            assert any(f"replctl {verb} r0" in line for line in refused.errors[1:]), refused
        assert pair.a.run("role", "r0").out == "Primary/Secondary\n"
    finally:
        holder.communicate("\n", timeout=20)
    assert pair.a.run("secondary", "r0").code == 0


def test_connection_and_disk_by_hand(pair: Pair) -> None:
    """Texts and codes recorded from a kernel node."""
    pair.synced()
    a = pair.a
    assert a.run("disconnect", "r0").code == 0
    assert a.run("cstate", "r0").out == "StandAlone\n"
    again = a.run("disconnect", "r0")
    assert again.code == 10
    assert again.errors[0] == "r0: Failure: (162) Invalid configuration request"
    assert again.errors[1:3] == ["additional info from kernel:", "unknown connection"]
    assert a.run("connect", "r0").code == 0
    assert a.run("connect", "r0").errors[0] == "r0: Failure: (125) Device has a net-config (use disconnect first)"
    assert a.run("wait-connect", "r0").code == 0
    attached = a.run("attach", "r0")
    assert (attached.code, attached.errors[0]) == (
        10, "0: Failure: (124) Device is attached to a disk (use detach first)")  # fmt: skip
    assert pair.b.run("detach", "r0").code == 0
    assert pair.b.run("dstate", "r0").out == "Diskless/UpToDate\n"
    assert pair.b.run("-d", "adjust", "r0").out.split()[-2:] == ["attach", "r0"]
    assert pair.b.run("adjust", "r0").code == 0
    assert pair.b.run("wait-sync", "r0").code == 0
    assert pair.b.run("dstate", "r0").out == "UpToDate/UpToDate\n"
    assert a.run("create-md", "--force", "r0").errors[0] == "Device '0' is configured!"


def test_wait_connect_obeys_the_configuration(pair: Pair) -> None:
    a = pair.a
    a.config.write_text(a.config.read_text().replace(f"wfc-timeout {SECONDS}", "wfc-timeout 1"))
    assert a.run("create-md", "r0").code == 0
    assert a.run("up", "r0").code == 0
    for verb in ("wait-connect", "wait-con-int"):
        words = [verb, "r0"] if verb == "wait-connect" else [verb]
        made = a.run(*words)
        assert made.code == 5
        assert made.errors[0] == "r0: no peer within 1 seconds (wfc-timeout)"


def test_adjust_hands_over_a_changed_configuration(pair: Pair) -> None:
    pair.connected()
    assert pair.a.run("-d", "adjust", "all").out == ""
    write_config(pair, protocol="A")
    assert pair.a.run("-d", "-n", "res", "adjust", "all").out.splitlines()[0] == "res=r0"
    assert pair.a.run("adjust", "all").code == 0
    assert pair.a.run("-d", "adjust", "all").out == ""
    end = time.monotonic() + SECONDS
    while " A r-----" not in pair.b.run("proc").out:  # a new protocol needs no new connection: the peer follows
        assert time.monotonic() < end, pair.b.run("proc").out
    assert pair.b.run("adjust", "all").code == 0  # its own file is taken note of, too
    for node in (pair.a, pair.b):
        assert node.run("-d", "adjust", "all").out == ""
        assert node.run("cstate", "r0").out == "Connected\n"
        assert " A r-----" in node.run("proc").out


def test_events2_follows_what_happens(pair: Pair, tmp_path: Path) -> None:
    pair.connected()
    output = tmp_path / "events"
    with output.open("w") as file:
        command = [*pair.a.run("role", "r0").done.args[:-2], "events2", "r0"]
        follower = subprocess.Popen(command, stdout=file, env=pair.a.environment)
    try:
        _until(output, "exists -\n")
        assert pair.a.run("primary", "--force", "r0").code == 0
        _until(output, "change resource name:r0 role:Primary\n")
        _until(output, "volume:0 replication:Established peer-disk:UpToDate")
        assert pair.a.run("down", "r0").code == 0
        _until(output, "destroy resource name:r0\n")
    finally:
        follower.terminate()
        follower.wait(timeout=10)


def _until(path: Path, text: str) -> None:
    end = time.monotonic() + SECONDS
    while text not in path.read_text():
        assert time.monotonic() < end, f"{text!r} did not come:\n{path.read_text()}"
        time.sleep(0.05)


def stock_script(pair: Pair, node: Node, script: str, directory: Path) -> Path:
    """A script of drbd-utils as shipped; only its file of defaults (and for the init script PATH) are this test's."""
    tools = directory / f"tools-{node.name}"
    tools.mkdir(exist_ok=True)
    python = pair.a.run("sh-nop").done.args[0]
    exports = " ".join(f"{key}={value}" for key, value in node.environment.items() if key.startswith("REPLBLOCK")
                       or key == "PYTHONPATH")  # fmt: skip
    for name in ("drbdadm", "drbdsetup"):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\n{exports} exec {python} -m replblock.cli.main -c {node.config} "$@"\n')
        tool.chmod(0o755)
    defaults = tools / "defaults"
    defaults.write_text(
        f"DRBDADM={tools}/drbdadm\nDRBDSETUP={tools}/drbdsetup\nPROC_DRBD={node.directory}/run/proc\n"
        f"MODPROBE=true\nUDEV_TIMEOUT=0\nPATH={tools}:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )
    text = Path(script).read_text()
    assert 'DEFAULTFILE="/etc/default/drbd"' in text
    copy = tools / Path(script).name
    copy.write_text(text.replace('DEFAULTFILE="/etc/default/drbd"', f'DEFAULTFILE="{defaults}"'))
    return copy


def call(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script), *words], capture_output=True, text=True, timeout=60)


def test_heartbeats_drbddisk_moves_the_primary(pair: Pair, tmp_path: Path) -> None:
    pair.synced()
    on_a, on_b = (stock_script(pair, node, "/etc/ha.d/resource.d/drbddisk", tmp_path) for node in (pair.a, pair.b))
    assert call(on_a, "r0", "status").stdout == "running (Primary)\n"
    assert call(on_b, "r0", "status").stdout == "stopped (Secondary)\n"
    assert call(on_a, "r0", "stop").returncode == 0
    assert call(on_b, "r0", "start").returncode == 0
    assert call(on_a, "r0", "status").stdout == "stopped (Secondary)\n"
    assert call(on_b, "r0", "status").stdout == "running (Primary)\n"
    assert call(on_b, "r0", "start").returncode == 0  # idempotent, as Heartbeat demands


def test_drbds_own_init_script(pair: Pair, tmp_path: Path) -> None:
    """start on both, status with its table, stop."""
    for node in (pair.a, pair.b):
        assert node.run("create-md", "r0").code == 0
    scripts = [stock_script(pair, node, "/lib/drbd/scripts/drbd", tmp_path) for node in (pair.a, pair.b)]
    starts = [subprocess.Popen(["bash", str(script), "start"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, stdin=subprocess.DEVNULL) for script in scripts]  # fmt: skip
    for start in starts:
        output, _ = start.communicate(timeout=60)
        assert start.returncode == 0, output
    for node in (pair.a, pair.b):
        assert node.run("cstate", "r0").out == "Connected\n"
    status = call(scripts[0], "status")
    assert status.returncode == 0
    assert "drbd driver loaded OK" in status.stdout
    assert re.search(r"r0 +Connected +Secondary/Secondary +Inconsistent/Inconsistent", status.stdout), status
    for script in scripts:
        stopped = call(script, "stop")
        assert stopped.returncode == 0, stopped
    assert pair.a.run("role", "r0").code == 10
    gone = call(scripts[0], "status")
    assert (gone.returncode, gone.stderr) == (3, "drbd not loaded\n")
