# SPDX-License-Identifier: GPL-2.0-or-later
"""Many resources on one machine: python -m bench.many [--resources 32] [--size MIB] [--idle-s 30].

Two nodes (run directories) with so many resources each, an engine each. All come up and synchronise at once; what an
engine takes of memory and of a processor while nothing happens is read from /proc; then the first node's engines are
killed (SIGKILL), the other node takes everything over, and the first node comes back and resynchronises.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.processes import BenchError, cpu_seconds, free_port, kill_all, pids_mentioning, wait_until
from bench.replblock_pair import HOST, METADATA_BYTES, NODES, REPLCTL
from bench.rounds import say

MIB = 1 << 20
PATIENCE_S = 300.0

RESOURCE = """\
resource r{number} {{
    net {{ protocol C; }}
    disk {{ resync-rate 4G; c-plan-ahead 0; }}
    replblock {{ attach none; door {door}; }}
{hosts}}}
"""


class Taken(NamedTuple):
    """What engines take, per engine."""

    rss_mib: list[float]
    idle_percent: list[float]
    """Of one processor."""


class Fleet:
    """Both nodes with all their resources."""

    def __init__(self, directory: Path, resources: int, size_bytes: int, door: str) -> None:
        self.directory = directory
        self.resources = resources
        text = ""
        for number in range(resources):
            hosts = ""
            for node in NODES:
                disk = directory / node / f"disk{number}.img"
                disk.parent.mkdir(exist_ok=True)
                with disk.open("wb") as file:
                    file.truncate(size_bytes + METADATA_BYTES)
                hosts += HOST.format(node=node, minor=number, disk=disk, port=free_port())
            text += RESOURCE.format(number=number, door=door, hosts=hosts)
        (directory / "drbd.conf").write_text(text)

    def replctl(self, node: str, *arguments: str) -> str:
        env = {**os.environ, "REPLBLOCK_RUN": str(self.directory / node), "REPLBLOCK_HOST": node}
        command = [str(REPLCTL), "-c", str(self.directory / "drbd.conf"), *arguments]
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)  # fmt: skip
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise BenchError(f"{node}: replctl {' '.join(arguments)}: {said[0]}")
        return done.stdout

    def disks(self, node: str) -> list[tuple[str, str, str]]:
        """Role, connection and disk states of every resource."""
        found: list[dict[str, Any]] = json.loads(self.replctl(node, "status", "--json", "all"))
        rows = []
        for resource in found:
            peers = resource.get("connections", [])
            peer = peers[0]["peer_devices"][0]["peer-disk-state"] if peers else "-"
            state = peers[0]["connection-state"] if peers else "-"
            rows.append((resource["role"], state, f"{resource['devices'][0]['disk-state']}/{peer}"))
        return rows

    def all_are(self, node: str, role: str) -> bool:
        wanted = (role, "Connected", "UpToDate/UpToDate")
        rows = self.disks(node)
        return len(rows) == self.resources and all(row == wanted for row in rows)

    def engines(self, node: str) -> list[int]:
        return [pid for pid in pids_mentioning(str(self.directory / node)) if _is_engine(pid)]

    def stop(self) -> None:
        for node in NODES:
            kill_all(pids_mentioning(str(self.directory / node)))


def _is_engine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip().startswith("nbdkit")
    except OSError:
        return False


def taken_by(pids: list[int], idle_s: float) -> Taken:
    """While nobody asks anything of them."""
    before = {pid: cpu_seconds([pid]) for pid in pids}
    time.sleep(idle_s)
    idle = [100 * (cpu_seconds([pid]) - before[pid]) / idle_s for pid in pids]
    return Taken([rss_mib(pid) for pid in pids], idle)


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"process {pid} has gone")


def measure(fleet: Fleet, idle_s: float) -> None:
    first, second = NODES

    def timed(what: str, *steps: Any) -> None:
        begun = time.monotonic()
        for step in steps:
            step()
        say(f"{what}: {time.monotonic() - begun:.1f} s")

    def eventually(node: str, role: str) -> Any:
        return lambda: wait_until(lambda: fleet.all_are(node, role), f"{node}: all {role}", PATIENCE_S)

    timed("metadata on both nodes", *(lambda node=node: fleet.replctl(node, "create-md", "--force", "all")
                                      for node in NODES))  # fmt: skip
    timed("up on both nodes", *(lambda node=node: fleet.replctl(node, "up", "all") for node in NODES))
    timed("first synchronization of all", lambda: fleet.replctl(first, "primary", "--force", "all"),
          eventually(first, "Primary"))  # fmt: skip
    taken = taken_by([pid for node in NODES for pid in fleet.engines(node)], idle_s)
    rss, idle = taken
    say(f"{len(rss)} engines: resident memory {median(rss):.0f} MiB (most {max(rss):.0f}), "
        f"idle {sum(idle) / len(idle):.2f} % of a processor (most {max(idle):.2f})")
    for pid in fleet.engines(first):
        os.kill(pid, signal.SIGKILL)
    timed(f"{second} takes over all", lambda: fleet.replctl(second, "primary", "all"))
    timed(f"{first} comes back and resynchronises all", lambda: fleet.replctl(first, "up", "all"),
          eventually(second, "Primary"))  # fmt: skip
    timed("down on both nodes", lambda: fleet.replctl(first, "down", "all"),
          lambda: fleet.replctl(second, "secondary", "all"), lambda: fleet.replctl(second, "down", "all"))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.many", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--resources", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, metavar="MIB", help="of each device, sparse")
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--door", choices=("nbdkit", "direct"), default="nbdkit")
    parser.add_argument("--dir", type=Path, default=None, help="where the files live")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rb-many-", dir=options.dir) as name:
        fleet = Fleet(Path(name), options.resources, options.size * MIB, options.door)
        try:
            measure(fleet, options.idle_s)
        except BenchError as problem:
            print(f"bench.many: {problem}", file=sys.stderr)
            return 1
        finally:
            fleet.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
