# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator orders and sees of a resync: replctl against two real engines on loopback."""

from __future__ import annotations

import os
import random
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
        handle.connect_unix(os.fspath(alpha.socket))
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
        handle.connect_unix(os.fspath(alpha.socket))
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


@contextmanager
def in_sync(
    directory: Path, port: Callable[[], int], net: str, disk: str, handlers: str = ""
) -> Iterator[tuple[Node, Node]]:
    """alpha Primary, both disks full of the same noise."""
    common = "connect-int 1; ping-int 1;"
    with nodes(directory, port, size_bytes=SIZE, net=f"{common} {net}", disk=disk, handlers=handlers) as pair:
        for node in pair:
            node.start()
            node.do("attach")
        pair[0].do("primary", force=True)
        for node in pair:
            node.do("connect")
        wait_for(lambda: "ds:UpToDate/UpToDate" in proc(pair[1]), "the first resync")
        handle = nbd.NBD()
        handle.connect_unix(os.fspath(pair[0].socket))
        for megabyte in range(30):
            handle.pwrite(os.urandom(1 << 20), megabyte << 20)
        handle.flush()
        handle.shutdown()
        yield pair


def spoil(node: Node, *blocks: int) -> None:
    """The disk changes behind the engine's back."""
    with open(node.disk, "r+b") as file:
        for block in blocks:
            file.seek(block * 4096 + 1000)
            file.write(b"rotten")


def test_verify_finds_marks_tells_and_a_new_connection_mends(tmp_path: Path, port: Callable[[], int]) -> None:
    told = 'out-of-sync "echo $DRBD_RESOURCE $DRBD_MINOR $DRBD_VOLUME $DRBD_LL_DISK $DRBD_PEERS >> $DRBD_LL_DISK.told";'
    disk = "resync-rate 1G; c-plan-ahead 0;"
    with in_sync(tmp_path, port, "verify-alg sha1;", disk, told) as (alpha, beta):
        spoil(beta, 100, 101, 7000)
        assert replctl(alpha, "verify", "r0").returncode == 0
        assert replctl(alpha, "wait-sync", "r0").returncode == 0
        wait_for(lambda: " oos:12" in proc(alpha) and " oos:12" in proc(beta), "marks on both nodes")
        for node, peer in ((alpha, "beta"), (beta, "alpha")):
            wait_for(lambda node=node: "Online verify found 3 4k block out of sync!" in node.log(), "the log")  # type: ignore[misc]
            assert "Out of sync: start=800, size=16 (sectors)" in node.log()
            notes = Path(f"{node.disk}.told")
            wait_for(notes.exists, "the handler")
            wait_for(lambda notes=notes: notes.read_text() != "", "its words")  # type: ignore[misc]
            assert notes.read_text() == f"r0 0 0 {node.disk} {peer}\n"
        assert replctl(beta, "disconnect", "r0").returncode == 0
        assert replctl(beta, "connect", "r0").returncode == 0
        wait_for(lambda: " oos:0" in proc(alpha) and "ds:UpToDate/UpToDate" in proc(beta), "the resync")
        size = int(alpha.status()["devices"][0]["size"]) << 10
        with open(alpha.disk, "rb") as mine, open(beta.disk, "rb") as theirs:
            assert mine.read(size) == theirs.read(size)
        assert replctl(beta, "verify", "r0").returncode == 0
        assert replctl(beta, "wait-sync", "r0").returncode == 0
        wait_for(lambda: "Online verify done" in alpha.log().split("Online verify done", 1)[1], "the second verify")
        assert " oos:0" in proc(alpha) and " oos:0" in proc(beta)


def test_verify_under_load_progress_and_stop(tmp_path: Path, port: Callable[[], int]) -> None:
    """Writes while it runs are no differences; its lines in /proc/drbd; a new stop sector ends it; then it goes on."""
    disk = "resync-rate 8M; c-plan-ahead 0; c-min-rate 0;"
    with in_sync(tmp_path, port, "verify-alg crc32c;", disk) as (alpha, beta):
        spoil(alpha, 7600)
        assert replctl(beta, "verify", "--start", "0", "--stop", "8000s", "r0").returncode == 0
        wait_for(lambda: "cs:VerifyS" in proc(beta) and "cs:VerifyT" in proc(alpha), "the verify")
        handle = nbd.NBD()
        handle.connect_unix(os.fspath(alpha.socket))
        seen = ""
        while "cs:VerifyS" in proc(beta):
            seen = proc(beta) if "verified:" in proc(beta) else seen
            for _ in range(20):
                handle.pwrite(os.urandom(4096), random.randrange(7000) * 4096)
        assert "verified:" in seen and " want: 8,192 K/sec" in seen
        wait_for(lambda: "cs:Connected" in proc(alpha), "its end there")
        assert " oos:0" in proc(alpha)
        assert replctl(beta, "verify", "r0").returncode == 0
        while "cs:VerifyS" in proc(beta):
            for _ in range(20):
                handle.pwrite(os.urandom(4096), random.randrange(7000) * 4096)
        handle.shutdown()
        wait_for(lambda: " oos:4" in proc(alpha) and " oos:4" in proc(beta), "the one difference")
        assert "Starting Online Verify from sector 8000" in beta.log()


def test_verify_is_refused(tmp_path: Path, port: Callable[[], int]) -> None:
    """DRBD's code and sentence, and what to do."""
    with in_sync(tmp_path, port, "", "resync-rate 1G; c-plan-ahead 0;") as (alpha, _):
        refused = replctl(alpha, "verify", "r0")
        assert refused.returncode == 11
        first, hint = refused.stderr.splitlines()
        assert first.startswith("0: State change failed: (-14) Need a verify algorithm to start online verify")
        assert hint == "set verify-alg in section net, then: replctl adjust r0"
