# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel nbd over generic netlink (<linux/nbd-netlink.h>), on pyroute2, which is imported when first needed."""

from __future__ import annotations

import errno
import functools
from types import TracebackType
from typing import Any

from replblock.device.errors import DeviceError

FAMILY, VERSION = "nbd", 1
CONNECT, DISCONNECT, RECONFIGURE, LINK_DEAD, STATUS = 1, 2, 3, 4, 5

#: Attribute numbers are positions in this table.
ATTRIBUTES = (
    ("NBD_ATTR_UNSPEC", "none"),
    ("NBD_ATTR_INDEX", "uint32"),
    ("NBD_ATTR_SIZE_BYTES", "uint64"),
    ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
    ("NBD_ATTR_TIMEOUT", "uint64"),
    ("NBD_ATTR_SERVER_FLAGS", "uint64"),
    ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
    ("NBD_ATTR_SOCKETS", "sockets"),
    ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
    ("NBD_ATTR_DEVICE_LIST", "devices"),
    ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
)

#: Requests wait for a new connection instead of failing: a stall must never become an I/O error. TIMEOUT 0: a slow
#: connection is not a dead one. A dead-connection timeout of 0 would mean not to wait at all (kernel 7.2: EIO at once),
#: so it is the longest that 32-bit jiffies hold at 1000 a second, less a margin.
TIMEOUT_S = 0
DEAD_CONNECTION_TIMEOUT_S = 20 * 24 * 3600


@functools.cache
def message_class() -> Any:
    """The class of our messages. Raises DeviceError when pyroute2 is missing."""
    try:
        from pyroute2.netlink import genlmsg, nla
    except ImportError as problem:
        raise DeviceError("kernel nbd needs the Python package pyroute2; install python3-pyroute2, "
                          "or set: attach fuse") from problem

    class SocketItem(nla):                      # type: ignore[misc]
        nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))

    class DeviceItem(nla):                      # type: ignore[misc]
        nla_map = (("NBD_DEVICE_UNSPEC", "none"), ("NBD_DEVICE_INDEX", "uint32"),
                   ("NBD_DEVICE_CONNECTED", "uint8"))

    class Message(genlmsg):                     # type: ignore[misc]
        nla_map = ATTRIBUTES

        class sockets(nla):                     # type: ignore[misc]
            nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))
            item = SocketItem

        class devices(nla):                     # type: ignore[misc]
            nla_map = (("NBD_DEVICE_ITEM_UNSPEC", "none"), ("NBD_DEVICE_ITEM", "item"))
            item = DeviceItem

    return Message


def message(command: int, attributes: list[tuple[str, Any]]) -> Any:
    """A message ready to be sent; names without their NBD_ATTR_."""
    made = message_class()()
    made["cmd"], made["version"] = command, VERSION
    made["attrs"] = [(f"NBD_ATTR_{name}", value) for name, value in attributes]
    return made


def _sockets(descriptors: list[int]) -> dict[str, Any]:
    return {"attrs": [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", fd)]}) for fd in descriptors]}


def connect_message(index: int, size_bytes: int, block_size: int, flags: int, descriptors: list[int],
                    identifier: str) -> Any:
    """CONNECT: give the device `index` its size and its socket."""
    return message(CONNECT, [
        ("INDEX", index), ("SIZE_BYTES", size_bytes), ("BLOCK_SIZE_BYTES", block_size), ("TIMEOUT", TIMEOUT_S),
        ("SERVER_FLAGS", flags), ("DEAD_CONN_TIMEOUT", DEAD_CONNECTION_TIMEOUT_S),
        *([("BACKEND_IDENTIFIER", identifier)] if identifier else []),
        ("SOCKETS", _sockets(descriptors))])


def reconfigure_message(index: int, descriptors: list[int], identifier: str) -> Any:
    """RECONFIGURE: a new socket. No TIMEOUT: it would set io_timeout back to 30 s."""
    return message(RECONFIGURE, [
        ("INDEX", index), *([("BACKEND_IDENTIFIER", identifier)] if identifier else []),
        ("SOCKETS", _sockets(descriptors))])


def resize_message(index: int, size_bytes: int, identifier: str) -> Any:
    """RECONFIGURE with a new size, while attached."""
    return message(RECONFIGURE, [
        ("INDEX", index), ("SIZE_BYTES", size_bytes),
        *([("BACKEND_IDENTIFIER", identifier)] if identifier else [])])


def disconnect_message(index: int) -> Any:
    return message(DISCONNECT, [("INDEX", index)])


class Netlink:
    """A socket to the kernel's nbd family; `with Netlink() as kernel: kernel.send(disconnect_message(0))`."""

    def __enter__(self) -> Netlink:
        kind = message_class()
        from pyroute2.netlink.generic import GenericNetlinkSocket

        self._socket = GenericNetlinkSocket()
        self._socket.asyncore.module_err_level = "debug"    # we say ourselves what is missing
        try:
            self._socket.bind(FAMILY, kind)
        except Exception as problem:
            self._socket.close()
            if error_code(problem) in (errno.ENOENT, errno.ENOTSUP):
                raise DeviceError("the kernel has no nbd; run: modprobe nbd, or set: attach fuse") from problem
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._socket.close()

    def send(self, request: Any) -> dict[str, Any]:
        """The attributes of the kernel's answer. Raises OSError with the kernel's error number."""
        from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST

        try:
            replies = tuple(self._socket.nlm_request(request, msg_type=self._socket.prid,
                                                     msg_flags=NLM_F_REQUEST | NLM_F_ACK))
        except Exception as problem:
            code = error_code(problem)
            if code is None:
                raise
            raise OSError(code, str(problem)) from problem
        return {name.removeprefix("NBD_ATTR_"): value for reply in replies for name, value in reply.get("attrs", [])}


def error_code(problem: Exception) -> int | None:
    """The error number in an exception of pyroute2."""
    code = getattr(problem, "code", None)
    return code if isinstance(code, int) else getattr(problem, "errno", None)
