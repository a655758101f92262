# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections this node has left, but whose peer has not read them to the end.

A socket that is closed with something unread in it is reset, and what the peer had not read yet is lost; and a kernel's
DRBD that sees its meta connection close does not read the data connection any more. It would not hear why we left, not
come to its own verdict, not call its handlers, and try again for ever.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

LONGEST_MS = 1000
"""A peer that reads at all has read the rest by then."""
MOST = 4
PIECE_BYTES = 64 << 10


class Leaving:
    """Half closed pairs of sockets; what still comes is thrown away."""

    def __init__(
        self, poll: select.epoll, watch: Callable[[int, Callable[[int], None] | None], None], timer: Callable[..., None]
    ) -> None:
        self._poll = poll
        self._watch = watch
        self._timer = timer
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}

    def begin(self, data: socket.socket, meta: socket.socket) -> None:
        """Both are ours to close from now on; they are in no poll."""
        while len(self._pairs) >= MOST:
            self._end(next(iter(self._pairs)))
        fd = data.fileno()
        self._pairs[fd] = (data, meta)
        try:
            data.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(fd)
            return
        self._watch(fd, lambda mask: self._drain(fd))
        self._poll.register(fd, select.EPOLLIN)
        self._timer(("leaving", fd), LONGEST_MS, lambda: self._end(fd))

    def _drain(self, fd: int) -> None:
        data, _ = self._pairs[fd]
        try:
            if data.recv(PIECE_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(fd)

    def _end(self, fd: int) -> None:
        self._timer(("leaving", fd), None)
        self._poll.unregister(fd)
        self._watch(fd, None)
        self._close(fd)

    def _close(self, fd: int) -> None:
        for sock in self._pairs.pop(fd):
            sock.close()

    def close_all(self) -> None:
        for fd in list(self._pairs):
            self._end(fd)
