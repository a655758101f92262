# SPDX-License-Identifier: GPL-2.0-or-later
"""Two engines with the real core on loopback: what the rooms do together."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from replblock.engine import client
from tests.e2e.waiting import all_stopped
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes

FAST = {"net": "connect-int 1; ping-int 1;", "disk": "resync-rate 1G; c-plan-ahead 0; c-min-rate 0;"}
KIB = 1024


@pytest.fixture(params=["C"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, port: Callable[[], int]) -> Iterator[tuple[Node, Node]]:
    with nodes(tmp_path, port, protocol=request.param, **FAST) as pair:
        for node in pair:
            node.start()
            node.do("attach")
        pair[0].do("primary", force=True)
        for node in pair:
            node.do("connect")
        in_sync(*pair)
        yield pair


def disk_states(node: Node) -> tuple[str, str]:
    status = node.status()
    connections = status["connections"]
    peer = connections[0]["peer_devices"][0]["peer-disk-state"] if connections else "DUnknown"
    return status["devices"][0]["disk-state"], peer


def in_sync(*pair: Node) -> None:
    for node in pair:
        try:
            wait_for(lambda node=node: disk_states(node) == ("UpToDate", "UpToDate"), "both UpToDate")
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *(f"{n.host}:\n{n.log()}" for n in pair)])) from None


def connect(node: Node) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_unix(os.fspath(node.socket))
    return handle


def data_of(node: Node, size: int) -> bytes:
    with open(node.disk, "rb") as file:
        return file.read(size)


def scribble(handle: nbd.NBD, seed: int, count: int = 300) -> None:
    """Random writes of all sizes, many in flight, with flushes between."""
    chance = random.Random(seed)
    size = handle.get_size()
    for _ in range(count):
        length = chance.choice([512, 4096, 4096, 4096, 65536, 1 << 20, 3 << 20])
        offset = chance.randrange(0, (size - length) // 512 + 1) * 512
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(chance.randbytes(length))), offset)
        while handle.aio_in_flight() >= 16:
            handle.poll(-1)
        if chance.randrange(40) == 0:
            handle.aio_flush()
    while handle.aio_in_flight():
        handle.poll(-1)
    handle.flush()


@pytest.mark.parametrize("pair", ["A", "B", "C"], indirect=True)
def test_after_a_flush_both_disks_hold_the_same(pair: tuple[Node, Node]) -> None:
    """Invariant 4: connected, idle, nothing marked: byte-identical."""
    alpha, beta = pair
    handle = connect(alpha)
    size = handle.get_size()
    scribble(handle, 1)
    handle.trim(1 << 20, 4 << 20)
    handle.zero(1 << 20, 8 << 20)
    handle.flush()
    handle.shutdown()
    alpha.do("secondary")
    beta.do("stop")
    alpha.do("stop")
    assert (alpha.exit_code(), beta.exit_code()) == (0, 0)
    assert data_of(alpha, size) == data_of(beta, size)


def test_a_switch_of_roles_there_and_back(pair: tuple[Node, Node]) -> None:
    alpha, beta = pair
    handle = connect(alpha)
    handle.pwrite(b"from alpha".ljust(512), 0)
    handle.shutdown()
    assert beta.ask("primary")["exit_code"] == 11  # one at a time
    alpha.do("secondary")
    beta.do("primary")
    handle = connect(beta)
    assert handle.pread(512, 0).rstrip() == b"from alpha"
    handle.pwrite(b"from beta".ljust(512), 0)
    handle.shutdown()
    beta.do("secondary")
    alpha.do("primary")
    assert connect(alpha).pread(512, 0).rstrip() == b"from beta"


def test_the_survivor_of_a_kill_has_every_acknowledged_write(pair: tuple[Node, Node]) -> None:
    """Invariant 1, protocol C: kill -9 of the primary in the middle of writing; then it comes back as target."""
    alpha, beta = pair
    handle = connect(alpha)
    size = handle.get_size()
    acknowledged: dict[int, int] = {}
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            block = number % 500
            try:
                handle.pwrite(number.to_bytes(8, "big") * 512, block * 4096)
            except nbd.Error:
                return
            acknowledged[block] = number

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(acknowledged) >= 400)
    alpha.kill()
    stop.set()
    writer.join(20)
    wait_for(lambda: beta.status()["connections"][0]["connection-state"] == "Connecting")
    beta.do("primary")
    other = connect(beta)
    for block, number in acknowledged.items():
        found = int.from_bytes(other.pread(4096, block * 4096)[:8], "big")
        assert found >= number, f"block {block} holds {found}, acknowledged was {number}"
    scribble(other, 2, 50)
    alpha.start()
    alpha.do("attach")
    alpha.do("connect")
    in_sync(alpha, beta)
    other.flush()
    assert data_of(alpha, size) == data_of(beta, size)


def test_a_frozen_peer_is_given_up_and_caught_up_later(pair: tuple[Node, Node]) -> None:
    alpha, beta = pair
    handle = connect(alpha)
    size = handle.get_size()
    os.kill(beta.pid, signal.SIGSTOP)
    wait_for(lambda: all_stopped(beta.pid))  # the signal is on its way: until then beta may still answer
    try:
        handle.pwrite(b"f" * 4096, 0)  # returns once the peer is given up
        assert alpha.status()["connections"][0]["connection-state"] != "Connected"
    finally:
        os.kill(beta.pid, signal.SIGCONT)
    scribble(handle, 3, 30)
    in_sync(alpha, beta)
    handle.flush()
    assert data_of(alpha, size) == data_of(beta, size)


def test_events_show_the_loss_of_the_peer(pair: tuple[Node, Node]) -> None:
    alpha, beta = pair
    lines = client.stream(alpha.run, "r0")
    first = next(lines)["status"]
    assert first["connections"][0]["connection-state"] == "Connected"
    beta.kill()
    for line in lines:
        connection: dict[str, Any] = line["status"]["connections"][0]
        if connection["connection-state"] != "Connected":
            break
    assert connection["connection-state"] in ("BrokenPipe", "NetworkFailure", "Unconnected", "Connecting")


def test_stop_of_a_pair_is_clean_for_drbds_own_tool(pair: tuple[Node, Node]) -> None:
    """drbdmeta reads what we leave: no activity log to replay, no bits set."""
    import subprocess

    alpha, beta = pair
    handle = connect(alpha)
    scribble(handle, 4, 40)
    handle.shutdown()
    for node in (alpha, beta):
        node.do("stop")
        assert node.exit_code() == 0
        command = ["drbdmeta", "--force", "0", "v08", str(node.disk), "internal", "dump-md"]
        dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "bits-set 0;" in dump, dump
        command[-1] = "apply-al"
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("slow", ["alpha", "beta"])
def test_the_link_outlives_a_disk_that_takes_three_seconds(
    tmp_path: Path, port: Callable[[], int], slow: str
) -> None:
    """Pings are answered by a thread that waits for nothing; timeout is longer than the writes, ping-timeout is not."""
    options = {"net": "connect-int 1; ping-int 1; ping-timeout 5; timeout 90; connect-int 20;", "disk": FAST["disk"]}
    plugin = Path(__file__).with_name("slow_plugin.py")
    with nodes(tmp_path, port, plugin=plugin, **options) as (alpha, beta):
        for node in (alpha, beta):
            node.start()
            node.do("attach")
        alpha.do("primary", force=True)
        for node in (alpha, beta):
            node.do("connect")
        in_sync(alpha, beta)
        victim = alpha if slow == "alpha" else beta
        (victim.run / "slow").write_text("3")
        handle = connect(alpha)
        for number in range(2):
            handle.pwrite(b"s" * 4096, number * 4096)
        (victim.run / "slow").unlink()
        for node in (alpha, beta):
            assert "connection-lost" not in node.log(), node.log()
        assert disk_states(alpha) == ("UpToDate", "UpToDate")
