# SPDX-License-Identifier: GPL-2.0-or-later
"""Real engines under nbdkit for tests: a node is a run directory, a host name and a disk file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replblock.engine import client, launch
from tests.doors import DOOR, SOCKETS
from tests.engine.authority import Authority
from tests.engine.conftest import wait_for

TLS = bool(os.environ.get("REPLBLOCK_TEST_TLS"))
"""All of it through encrypted links."""
FAKE_PLUGIN = Path(__file__).with_name("fake_plugin.py")

CONFIG = """
resource r0 {{
    net {{ protocol {protocol}; {net} }}
    disk {{ {disk} }}
    handlers {{ {handlers} }}
    replblock {{ attach {attach}; door {door}; {replblock} }}
    on alpha {{ device {device}; disk {directory}/alpha.disk; address 127.0.0.1:{ports[0]}; meta-disk internal; }}
    on beta  {{ device {device}; disk {directory}/beta.disk;  address 127.0.0.1:{ports[1]}; meta-disk internal; }}
}}
"""


class Node:
    """One engine process; verbs raise AssertionError with the engine's log when they are refused unexpectedly."""

    def __init__(self, directory: Path, config: Path, host: str, plugin: Path | None, device: str,
                 door: str = DOOR) -> None:  # fmt: skip
        self.config = config
        self.host = host
        self.plugin = plugin
        self.device = device
        self.door = door
        self.run = directory / f"run-{host}"
        self.disk = directory / f"{host}.disk"
        self.pid = 0

    def start(self, resume: bool = False) -> None:
        self.pid = launch.start("r0", self.config, self.host, self.run, plugin=self.plugin, resume=resume)

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        return client.call(self.run, "r0", verb, args, 20.0)

    def do(self, verb: str, **args: Any) -> dict[str, Any]:
        found = self.ask(verb, **args)
        assert found["exit_code"] == 0, f"{self.host} {verb}: {found}\n{self.log()}"
        return found

    def status(self) -> dict[str, Any]:
        return dict(self.do("status")["data"])

    def log(self) -> str:
        path = self.run / "r0.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @property
    def socket(self) -> Path:
        """Of the door under test."""
        return self.run / f"r0.{SOCKETS[self.door]}"

    def alive(self) -> bool:
        return any(child.pid == self.pid and child.poll() is None for child in launch._children)

    def exit_code(self) -> int:
        child = next(child for child in launch._children if child.pid == self.pid)
        wait_for(lambda: child.poll() is not None, f"the end of {self.host}")
        return int(child.returncode)

    def kill(self) -> None:
        if self.pid and self.alive():
            os.kill(self.pid, signal.SIGKILL)
            self.exit_code()


def make_disk_file(path: Path, size_bytes: int) -> None:
    """A file with fresh internal metadata, written by DRBD's own tool."""
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    command = ["drbdmeta", "--force", "0", "v08", str(path), "internal", "create-md"]
    subprocess.run(command, check=True, capture_output=True, input=b"yes\n")


@contextmanager
def nodes(
    directory: Path, port: Callable[[], int], *, plugin: Path | None = None, size_bytes: int = 32 << 20,
    protocol: str = "C", net: str = "", disk: str = "", handlers: str = "", replblock: str = "",
    attach: str = "none", device: str = "/dev/drbd0", door: str = DOOR,
) -> Iterator[tuple[Node, Node]]:  # fmt: skip
    """Two nodes, configured, with metadata, not started; killed at the end."""
    config = directory / "drbd.conf"
    if TLS and "tls" not in replblock:
        both = Authority(directory).node("both", alternative="DNS:alpha,DNS:beta")
        replblock += f" tls yes; tls-certificates {both};"
    config.write_text(CONFIG.format(
        protocol=protocol, net=net, disk=disk, handlers=handlers, replblock=replblock, directory=directory,
        attach=attach, device=device, door=door,
        ports=(port(), port()),
    ))  # fmt: skip
    alpha, beta = (Node(directory, config, host, plugin, device, door) for host in ("alpha", "beta"))
    pair = alpha, beta
    for node in pair:
        make_disk_file(node.disk, size_bytes)
    try:
        yield pair
    finally:
        for node in pair:
            node.kill()
