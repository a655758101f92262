# SPDX-License-Identifier: GPL-2.0-or-later
"""Two engines over disks enlarged by truncate: the device grows in use, drbdmeta finds the metadata at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from replblock.meta.geometry import internal
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes
from tests.engine.test_pair import FAST, connect, data_of, in_sync
from tests.meta.tools import FLEXIBLE, INTERNAL, drbdmeta

MIB = 1 << 20
OLD_BYTES, NEW_BYTES = 32 * MIB, 48 * MIB
LARGER = internal(NEW_BYTES // 512).data_sectors


@pytest.fixture
def pair(tmp_path: Path, port: Callable[[], int]) -> Iterator[tuple[Node, Node]]:
    with nodes(tmp_path, port, size_bytes=OLD_BYTES, **FAST) as pair:
        up(pair)
        pair[0].do("primary", force=True)
        in_sync(*pair)
        yield pair


def up(pair: tuple[Node, ...]) -> None:
    for node in pair:
        node.start()
        node.do("attach")
        node.do("connect")


def enlarge(*pair: Node) -> None:
    """And what is new is not the same."""
    for node in pair:
        with node.disk.open("r+b") as file:
            file.truncate(NEW_BYTES)
            file.seek(OLD_BYTES)
            file.write(node.host.encode() * 4096)


def size_kib(node: Node) -> int:
    return int(node.status()["devices"][0]["size"])


def grown(*pair: Node) -> None:
    for node in pair:
        wait_for(lambda node=node: size_kib(node) == LARGER // 2, f"{node.host} larger\n{node.log()}")
    in_sync(*pair)


def judged(node: Node) -> str:
    """drbdmeta's dump of a node that is down."""
    done = drbdmeta(node.disk, INTERNAL, "dump-md")
    assert done.exit_code == 0, done
    return done.out


def stopped(pair: tuple[Node, Node]) -> None:
    """In good order; the replicas are equal and drbdmeta reads both."""
    alpha, beta = pair
    in_sync(*pair)
    alpha.do("secondary")
    beta.do("stop")
    alpha.do("stop")
    assert (alpha.exit_code(), beta.exit_code()) == (0, 0)
    assert data_of(alpha, LARGER * 512) == data_of(beta, LARGER * 512)
    for node in pair:
        assert f"la-size-sect {LARGER};" in judged(node)


@pytest.mark.parametrize("by", [0, 1])
def test_the_device_grows_in_use(pair: tuple[Node, Node], by: int) -> None:
    alpha, _ = pair
    old = connect(alpha)
    old.pwrite(b"before".ljust(4096), 0)
    enlarge(*pair)
    pair[by].do("resize")
    grown(*pair)
    old.pwrite(b"meanwhile".ljust(4096), 4096)
    old.flush()
    new = connect(alpha)
    assert new.get_size() == LARGER * 512 > old.get_size()
    new.pwrite(b"in the new area".ljust(4096), new.get_size() - 4096)
    new.flush()
    for handle in (old, new):
        handle.shutdown()
    stopped(pair)
    up(pair)
    in_sync(*pair)
    assert size_kib(alpha) == LARGER // 2


def test_a_crash_at_once(pair: tuple[Node, Node]) -> None:
    """kill -9 of both before the resync of the new area has ended, or even begun."""
    alpha, beta = pair
    enlarge(*pair)
    alpha.do("resize")
    beta.kill()
    alpha.kill()
    up(pair)
    grown(*pair)
    alpha.do("primary")
    stopped(pair)


def test_grown_while_down(pair: tuple[Node, Node]) -> None:
    """The attach says what to do; that finds the metadata by the size the disk had."""
    alpha = pair[0]
    stopped_as_they_are(pair)
    before = judged(alpha)
    enlarge(*pair)
    alpha.start()
    found = alpha.ask("attach")
    assert found["exit_code"] == 10 and "(119)" in found["lines"][0] and "check-resize" in "".join(found["lines"])
    alpha.do("stop")
    for node in pair:
        said = replctl(node, "check-resize", "r0")
        assert "successfully moved" in said
        assert replctl(node, "check-resize", "r0") == ""
    assert dumped(judged(alpha)) == dumped(before)
    up(pair)
    grown(*pair)


def stopped_as_they_are(pair: tuple[Node, Node]) -> None:
    pair[0].do("secondary")
    for node in pair:
        node.do("stop")
        node.exit_code()


def dumped(text: str) -> str:
    """What does not depend on the size of the disk."""
    lines = [line for line in text.splitlines() if not line.startswith("#") and "offset" not in line]
    return "\n".join(line for line in lines if "md-size-sect" not in line)


def replctl(node: Node, *words: str) -> str:
    environment = {**os.environ, "REPLBLOCK_RUN": str(node.run), "REPLBLOCK_HOST": node.host}
    command = [sys.executable, "-m", "replblock.cli.main", "-c", str(node.config), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done
    return done.stdout


def test_with_external_metadata(tmp_path: Path, port: Callable[[], int]) -> None:
    """Nothing moves; the whole disk is data."""
    with nodes(tmp_path, port, size_bytes=OLD_BYTES, **FAST) as pair:
        text = pair[0].config.read_text()
        for node in pair:
            meta = node.disk.with_suffix(".meta")
            line = f"disk {node.disk}; " if f"disk {node.disk}; " in text else f"disk {node.disk};  "
            start = text.index(line)
            text = text[:start] + text[start:].replace("meta-disk internal", f"meta-disk {meta}", 1)
            node.disk.write_bytes(bytes(OLD_BYTES))
            meta.write_bytes(bytes(2 * MIB))
            made = drbdmeta(meta, FLEXIBLE, "create-md")
            assert made.exit_code == 0, made
        pair[0].config.write_text(text)
        up(pair)
        pair[0].do("primary", force=True)
        in_sync(*pair)
        enlarge(*pair)
        pair[1].do("resize")
        for node in pair:
            wait_for(lambda node=node: size_kib(node) == NEW_BYTES // 1024, f"{node.host} larger")
        in_sync(*pair)
        handle = connect(pair[0])
        assert handle.get_size() == NEW_BYTES
        handle.pwrite(b"at the very end".ljust(4096), NEW_BYTES - 4096)
        handle.flush()
        handle.shutdown()
        stopped_as_they_are(pair)
        assert data_of(pair[0], NEW_BYTES) == data_of(pair[1], NEW_BYTES)
        for node in pair:
            found = drbdmeta(node.disk.with_suffix(".meta"), FLEXIBLE, "dump-md")
            assert f"la-size-sect {NEW_BYTES // 512};" in found.out, found


def test_a_disk_that_did_not_grow(pair: tuple[Node, Node]) -> None:
    alpha, beta = pair
    enlarge(beta)
    found: dict[str, Any] = alpha.do("resize")
    assert "the size stays" in found["lines"][0]
    in_sync(*pair)
    handle: nbd.NBD = connect(alpha)
    assert handle.get_size() == internal(OLD_BYTES // 512).data_sectors * 512
    handle.shutdown()
