# SPDX-License-Identifier: GPL-2.0-or-later
"""The listening socket of one resource: opened when the core wants it, tried again until it works, for one peer."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

LISTEN_BACKLOG = 8
LISTEN_RETRY_MS = (1000, 2000, 5000, 10000)
"""Waits between attempts to bind a busy or missing address; the last one repeats."""
REFUSED_LOG_MS = 60_000

Log = Callable[[str, str, str], None]


class Addresses(NamedTuple):
    """Where this node listens and dials from, and the peer."""

    family: socket.AddressFamily = socket.AF_INET
    own: str = "127.0.0.1"
    own_port: int = 7788
    peer: str = "127.0.0.1"
    peer_port: int = 7788
    sndbuf_bytes: int = 0
    rcvbuf_bytes: int = 0

    @property
    def place(self) -> str:
        """Where this node listens, as it stands in a URI."""
        host = f"[{self.own.replace('%', '%25')}]" if self.family == socket.AF_INET6 else self.own
        return f"{host}:{self.own_port}"


class Listening:
    """The part of the network that waits for the peer."""

    TIMER = "listen"
    FAILED, AGAIN = "listen-failed", "listening-again"

    def __init__(
        self,
        addresses: Addresses,
        poll: select.epoll,
        watch: Callable[[int, Callable[[int], None] | None], None],
        timer: Callable[..., None],
        now_ms: Callable[[], int],
        log: Log,
    ) -> None:
        self.addresses = addresses
        self._poll = poll
        self._watch = watch
        self._timer = timer
        self._now_ms = now_ms
        self._log = log
        self._listener: socket.socket | None = None
        self._listen_wanted = False
        self._listen_tries = 0
        self.notes: dict[str, str] = {}
        """rule → text of what an operator should know at this moment, for `status`."""
        self._refused = 0
        self._refused_logged_ms = -REFUSED_LOG_MS

    def _accepted(self, sock: socket.socket) -> None:
        """The peer is there."""
        raise NotImplementedError

    def listen(self, wanted: bool) -> None:
        if wanted == self._listen_wanted:
            return
        self._listen_wanted = wanted
        self._listen_tries = 0
        self._timer(self.TIMER, None)
        if wanted:
            self.try_listen()
        else:
            self._close_listener()

    def try_listen(self) -> None:
        """Bind and listen, or say why not and try again later."""
        if not self._listen_wanted or self._listener is not None:
            return
        a = self.addresses
        try:
            sock = self._new_listener()
        except OSError as error:
            wait_ms = LISTEN_RETRY_MS[min(self._listen_tries, len(LISTEN_RETRY_MS) - 1)]
            if self._listen_tries == 0:
                self.notes[self.FAILED] = self._listen_problem(error) + "; trying again until it works"
                self._log("error", self.FAILED, self.notes[self.FAILED])
            self._listen_tries += 1
            self._timer(self.TIMER, wait_ms)
            return
        if self._listen_tries:
            self._log("notice", self.AGAIN, f"listening on {a.place} after all")
        self._listen_tries = 0
        self.notes.pop(self.FAILED, None)
        self._listener = sock
        self._watch(sock.fileno(), self._accept)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _new_listener(self) -> socket.socket:
        a = self.addresses
        sock = socket.socket(a.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._set_buffers(sock)
            sock.bind((a.own, a.own_port))
            sock.listen(LISTEN_BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock

    def _listen_problem(self, error: OSError) -> str:
        a = self.addresses
        where = a.place
        if error.errno == errno.EADDRINUSE:
            return f"cannot listen on {where}: another program uses this port (who: ss -ltnp 'sport = :{a.own_port}')"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"cannot listen on {where}: no interface of this node has this address (check: ip addr)"
        return f"cannot listen on {where}: {error.strerror}"

    def _accept(self, mask: int) -> None:
        listener = self._listener
        for _ in range(LISTEN_BACKLOG):
            if listener is None or listener is not self._listener:
                return
            try:
                sock, address = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    # level-triggered: without a pause this would spin
                    self._log("error", "accept-failed", f"cannot accept a connection: {error.strerror}")
                    self._close_listener()
                    self._timer(self.TIMER, LISTEN_RETRY_MS[0])
                return
            if not self._admit(sock, address):
                sock.close()
                continue
            sock.setblocking(False)
            self._accepted(sock)

    def _admit(self, sock: socket.socket, address: Any) -> bool:
        """Is it the peer?"""
        if address[0] != self.addresses.peer:
            self._refuse(str(address[0]))
            return False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    def _refuse(self, address: str) -> None:
        self._refused += 1
        now_ms = self._now_ms()
        if now_ms - self._refused_logged_ms < REFUSED_LOG_MS:
            return
        more = f" ({self._refused} connections refused so far)" if self._refused > 1 else ""
        self._refused_logged_ms = now_ms
        peer = self.addresses.peer
        self.notes["stranger-refused"] = text = f"closed a connection from {address}: the peer is {peer}{more}"
        self._log("warning", "stranger-refused", text)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._poll.unregister(self._listener.fileno())
            self._watch(self._listener.fileno(), None)
            self._listener.close()
            self._listener = None

    def _set_buffers(self, sock: socket.socket) -> None:
        for option, size in (
            (socket.SO_SNDBUF, self.addresses.sndbuf_bytes),
            (socket.SO_RCVBUF, self.addresses.rcvbuf_bytes),
        ):
            if size:
                sock.setsockopt(socket.SOL_SOCKET, option, size)
