# SPDX-License-Identifier: GPL-2.0-or-later
"""The handshake against nbdkit, and against servers that misbehave."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.device.errors import DeviceError
from replblock.device.handshake import Export, Handshake, HandshakeError
from replblock.device.negotiate import connect_export
from replblock.device.types import nbd_uri
from tests.device.servers import SIZE_BYTES, serving

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"


def reply(kind: int, body: bytes = b"", option: int = 7) -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body)) + body


EXPORT = reply(3, struct.pack(">HQH", 0, 1 << 30, 0x16D))
BLOCKS = reply(3, struct.pack(">HIII", 3, 4096, 65536, 1 << 20))
GOOD = GREETING + EXPORT + BLOCKS + reply(3, b"\x00\x01name") + reply(1)


def test_with_nbdkit(tmp_path: Path) -> None:
    """Size, flags and block sizes come from a server that we did not write, and the socket works afterwards."""
    with serving(tmp_path, "blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=1M",
                 filters=("log", "blocksize-policy")) as server:
        link, export = connect_export(str(server.socket), "0")
        with link:
            assert export.size_bytes == SIZE_BYTES
            assert export[2:] == (512, 4096, 1 << 20)
            assert all(export.has(flag) for flag in ("has_flags", "flush", "fua", "trim", "multi_conn"))
            assert not export.has("read_only")
            assert link.gettimeout() is None
            link.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 512))
            magic, error, handle = struct.unpack(">IIQ", link.recv(16, socket.MSG_WAITALL))
            assert (magic, error, handle) == (0x67446698, 0, 7)
            assert link.recv(512, socket.MSG_WAITALL) == bytes(512)


def test_nbdkit_refuses_an_unknown_export(tmp_path: Path) -> None:
    with serving(tmp_path, "exportname=0", "exportname-strict=true", filters=("exportname",)) as server:
        connect_export(str(server.socket), "0")[0].close()
        with pytest.raises(DeviceError, match=r"export '7': the server has no such export.*see: replctl status"):
            connect_export(str(server.socket), "7")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"none: export '0': No such file or directory; is the resource up\?"):
        connect_export(str(tmp_path / "none"), "0")


def test_a_server_that_hangs_is_not_waited_for_forever(tmp_path: Path) -> None:
    path = str(tmp_path / "silent")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(DeviceError, match="no answer in time"):
            connect_export(path, "0", timeout_s=0.05)


def test_a_server_that_hangs_up(tmp_path: Path) -> None:
    path = str(tmp_path / "rude")
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind(path)
        rude.listen()

        def answer() -> None:
            with rude.accept()[0] as peer:
                peer.sendall(GREETING[:10])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeviceError, match="hung up during the handshake"):
            connect_export(path, "0")
        thread.join()


@given(st.lists(st.integers(1, len(GOOD)), max_size=20))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    handshake, said = Handshake("0"), b""
    edges = sorted({0, len(GOOD), *cuts})
    for start, end in itertools.pairwise(edges):
        said += handshake.receive(GOOD[start:end])
    assert handshake.export == Export(1 << 30, 0x16D, 4096, 65536, 1 << 20)
    assert said == (b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", 7, 9) + struct.pack(">I", 1) + b"0"
                    + b"\0\1\0\3")


def test_never_wants_more_than_it_can_use() -> None:
    """A byte too many would be missing in the kernel's stream."""
    handshake, at = Handshake("0"), 0
    while handshake.export is None:
        wanted = handshake.wanted_bytes
        handshake.receive(GOOD[at:at + wanted])
        at += wanted
    assert at == len(GOOD) and handshake.wanted_bytes == 0


@pytest.mark.parametrize(("data", "complaint"), [
    (b"HTTP/1.1 400 Bad Request\r\n", "no NBD server"),
    (b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x03", "old style"),
    (b"NBDMAGICIHAVEOPT\x00\x00", "old style"),
    (GREETING + reply(3, option=8), "garbled"),
    (GREETING + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 20), "garbled"),
    (GREETING + reply(1), "did not say how large"),
    (GREETING + reply((1 << 31) + 5, b"please"), r"demands TLS \(please\)"),
    (GREETING + reply((1 << 31) + 77), r"refuses \(error 77\)"),
    (GOOD + b"!", "before it was asked"),
])
def test_what_cannot_be_right_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(HandshakeError, match=complaint):
        Handshake("0").receive(data)


@given(st.binary(max_size=200))
def test_garbage_ends_in_an_error_or_in_waiting(data: bytes) -> None:
    handshake = Handshake("0")
    try:
        handshake.receive(GREETING + data)
    except HandshakeError:
        return
    assert handshake.export is None and 0 < handshake.wanted_bytes <= 4160


def test_export_names_are_bounded() -> None:
    with pytest.raises(HandshakeError, match="longer than 4096 bytes"):
        Handshake("x" * 4097)


def test_uri() -> None:
    assert nbd_uri("/run/repl block/r0.sock", "0") == "nbd+unix:///0?socket=/run/repl%20block/r0.sock"
