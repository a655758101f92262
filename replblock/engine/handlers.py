# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the configured handlers (`sh -c COMMAND`) beside the loop, with DRBD's environment; reports how they ended."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping

from replblock.core.host import HandlerDone
from replblock.engine.processor import stand_up

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT_S = 300.0
"""fence-peer scripts wait for STONITH, which may take minutes; for ever is too long."""
NOT_STARTED, TIMED_OUT = 127, 124
"""What a shell and timeout(1) say."""
OUTPUT_MAX_BYTES = 4096
"""Of what a handler says, so much is logged; the rest is thrown away while it runs."""
LOOK_S = 1.0
RUNNING_MAX = 16
"""A peer that comes and goes must not fill the machine with handlers that hang."""
RESOURCE_WIDE = frozenset({"fence-peer", "unfence-peer"})
"""drbdadm calls these for the whole resource: no volume and no disk in their environment."""
OF_A_VOLUME = ("DRBD_VOLUME", "DRBD_LL_DISK")

Report = Callable[[str, str, int | None], None]
"""report("call" or "response", handler's name, exit code of a response)."""


class Handlers:
    """`run` returns at once; `done` comes through `post`, in the loop's thread."""

    def __init__(
        self,
        commands: Mapping[str, str],
        environment: Mapping[str, str],
        post: Callable[..., None],
        log: Callable[[str, str, str], None],
        report: Report = lambda what, name, code: None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.commands = dict(commands)
        self.environment = dict(environment)
        self._post = post
        self._log = log
        self._report = report
        self._timeout_s = timeout_s
        self._running = 0

    def run(self, name: str, env: Mapping[str, str], done: HandlerDone) -> None:
        command = self.commands.get(name)
        if not command:
            self._post(done, 0)
            return
        if self._running >= RUNNING_MAX:
            self._log("error", "too-many-handlers", f"{self._running} handlers are running: {name} is not called")
            self._post(done, NOT_STARTED)
            return
        self._running += 1
        self._report("call", name, None)
        full = {**self._base(), **self.environment, **env}
        if name in RESOURCE_WIDE:
            for variable in OF_A_VOLUME:
                full.pop(variable, None)
        threading.Thread(
            target=self._wait, args=(name, command, full, done), name=f"replblock-handler-{name}", daemon=True
        ).start()

    def _base(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
        return {**kept, "PATH": CLEAN_PATH}

    def _wait(self, name: str, command: str, env: dict[str, str], done: HandlerDone) -> None:
        stand_up()
        code, output = self._execute(command, env)
        level = "info" if code == 0 else "warning"
        tail = f": {output}" if output else ""
        self._log(level, "handler-ended", f"handler {name} ended with exit code {code}{tail}")
        self._post(self._finish, name, code, done)

    def _finish(self, name: str, code: int, done: HandlerDone) -> None:
        self._running -= 1
        self._report("response", name, code)
        done(code)

    def _execute(self, command: str, env: dict[str, str]) -> tuple[int, str]:
        # Output goes to a file, not a pipe: what a handler leaves running in the background may keep it open.
        with tempfile.TemporaryFile() as output:
            fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)
            try:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", command],
                    env=env,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return NOT_STARTED, str(error)
            code = self._until_ended(child, output.fileno())
            size_bytes = os.fstat(output.fileno()).st_size
            text = os.pread(output.fileno(), OUTPUT_MAX_BYTES, 0).decode(errors="backslashreplace").strip()
        if size_bytes > OUTPUT_MAX_BYTES:
            text += " …"
        if code is None:
            return TIMED_OUT, f"killed after {self._timeout_s:g} s" + (f"; it said: {text}" if text else "")
        # A handler killed by a signal: the shell's way to say so; fence-peer's table does not know it.
        return (code if code >= 0 else 128 - code), text

    def _until_ended(self, child: subprocess.Popen[bytes], output: int) -> int | None:
        """Its exit code; None if it had to be killed. A handler that talks without end fills no disk."""
        end_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return child.wait(max(0.0, min(LOOK_S, end_s - time.monotonic())))
            except subprocess.TimeoutExpired:
                if os.fstat(output).st_size > 2 * OUTPUT_MAX_BYTES:
                    os.ftruncate(output, OUTPUT_MAX_BYTES + 1)
            if time.monotonic() >= end_s:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return None
