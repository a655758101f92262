# SPDX-License-Identifier: GPL-2.0-or-later
"""Two network namespaces and a cable between them that carries so many Mbit/s each way (`tc tbf`). Wants root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from bench.processes import BenchError

ADDRESSES = ("10.99.0.1", "10.99.0.2")
LATENCY = "50ms"                # what the shaper queues at most; below it TCP sees losses, as on any slow link
MIN_BURST_BYTES = 64 << 10      # one segmentation offload: less would be cut up
BURSTS_PER_S = 250              # ticks of the kernel: a smaller bucket cannot be filled in time at 1000 Mbit/s


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


@contextlib.contextmanager
def shaped_link(mbit: int) -> Iterator[tuple[list[str], list[str]]]:
    """The ways into both namespaces, to be put before a command; mbit 0: not shaped. Gone afterwards."""
    if os.geteuid():
        raise BenchError("network namespaces are made by root only")
    with contextlib.ExitStack() as stack:
        enters: list[list[str]] = []
        names: list[str] = []
        for _ in ADDRESSES:
            holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec cat"], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(holder.communicate)                  # its end of file, and so its end
            if holder.stdout is None or holder.stdout.readline() != "ready\n":
                raise BenchError("no network namespace: unshare --net failed")
            enters.append(["nsenter", f"--net=/proc/{holder.pid}/ns/net"])
            names.append(f"rb{holder.pid}")
        call("ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for enter, name, address in zip(enters, names, ADDRESSES, strict=True):
            call("ip", "link", "set", name, "netns", name.removeprefix("rb"))
            for words in (f"link set {name} name eth0", f"address add {address}/24 dev eth0", "link set lo up",
                          "link set eth0 up"):
                call(*enter, "ip", *words.split())
            if mbit:
                burst = max(MIN_BURST_BYTES, mbit * 125_000 // BURSTS_PER_S)
                call(*enter, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", f"{mbit}mbit", "burst",
                     str(burst), "latency", LATENCY)
        yield enters[0], enters[1]
