# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that fail from below: each node's file lies behind nbdkit's `error` and `delay` filters; FUSE shows the result.
"""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.waiting import wait_until
from tests.torture.faults import SCENARIOS, disk_fails, primary_diskless
from tests.torture.life import Life
from tests.torture.nodes import Node, Torture

ERRORS = ("EIO", "ENOSPC")


class FilteredNode(Node):
    """`disk` is the file as FUSE shows it, `base` the one below."""

    nbdfuse: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> Path:
        return self.directory / "base"

    @property
    def disk(self) -> Path:
        return self.directory / "fuse" / "disk"

    @property
    def trigger(self) -> Path:
        """Requests fail while this file exists."""
        return self.directory / "failing"

    def fault(self, **faults: Any) -> None:
        """Failing writes come from the filters, the rest from the plugin."""
        self.trigger.unlink(missing_ok=True)
        if (faults.get("write") or faults.get("meta")) and self.nbdfuse is not None:
            self.trigger.touch()
            faults = {}
        super().fault(**faults)

    def put_below(self, size_bytes: int, rng: random.Random) -> str:
        """Make the file, and the stack above it."""
        with self.base.open("wb") as file:
            file.truncate(size_bytes)
        self.disk.parent.mkdir()
        error, rate, delay = rng.choice(ERRORS), rng.choice(("100%", "20%")), rng.choice(("0", "3ms"))
        self.nbdfuse = subprocess.Popen(
            ["nbdfuse", str(self.disk), "--command", "nbdkit", "-s", "--exit-with-parent", "--filter=delay",
             "--filter=error", "file", str(self.base), f"error={error}", f"error-pwrite-rate={rate}",
             f"error-zero-rate={rate}", "error-pread-rate=0", f"error-file={self.trigger}", f"delay-write={delay}"],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: self.disk.exists() and self.disk.stat().st_size == size_bytes, "nbdfuse shows the file")
        self.do("create-md", "r0")
        return f"{self.name}: {error} at {rate}, delay {delay}"

    def take_away(self) -> None:
        if self.nbdfuse is not None:
            subprocess.run(["umount", "-l", str(self.disk.parent)], capture_output=True, check=False)
            self.nbdfuse.send_signal(signal.SIGTERM)
            try:
                self.nbdfuse.wait(10)
            except subprocess.TimeoutExpired:
                self.nbdfuse.kill()
                self.nbdfuse.wait()
            self.nbdfuse = None


class FilteredTorture(Torture):
    """The pair on such disks."""

    node_class = FilteredNode
    below = ""

    def settings(self, rng: random.Random, protocol: str | None = None, attach: str = "none") -> str:
        self._rng = random.Random(rng.random())
        return f"{super().settings(rng, protocol, attach)}; {self.below}"

    def make_disks(self, size_bytes: int = 0) -> None:
        said = [node.put_below(size_bytes, self._rng) for node in self.nodes if isinstance(node, FilteredNode)]
        self.below = "; ".join(said)

    def clean_up(self) -> None:
        super().clean_up()
        for node in self.nodes:
            if isinstance(node, FilteredNode):
                node.take_away()


def secondary_disk_fails(life: Life) -> None:
    mend = disk_fails(life, life.secondary)
    life.some()
    mend()


class FilteredLife(Life):
    """One life on failing disks. Needs root for FUSE; on loopback."""

    what = "raw device, disks behind nbdkit's error and delay filters"
    pair_class = FilteredTorture
    wants_cable = False
    scenarios = ((6, secondary_disk_fails), (6, primary_diskless), *SCENARIOS)

