# SPDX-License-Identifier: GPL-2.0-or-later
"""A resource with two volumes: an engine for each, one connection; every volume keeps what it promised."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replblock.engine.client import call
from tests.doors import SOCKETS
from tests.e2e.pair import DISK, MIB, NET, PORT, Node, Pair, section
from tests.e2e.waiting import wait_until

NUMBERS = (0, 1)


@dataclass
class Volume(Node):
    """One volume of a node, as `Node` shows the whole of one."""

    number: int = 0

    @property
    def engine(self) -> str:
        return f"r0@{self.number}"

    @property
    def disk(self) -> Path:
        return self.directory / f"disk{self.number}"

    @property
    def uri(self) -> str:
        return f"nbd+unix:///{self.number}?socket={self.run_dir}/{self.engine}.{SOCKETS[self.door]}"

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        return dict(call(self.run_dir, self.engine, verb, args, 10.0))

    def log(self) -> str:
        path = self.run_dir / f"{self.engine}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        try:
            return int((self.run_dir / f"{self.engine}.pid").read_text())
        except (OSError, ValueError):
            return 0


class Two:
    """Both nodes, and for each volume a pair."""

    def __init__(self, pair: Pair) -> None:
        self.a, self.b = pair.nodes
        self.volumes = [
            Pair(*(Volume(node.name, node.directory, node.address, node.enter, door=node.door, number=number)
                   for node in pair.nodes), pair.directory)
            for number in NUMBERS
        ]  # fmt: skip

    def configure(self, **net: object) -> None:
        for node in (self.a, self.b):
            hosts = "".join(
                f"    on {one.name} {{ address {one.address}:{PORT};\n" + "".join(
                    f"        volume {number} {{ device /dev/drbd{number}; disk {one.directory}/disk{number};"
                    " meta-disk internal; }\n" for number in NUMBERS
                ) + "    }\n" for one in (self.a, self.b)
            )  # fmt: skip
            options = {"protocol": "C", "cram-hmac-alg": "sha1", "shared-secret": "x", **NET, **net}
            node.config.write_text(
                "global { usage-count no; disable-ip-verification; }\nresource r0 {\n"
                f"    {section('net', options)}\n"
                f"    {section('disk', DISK)}\n"
                f"    replblock {{ attach none; door {node.door}; }}\n{hosts}}}\n"
            )

    def begin(self, **net: object) -> None:
        """In sync, `a` Primary."""
        self.configure(**net)
        for node in (self.a, self.b):
            for number in NUMBERS:
                (node.directory / f"disk{number}").write_bytes(bytes(24 * MIB))
            node.do("create-md", "r0")
            node.do("up", "r0")
        for node in (self.a, self.b):
            node.do("wait-connect", "--wfc-timeout=30", "r0")
        self.a.do("new-current-uuid", "--clear-bitmap", "r0")
        self.settle()
        self.a.do("primary", "r0")

    def settle(self) -> None:
        for volume in self.volumes:
            volume.settle()

    def assert_same_data(self) -> None:
        for volume in self.volumes:
            volume.assert_same_data()


@pytest.fixture
def two(pair: Pair) -> Iterator[Two]:
    made = Two(pair)
    yield made
    for volume in made.volumes:
        for node in volume.nodes:
            node._note_pid()
        volume.clean_up()


def fio(volume: Volume, *more: str) -> subprocess.Popen[bytes]:
    command = ["fio", "--name=v", "--ioengine=nbd", f"--uri={volume.uri}", "--rw=randwrite", "--bsrange=4k-64k",
               "--iodepth=8", "--size=16m", "--fsync=8", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
               "--verify_state_save=0", "--output=/dev/null", *more]  # fmt: skip
    return subprocess.Popen(command, cwd=volume.directory)


def written(volume: Node) -> int:
    return int(volume.device["written"])


@pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")
@pytest.mark.parametrize("protocol", ["C", "A"])
def test_both_are_written_while_engines_die(two: Two, protocol: str) -> None:
    """fio on each; engines of the Secondary are killed, that with the connection and the other; nothing is lost."""
    two.begin(protocol=protocol)
    mine = [volume.a for volume in two.volumes]
    running = [fio(volume, "--loops=4", "--rate=8m") for volume in mine]
    try:
        for victim in (two.volumes[1].b, two.volumes[0].b):
            before = [written(volume) for volume in mine]
            wait_until(lambda before=before: all(written(v) > w + 2048 for v, w in zip(mine, before)), "writes on both")
            victim._note_pid()
            victim.kill()
            for volume in mine:
                volume.wait_state("Primary Connecting")
            two.b.do("up", "r0")
            two.settle()
        assert [process.wait() for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    two.assert_same_data()
    two.a.do("secondary", "r0")
    for node in (two.a, two.b):
        node.do("down", "r0")
    for number in NUMBERS:
        images = [(node.directory / f"disk{number}").read_bytes()[: 20 * MIB] for node in (two.a, two.b)]
        assert images[0] == images[1]
        assert any(images[0])


def test_the_primarys_engine_with_the_connection_dies(two: Two) -> None:
    """The other volume goes on alone, and says so in its generation; both come back."""
    two.begin()
    first, second = (volume.a for volume in two.volumes)
    first._note_pid()
    first.kill()
    second.wait_state("Primary Connecting")
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", second.uri], check=True,
                   capture_output=True)  # fmt: skip
    two.a.do("up", "r0")
    two.settle()
    two.a.do("primary", "r0")
    two.assert_same_data()


def test_words(two: Two) -> None:
    """As one resource to whoever looks, volume by volume to whoever asks for one."""
    two.begin()
    assert two.a.do("role", "r0") == "Primary/Secondary\n" * 2
    assert two.a.do("dstate", "r0/1") == two.a.do("dstate", "r0@1") == "UpToDate/UpToDate\n"
    (status,) = json.loads(two.a.do("status", "--json", "r0"))
    assert [device["volume"] for device in status["devices"]] == [0, 1]
    assert [device["volume"] for device in status["connections"][0]["peer_devices"]] == [0, 1]
    assert two.a.do("status", "r0").count(" disk:UpToDate") == 2
    proc = (two.a.run_dir / "proc").read_text()
    assert " 0: cs:Connected ro:Primary/Secondary" in proc and " 1: cs:Connected ro:Primary/Secondary" in proc
    assert two.a.do("sh-resource", "r0") == "r0\n"
    assert two.a.do("sh-dev", "r0") == "/dev/drbd0\n/dev/drbd1\n"
    assert "its volumes: 0, 1" in two.a.refused("role", "r0/7", code=1)
    two.b.do("detach", "r0/1")
    assert two.a.do("dstate", "r0") == "UpToDate/UpToDate\nUpToDate/Diskless\n"
    two.b.do("attach", "r0/1")
    two.settle()
    two.b.do("disconnect", "r0")
    for volume in two.volumes:
        volume.b.wait_state("StandAlone")
        volume.a.wait_state("Connecting")
    two.b.do("connect", "r0")
    two.settle()
    two.a.do("secondary", "r0")
    two.b.do("primary", "r0/1")
    assert two.a.do("role", "r0") == "Secondary/Secondary\nSecondary/Primary\n"


def test_another_secret_is_refused_once(two: Two) -> None:
    """All engines stand alone, who holds the connection says why; with equal secrets `connect` is all it takes."""
    two.begin()
    for node in (two.a, two.b):
        node.do("disconnect", "r0")
    text = two.b.config.read_text()
    two.b.config.write_text(text.replace("shared-secret x", "shared-secret y"))
    two.b.do("adjust", "r0")
    two.a.do("connect", "r0")
    two.volumes[0].b.wait_log("uthentication of peer failed")
    for volume in two.volumes:
        for one in volume.nodes:
            one.wait_state("StandAlone")
    assert "uthentication of peer failed" in two.b.do("status", "--verbose", "r0")
    two.b.config.write_text(text)
    for node in (two.a, two.b):
        node.do("connect", "r0")
    two.settle()
