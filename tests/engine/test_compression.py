# SPDX-License-Identifier: GPL-2.0-or-later
"""Real engines with `compression lz4`: what libnbd wrote is on both disks, less travelled, and status says how much."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbd
import pytest

from replblock.engine.boot import names_of, view_of
from replblock.status import json_out, metrics, model, text
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes
from tests.engine.test_pair import FAST, connect, data_of, in_sync

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


def words(size: int, chance: random.Random) -> bytes:
    known = [b"%x" % chance.getrandbits(28) for _ in range(300)]
    return b" ".join(chance.choices(known, k=size // 6))[:size].ljust(size)


def write_all_kinds(handle: nbd.NBD, seed: int) -> None:
    """Text, noise, zeroes and mixes of them, of all sizes, many in flight."""
    chance = random.Random(seed)
    size = handle.get_size()
    text_of_all = words(3 * MIB, chance)
    for _ in range(150):
        length = chance.choice([512, 4096, 4096, 65536, MIB, 3 * MIB])
        offset = chance.randrange(0, (size - length) // 512 + 1) * 512
        data = chance.choice([text_of_all[:length], chance.randbytes(length), bytes(length),
                              text_of_all[: length // 2] + chance.randbytes(length - length // 2)])
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)
        while handle.aio_in_flight() >= 16:
            handle.poll(-1)
        if chance.randrange(30) == 0:
            handle.aio_flush()
    while handle.aio_in_flight():
        handle.poll(-1)
    handle.flush()


def facts(node: Node) -> dict[str, Any]:
    return dict(node.status()["connections"][0]["replblock-compression"])


@pytest.mark.parametrize(("protocol", "net"), [("C", ""), ("A", "data-integrity-alg crc32c;")])
def test_both_disks_hold_what_was_written(tmp_path: Path, port: Callable[[], int], protocol: str, net: str) -> None:
    """Through the first sync, writes, a kill -9 of the secondary under writes, and the resync after it."""
    fast = {**FAST, "net": FAST["net"] + net}
    with nodes(tmp_path, port, protocol=protocol, replblock="compression lz4;", **fast) as pair:
        alpha, beta = pair
        for node in pair:
            node.start()
            node.do("attach")
        alpha.do("primary", force=True)
        handle = connect(alpha)
        handle.pwrite(words(8 * MIB, random.Random(1)), 0)
        for node in pair:
            node.do("connect")
        in_sync(*pair)
        write_all_kinds(handle, 2)
        sent, received = facts(alpha), facts(beta)
        assert sent["state"] == received["state"] == "lz4"
        assert sent["sent-payload-bytes"] == received["received-payload-bytes"] > 50 * MIB
        assert sent["sent-bytes"] == received["received-bytes"] < 0.8 * sent["sent-payload-bytes"]
        beta.kill()
        write_all_kinds(handle, 3)
        beta.start()
        beta.do("attach")
        beta.do("connect")
        in_sync(*pair)
        write_all_kinds(handle, 4)
        status = alpha.status()
        assert not [line for line in model.validate(status) if "compression" in line]
        size = handle.get_size()
        handle.shutdown()
        alpha.do("secondary")
        for node in (beta, alpha):
            node.do("stop")
            assert node.exit_code() == 0
        assert data_of(alpha, size) == data_of(beta, size)
    shown = json.loads(json_out.render([status]))[0]["connections"][0]["replblock-compression"]
    assert shown["sent-ratio"] > 1.25 and shown["received-ratio"] == 1
    assert "  compression:lz4" in text.render([status], verbose=True)
    assert "replblock_connection_compressed_sent_bytes_total" in metrics.render([status])


def test_adjust_switches_it_on(tmp_path: Path, port: Callable[[], int]) -> None:
    """One node says so and compresses nothing; with the other one's word it begins, without an interruption."""
    with nodes(tmp_path, port, **FAST) as pair:
        for node in pair:
            node.start()
            node.do("attach")
        pair[0].do("primary", force=True)
        for node in pair:
            node.do("connect")
        in_sync(*pair)
        config = pair[0].config
        config.write_text(config.read_text().replace("replblock {", "replblock { compression lz4;"))
        pair[0].do("adjust")
        wait_for(lambda: facts(pair[0])["state"] == "only-here", "the first node is alone with it")
        in_sync(*pair)
        assert "configured here, not at the peer" in text.render([pair[0].status()], verbose=True)
        assert "configured at the peer, not here" in text.render([pair[1].status()], verbose=True)
        pair[1].do("adjust")
        wait_for(lambda: [facts(node)["state"] for node in pair] == ["lz4", "lz4"], "both have it")
        in_sync(*pair)
        handle = connect(pair[0])
        handle.pwrite(words(MIB, random.Random(5)), 0)
        handle.flush()
        assert facts(pair[1])["received-bytes"] < MIB
        handle.shutdown()


CONFIG = """resource r0 {
    replblock {
        compression %s;
    }
    on alpha { device /dev/drbd0; disk /dev/null; address 127.0.0.1:7788; meta-disk internal; }
    on beta  { device /dev/drbd0; disk /dev/null; address 127.0.0.1:7789; meta-disk internal; }
}
"""
UP = "import sys; sys.modules.update(lz4=None); from tests.engine.test_compression import up; up(sys.argv[1])"


def up(config: str) -> None:
    """As an engine begins: its view of the resource, or one line."""
    try:
        view_of(names_of({"resource": "r0", "config": config, "host": "alpha"}))
    except Exception as error:
        sys.exit(str(error))


def test_zstd_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "drbd.conf"
    config.write_text(CONFIG % "zstd")
    with pytest.raises(SystemExit, match=f"{config}:3: 'compression zstd' is not supported yet; use 'compression lz4'"):
        up(os.fspath(config))
    config.write_text(CONFIG % "lz4")
    up(os.fspath(config))


@pytest.mark.parametrize("value", ["lz4", "none"])
def test_without_the_module(tmp_path: Path, value: str) -> None:
    """Only who wants it needs it; he is told which line asks for it, and what to install."""
    config = tmp_path / "drbd.conf"
    config.write_text(CONFIG % value)
    done = subprocess.run([sys.executable, "-c", UP, os.fspath(config)], cwd=ROOT, capture_output=True, text=True)
    if value == "lz4":
        wanted = "'compression lz4' needs the Python module lz4; install it on both nodes: apt install python3-lz4"
        assert (done.returncode, done.stderr) == (1, f"{config}:3: {wanted}\n")
    else:
        assert (done.returncode, done.stderr) == (0, "")
