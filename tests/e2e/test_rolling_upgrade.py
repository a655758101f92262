# SPDX-License-Identifier: GPL-2.0-or-later
"""Both nodes of a pair get a new version while a client goes on writing to whoever is Primary."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import nbd
import pytest

from tests.e2e.pair import MIB, ROOT, Node, Pair

LIB = ROOT / "replblock" / "cluster" / "lib"
NEW_VERSION = "9.9.9"
BLOCK_BYTES = 4096


class Client(threading.Thread):
    """Writes numbered blocks; one whose write was not confirmed is written again, wherever the Primary is then."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(daemon=True)
        self.pair = pair
        self.enough = threading.Event()
        self.acknowledged: dict[int, bytes] = {}
        self.served_by: list[str] = []

    def run(self) -> None:
        number = 0
        while not self.enough.is_set():
            for node in self.pair.nodes:
                number = self._write(node, number)

    def _write(self, node: Node, number: int) -> int:
        """As long as this node takes them."""
        handle = nbd.NBD()
        try:
            handle.connect_uri(node.uri)
            while not self.enough.is_set():
                content = (b"%d of %s\0" % (number, node.name.encode())).ljust(BLOCK_BYTES, b".")
                at = number % (8 * MIB // BLOCK_BYTES)
                handle.pwrite(content, at * BLOCK_BYTES)
                self.acknowledged[at] = content
                if self.served_by[-1:] != [node.name]:
                    self.served_by.append(node.name)
                number += 1
                self.enough.wait(0.001)
                if number % 64 == 0:
                    break       # so that GIVE finds the device unused now and then
            handle.shutdown()
        except nbd.Error:
            pass                # this node is no Primary, or none any more
        return number


def machine(pair: Pair, directory: Path, give: str = "") -> dict[str, str]:
    """The environment of the script: how it reaches the nodes, and what an installation is here."""
    on = directory / "on"
    lines = ["#!/bin/sh", "case $1 in"]
    for node in pair.nodes:
        home = node.directory / "program"
        home.symlink_to(ROOT)
        exports = f"REPLBLOCK_RUN={node.run_dir} REPLBLOCK_HOST={node.name} PYTHONPATH={home} HOME_OF={home}"
        replctl = node.directory / "replctl"
        replctl.write_text(f'#!/bin/sh\ncd {home} && exec {ROOT}/.venv/bin/python -P -m replblock.cli.main'
                           f' -c {node.config} "$@"\n')  # fmt: skip
        replctl.chmod(0o755)
        lines.append(f"{node.name}) export {exports} PATH={node.directory}:$PATH REPLCTL={replctl} ;;")
    on.write_text("\n".join([*lines, "*) exit 255 ;;", "esac", 'exec sh -c "$2"']) + "\n")
    on.chmod(0o755)
    new = directory / "new"
    for package in ("replblock", "nbdkit_plugin"):
        shutil.copytree(ROOT / package, new / package, ignore=shutil.ignore_patterns("__pycache__"))
    init = new / "replblock" / "__init__.py"
    init.write_text(re.sub(r'__version__ = "[^"]*"', f'__version__ = "{NEW_VERSION}"', init.read_text()))
    for script in LIB.iterdir():
        (directory / script.name).write_text(script.read_text())
        (directory / script.name).chmod(0o755)
    patient = "until replctl secondary r0 2>/dev/null; do sleep 0.01; done"
    return {**os.environ, "ON": str(on), "INSTALL": f"ln -sfn {new} $HOME_OF", "REPLCTL": "replctl",
            "RENEW": str(directory / "renew-engine"), "GIVE": give or patient}  # fmt: skip


def upgrade(directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(directory / "rolling-upgrade"), "r0", "alfa", "beta"], env=environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip


def version(node: Node, environment: dict[str, str]) -> str:
    command = [environment["ON"], node.name, "replctl --version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REPLBLOCK_VERSION=(.*)", done.stdout)
    assert found
    return found[1]


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_on_the_way(pair: Pair, tmp_path: Path) -> None:
    environment = machine(pair, tmp_path)
    pair.make_disks()
    pair.clean()
    pair.a.do("primary", "r0")
    engines = [node.pid for node in pair.nodes]
    client = Client(pair)
    client.start()
    try:
        done = upgrade(tmp_path, environment)
        assert done.returncode == 0, done
    finally:
        client.enough.set()
        client.join(30)
    assert not client.is_alive()
    assert client.served_by[:1] == ["alfa"] and client.served_by[-1:] == ["beta"]
    assert [version(node, environment) for node in pair.nodes] == [NEW_VERSION] * 2
    assert not set(engines) & {node.pid for node in pair.nodes}, "an engine of the version before still runs"
    for node in pair.nodes:
        assert str(tmp_path / "new").encode() in Path(f"/proc/{node.pid}/environ").read_bytes()
    assert pair.b.state() == "Primary Connected Established UpToDate/UpToDate"
    pair.assert_same_data()
    with pair.a.disk.open("rb") as disk:
        for at, content in client.acknowledged.items():
            disk.seek(at * BLOCK_BYTES)
            assert disk.read(BLOCK_BYTES) == content
    assert len(client.acknowledged) > 100


def test_it_stops_where_the_service_still_runs(pair: Pair, tmp_path: Path) -> None:
    """What a failed installation, a pair out of sync or a holder of the device lead to; then it goes on."""
    environment = machine(pair, tmp_path, give="replctl secondary r0")
    pair.make_disks()
    pair.clean()
    pair.a.do("primary", "r0")
    refused = upgrade(tmp_path, {**environment, "INSTALL": "exit 100"})
    assert refused.returncode == 1 and "beta was not upgraded; nothing else was done" in refused.stderr
    assert pair.a.state() == "Primary Connected Established UpToDate/UpToDate"

    pair.b.do("disconnect", "r0")
    engine = pair.b.pid
    refused = upgrade(tmp_path, environment)
    assert refused.returncode == 1 and "the service still runs on alfa" in refused.stderr
    assert pair.b.pid == engine, "a Secondary that is not up to date is left as it is"
    pair.b.do("connect", "r0")
    pair.settle()

    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    refused = upgrade(tmp_path, environment)
    assert refused.returncode == 1 and "alfa does not give the service up; it still runs there" in refused.stderr
    assert pair.a.state() == "Primary Connected Established UpToDate/UpToDate"
    handle.shutdown()
    del handle
    done = upgrade(tmp_path, environment)
    assert done.returncode == 0, done
    assert pair.b.state() == "Primary Connected Established UpToDate/UpToDate"


def test_a_primary_is_not_renewed(pair: Pair, tmp_path: Path) -> None:
    environment = machine(pair, tmp_path)
    pair.make_disks()
    pair.clean()
    pair.a.do("primary", "r0")
    refused = subprocess.run([environment["ON"], "alfa", f"{environment['RENEW']} r0"], capture_output=True, text=True)
    assert refused.returncode == 1 and "move the service to the peer first" in refused.stderr
    assert pair.a.state().startswith("Primary Connected")
