# SPDX-License-Identifier: GPL-2.0-or-later
"""A real engine, and an enemy at the address of its peer: it stays up, answers, stays small, keeps what is its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replblock.meta.geometry import internal
from replblock.meta.superblock import Flag, Superblock
from replblock.wire import packets as p
from replblock.wire.commands import Cmd
from replblock.wire.headers import pack_packet
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes
from tests.fuzz.enemy import AFTER, BEFORE, OFFER, Enemy

ROUNDS = int(os.environ.get("FUZZ_LIVE_ROUNDS", "16"))
SEED = int(os.environ.get("FUZZ_SEED") or os.urandom(4).hex(), 16)
DISK_BYTES = 32 << 20
GROWTH_KIB = 256 << 10
"""Two times 64 MiB for what a peer sends and for what it asks, and what Python keeps of it."""
ACCEPTED = " new-connection: "
"""The rule of a peer's first report that was taken over."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_kib(node: Node) -> int:
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def identity(node: Node) -> tuple[int, ...]:
    """What the metadata on disk says about the data."""
    content = node.disk.read_bytes()
    at = internal(DISK_BYTES // 512).superblock_offset_bytes
    block = Superblock.unpack(content[at : at + 4096])
    flags = block.flags.without(Flag.AL_CLEAN | Flag.CONNECTED_IND)
    return (block.uuid_current, block.uuid_bitmap, block.uuid_history0, block.uuid_history1, int(flags))


def area(node: Node) -> bytes:
    return node.disk.read_bytes()[: internal(DISK_BYTES // 512).data_sectors * 512]


@contextmanager
def attacked(directory: Path, promoted: bool) -> Iterator[tuple[Node, Enemy]]:
    ports = [free_port(), free_port()]
    with nodes(directory, iter(ports).__next__, size_bytes=DISK_BYTES, net="ping-timeout 2; timeout 20;") as (node, _):
        with open(node.disk, "r+b") as disk:
            disk.write(b"precious" * 4096)
        node.start()
        node.do("attach")
        if promoted:
            node.do("primary", force=True)
        node.do("connect")
        enemy = Enemy(ports[0], SEED)
        yield node, enemy
        enemy.go()


def still_there(node: Node, what: str) -> None:
    assert node.alive(), f"{what}, FUZZ_SEED={SEED:x}:\n{node.log()[-3000:]}"
    assert node.ask("status")["exit_code"] == 0, f"{what}, FUZZ_SEED={SEED:x}"
    if "StandAlone" in str(node.status()):
        node.do("connect")


def run(node: Node, enemy: Enemy, deeds: tuple[Callable[[Enemy], None], ...]) -> None:
    for number in range(ROUNDS):
        deed = deeds[number] if number < len(deeds) else enemy.rng.choice(deeds)
        deed(enemy)
        still_there(node, deed.__name__)
        if enemy.rng.random() < 0.7:
            enemy.go()
        still_there(node, f"the end of {deed.__name__}")
    log = node.log()
    assert "Traceback" not in log and "engine-crashed" not in log, f"FUZZ_SEED={SEED:x}\n{log[-3000:]}"


@pytest.mark.parametrize("promoted", [False, True], ids=["secondary", "primary"])
def test_who_was_not_accepted_changes_nothing(tmp_path: Path, promoted: bool) -> None:
    with attacked(tmp_path, promoted) as (node, enemy):
        before, data, resident = identity(node), area(node), resident_kib(node)
        run(node, enemy, BEFORE)
        assert resident_kib(node) < resident + GROWTH_KIB
        assert area(node) == data and ACCEPTED not in node.log()
        assert identity(node) == before


@pytest.mark.parametrize("promoted", [False, True], ids=["secondary", "primary"])
def test_who_was_accepted_cannot_bring_it_down(tmp_path: Path, promoted: bool) -> None:
    with attacked(tmp_path, promoted) as (node, enemy):
        resident = resident_kib(node)
        run(node, enemy, AFTER)
        assert node.log().count(ACCEPTED) >= 2, node.log()[-3000:]
        assert resident_kib(node) < resident + GROWTH_KIB
        assert node.disk.stat().st_size == DISK_BYTES
        identity(node)
        enemy.go()
        node.do("disconnect", force=True)
        node.do("stop")
        assert node.exit_code() == 0


def test_who_takes_late_gets_everything(tmp_path: Path) -> None:
    """Asked for 200 MiB in one go, and taken only when the node has nothing more to send: bounded, and nothing lost."""
    asked, size = 200, 1 << 20
    with attacked(tmp_path, promoted=True) as (node, enemy):
        resident = resident_kib(node)
        data, _ = enemy.pair()
        assert data is not None and enemy.say(data, OFFER + enemy.introduction())
        wait_for(lambda: ACCEPTED in node.log(), "acceptance")
        requests = (p.BlockReq(8 * number, number.to_bytes(8, "big"), size).pack() for number in range(asked))
        assert enemy.say(data, b"".join(pack_packet(101, Cmd.DATA_REQUEST, body) for body in requests))
        still_there(node, "requests")
        assert resident_kib(node) < resident + GROWTH_KIB
        want = asked * (16 + 24 + size)
        data.settimeout(60.0)
        while want > 0:
            said = len(data.recv(1 << 20))
            assert said, f"{want} bytes did not come\n{node.log()[-3000:]}"
            want -= said
        still_there(node, "everything taken")
