# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock as a contestant: two nodes on this machine, driven by replctl alone, no kernel device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.contestants import Contestant
from bench.processes import BenchError, cpu_seconds, free_port, kill_all, pids_mentioning

REPLCTL = Path(sys.executable).parent / "replctl"
NODES = ("alpha", "beta")
METADATA_BYTES = 4 << 20        # more than enough behind the data for the sizes benchmarked
COMMAND_TIMEOUT_S = 600

CONFIG = """\
resource r0 {{
    net {{ protocol {protocol}; }}
    disk {{ resync-rate 4G; c-plan-ahead 0; al-extents {al_extents}; }}
    options {{ cpu-mask {cpu_mask}; }}
    replblock {{ attach none; door {door}; }}
{hosts}}}
"""
HOST = """\
    on {node} {{
        device /dev/drbd{minor} minor {minor};
        disk {disk};
        meta-disk internal;
        address 127.0.0.1:{port};
    }}
"""


class Variant(NamedTuple):
    protocol: str
    door: str

    @property
    def label(self) -> str:
        return f"replblock {self.protocol} ({self.door})"


VARIANTS = tuple(Variant(protocol, door) for door in ("nbdkit", "direct") for protocol in "CBA")


class ReplblockPair(Contestant):
    def __init__(self, directory: Path, size_bytes: int, *, sparse: bool = False,
                 variant: Variant = VARIANTS[0], al_extents: int = 1237, cpu_mask: str = "0") -> None:
        super().__init__(directory, size_bytes, sparse=sparse)
        self.size_bytes += METADATA_BYTES
        self.variant = variant
        self.label = variant.label
        self.al_extents = al_extents
        self.cpu_mask = cpu_mask
        self.up: list[str] = []         # nodes to take down again

    def files(self) -> list[Path]:
        return [self.directory / node / "disk.img" for node in NODES]

    def command(self, node: str, *arguments: str) -> list[str]:
        """replctl on this node."""
        return [str(REPLCTL), "-c", str(self.directory / "drbd.conf"), *arguments]

    def replctl(self, node: str, *arguments: str) -> str:
        env = {**os.environ, "REPLBLOCK_RUN": str(self.directory / node), "REPLBLOCK_HOST": node}
        command = self.command(node, *arguments)
        try:
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=COMMAND_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{self.label}: replctl {' '.join(arguments)}: {error}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise BenchError(f"{self.label}: {node}: replctl {' '.join(arguments)}: {said[0]}")
        return done.stdout.strip()

    def create(self) -> None:
        """Files, metadata and both nodes up and connected, Inconsistent on both sides."""
        self.make_files()
        hosts = "".join(HOST.format(node=node, minor=minor, disk=disk, port=free_port())
                        for minor, (node, disk) in enumerate(zip(NODES, self.files(), strict=True)))
        config = CONFIG.format(protocol=self.variant.protocol, door=self.variant.door,
                               al_extents=self.al_extents, cpu_mask=self.cpu_mask, hosts=hosts)
        (self.directory / "drbd.conf").write_text(config)
        for node in NODES:
            self.replctl(node, "create-md", "--force", "r0")
        for node in NODES:
            self.up.append(node)
            self.replctl(node, "up", "r0")
        self.check_door()
        self.replctl(NODES[0], "wait-connect", "r0")

    def check_door(self) -> None:
        """A row is labelled by the door that serves, not by the one asked for: an engine may not have that one.

        The engine names it in its status; one that does not has only nbdkit's.
        """
        (resource,) = json.loads(self.replctl(NODES[0], "status", "--json", "r0"))
        serving = {device.get("replblock-door", "nbdkit") for device in resource["devices"]}
        if serving != {self.variant.door}:
            raise BenchError(f"{self.label}: the engine serves through the door {'/'.join(sorted(serving))} instead")

    def sync(self) -> None:
        """A full initial sync from the first node, from the order to UpToDate on both."""
        self.replctl(NODES[0], "primary", "--force", "r0")
        self.replctl(NODES[0], "wait-sync", "r0")

    def start(self) -> str:
        self.create()
        self.sync()
        self.check()
        return self.replctl(NODES[0], "sh-nbd", "r0")

    def check(self) -> None:
        seen = tuple(self.replctl(NODES[0], verb, "r0") for verb in ("role", "cstate", "dstate"))
        if seen != ("Primary/Secondary", "Connected", "UpToDate/UpToDate"):
            raise BenchError(f"{self.label}: not in step: {' '.join(seen)}")

    def pids(self) -> list[int]:
        return pids_mentioning(f"REPLBLOCK_RUN={self.directory}/")

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pids())

    def stop(self) -> None:
        while self.up:
            try:
                self.replctl(self.up.pop(0), "down", "r0")
            except BenchError as error:
                print(error, file=sys.stderr)
        kill_all(self.pids())
