# SPDX-License-Identifier: GPL-2.0-or-later
"""The two nodes of the demo: `dados` and `backup`, each with its own run directory and disk, both on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from replblock.cli.demo.timeline import Timeline
from replblock.status.progress import Sync, terminal_line

RESOURCE = "r0"
POLL_S = 0.05

# The model deployment's configuration; changed: disks, addresses, device names, and our own section.
CONFIGURATION = """\
global {{
    usage-count no;
}}
common {{
    replblock {{ attach {attach}; }}
}}
resource r0 {{
    protocol B;
    startup {{
        wfc-timeout 0;
        degr-wfc-timeout 120;    # 2 minutes.
    }}
    disk {{
        on-io-error detach;
    }}
    syncer {{
        rate 1000M;
    }}
    net {{
        timeout 60;
        connect-int 1;
        ping-int 10;
        after-sb-0pri discard-zero-changes;
        after-sb-1pri discard-secondary;
        after-sb-2pri disconnect;
    }}
    on dados {{
        device    {device_dados};
        disk      {directory}/dados.disk;
        address   127.0.0.1:{port};
        meta-disk internal;
    }}
    on backup {{
        device    {device_backup};
        disk      {directory}/backup.disk;
        address   127.0.0.2:{port};
        meta-disk internal;
    }}
}}
"""


class DemoError(Exception):
    """The demo cannot go on; one line says why."""


class Node:
    """One node: commands go through the real command line."""

    def __init__(self, name: str, directory: Path, config: Path, device: str) -> None:
        self.name = name
        self.run_dir = directory / name
        self.config = config
        self.disk = directory / f"{name}.disk"
        self.device = device
        self.run_dir.mkdir()

    def replctl(self, *words: str, fine: tuple[int, ...] = (0,)) -> str:
        """Run a command on this node; its standard output. Raises DemoError with what it said."""
        environment = {**os.environ, "REPLBLOCK_RUN": str(self.run_dir), "REPLBLOCK_HOST": self.name}
        command = [sys.executable, "-m", "replblock.cli.main", "-c", str(self.config), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in fine:
            said = " | ".join((done.stderr or done.stdout).strip().splitlines())
            what = f"replctl {' '.join(words)}"
            raise DemoError(f"{self.name}: {what} ended with {done.returncode}: {said}; log: {self.log}")
        return done.stdout

    @property
    def log(self) -> Path:
        """The engine's log."""
        return self.run_dir / f"{RESOURCE}.log"

    @property
    def pid(self) -> int:
        """Process number of the engine."""
        return int((self.run_dir / f"{RESOURCE}.pid").read_text())

    def status(self) -> dict[str, Any]:
        """`replctl status --json` of the resource."""
        found: list[dict[str, Any]] = json.loads(self.replctl("status", RESOURCE, "--json"))
        return found[0]

    def uri(self) -> str:
        """NBD address of the device on this node."""
        return self.replctl("sh-nbd", RESOURCE).strip()

    def kill(self) -> None:
        """kill -9: what a crash of the process looks like."""
        os.kill(self.pid, signal.SIGKILL)

    def follow_sync(self, timeline: Timeline, most_s: float = 300) -> int:
        """Wait until both disks are UpToDate, showing the progress; KiB that were to be copied."""
        end = time.monotonic() + most_s
        total_kib = 0
        while time.monotonic() < end:
            status = self.status()
            peer = status["connections"][0]["peer_devices"][0] if status["connections"] else None
            sync = peer["replblock-sync"] if peer else None
            if peer and sync:
                total_kib = max(total_kib, sync["rs_total_blocks"] * 4)
                timeline.move(terminal_line(RESOURCE, peer["replication-state"], Sync.of(sync)))
            states = {status["devices"][0]["disk-state"], peer["peer-disk-state"] if peer else ""}
            if peer and states == {"UpToDate"} and peer["replication-state"] == "Established":
                return total_kib
            time.sleep(POLL_S)
        raise DemoError(f"{self.name}: no sync within {most_s:g} s; see {self.log}")

    def stop(self) -> None:
        """Whatever state it is in: end it, by its process number."""
        for last in (False, True):
            try:
                self.replctl("down", RESOURCE)
                return
            except DemoError:
                if last:
                    return
            try:
                self.kill()  # the next down takes away what a killed engine leaves behind
            except (OSError, ValueError):
                return


def free_port() -> int:
    """A port free on both loopback addresses."""
    for port in range(7788, 7888):
        try:
            for address in ("127.0.0.1", "127.0.0.2"):
                with socket.socket() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((address, port))
        except OSError:
            continue
        return port
    raise DemoError("no free port between 7788 and 7887 on 127.0.0.1 and 127.0.0.2")


def free_devices() -> tuple[str, str]:
    """Two names /dev/drbdN that nobody uses."""
    names = [f"/dev/drbd{n}" for n in range(240, 250) if not os.path.exists(f"/dev/drbd{n}")]
    if len(names) < 2:
        raise DemoError("/dev/drbd240 to /dev/drbd249 are all taken")
    return names[0], names[1]


def make_nodes(directory: Path, attach: str, disk_bytes: int) -> tuple[Node, Node]:
    """Both nodes with their disks and a common configuration; nothing is started."""
    free = shutil.disk_usage(directory).free
    if free < 3 * disk_bytes:
        raise DemoError(f"{directory}: {free >> 20} MiB free, the demo wants {3 * disk_bytes >> 20} MiB; set TMPDIR")
    first, second = free_devices()
    config = directory / "drbd.conf"
    config.write_text(
        CONFIGURATION.format(
            attach=attach, directory=directory, port=free_port(), device_dados=first, device_backup=second
        )
    )
    nodes = Node("dados", directory, config, first), Node("backup", directory, config, second)
    for node in nodes:
        with open(node.disk, "wb") as disk:
            disk.truncate(disk_bytes)
    return nodes
