# SPDX-License-Identifier: GPL-2.0-or-later
"""Two real nodes with logged disks and a cable that can fail in each direction."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from replblock.engine.client import stream
from tests.doors import SOCKETS
from tests.e2e import pair as e2e
from tests.e2e.namespaces import Space, two_spaces
from tests.e2e.pair import MIB, Pair, section
from tests.e2e.waiting import all_stopped, wait_for_end, wait_until
from tests.torture.medium import Medium

NOBODY = "02:00:00:00:de:ad"
PEER_ADDRESSES = ("10.0.0.1", "10.0.0.2")


class Node(e2e.Node):
    """An engine whose disk writes are logged."""

    medium: Medium
    view = "down"
    """Role, connection and disk states, as the engine's own stream of events said last."""
    space: Space | None = None
    peer_address = ""
    closing = False

    def command(self, *words: str) -> list[str]:
        return [*self.enter, sys.executable, "-m", "tests.torture.replctl", "-c", str(self.config), *words]

    @property
    def faults(self) -> Path:
        return self.directory / "faults"

    def fault(self, **faults: Any) -> None:
        """From now on, its disk does this; nothing: it is well again."""
        if not faults:
            self.faults.unlink(missing_ok=True)
            return
        new = self.directory / "faults.new"
        new.write_text(json.dumps(faults))
        new.rename(self.faults)

    def begin(self) -> None:
        """Disk and metadata are made: from here on everything is logged."""
        self.medium = Medium(self.disk, self.directory / "writes", self.directory / "durable")
        self.env.update(TORTURE_DISK=str(self.disk), TORTURE_LOG=str(self.medium.log), TORTURE_FAULTS=str(self.faults))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while not self.closing:
            try:
                for message in stream(self.run_dir, "r0"):
                    if "status" in message:
                        self.view = brief(message["status"])
            except (OSError, ValueError):
                pass
            self.view = "down"
            time.sleep(0.05)

    # ---- ends of a process

    def _end(self) -> None:
        pid = self.pid
        if pid and e2e._is_engine(pid, self.run_dir):
            os.kill(pid, signal.SIGKILL)
            assert wait_for_end(pid), f"{self.name}: process {pid} survived SIGKILL"
        self.fault()

    def kill_9(self) -> None:
        """kill -9: the page cache stays."""
        self._end()
        self.medium.killed()
        self.medium.check()

    def lose_power(self, rng: random.Random) -> str:
        """The machine is off: its disk holds what was flushed, and any part of the rest."""
        self._end()
        return self.medium.power_loss(rng)

    def running(self) -> bool:
        pid = self.pid
        return bool(pid) and e2e._is_engine(pid, self.run_dir)

    def content(self, size_bytes: int) -> bytes:
        with self.disk.open("rb") as file:
            return file.read(size_bytes)

    def generation(self) -> int:
        """The current generation on its disk, while it is down; without the bit that says Primary."""
        return int(self.do("get-gi", "r0").split(":")[0], 16) & ~1

    # ---- its side of the cable

    def deaf_for(self, up: bool) -> None:
        """What this node sends arrives nowhere, or does again."""
        assert self.space is not None
        words = ("del",) if up else ("replace",)
        more = () if up else ("lladdr", NOBODY, "nud", "permanent")
        self.space.run("ip", "neigh", *words, self.peer_address, *more, "dev", "eth0")

    def narrow(self, on: bool) -> None:
        """A cable of 4 Mbit/s."""
        assert self.space is not None
        if on:
            self.space.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "4mbit", "burst", "32k",
                           "latency", "300ms")  # fmt: skip
        else:
            self.space.run("tc", "qdisc", "del", "dev", "eth0", "root")


def brief(status: dict[str, Any]) -> str:
    link = (status["connections"] or [{"connection-state": "StandAlone", "peer_devices": []}])[0]
    there = (link["peer_devices"] or [{"replication-state": "Off", "peer-disk-state": "DUnknown"}])[0]
    return (f"{status['role']}/{link['connection-state']}/{there['replication-state']}/"
            f"{status['devices'][0]['disk-state']}/{there['peer-disk-state']}")


