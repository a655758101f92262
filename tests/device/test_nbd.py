# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end nbd with a real server and a kernel played by the test: what is asked of it, and its known traps."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replblock.device import backends, names, nbd, netlink, usage
from replblock.device.errors import DeviceError
from replblock.device.handshake import Export
from replblock.device.types import Attached, AttachSpec, Probe
from tests.device.servers import SIZE_BYTES, Server, serving
from tests.device.test_names import NBD_MAJOR, Machine

pytestmark = pytest.mark.root       # mknod


class Kernel:
    """Takes sockets as kernel nbd does; `deaf` RECONFIGUREs are answered OK and ignored."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self.link: socket.socket | None = None
        self.deaf = 0
        self.busy = 0

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def send(self, request: Any) -> dict[str, Any]:
        values = {name.removeprefix("NBD_ATTR_"): value for name, value in request["attrs"]}
        self.asked.append((request["cmd"], values))
        index = values["INDEX"]
        base = self.machine.root / "sys" / "block" / f"nbd{index}"
        if request["cmd"] == netlink.DISCONNECT:
            (base / "pid").unlink()
            self.drop()
            return {}
        if request["cmd"] == netlink.CONNECT:
            if self.busy:
                self.busy -= 1
                raise OSError(errno.EBUSY, "busy")
            self.machine.connect(index, os.getpid(), "replblock")
            (base / "queue").mkdir(exist_ok=True)
            (base / "backend").write_text(values["BACKEND_IDENTIFIER"])
            size = self.machine.root / "sys" / "class" / "block" / f"nbd{index}" / "size"
            size.write_text(str(values["SIZE_BYTES"] // 512))
        elif self.deaf:
            self.deaf -= 1
            return {}
        if "SOCKETS" not in values:
            return {"INDEX": index}     # only the size changes
        self.drop()
        descriptor = values["SOCKETS"]["attrs"][0][1]["attrs"][0][1]
        self.link = socket.socket(fileno=os.dup(descriptor))
        return {"INDEX": index}

    def drop(self) -> None:
        if self.link is not None:
            self.link.close()
        self.link = None

    def write(self, data: bytes) -> int:
        """One NBD write over the socket that we were given; the server's error number."""
        assert self.link is not None
        self.link.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, len(data)) + data)
        return int(struct.unpack(">IIQ", self.link.recv(16, socket.MSG_WAITALL))[1])


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    machine = Machine(tmp_path)
    for index in range(2):
        machine.add(f"nbd{index}", NBD_MAJOR, 16 * index)
    (tmp_path / "proc" / "net").mkdir()
    os.symlink("/proc/net/unix", tmp_path / "proc" / "net" / "unix")
    made = Kernel(machine)
    monkeypatch.setattr(nbd, "Netlink", lambda: made)
    monkeypatch.setattr(usage, "_open_alone", lambda device: os.open("/dev/null", os.O_RDONLY))
    monkeypatch.setattr(usage, "write_back", lambda descriptor, name: None)
    yield made
    made.drop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server") as started:
        yield started


def attach(kernel: Kernel, server: Server) -> Attached:
    host = kernel.machine.host
    reservation = names.reserve("nbd", kernel.machine.name("drbd0"), host)
    spec = AttachSpec(str(server.socket), "0", reservation.name, str(server.directory), "nbd", reservation)
    return backends.attach(spec, host)


def test_attach_asks_for_a_device_that_waits(kernel: Kernel, server: Server) -> None:
    """One socket, no request timeout, weeks for a new connection, and the timer that sends again after a restart."""
    attached = attach(kernel, server)
    command, asked = kernel.asked[-1]
    assert command == netlink.CONNECT
    assert (asked["INDEX"], asked["SIZE_BYTES"], asked["BLOCK_SIZE_BYTES"]) == (1, SIZE_BYTES, 512)
    assert (asked["TIMEOUT"], len(asked["SOCKETS"]["attrs"])) == (0, 1)
    assert 14 * 86400 < asked["DEAD_CONN_TIMEOUT"] < (1 << 31) // 1000     # 0 would be none, and jiffies may be 32 bits
    assert asked["BACKEND_IDENTIFIER"] == attached.identifier == f"replblock {attached.name}"
    queue = kernel.machine.root / "sys/block/nbd1/queue"
    assert ((queue / "io_timeout").read_text(), (queue / "max_sectors_kb").read_text()) == ("1000", "1024")
    assert kernel.write(b"z" * 4096) == 0       # the socket is in its transmission phase, nothing was swallowed
    assert server.image.read_bytes()[:4096] == b"z" * 4096


@pytest.mark.parametrize(("memory_kib", "request_kib"), [
    (119_580, 128), (242_000, 256), (500_000, 512), (1_000_000, 1024), (64 << 20, 1024), (20_000, 64),
])  # fmt: skip
def test_requests_are_small_where_memory_is(kernel: Kernel, memory_kib: int, request_kib: int) -> None:
    host = kernel.machine.host
    (kernel.machine.root / "proc" / "meminfo").write_text(f"MemTotal:   {memory_kib} kB\nMemFree:  1 kB\n")
    assert nbd.request_kib(host) == request_kib


