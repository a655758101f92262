# SPDX-License-Identifier: GPL-2.0-or-later
"""Our netlink messages, byte by byte as <linux/nbd-netlink.h> and netlink(7) lay them out."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest

from replblock.device import netlink
from replblock.device.errors import DeviceError

if sys.byteorder != "little":
    pytest.skip("the bytes below are of a little-endian machine", allow_module_level=True)


def attribute(kind: int, payload: bytes) -> bytes:
    """Length, type, payload, padding to four bytes."""
    return struct.pack("<HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("<I", value))


def u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("<Q", value))


def sockets(*descriptors: int) -> bytes:
    return attribute(7, b"".join(attribute(1, u32(1, fd)) for fd in descriptors))


def body(message: Any) -> bytes:
    """Behind netlink's header of 16 bytes."""
    message.encode()
    return bytes(message.data[16:])


def test_connect() -> None:
    assert body(netlink.connect_message(3, 1 << 40, 512, 0x16D, [9], "replblock r0/0")) == (
        struct.pack("<BBH", 1, 1, 0) + u32(1, 3) + u64(2, 1 << 40) + u64(3, 512) + u64(4, 0) + u64(5, 0x16D)
        + u64(8, 1_728_000) + attribute(10, b"replblock r0/0\0") + sockets(9))


def test_reconfigure_brings_no_timeout() -> None:
    """A TIMEOUT would set io_timeout back to 30 s."""
    assert body(netlink.reconfigure_message(3, [9], "me")) == (
        struct.pack("<BBH", 3, 1, 0) + u32(1, 3) + attribute(10, b"me\0") + sockets(9))


def test_resize_and_disconnect() -> None:
    assert body(netlink.resize_message(0, 4096, "")) == struct.pack("<BBH", 3, 1, 0) + u32(1, 0) + u64(2, 4096)
    assert body(netlink.disconnect_message(15)) == struct.pack("<BBH", 2, 1, 0) + u32(1, 15)


def test_the_kernels_answer_is_understood() -> None:
    """CONNECT is answered with the index, STATUS with a list of devices."""
    kind = netlink.message_class()
    device = attribute(1, u32(1, 5) + attribute(2, b"\1"))
    data = struct.pack("<IHHII", 0, 30, 0, 1, 0) + struct.pack("<BBH", 5, 1, 0) + u32(1, 5) + attribute(9, device)
    data = struct.pack("<I", len(data)) + data[4:]
    message = kind(data)
    message.decode()
    assert message.get_attr("NBD_ATTR_INDEX") == 5
    item = message.get_attr("NBD_ATTR_DEVICE_LIST").get_attr("NBD_DEVICE_ITEM")
    assert (item.get_attr("NBD_DEVICE_INDEX"), item.get_attr("NBD_DEVICE_CONNECTED")) == (5, 1)


def test_without_pyroute2_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    netlink.message_class.cache_clear()
    monkeypatch.setitem(sys.modules, "pyroute2.netlink", None)
    with pytest.raises(DeviceError, match="install python3-pyroute2, or set: attach fuse"):
        netlink.message_class()
    monkeypatch.undo()
    netlink.message_class.cache_clear()


def test_a_kernel_without_nbd_is_named() -> None:
    """The real kernel answers: either it has the family, or we say that it has not."""
    try:
        with netlink.Netlink():
            pass
    except DeviceError as problem:
        assert "modprobe nbd" in str(problem)