class Torture(Pair):
    """The pair, its cable, and the settings that a seed chose."""

    node_class: type[Node] = Node
    protocol = "C"
    size_bytes = 0
    wired = False
    nodes: tuple[Node, Node]  # type: ignore[assignment]

    def settings(self, rng: random.Random, protocol: str | None = None, attach: str = "none") -> str:
        """Draw a configuration and write it; says what it is."""
        self.protocol = protocol or rng.choice("ABC")
        net: dict[str, object] = {
            "protocol": self.protocol, "connect-int": 1, "ping-int": 1, "timeout": 9, "ping-timeout": 10,
            "max-epoch-size": rng.choice([3, 100, 2048]), "data-integrity-alg": rng.choice([None, "crc32c", "sha1"]),
        }  # fmt: skip
        disk: dict[str, object] = {"c-plan-ahead": 0, "resync-rate": rng.choice(["2G", "2G", "4M"]), "al-extents": 67}
        disk["c-min-rate"] = "1M" if disk["resync-rate"] == "4M" else 0
        io = rng.choice(["buffered", "buffered", "direct"])
        door = os.environ.get("REPLBLOCK_TEST_DOOR") or rng.choice(sorted(SOCKETS))
        hosts = "".join(
            f"    on {one.name} {{ device /dev/drbd0; disk {one.disk}; address {one.address}:{e2e.PORT};"
            " meta-disk internal; }\n" for one in self.nodes
        )
        for node in self.nodes:
            node.door = door
            node.config.write_text(
                "global { usage-count no; disable-ip-verification; }\nresource r0 {\n"
                f"    {section('net', net)}\n    {section('disk', disk)}\n"
                f"    replblock {{ attach {attach}; io {io}; door {door}; }}\n{hosts}}}\n"
            )
        mib = rng.choice([16, 16, 320]) if attach == "none" else 64
        self.make_disks(mib * MIB)
        for node in self.nodes:
            node.begin()
        words = [f"{key} {value}" for key, value in {**net, **disk}.items() if value is not None]
        return f"{mib} MiB, io {io}, door {door}, {', '.join(words)}"

    def settle(self, patience_s: float = 90) -> None:
        super().settle(patience_s)

    def stopped(self, node: Node) -> bool:
        return node.running() and all_stopped(node.pid)

    def is_in_sync(self) -> bool:
        return all("Connected Established UpToDate/UpToDate" in node.state() for node in self.nodes)

    def cut(self, *senders: Node) -> None:
        for node in senders:
            node.deaf_for(up=False)

    def heal(self, *senders: Node) -> None:
        for node in senders:
            node.deaf_for(up=True)

    def wait_gone(self, node: Node) -> None:
        """Until this node has noticed that it lost its peer."""
        wait_until(lambda: any(word in node.state() for word in ("Connecting", "StandAlone", "Unconnected")),
                   lambda: f"{node.name} noticed that its peer is gone; is: {node.state()}")

    def follow(self) -> None:
        for node in self.nodes:
            node.medium.follow()


def make(stack: ExitStack, wired: bool, keep: list[Path], kind: type[Torture] = Torture) -> Torture:
    """Two nodes in a directory of their own, on machines of their own if `wired`; the stack takes it all away.

    The directory stays if it stands in `keep` by then. It is short: a socket's path has at most 107 bytes.
    """
    directory = Path(tempfile.mkdtemp(prefix="rb-tort-"))

    def remove() -> None:
        if directory not in keep:
            import shutil

            shutil.rmtree(directory, ignore_errors=True)

    stack.callback(remove)
    addresses = PEER_ADDRESSES if wired else e2e.addresses()
    nodes = [kind.node_class(name, directory / name, address) for name, address in zip(("alfa", "beta"), addresses)]
    for node, other in zip(nodes, reversed(nodes)):
        node.run_dir.mkdir(parents=True)
        node.peer_address = other.address
    torture = kind(nodes[0], nodes[1], directory)
    torture.wired = wired
    if wired:
        spaces = stack.enter_context(two_spaces(directory))
        for node, space in zip(nodes, spaces):
            node.space, node.enter = space, space.enter
    stack.callback(close, torture)
    return torture


def close(torture: Torture) -> None:
    for node in torture.nodes:
        node.closing = True
    torture.clean_up()
    for node in torture.nodes:
        if hasattr(node, "medium"):
            node.medium.close()
