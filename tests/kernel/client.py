# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of a file server, in a third place on its network: tests/kernel/till.py with what it was told."""

from __future__ import annotations

import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path

from tests.e2e.waiting import wait_until
from tests.kernel.lent import DEBIAN
from tests.kernel.network import Network

TILL = Path(__file__).with_name("till.py")


class Client:
    """Puts one file after the other, from now on until `close`, whatever happens to the server."""

    def __init__(self, network: Network, directory: Path, address: str, share: str) -> None:
        directory.mkdir(parents=True)
        self._said = directory / "said"
        libraries = next((DEBIAN / "usr/lib").glob("*-linux-gnu"))
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*network.enter, "/usr/bin/python3", "-I", str(TILL), address, share,
                 str(DEBIAN / "usr/bin/smbclient"), str(directory)],
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                env={**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{libraries}/samba"},
            )  # fmt: skip

    @property
    def _attempts(self) -> list[list[str]]:
        """When it ended, ok or failed, checksum, name."""
        return [line.split() for line in self._said.read_text().split("\n")[:-1]]

    def promised(self, place: str) -> list[str]:
        """Lines for sha256sum --check: what the server has acknowledged; it does so when it is on its disk."""
        return [f"{checksum}  {place}/{name}" for _, result, checksum, name in self._attempts if result == "ok"]

    def served_after(self, at: float, patience_s: float) -> float:
        """When the first attempt after that time succeeded."""

        def served() -> list[float]:
            return [float(end) for end, result, *_ in self._attempts if result == "ok" and float(end) > at]

        return wait_until(served, lambda: f"the client is served: {self._attempts[-3:]}", patience_s)[0]

    def longest_wait(self, since: float, patience_s: float) -> float:
        """Seconds between two that succeeded, at most, since then until now; and the client is served now."""
        last = self.served_after(time.time(), patience_s)
        ends = [float(end) for end, result, *_ in self._attempts if result == "ok" and since < float(end) <= last]
        return max(after - before for before, after in pairwise([since, *ends]))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
