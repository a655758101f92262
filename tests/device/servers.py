# SPDX-License-Identifier: GPL-2.0-or-later
"""A real nbdkit for a test, with a log of the requests it gets."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_BYTES = 48 << 20


class Server:
    """One nbdkit that we started; `kill` and `start` it again on the same socket and data."""

    def __init__(self, directory: Path, *arguments: str, filters: tuple[str, ...] = ("log",)) -> None:
        self.directory = directory
        self.socket = directory / "nbd.sock"
        self.log = directory / "nbd.log"
        self.image = directory / "disk.img"
        if not self.image.exists():
            with open(self.image, "wb") as image:
                image.truncate(SIZE_BYTES)
        self._arguments = [*(f"--filter={name}" for name in filters), "file", str(self.image),
                           *([f"logfile={self.log}"] if "log" in filters else []), *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        self.socket.unlink(missing_ok=True)
        pidfile = self.directory / "nbdkit.pid"
        pidfile.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["nbdkit", "-f", "-P", str(pidfile), "-U", str(self.socket), *self._arguments])
        deadline = time.monotonic() + 10
        while not pidfile.exists() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert pidfile.exists(), "nbdkit did not start"
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def requests(self, word: str) -> int:
        """How many requests of a kind have been answered."""
        return len(re.findall(rf"\.\.\.{word} id=\d+ return=0", self.log.read_text(errors="replace")))


@contextmanager
def serving(directory: Path, *arguments: str, filters: tuple[str, ...] = ("log",)) -> Iterator[Server]:
    server = Server(directory, *arguments, filters=filters).start()
    try:
        yield server
    finally:
        server.kill()
