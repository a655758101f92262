# SPDX-License-Identifier: GPL-2.0-or-later
"""Two real nodes of one resource: nbdkit processes started by replctl, each with a disk, a run directory and a
configuration file of its own. Nothing outside the pair's directory and its two loopback addresses is touched.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replblock.engine.client import NotUp, call
from tests.doors import DOOR, SOCKETS
from tests.e2e.waiting import PATIENCE_S, all_stopped, wait_for_end, wait_until

MIB = 1 << 20
PORT = 7788
ROOT = Path(__file__).resolve().parents[2]
CLI_S = 90.0

# Quick to notice a peer, but with a ping time-out that a busy machine does not reach by itself.
NET: dict[str, object] = {"connect-int": 1, "ping-int": 1, "timeout": 9, "ping-timeout": 30}
DISK: dict[str, object] = {"resync-rate": "2G", "c-plan-ahead": 0, "c-min-rate": 0}


@dataclass
class Result:
    """A finished command."""

    command: Sequence[str]
    code: int
    out: str
    err: str

    @property
    def first(self) -> str:
        """The line that says what is wrong."""
        return self.err.splitlines()[0] if self.err else ""


@dataclass
class Node:
    """One node. `enter` is put before every command: the way into its namespaces."""

    name: str
    directory: Path
    address: str
    enter: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    door: str = DOOR
    env: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.directory / "drbd.conf"

    @property
    def disk(self) -> Path:
        return self.directory / "disk"

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def uri(self) -> str:
        return f"nbd+unix:///0?socket={self.run_dir}/r0.{SOCKETS[self.door]}"

    @property
    def environment(self) -> dict[str, str]:
        ours = {"REPLBLOCK_RUN": str(self.run_dir), "REPLBLOCK_HOST": self.name, "PYTHONPATH": str(ROOT)}
        return {**os.environ, **ours, **self.env}

    # ---- commands

    def command(self, *words: str) -> list[str]:
        """replctl as a command line; it wants `environment`."""
        return [*self.enter, sys.executable, "-m", "replblock.cli.main", "-c", str(self.config), *words]

    def run(self, *command: str, timeout_s: float = CLI_S, stdin: str | None = None) -> Result:
        """Any command in this node's world."""
        done = subprocess.run(
            [*self.enter, *command], env=self.environment, capture_output=True, text=True, timeout=timeout_s,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),  # type: ignore[arg-type]
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def try_(self, *words: str, timeout_s: float = CLI_S) -> Result:
        """replctl; any exit code."""
        done = self.command(*words)[len(self.enter):]
        result = self.run(*done, timeout_s=timeout_s)
        self._note_pid()
        return result

    def do(self, *words: str, timeout_s: float = CLI_S) -> str:
        """replctl, which must succeed; its output."""
        result = self.try_(*words, timeout_s=timeout_s)
        assert result.code == 0, f"{self.name}: replctl {' '.join(words)}: exit {result.code}\n{result.err}{result.out}"
        return result.out

    def refused(self, *words: str, code: int) -> str:
        """replctl, which must fail with this exit code; what it said."""
        result = self.try_(*words)
        assert result.code == code, f"{self.name}: replctl {' '.join(words)}: exit {result.code}, not {code}\n{result}"
        return result.err

    # ---- looking

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        """The control socket, as replctl asks it; quicker to poll with."""
        return dict(call(self.run_dir, "r0", verb, args, 10.0))

    def status(self) -> dict[str, Any]:
        return dict(self.ask("status")["data"])

    @property
    def device(self) -> dict[str, Any]:
        return dict(self.status()["devices"][0])

    def state(self) -> str:
        """`Primary Connected Established UpToDate/UpToDate`, short enough for a message."""
        try:
            status = self.status()
        except (NotUp, OSError):
            return "down"
        link = (status["connections"] or [{"connection-state": "StandAlone", "peer_devices": []}])[0]
        there = (link["peer_devices"] or [{"replication-state": "Off", "peer-disk-state": "DUnknown"}])[0]
        here = status["devices"][0]["disk-state"]
        return (f"{status['role']} {link['connection-state']} {there['replication-state']} "
                f"{here}/{there['peer-disk-state']}")

    def wait_state(self, wanted: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until `wanted` is part of `state()`."""
        wait_until(lambda: wanted in self.state(), lambda: f"{self.name}: {wanted!r}; is: {self.state()}", patience_s)

    def log(self) -> str:
        path = self.run_dir / "r0.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_log(self, text: str, since: int = 0, patience_s: float = PATIENCE_S) -> str:
        """The first line of the log after byte `since` that contains the text."""

        def look() -> str:
            return next((line for line in self.log()[since:].splitlines() if text in line), "")

        return wait_until(look, f"{self.name}: {text!r} in the log", patience_s)

    def why(self) -> str:
        """What `status` says about how it came to this state."""
        return "\n".join(f"{w['rule']}: {w['text']}" for w in self.status()["replblock-why"])

    # ---- the disk

    def make_disk(self, size_bytes: int = 64 * MIB, metadata: bool = True) -> None:
        with self.disk.open("wb") as file:
            file.truncate(size_bytes)
        if metadata:
            self.do("create-md", "r0")

    def data(self, path: Path | None = None) -> Iterator[bytes]:
        """The data area, MiB by MiB; its size is what status says."""
        left = self.device["size"] * 1024
        with (path or self.disk).open("rb") as file:
            while left:
                piece = file.read(min(left, MIB))
                assert piece, "the disk is smaller than its data area"
                left -= len(piece)
                yield piece

    # ---- the process

    def _note_pid(self) -> None:
        pid = self.pid
        if pid:
            self.pids.add(pid)

    @property
    def pid(self) -> int:
        """The engine's process, 0 if there is none."""
        try:
            return int((self.run_dir / "r0.pid").read_text())
        except (OSError, ValueError):
            return 0

    def signal(self, number: int) -> None:
        pid = self.pid
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            wait_until(lambda: all_stopped(pid), f"{self.name} stopped")

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid), f"{self.name}: process {pid} survived SIGKILL"

    def alive(self) -> bool:
        return self.state() != "down"

    def clean_up(self) -> None:
        """Whatever is left of this node, by process number only."""
        self._note_pid()
        pids = {pid for pid in self.pids if _is_engine(pid, self.run_dir)}
        helpers = [int(path.read_text() or 0) for path in self.run_dir.glob("nbdfuse-*.pid")]
        pids |= {pid for pid in helpers if pid and _is_engine(pid, self.run_dir)}
        for pid in pids:
            for number in (signal.SIGCONT, signal.SIGKILL):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        for pid in pids:
            wait_for_end(pid, 10)


