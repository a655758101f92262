# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of connections that this node leaves: the peer reads the one to its end before it sees the other one close."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from replblock.engine.leaving import LONGEST_MS, MOST, Leaving

WORDS = b"why we left"


class Surroundings:
    """What the loop lends: a poll, handlers, timers that go off by hand."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.timers: dict[object, Callable[[], None]] = {}
        self.leaving = Leaving(self.poll, self.watch, self.timer)
        self.opened: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))

    def watch(self, fd: int, handler: Callable[[int], None] | None) -> None:
        if handler is None:
            self.handlers.pop(fd)
        else:
            self.handlers[fd] = handler

    def timer(self, name: object, delay_ms: int | None, call: Callable[[], None] | None = None) -> None:
        if delay_ms is None or call is None:
            self.timers.pop(name, None)
        else:
            assert delay_ms == LONGEST_MS
            self.timers[name] = call

    def run_once(self) -> None:
        for fd, mask in self.poll.poll(5):
            self.handlers[fd](mask)

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """(ours, the peer's)"""
        ours = socket.create_connection(self.listener.getsockname())
        theirs, _ = self.listener.accept()
        ours.setblocking(False)
        self.opened += [ours, theirs]
        return ours, theirs

    def leave(self) -> tuple[socket.socket, socket.socket]:
        """The peer's ends of a pair that is left with its words unread, and ours just sent."""
        (data, theirs), (meta, their_meta) = self.connection(), self.connection()
        theirs.sendall(b"not read any more")
        select.select([data], [], [], 5)
        data.sendall(WORDS)
        self.leaving.begin(data, meta)
        return theirs, their_meta


@pytest.fixture
def here() -> Iterator[Surroundings]:
    here = Surroundings()
    yield here
    here.leaving.close_all()
    assert not here.handlers and not here.timers
    for sock in (*here.opened, here.listener):
        sock.close()
    here.poll.close()


def ended(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0]) and sock.recv(1) == b""


def test_peer_reads_to_the_end(here: Surroundings) -> None:
    data, meta = here.leave()
    here.run_once()
    assert not ended(meta)
    assert data.recv(100) == WORDS
    assert data.recv(100) == b""        # an end, no reset
    assert not ended(meta)
    data.close()
    here.run_once()
    assert ended(meta)


def test_peer_that_never_closes_is_closed(here: Surroundings) -> None:
    data, meta = here.leave()
    (late,) = here.timers.values()
    late()
    assert ended(meta)
    assert data.recv(100) == WORDS


def test_no_more_than_a_few_wait(here: Surroundings) -> None:
    pairs = [here.leave() for _ in range(MOST + 1)]
    assert [ended(meta) for _, meta in pairs] == [True] + [False] * MOST


def test_peer_that_is_gone_already(here: Surroundings) -> None:
    (data, theirs), (meta, their_meta) = here.connection(), here.connection()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()                      # a reset
    here.leaving.begin(data, meta)
    if here.handlers:
        here.run_once()
    assert ended(their_meta)
