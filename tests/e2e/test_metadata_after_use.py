# SPDX-License-Identifier: GPL-2.0-or-later
"""What a used, stopped or killed node leaves on its disk, read by drbdmeta and by ourselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import nbd
import pytest

from tests.e2e.pair import MIB, Node, Pair
from tests.e2e.waiting import wait_until
from tests.meta.tools import INTERNAL, drbdmeta

DISK_BYTES = 48 * MIB


def judge(disk: Path, *command: str) -> str:
    """drbdmeta, which must succeed."""
    done = drbdmeta(disk, INTERNAL, *command)
    assert done.exit_code == 0, done
    return done.out


def dumped(text: str) -> str:
    """A dump without what tells who wrote it and when."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#") and line.strip())


def bitmap(dump: str) -> str:
    found = re.search(r"^bm \{.*?^\}", dump, re.MULTILINE | re.DOTALL)
    assert found, dump
    return found[0]


def write(node: Node, *blocks: int) -> None:
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    for block in blocks:
        handle.pwrite(os.urandom(4096), block * 4096)
    handle.flush()
    handle.shutdown()


def agreed(node: Node) -> str:
    """drbdmeta and replctl say the same of a node that is down; returns the dump."""
    assert not node.alive()
    assert node.do("get-gi", "r0") == judge(node.disk, "get-gi")
    assert node.do("dstate", "r0").strip().split("/")[0] == judge(node.disk, "dstate").strip().split("/")[0]
    dump = judge(node.disk, "dump-md")
    assert dumped(node.do("dump-md", "r0")) == dumped(dump)
    return dump


def test_after_down(pair: Pair) -> None:
    """In sync; then with blocks marked on one side, and the other outdated by that."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    write(pair.a, 0, 1, 5000)
    pair.settle()
    wait_until(lambda: pair.a.try_("secondary", "r0").code == 0, "demotion")
    for node in pair.nodes:
        node.do("down", "r0")
    before = [agreed(node) for node in pair.nodes]
    assert "0xffff" not in bitmap(before[0]).lower()

    pair.up()
    pair.settle()
    pair.a.do("primary", "r0")
    pair.b.do("down", "r0")
    write(pair.a, 7, 8, 9, 4000)
    wait_until(lambda: pair.a.try_("secondary", "r0").code == 0, "demotion")
    assert pair.a.device["replblock-counters"]["oos"] == 16
    pair.a.do("down", "r0")
    mine, _ = (agreed(node) for node in pair.nodes)
    words = [int(word, 16) for word in re.findall(r"0x([0-9A-Fa-f]{16})", bitmap(mine))]
    assert sum(bin(word).count("1") for word in words) == 4
    # the survivor moved on from where the other still is
    gi = [judge(node.disk, "get-gi").split(":") for node in pair.nodes]
    assert int(gi[0][1], 16) & ~1 == int(gi[1][0], 16) & ~1


@pytest.mark.parametrize("alone", [False, True], ids=["connected", "alone"])
def test_after_a_crash(pair: Pair, alone: bool) -> None:
    """kill -9 of a Primary: drbdmeta's apply-al, ours, and our attach mark the same blocks on copies of the image."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    write(pair.a, 3, 2048)
    if alone:
        pair.b.do("down", "r0")
        write(pair.a, 5, 6, 4096, 4097)
    fio = subprocess.Popen(
        ["fio", "--name=x", "--ioengine=nbd", f"--uri={pair.a.uri}", "--rw=randwrite", "--bs=4096", "--iodepth=16",
         "--size=40M", "--time_based", "--runtime=60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=pair.directory,
    )  # fmt: skip
    try:
        wait_until(lambda: pair.a.device["replblock-counters"]["dw"] > 2000, "writing")
        pair.a.kill()
    finally:
        fio.kill()
        fio.wait()
    if not alone:
        pair.b.do("down", "r0")             # it would bring the copy in sync
    images = [pair.directory / name for name in ("drbdmeta", "ours", "attach")]
    for image in images:
        shutil.copyfile(pair.a.disk, image)

    judge(images[0], "apply-al")
    wanted = bitmap(judge(images[0], "dump-md"))

    nodes = []
    for image in images[1:]:
        node = Node(pair.a.name, pair.directory / f"of-{image.name}", pair.a.address)
        node.run_dir.mkdir(parents=True)
        node.config.write_text(pair.a.config.read_text().replace(str(pair.a.disk), str(image)))
        nodes.append(node)
    nodes[0].do("apply-al", "r0")
    assert bitmap(judge(images[1], "dump-md")) == wanted
    assert judge(images[1], "get-gi") == judge(images[0], "get-gi")
    try:
        nodes[1].do("up", "r0")
        assert "activity-log-replayed" in nodes[1].log()
        nodes[1].do("down", "r0")
    finally:
        nodes[1].clean_up()
    assert bitmap(judge(images[2], "dump-md")) == wanted
    # and the pair itself comes together again
    pair.up()
    pair.assert_same_data()