def _is_engine(pid: int, run_dir: Path) -> bool:
    """Whether the process is (still) one of this run directory: numbers are used again."""
    try:
        return os.fsencode(run_dir) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def section(name: str, options: dict[str, object]) -> str:
    """A section of drbd.conf; an option whose value is None is left out, one that is "" has no value."""
    lines = "".join(f" {key} {value};" if value != "" else f" {key};" for key, value in options.items()
                    if value is not None)
    return f"{name} {{{lines} }}"


@dataclass
class Pair:
    """Nodes `a` and `b`. The configuration is made of sections that a test may change per node, before `up`."""

    a: Node
    b: Node
    directory: Path

    @property
    def nodes(self) -> tuple[Node, Node]:
        return (self.a, self.b)

    def other(self, node: Node) -> Node:
        return self.b if node is self.a else self.a

    def configure(self, nodes: Sequence[Node] | None = None, *, net: dict[str, object] | None = None,
                  disk: dict[str, object] | None = None, more: str = "", attach: str = "none",
                  device: str = "/dev/drbd0", handlers: dict[str, object] | None = None) -> None:
        """Write the configuration of these nodes (both unless said otherwise)."""
        for node in self.nodes if nodes is None else nodes:
            hosts = "".join(
                f"    on {one.name} {{ device {device}; disk {one.disk}; address {one.address}:{PORT};"
                " meta-disk internal; }\n" for one in self.nodes
            )
            node.config.write_text(
                "global { usage-count no; disable-ip-verification; }\nresource r0 {\n"
                f"    {section('net', {'protocol': 'C', **NET, **(net or {})})}\n"
                f"    {section('disk', {**DISK, **(disk or {})})}\n"
                f"    {section('handlers', handlers or {})}\n"
                f"    replblock {{ attach {attach}; door {node.door}; }}\n    {more}\n{hosts}}}\n"
            )

    def make_disks(self, size_bytes: int = 64 * MIB) -> None:
        for node in self.nodes:
            node.make_disk(size_bytes)

    def up(self) -> Pair:
        """Both up and connected."""
        for node in self.nodes:
            node.do("up", "r0")
        for node in self.nodes:
            node.do("wait-connect", "--wfc-timeout=30", "r0")
        return self

    def clean(self) -> Pair:
        """Both up, connected, UpToDate and Secondary, without a sync: both disks are known to be all zeroes."""
        self.up()
        self.a.do("new-current-uuid", "--clear-bitmap", "r0")
        for node in self.nodes:
            node.wait_state("Established UpToDate/UpToDate")
        return self

    def settle(self, patience_s: float = 60) -> None:
        """Wait until both are connected, in sync and idle."""
        for node in self.nodes:
            node.wait_state("Connected Established UpToDate/UpToDate", patience_s)

        def idle() -> bool:
            """Under A only the peer's barrier ack tells that it has everything: ap-in-flight."""
            found = [node.status() for node in self.nodes]
            counters = [status["devices"][0]["replblock-counters"] for status in found]
            busy = [one[key] for one in counters for key in ("ap", "lo", "pe", "ua")]
            return not any([*busy, *(status["connections"][0]["ap-in-flight"] for status in found)])

        wait_until(idle, "both nodes idle")

    def swap(self, old: Node) -> Node:
        """A planned change of roles; the new primary."""
        new = self.other(old)
        old.do("secondary", "r0")
        new.do("primary", "r0")
        return new

    def assert_same_data(self) -> None:
        """cmp of the two data areas, once both are idle; and both know that they hold the same generation."""
        self.settle()
        generations = [int(node.device["replblock-uuids"][0], 16) & ~1 for node in self.nodes]
        assert generations[0] == generations[1], [f"{generation:016X}" for generation in generations]
        assert self.a.device["size"] == self.b.device["size"]
        for number, (mine, theirs) in enumerate(zip(self.a.data(), self.b.data())):
            if mine != theirs:
                blocks = range(0, MIB, 4096)
                at = next(start for start in blocks if mine[start:start + 4096] != theirs[start:start + 4096])
                raise AssertionError(f"the nodes differ at byte {number * MIB + at}")

    def clean_up(self) -> None:
        for node in self.nodes:
            node.clean_up()

    def sections(self) -> list[tuple[str, str]]:
        """Logs and states for the report of a failed test."""
        found = []
        for node in self.nodes:
            found.append((f"{node.name}: state and log", f"{node.state()}\n{node.log()[-12000:]}"))
        return found


