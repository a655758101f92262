# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial sync: replblock's full resync beside nbdcopy and qemu-img convert over the same kind of files.

The copiers read through one nbdkit and write through another, over TCP on the loopback interface, and flush at the end.
"""

from __future__ import annotations

import subprocess
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.contestants import Contestant
from bench.processes import BenchError, tcp_accepts
from bench.replblock_pair import ReplblockPair

COPY_TIMEOUT_S = 900
POLL_S = 0.002


class Syncer(Contestant):
    """Something that makes the second leg equal to the first, whole, as often as asked."""

    @abstractmethod
    def copy(self) -> float:
        """Seconds that one full copy took, until it is on the target's disk."""


class Copier(Syncer):
    """A program that copies one NBD export onto another."""

    def start(self) -> str:
        self.make_files()
        self.nbdkit_unix(self.files()[0], "source")
        self.port = self.nbdkit_tcp(self.files()[1], "target")
        return self.uri("source")

    @abstractmethod
    def command(self, source: str, target: str) -> list[str]: ...

    def copy(self) -> float:
        command = self.command(self.uri("source"), f"nbd://127.0.0.1:{self.port}")
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=COPY_TIMEOUT_S, check=False)
        seconds = time.monotonic() - begin
        if done.returncode or not tcp_accepts(self.port):
            raise BenchError(f"{self.label}: {done.stderr[-500:]}")
        return seconds


class Nbdcopy(Copier):
    label = "nbdcopy"
    yardstick = True

    def command(self, source: str, target: str) -> list[str]:
        return ["nbdcopy", "--flush", source, target]


class QemuImg(Copier):
    label = "qemu-img convert"

    def command(self, source: str, target: str) -> list[str]:
        # -n: the target exists; -W -m: out of order and in parallel, its fastest; it flushes at the end.
        return ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", source, target]


class ReplblockResync(ReplblockPair, Syncer):
    """`invalidate` on the second node: every block travels, as in the first sync.

    Timed by the state file, from leaving Connected until UpToDate again: the target's disk is flushed by then, and the
    start-up of replctl, which is not copying, stays outside.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label = "replblock resync"

    def in_step(self) -> bool:
        state = (self.directory / "beta" / "proc").read_text()
        return "cs:Connected" in state and "ds:UpToDate/UpToDate" in state

    def copy(self) -> float:
        with ThreadPoolExecutor(1) as pool:
            order = pool.submit(self.replctl, "beta", "invalidate", "r0")
            while self.in_step():
                if order.done() and order.exception():
                    break
                time.sleep(POLL_S)
            begin = time.monotonic()
            order.result()
            while not self.in_step():
                if time.monotonic() - begin > COPY_TIMEOUT_S:
                    raise BenchError(f"{self.label}: not finished in {COPY_TIMEOUT_S} s")
                time.sleep(POLL_S)
        return time.monotonic() - begin


SYNCERS: tuple[type[Syncer], ...] = (Nbdcopy, QemuImg, ReplblockResync)
