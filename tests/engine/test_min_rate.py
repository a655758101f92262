# SPDX-License-Identifier: GPL-2.0-or-later
"""c-min-rate with real engines: beside the same work of the application (fio) less of a resync is done."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes

SIZE = 32 << 20
WRITES, PER_SECOND = 1000, 200


def left_kib(node: Node) -> int:
    """Out of sync, as /proc/drbd has it."""
    found = re.search(r" oos:(\d+)", (node.run / "proc").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def copied_kib(directory: Path, port: Callable[[], int], target: str, min_rate: str) -> int:
    """How much of a full resync with 8 MiB/s is done when the application has written 1000 times."""
    disk = f"resync-rate 8M; c-plan-ahead 0; c-min-rate {min_rate};"
    directory.mkdir()
    with nodes(directory, port, size_bytes=SIZE, net="connect-int 1; ping-int 1;", disk=disk) as (alpha, beta):
        for node in (alpha, beta):
            node.start()
            node.do("attach")
            node.do("connect")
        wait_for(lambda: "cs:Connected" in (alpha.run / "proc").read_text(), "the connection")
        alpha.do("new_current_uuid", clear_bitmap=True)  # both are empty: no first resync
        alpha.do("primary")
        host = {"alpha": alpha, "beta": beta}[target]
        host.do("invalidate")
        wait_for(lambda: "cs:SyncTarget" in (host.run / "proc").read_text(), "the resync")
        whole = left_kib(host)
        fio = [
            "fio", "--name=application", "--ioengine=nbd", f"--uri={alpha.uri}", "--rw=randwrite", "--bs=4k",
            "--iodepth=1", "--size=1m", f"--io_size={WRITES * 4}k", f"--rate_iops={PER_SECOND}",
        ]  # fmt: skip
        done = subprocess.run(fio, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        copied = whole - int(host.status()["connections"][0]["peer_devices"][0]["out-of-sync"])
        stepped_aside = "the resync goes on at c-min-rate, 25 KiB/s" in alpha.log() + beta.log()
        assert stepped_aside == (min_rate != "0")
        wait_for(lambda: "ds:UpToDate/UpToDate" in (alpha.run / "proc").read_text(), "the end, when nobody writes")
        for node in (alpha, beta):
            node.do("down")
        with open(alpha.disk, "rb") as mine, open(beta.disk, "rb") as theirs:
            assert mine.read(1 << 20) == theirs.read(1 << 20)
        return copied


@pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")
@pytest.mark.parametrize("target", ["alpha", "beta"])
def test_the_application_goes_first(tmp_path: Path, port: Callable[[], int], target: str) -> None:
    """alpha is Primary, and the source or the target. The same work, with and without."""
    beside = copied_kib(tmp_path / "aside", port, target, "25K")
    without = copied_kib(tmp_path / "never", port, target, "0")
    assert beside * 4 < without, f"{beside} KiB, {without} KiB without c-min-rate"
