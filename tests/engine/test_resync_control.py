# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator orders and sees of a resync: replctl against two real engines on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbd

from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes

SLOW = {"net": "connect-int 1; ping-int 1;", "disk": "resync-rate 4M; c-plan-ahead 0;"}
SIZE = 32 << 20


def replctl(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    """As the operator types it."""
    environment = {**os.environ, "REPLBLOCK_RUN": str(node.run), "REPLBLOCK_HOST": node.host}
    command = [sys.executable, "-m", "replblock.cli.main", "-c", str(node.config), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


def proc(node: Node) -> str:
    return (node.run / "proc").read_text(encoding="utf-8")


@contextmanager
def syncing(directory: Path, port: Callable[[], int]) -> Iterator[tuple[Node, Node]]:
    """alpha Primary and source; the whole disk is to be copied, which lasts some seconds."""
    with nodes(directory, port, size_bytes=SIZE, **SLOW) as pair:
        for node in pair:
            node.start()
            node.do("attach")
        pair[0].do("primary", force=True)
        for node in pair:
            node.do("connect")
        wait_for(lambda: "cs:SyncTarget" in proc(pair[1]), "the resync")
        yield pair


def test_pause_and_resume(tmp_path: Path, port: Callable[[], int]) -> None:
    """Flags on both nodes, no progress line while it is paused, DRBD's exit codes and sentences."""
    with syncing(tmp_path, port) as (alpha, beta):
        assert "sync'ed:" in proc(beta)
        assert replctl(alpha, "pause-sync", "r0").returncode == 0
        wait_for(lambda: "cs:PausedSyncT" in proc(beta) and "cs:PausedSyncS" in proc(alpha), "the pause on both")
        assert " C r--u--" in proc(alpha) and " C r-p---" in proc(beta)
        assert "sync'ed:" not in proc(alpha) + proc(beta)
        assert "replication:PausedSyncT" in replctl(beta, "status", "r0").stdout
        assert "resync-suspended:peer" in replctl(beta, "status", "r0").stdout

        again = replctl(alpha, "pause-sync", "r0")
        assert again.returncode == 10
        assert again.stderr.splitlines()[0] == "0: Failure: (134) Sync-pause flag is already set"
        other = replctl(beta, "resume-sync", "r0")
        assert other.returncode == 10
        assert other.stderr.splitlines() == [
            "0: Failure: (157) Sync-pause flag is already cleared", "Note: Resync pause caused by the peer node.",
            "it is paused there; run there: replctl resume-sync r0",
        ]  # fmt: skip

        handle = nbd.NBD()
        handle.connect_unix(f"{alpha.run}/r0.nbd")
        handle.pwrite(b"written in the pause".ljust(4096, b"."), SIZE - (4 << 20))
        handle.flush()
        handle.shutdown()
        for node in (alpha, beta):
            with open(node.disk, "rb") as file:
                file.seek(SIZE - (4 << 20))
                assert file.read(20) == b"written in the pause", node.host

        assert replctl(alpha, "resume-sync", "r0").returncode == 0
        wait_for(lambda: "ds:UpToDate/UpToDate C r-----" in proc(beta), "the end of the resync")
        third = replctl(alpha, "resume-sync", "r0")
        assert third.returncode == 10
        assert third.stderr.splitlines()[0] == "0: Failure: (135) Sync-pause flag is already cleared"
        assert "Resync suspended by peer" in beta.log() and "Resync done" in beta.log()


def test_a_pause_without_a_peer_is_a_flag(tmp_path: Path, port: Callable[[], int]) -> None:
    with nodes(tmp_path, port, size_bytes=8 << 20, **SLOW) as (alpha, _):
        alpha.start()
        alpha.do("attach")
        alpha.do("connect")
        assert replctl(alpha, "pause-sync", "r0").returncode == 0
        wait_for(lambda: " C r--u--" in proc(alpha), "the flag")
        assert replctl(alpha, "resume-sync", "r0").returncode == 0


def test_checksums_spare_what_is_equal(tmp_path: Path, port: Callable[[], int]) -> None:
    """Two disks with the same 32 MiB but for one block: one request's worth of data goes over the wire."""
    net = "connect-int 1; ping-int 1; csums-alg sha1;"
    with nodes(tmp_path, port, size_bytes=SIZE, net=net, disk="resync-rate 1G; c-plan-ahead 0;") as (alpha, beta):
        for node in (alpha, beta):
            node.start()
            node.do("attach")
        alpha.do("primary", force=True)
        for node in (alpha, beta):
            node.do("connect")
        wait_for(lambda: "ds:UpToDate/UpToDate" in proc(beta), "the first resync")
        handle = nbd.NBD()
        handle.connect_unix(f"{alpha.run}/r0.nbd")
        for megabyte in range(30):
            handle.pwrite(os.urandom(1 << 20), megabyte << 20)
        handle.flush()
        handle.shutdown()
        with open(beta.disk, "r+b") as file:
            file.seek(5 << 20)
            file.write(b"something else")
        assert replctl(beta, "invalidate", "r0").returncode == 0
        assert replctl(beta, "wait-sync", "r0").returncode == 0
        wait_for(lambda: "ds:UpToDate/UpToDate" in proc(alpha), "the source's end of it")
        size = int(alpha.status()["devices"][0]["size"]) << 10
        with open(alpha.disk, "rb") as mine, open(beta.disk, "rb") as theirs:
            assert mine.read(size) == theirs.read(size)
        for node in (alpha, beta):
            said = [line for line in node.log().splitlines() if "had equal checksums, eliminated:" in line]
            assert "% had equal checksums" in said[-1] and f"total {size >> 10}K" in said[-1]
            transferred_kib = int(said[-1].split("transferred ")[1].split("K")[0])
            assert 4 <= transferred_kib <= 1024
