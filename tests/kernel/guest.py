# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest: a machine with a kernel, a disk and cables of its own, whose programs are those of this machine.

Its process is the first of a process namespace. So a power cut is one signal, nothing of the guest outlives it, and
nothing of it outlives us: that first process ends when a pipe of ours does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.e2e.waiting import all_stopped, wait_until
from tests.kernel.boot import Boot, Kernel
from tests.kernel.inside import FRAME, PORT
from tests.kernel.network import CABLES, Network

BOOT_S = 180.0              # seconds on an idle machine; ten times that in an emulated processor on a busy one
COMMAND_S = 120.0
CONNECT_S = 10.0
MIB = 1 << 20

#: Starts the guest and waits for our end of the pipe to close, or for the guest's own end.
FIRST_PROCESS = '{ "$@" </dev/null; echo; echo "guest: ended"; } & exec 1>&- 2>&-; exec cat >/dev/null'


class Result(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


class Command:
    """A command that runs in a guest. What it says is collected as it comes."""

    def __init__(self, link: socket.socket, request: dict[str, object]) -> None:
        self._link = link
        self._said = {b"o": bytearray(), b"e": bytearray()}
        self._changed = threading.Condition()
        self._over = False
        self.code: int | None = None
        """None while it runs, and if its guest was lost before it ended."""
        link.sendall(json.dumps(request).encode() + b"\n")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._link.makefile("rb") as frames:
            while len(head := frames.read(FRAME.size)) == FRAME.size:
                kind, length = FRAME.unpack(head)
                data = frames.read(length)
                if len(data) < length:
                    break
                with self._changed:
                    if kind == b"x":
                        (self.code,) = struct.unpack(">i", data)
                        break
                    self._said[kind] += data
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    @property
    def out(self) -> str:
        with self._changed:
            return self._said[b"o"].decode(errors="replace")

    @property
    def err(self) -> str:
        with self._changed:
            return self._said[b"e"].decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """Whole lines of output."""
        return self.out.split("\n")[:-1]

    def wait(self, patience_s: float = COMMAND_S) -> Result:
        """Its result; code 255 if the guest was lost."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._over, patience_s), "a command in a guest does not end"
        return Result(255 if self.code is None else self.code, self.out, self.err)

    def wait_for(self, condition: Callable[[list[str]], bool], what: str, patience_s: float = COMMAND_S) -> list[str]:
        """Until the lines it said fulfil the condition."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or condition(self.lines), patience_s)
        lines = self.lines
        assert condition(lines), f"{what}: exit code {self.code}, said {lines[-5:]}, {self.err[-2000:]}"
        return lines

    def stop(self) -> None:
        """Give it up: the guest kills it when the connection breaks."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()
        self._reader.join(CONNECT_S)


class Guest:
    """`start`, `run`, `kill`; the disk stays between two lives."""

    def __init__(
        self, kernel: Kernel, network: Network, name: str, number: int, names: Mapping[str, int], directory: Path,
        memory_mib: int = 256, disk_mib: int = 64, init: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.number = number
        self.directory = directory
        self.memory_mib = memory_mib
        self._init = init
        self._kernel = kernel
        self.network = network
        self._hosts = ",".join(f"{CABLES['eth0']}.{number}={name}" for name, number in names.items())
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._begun_at = 0
        self._commands: list[Command] = []
        directory.mkdir(parents=True)
        self.disk = directory / "disk"
        with self.disk.open("wb") as file:
            file.truncate(disk_mib * MIB)

    # ---- power

    def start(self) -> None:
        """Switch on; `wait_ready` tells when commands can be run."""
        assert self._process is None, f"{self.name} is on already"
        words = {
            "name": self.name,
            "net": ",".join(f"{cable}={net}.{self.number}/24" for cable, net in CABLES.items()),
            "control": self._control,
            "hosts": self._hosts,
            **({"init": self._init} if self._init else {}),
        }
        boot = Boot(self.number, self.memory_mib, self.disk, self.directory, self.network, words)
        with open(self.console, "ab") as console:
            self._begun_at = console.tell()
            self._process = subprocess.Popen(
                [*self.network.enter, "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
                 "sh", "-c", FIRST_PROCESS, "guest", *self._kernel.command(boot)],
                stdin=subprocess.PIPE, stdout=console, stderr=console,
            )  # fmt: skip
        self._first = wait_until(lambda: next(iter(children(self._pid)), 0), f"{self.name}: its first process")

    @property
    def _control(self) -> str:
        return f"{CABLES['control']}.{self.number}"

    @property
    def address(self) -> str:
        return f"{CABLES['eth0']}.{self.number}"

    @property
    def console(self) -> Path:
        return self.directory / "console"

    @property
    def _pid(self) -> int:
        assert self._process is not None, f"{self.name} is off"
        return self._process.pid

    @property
    def is_on(self) -> bool:
        return self._process is not None

    def wait_ready(self, patience_s: float = BOOT_S) -> None:
        def answers() -> bool:
            said = self._console_text()
            assert not any(f"guest: {end}" in said for end in ("could not start", "ended")), self.last_words()
            try:
                self.network.connect((self._control, PORT), 1.0).close()
            except OSError:
                return False
            return True

        wait_until(answers, lambda: f"{self.name} boots: {self.last_words()}", patience_s)

    def _console_text(self) -> str:
        """What it said in this life."""
        return self.console.read_bytes()[self._begun_at:].decode(errors="replace")

    def last_words(self) -> str:
        return f"{self.name}'s console ends with:\n{self._console_text()[-4000:]}"

    def kill(self) -> None:
        """A power cut: no process of the guest does anything any more when this returns. Off already is fine."""
        if self._process is None:
            return
        try:
            first = os.pidfd_open(self._first)
        except ProcessLookupError:
            pass
        else:
            signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [])      # it has ended only when all of its namespace have
            os.close(first)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None
        for command in self._commands:
            command.stop()
        self._commands.clear()

    def freeze(self) -> None:
        """Nothing of the guest runs until `thaw`: its first thread first, so that nobody is started meanwhile."""
        for pid in descendants(self._first):
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda pid=pid: all_stopped(pid), f"{self.name}: process {pid} stopped")  # type: ignore[misc]

    def thaw(self) -> None:
        for pid in reversed(descendants(self._first)):
            os.kill(pid, signal.SIGCONT)

    def cut(self, cable: str = "eth0") -> None:
        self.network.plug(self.number, cable, False)

    def heal(self, cable: str = "eth0") -> None:
        self.network.plug(self.number, cable, True)

    # ---- commands

    def begin(self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_S) -> Command:
        """Start a command. The guest kills it after `timeout_s`."""
        link = self.network.connect((self._control, PORT), CONNECT_S)
        link.settimeout(None)
        command = Command(link, {"argv": argv, "timeout": timeout_s, "env": dict(env or {})})
        self._commands.append(command)
        return command

    def run(self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_S) -> Result:
        """Run a command; any exit code."""
        command = self.begin(*argv, env=env, timeout_s=timeout_s)
        try:
            return command.wait(timeout_s + COMMAND_S)
        finally:
            command.stop()
            self._commands.remove(command)

    def sh(self, script: str, timeout_s: float = COMMAND_S) -> str:
        """A shell script, stopped at its first failure, which must not come; its output."""
        done = self.run("bash", "-euo", "pipefail", "-c", script, timeout_s=timeout_s)
        assert done.code == 0, f"{self.name}: {script}: exit {done.code}\n{done.err}{done.out}"
        return done.out


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """The process and all below it, parents first."""
    return [pid, *(further for child in children(pid) for further in descendants(child))]
