# SPDX-License-Identifier: GPL-2.0-or-later
"""Both doors as NBD's own tools see them: nbdinfo, nbdcopy, nbdsh's library, qemu-img."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nbd
import pytest

from tests.doors import SOCKETS
from tests.e2e.pair import MIB, Pair

DISK_BYTES = 32 * MIB


@pytest.fixture(params=SOCKETS)
def primary(pair: Pair, request: pytest.FixtureRequest) -> Pair:
    """`a` is Primary, both UpToDate; once for each door."""
    for node in pair.nodes:
        node.door = request.param
    pair.configure()
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    return pair


def opened(pair: Pair) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(pair.a.do("sh-nbd", "r0").strip())
    return handle


def tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_nbdinfo_shows_what_the_device_can_do(primary: Pair) -> None:
    uri = primary.a.do("sh-nbd", "r0").strip()
    found: dict[str, Any] = json.loads(tool("nbdinfo", "--no-content", "--json", uri))["exports"][0]
    assert found["export-size"] == primary.a.device["size"] * 1024
    for key, wanted in {
        "is_read_only": False, "can_flush": True, "can_fua": True, "can_trim": True, "can_zero": True,
        "can_multi_conn": True, "is_rotational": False,
    }.items():  # fmt: skip
        assert found[key] == wanted, key
    assert tuple(found[f"block_size_{key}"] for key in ("minimum", "preferred", "maximum")) == (512, 4096, 32 * MIB)


def test_nbdcopy_in_and_out(primary: Pair, tmp_path: Path) -> None:
    """With several connections and requests in flight, and both nodes' disks as witnesses."""
    size = primary.a.device["size"] * 1024
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        file.write(os.urandom(5 * MIB))
        file.truncate(size)                                     # holes become trims or zeroes
        file.seek(size - 3 * 512)
        file.write(os.urandom(3 * 512))
    uri = primary.a.do("sh-nbd", "r0").strip()
    tool("nbdcopy", "--flush", "--connections=4", str(source), uri)
    tool("nbdcopy", "--connections=4", uri, str(copy))
    assert source.read_bytes() == copy.read_bytes()
    primary.assert_same_data()
    assert b"".join(primary.b.data()) == source.read_bytes()


def test_writes_zeroes_and_trims_reach_both_disks(primary: Pair) -> None:
    handle = opened(primary)
    pattern = os.urandom(MIB)
    for at in range(4):
        handle.pwrite(pattern, at * MIB)
    handle.zero(MIB, 0)
    handle.zero(65536, MIB + 512, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    handle.trim(MIB, 2 * MIB)
    handle.pwrite(b"fua" + bytes(509), 3 * MIB + 512, nbd.CMD_FLAG_FUA)
    handle.flush()
    wanted = bytearray(pattern * 4)
    wanted[:MIB] = bytes(MIB)
    wanted[MIB + 512:MIB + 512 + 65536] = bytes(65536)
    wanted[3 * MIB + 512:3 * MIB + 1024] = b"fua" + bytes(509)
    trimmed = handle.pread(MIB, 2 * MIB)
    wanted[2 * MIB:3 * MIB] = trimmed                           # a trim promises nothing about what is read later
    assert trimmed in (pattern, bytes(MIB))
    assert handle.pread(4 * MIB, 0) == wanted
    handle.shutdown()
    primary.assert_same_data()
    assert b"".join(primary.b.data())[:4 * MIB] == wanted


def test_two_connections_see_each_others_writes(primary: Pair) -> None:
    one, two = opened(primary), opened(primary)
    assert one.can_multi_conn()
    for round_ in range(20):
        block = bytes([round_ + 1]) * 4096
        (one if round_ % 2 else two).pwrite(block, 8192)
        assert (two if round_ % 2 else one).pread(4096, 8192) == block
    one.flush()
    for handle in (one, two):
        handle.shutdown()


def test_requests_that_cannot_be_are_refused_one_by_one(primary: Pair) -> None:
    """Unaligned, past the end, empty: an error for that request; the connection and the data live on."""
    handle = opened(primary)
    handle.set_strict_mode(0)
    size = handle.get_size()
    handle.pwrite(b"x" * 512, size - 512)
    for what, attempt in {
        "write past the end": lambda: handle.pwrite(bytes(1024), size - 512),
        "read past the end": lambda: handle.pread(1024, size - 512),
        "write far away": lambda: handle.pwrite(bytes(512), 1 << 60),
        "trim past the end": lambda: handle.trim(MIB, size - 4096),
        "unaligned offset": lambda: handle.pwrite(bytes(512), 100),
        "unaligned length": lambda: handle.pwrite(bytes(100), 0),
        "unaligned read": lambda: handle.pread(7, 3),
    }.items():
        with pytest.raises(nbd.Error) as refusal:
            attempt()
        assert refusal.value.errnum in (22, 28), f"{what}: {refusal.value}"     # EINVAL, ENOSPC
    assert handle.pread(512, size - 512) == b"x" * 512
    handle.flush()
    handle.shutdown()
    assert "Primary Connected Established UpToDate/UpToDate" in primary.a.state()
    assert "Traceback" not in primary.a.log()


def test_qemu_img_compares_the_device_with_the_peers_file(primary: Pair) -> None:
    handle = opened(primary)
    for at in range(0, 16 * MIB, 2 * MIB):
        handle.pwrite(os.urandom(65536), at)
    handle.flush()
    handle.shutdown()
    primary.settle()
    size = primary.a.device["size"] * 1024
    file = f"json:{{'driver': 'raw', 'size': {size}, 'file': {{'driver': 'file', 'filename': '{primary.b.disk}'}}}}"
    uri = primary.a.do("sh-nbd", "r0").strip()
    # -U: the peer's engine holds the file; it is read beside it, as cmp would
    assert "identical" in tool("qemu-img", "compare", "-U", uri, file.replace("'", '"'))
