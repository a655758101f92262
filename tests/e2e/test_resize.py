# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl resize` of a pair under fio: what was there stays, what is new holds; and the words an operator reads."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from replblock.meta.geometry import internal
from tests.e2e.pair import MIB, Node, Pair
from tests.e2e.waiting import wait_until
from tests.meta.tools import INTERNAL, drbdmeta

OLD_BYTES = 32 * MIB


def enlarge(pair: Pair, size_bytes: int) -> int:
    """The files below grow, with different content; the KiB that the device can have then."""
    for node in pair.nodes:
        with node.disk.open("r+b") as file:
            before = file.seek(0, 2)
            file.write((node.name.encode() * (size_bytes - before))[: size_bytes - before])
    return internal(size_bytes // 512).data_sectors // 2


def grown(pair: Pair, kib: int) -> None:
    for node in pair.nodes:
        wait_until(lambda node=node: node.device["size"] == kib, f"{node.name} has {kib} KiB")
    pair.settle()


def fio(node: Node, rw: str, offset: int, size: int, *more: str) -> list[str]:
    return ["fio", "--name=grown", "--ioengine=nbd", f"--uri={node.uri}", f"--rw={rw}", "--bs=4096", "--iodepth=8",
            f"--offset={offset}", f"--size={size}", "--randseed=7", "--verify=crc32c", "--verify_fatal=1",
            "--verify_state_save=0", "--do_verify=1", *more]  # fmt: skip


def begun(pair: Pair) -> Pair:
    pair.configure()
    pair.make_disks(OLD_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    return pair


@pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")
def test_growing_under_fio(pair: Pair) -> None:
    """Twice, ordered on either node, while fio writes; then fio in what is new, read back on both nodes."""
    begun(pair)
    log = pair.directory / "fio.log"
    with log.open("w") as output:
        command = fio(pair.a, "randwrite", 0, 16 * MIB, "--rate_iops=1500")
        running = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=pair.directory)
    try:
        for number, node in enumerate(pair.nodes, 1):
            kib = enlarge(pair, OLD_BYTES + number * 16 * MIB)
            assert node.do("resize", "r0") == ""
            grown(pair, kib)
        assert running.wait(timeout=120) == 0, log.read_text()
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    new = fio(pair.a, "write", 40 * MIB, 20 * MIB)
    assert subprocess.run(new, capture_output=True, cwd=pair.directory, timeout=120).returncode == 0
    pair.assert_same_data()
    now = pair.swap(pair.a)
    again = fio(now, "write", 40 * MIB, 20 * MIB, "--verify_only")
    assert subprocess.run(again, capture_output=True, cwd=pair.directory, timeout=120).returncode == 0
    for node in pair.nodes:
        node.do("down", "r0")
        assert f"la-size-sect {kib * 2};" in drbdmeta(node.disk, INTERNAL, "dump-md").out


@pytest.mark.slow
@pytest.mark.parametrize("after_ms", [0, 2, 5, 10, 20, 40, 80, 160])
@pytest.mark.parametrize("victim", ["a", "b"])
def test_killed_on_the_way(pair: Pair, victim: str, after_ms: int) -> None:
    """kill -9 of an engine: it comes up again, where need be after check-resize, and the pair reaches the new size."""
    begun(pair)
    kib = enlarge(pair, OLD_BYTES + 16 * MIB)
    node: Node = getattr(pair, victim)
    ordered = subprocess.Popen(pair.a.command("resize", "r0"), env=pair.a.environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    wait_until(lambda: "disk-grew" in pair.a.log() or ordered.poll() is not None, "it begins")
    time.sleep(after_ms / 1000)     # no matter how far it came
    node.kill()
    ordered.wait(timeout=60)
    assert node.try_("check-resize", "r0").code == 0
    node.do("up", "r0")
    if victim == "a":
        pair.settle()
        pair.a.do("primary", "r0")
    pair.settle()
    if pair.a.device["size"] != kib:
        pair.b.do("resize", "r0")
    grown(pair, kib)
    pair.assert_same_data()


def test_what_is_refused_says_what_to_do(pair: Pair) -> None:
    begun(pair)
    size = pair.a.device["size"]
    said = pair.a.refused("resize", "--size=1M", "r0", code=10)
    assert "(170)" in said and "does not shrink" in said
    said = pair.a.refused("resize", "--size=1T", "r0", code=10)
    assert "(111)" in said and "grow it first" in said
    assert "the size stays" in pair.a.do("resize", "r0")
    pair.b.do("detach", "r0")
    assert "replctl attach r0" in pair.a.refused("resize", "r0", code=11)
    pair.b.do("attach", "r0")
    pair.settle()
    pair.a.do("secondary", "r0")
    said = pair.b.refused("resize", "r0", code=10)
    assert "(131)" in said and "replctl primary r0" in said
    assert {node.device["size"] for node in pair.nodes} == {size}


def test_a_disk_that_grew_while_the_node_was_down(pair: Pair) -> None:
    """`up` says what to do; after that the old data is there, and `size` decides when the device grows."""
    begun(pair)
    small = pair.a.device["size"]
    for node in (pair.a, pair.b):
        if node is pair.a:
            node.do("secondary", "r0")
        node.do("down", "r0")
    kib = enlarge(pair, OLD_BYTES + 8 * MIB)
    said = pair.b.refused("up", "r0", code=10)
    assert "(119)" in said and "replctl check-resize r0" in said
    pair.b.try_("down", "r0")
    for node in pair.nodes:
        assert "successfully moved" in node.do("check-resize", "r0")
    pair.configure(disk={"size": f"{small}K"})
    pair.up()
    pair.a.do("primary", "r0")
    assert {node.device["size"] for node in pair.nodes} == {small}
    pair.configure()
    pair.a.do("resize", "r0")
    grown(pair, kib)
    pair.assert_same_data()
    assert Path(pair.a.run_dir / "r0.0.disk-size").exists()
