# SPDX-License-Identifier: GPL-2.0-or-later
"""The direct door's TCP port: for whoever cannot come to its Unix socket.

A port that cannot be had is no reason to stop: the resource replicates, the Unix socket serves, and the port is tried
again until it works, because the address may be one that moves to this node later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from replblock.engine.listening import Addresses, Listening
from replblock.engine.loop import Loop

BACKLOG = 16
KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 6))
"""A client whose machine died says no goodbye, and would be a client for ever: a demotion would be refused."""


class NbdPort(Listening):
    """Everything here runs in the loop, or before that begins."""

    TIMER = "nbd-listen"
    FAILED, AGAIN = "nbd-listen-failed", "nbd-listening-again"

    def __init__(self, loop: Loop, export: str, welcome: Callable[[socket.socket], None]) -> None:
        super().__init__(Addresses(), loop.poll, loop.watch, loop.timer_call, loop.now_ms, loop.log)
        loop.timer_call(self.TIMER, None, self.try_listen)
        self.wanted: Addresses | None = None
        """Where the configuration wants it; None: nowhere."""
        self._export = export
        self._welcome = welcome

    @property
    def uri(self) -> str:
        """Where it listens at this moment, or nothing."""
        return f"nbd://{self.addresses.place}/{self._export}" if self._listener is not None else ""

    def use(self, addresses: Addresses | None) -> None:
        """Listen there from now on, or nowhere; clients that are here may stay."""
        if addresses == self.wanted:
            return
        self.wanted = addresses
        self.listen(False)
        self.notes.pop(self.FAILED, None)
        if addresses is not None:
            self.addresses = addresses
            self.listen(True)
            if not ipaddress.ip_address(addresses.own).is_loopback:
                self._log("warning", "nbd-for-everybody", f"NBD on {addresses.place} has no authentication: whoever "
                          "reaches the port reads and writes the device while this node is Primary")

    def _accepted(self, sock: socket.socket) -> None:
        self._welcome(sock)

    def _new_listener(self) -> socket.socket:
        a = self.addresses
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        *_, where = socket.getaddrinfo(a.own, a.own_port, a.family, socket.SOCK_STREAM, 0, numeric)[0]
        sock = socket.socket(a.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if a.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # [::] means what it says
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock

    def _listen_problem(self, error: OSError) -> str:
        return f"no NBD by TCP, only on the Unix socket: {super()._listen_problem(error)}"

    def _admit(self, sock: socket.socket, address: Any) -> bool:
        """Whoever comes."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return True