def test_detach(kernel: Kernel, server: Server) -> None:
    attached = attach(kernel, server)
    backends.detach(attached, host=kernel.machine.host)
    assert kernel.asked[-1] == (netlink.DISCONNECT, {"INDEX": 1})
    count = len(kernel.asked)
    backends.detach(attached, host=kernel.machine.host)
    assert len(kernel.asked) == count           # detached already: nothing to do


def test_reattach_insists_until_the_kernel_takes_the_socket(kernel: Kernel, server: Server) -> None:
    """OK from the kernel means nothing while it holds the old socket: only one that stays open was taken."""
    attached = attach(kernel, server)
    server.kill()
    server.start()
    kernel.deaf = 2
    asked = len(kernel.asked)
    assert backends.reattach(attached, kernel.machine.host) == attached
    assert [command for command, _ in kernel.asked[asked:]] == [netlink.RECONFIGURE] * 3
    assert all("TIMEOUT" not in values for _, values in kernel.asked[asked:])
    assert kernel.asked[-1][1]["BACKEND_IDENTIFIER"] == attached.identifier
    assert kernel.write(b"w" * 512) == 0


def test_reattach_gives_up(kernel: Kernel, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    attached = attach(kernel, server)
    kernel.deaf = 1 << 30
    monkeypatch.setattr(nbd, "REATTACH_PATIENCE_S", 0.05)
    with pytest.raises(DeviceError, match="does not let go of the old connection; see: dmesg"):
        backends.reattach(attached, kernel.machine.host)


def test_reattach_refuses_a_smaller_export(kernel: Kernel, server: Server) -> None:
    attached = attach(kernel, server)._replace(size_bytes=SIZE_BYTES + 512)
    with pytest.raises(DeviceError, match="has shrunk"):
        backends.reattach(attached, kernel.machine.host)


@pytest.mark.parametrize("verb", ["detach", "reattach"])
def test_a_strangers_device_is_left_alone(kernel: Kernel, server: Server, verb: str) -> None:
    attached = attach(kernel, server)
    (kernel.machine.root / "sys/block/nbd1/backend").write_text("rbd pool/image")
    asked = len(kernel.asked)
    with pytest.raises(DeviceError, match="now belongs to 'rbd pool/image', not to us"):
        getattr(backends, verb)(attached, host=kernel.machine.host)
    assert len(kernel.asked) == asked


def test_a_stolen_device_moves_the_name(kernel: Kernel, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's nbd-client took nbd1 between `up` and promotion."""
    monkeypatch.setattr(nbd, "BUSY_PATIENCE_S", 0.0)
    host = kernel.machine.host
    reservation = names.reserve("nbd", kernel.machine.name("drbd0"), host)
    kernel.machine.connect(1, 4711, "nbd-client")
    kernel.busy = 1
    spec = AttachSpec(str(server.socket), "0", reservation.name, str(server.directory), "nbd", reservation)
    attached = backends.attach(spec, host)
    assert attached.kernel_device.endswith("nbd0") and names.node_number(attached.name) == (NBD_MAJOR, 0)


def test_a_moment_of_udev_is_waited_for(kernel: Kernel, server: Server) -> None:
    kernel.busy = 2
    attach(kernel, server)
    assert [command for command, _ in kernel.asked] == [netlink.CONNECT] * 3


@pytest.mark.parametrize(("smallest", "expected"), [(1, 512), (512, 512), (4096, 4096), (65536, 4096)])
def test_logical_block(smallest: int, expected: int) -> None:
    assert nbd.block_size(Export(1 << 20, 0, smallest)) == expected


def test_resize(kernel: Kernel, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    attached = attach(kernel, server)
    larger = nbd.resize(attached, SIZE_BYTES * 2, kernel.machine.host)
    assert larger.size_bytes == SIZE_BYTES * 2
    assert kernel.asked[-1][1]["SIZE_BYTES"] == SIZE_BYTES * 2


def test_a_device_that_could_not_grow_at_once_does_at_the_restart(kernel: Kernel, server: Server) -> None:
    attached = attach(kernel, server)._replace(size_bytes=SIZE_BYTES // 2)
    server.kill()
    server.start()
    assert backends.reattach(attached, kernel.machine.host).size_bytes == SIZE_BYTES
    assert [command for command, _ in kernel.asked[-2:]] == [netlink.RECONFIGURE] * 2
    assert kernel.asked[-1][1]["SIZE_BYTES"] == SIZE_BYTES
    assert kernel.write(b"w" * 512) == 0


def test_probe_explains() -> None:
    assert backends.probe("none") == Probe("none")
    assert "one of auto, nbd, fuse, none" in backends.probe("ndb").reason
    found = backends.probe("auto")
    assert found.backend in ("nbd", "fuse") or ("nbd:" in found.reason and "fuse:" in found.reason)
