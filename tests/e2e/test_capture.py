# SPDX-License-Identifier: GPL-2.0-or-later
"""What our two nodes say to each other on the wire, as tshark's DRBD dissector reads it: all of it, none malformed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbd
import pytest

from replblock.wire.commands import Cmd
from tests.e2e.pair import MIB, PORT, Node, Pair
from tests.e2e.waiting import wait_until
from tests.wire.tshark import Packet, assert_clean

pytestmark = pytest.mark.root

ALWAYS = ("CONNECTION_FEATURES PROTOCOL SIZES UUIDS STATE RS_THIN_REQ RS_DEALLOCATED RS_DATA_REPLY SYNC_UUID DATA "
          "BARRIER BARRIER_ACK")
DISK_BYTES = 6 * MIB          # tshark takes seconds for a MiB
STEP = MIB


@contextmanager
def captured(pair: Pair, file: Path) -> Iterator[None]:
    """Everything between the two addresses while the block runs."""
    capture = subprocess.Popen(
        ["dumpcap", "-q", "-i", "lo", "-B", "64", "-f", f"host {pair.a.address}", "-w", str(file)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert capture.stderr is not None
    said = ""
    try:
        while "File:" not in said:
            line = capture.stderr.readline()
            assert line, f"dumpcap ended: {said}"
            said += line
        yield
        marker = os.urandom(24)                 # seen in the file: what went before it is there too
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            def arrived() -> bool:
                sock.sendto(marker, (pair.a.address, 9))
                return marker in file.read_bytes()
            wait_until(arrived, "the end of the capture")
    finally:
        capture.send_signal(signal.SIGINT)
        said += capture.stderr.read()
        capture.wait(timeout=20)
        capture.stderr.close()
    dropped = re.search(r"dropped on interface '[^']*': \d+/(\d+)", said)
    assert dropped is not None and dropped[1] == "0", said


def work(node: Node, offset: int) -> None:
    """Every kind of request a door takes."""
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    for number in range(24):
        handle.pwrite(os.urandom(4096), offset + number * 12288)
    handle.pwrite(os.urandom(256 * 1024 + 512), offset + 320 * 1024)
    handle.pwrite(os.urandom(512), offset + 512, nbd.CMD_FLAG_FUA)
    handle.trim(65536, offset + 640 * 1024)
    handle.zero(65536, offset + 768 * 1024)
    handle.zero(4096, offset + 896 * 1024, nbd.CMD_FLAG_NO_HOLE)
    handle.flush()
    handle.shutdown()


def names(packets: list[Packet]) -> Counter[str]:
    return Counter(Cmd(packet.command).name for packet in packets)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ({"protocol": "C", "cram-hmac-alg": "sha256", "shared-secret": '"a secret"', "data-integrity-alg": "crc32c",
          "use-rle": "yes"}, "AUTH_RESPONSE COMPRESSED_BITMAP WRITE_ACK TRIM"),
        ({"protocol": "B", "use-rle": "no"}, "BITMAP RECV_ACK ZEROES"),
        ({"protocol": "A", "cram-hmac-alg": "sha1", "shared-secret": "x", "use-rle": "yes"}, "COMPRESSED_BITMAP"),
    ],
    ids=["C-secret-crc32c-rle", "B-plain", "A-secret-rle"],
)
def test_tshark_reads_a_whole_life(pair: Pair, tmp_path: Path, net: dict[str, object], expected: str) -> None:
    """First sync, work, disconnect, work alone, resync by bitmap, roles changed, down."""
    pair.configure(net=net)
    pair.make_disks(DISK_BYTES)
    file = tmp_path / "life.pcapng"
    with captured(pair, file):
        pair.up()
        pair.a.do("primary", "--force", "r0")
        pair.settle()
        work(pair.a, 0)
        pair.a.do("disconnect", "r0")
        work(pair.a, STEP)
        pair.a.do("connect", "r0")
        pair.settle()
        pair.swap(pair.a)
        work(pair.b, 2 * STEP)
        pair.assert_same_data()
        pair.b.do("down", "r0")
        pair.a.do("down", "r0")
    packets = assert_clean(file, PORT, payloads=False)
    found = names(packets)
    missing = [name for name in f"{ALWAYS} {expected}".split() if not found[name]]
    assert not missing, f"{missing} not in {dict(found)}"
    # what was sent once is asked for once: a first sync of everything and a resync of little
    blocks = sum(packet.number("size") for packet in packets if packet.command == Cmd.RS_THIN_REQ) // 4096
    assert DISK_BYTES // 4096 - 64 <= blocks <= DISK_BYTES // 4096 + 200, blocks


def test_a_killed_secondary(pair: Pair, tmp_path: Path) -> None:
    """A stream cut anywhere, and the handshake of a crashed node."""
    pair.make_disks(DISK_BYTES)
    file = tmp_path / "cut.pcapng"
    with captured(pair, file):
        pair.clean()
        pair.a.do("primary", "r0")
        work(pair.a, 0)
        pair.b.kill()
        work(pair.a, STEP)
        pair.b.do("up", "r0")
        pair.settle()
    packets = assert_clean(file, PORT, whole=False, payloads=False)
    assert names(packets)["RS_DATA_REPLY"]