def addresses() -> tuple[str, str]:
    """Two loopback addresses nobody else uses: so every pair can have the port it likes, and captures stay apart."""
    net = random.SystemRandom()
    base = f"127.{net.randrange(20, 250)}.{net.randrange(1, 255)}"
    return f"{base}.1", f"{base}.2"


@contextmanager
def make_pair(remember: Callable[[Pair], None] = lambda pair: None) -> Iterator[Pair]:
    """A pair with the default configuration and no disks yet; everything of it is gone afterwards.

    The directory is short on purpose: the path of a Unix socket has at most 107 bytes.
    """
    directory = Path(tempfile.mkdtemp(prefix="rb-e2e-"))
    nodes = [Node(name, directory / name, address) for name, address in zip(("alfa", "beta"), addresses())]
    for node in nodes:
        node.run_dir.mkdir(parents=True)
    pair = Pair(nodes[0], nodes[1], directory)
    pair.configure()
    remember(pair)
    try:
        yield pair
    finally:
        pair.clean_up()
        shutil.rmtree(directory, ignore_errors=True)


def json_of(node: Node) -> dict[str, Any]:
    """`replctl status --json`, as a monitor would read it."""
    found: list[dict[str, Any]] = json.loads(node.do("status", "--json", "r0"))
    return found[0]
