# SPDX-License-Identifier: GPL-2.0-or-later
"""With every disk write taking seconds the link stays up: pings are answered while the loop is stuck in the disk."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replblock.engine.guard import Guard
from replblock.engine.loop import Loop
from replblock.wire.commands import Cmd, Stream
from replblock.wire.headers import pack_header
from replblock.wire.stream import StreamDecoder
from tests.engine.conftest import wait_for
from tests.engine.fakes import RecordingCore, addresses

VERSION = 101
ACK_BODY_BYTES = 24


class PingCore(RecordingCore):
    """Decodes the meta socket as the core does; an ack makes it write to a disk that does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: Loop | None = None
        self.decoder = StreamDecoder(Stream.META)
        self.decoder.version = VERSION
        self.tail = b""
        """What the decoder holds of a packet that has not come whole."""
        self.stuck = threading.Event()
        self.disk_returns = threading.Event()
        self.own_answers = 0
        self.left_to_the_guard = 0

    def on_accepted(self, sock: int, peer_address: str) -> None:
        assert self.loop is not None
        self.loop.meta_ready(sock, VERSION, lambda: self.tail)
        super().on_accepted(sock, peer_address)

    def on_bytes(self, sock: int, data: bytes) -> None:
        assert self.loop is not None
        packets = self.decoder.feed(data)
        held = self.decoder.stalled_bytes()
        self.tail = (self.tail + data)[-held:] if held else b""
        for command, _, _ in packets:
            if command == Cmd.WRITE_ACK:
                self.stuck.set()
                assert self.disk_returns.wait(30)
            elif command == Cmd.PING:
                if self.loop.ping_was_answered(sock):
                    self.left_to_the_guard += 1
                else:
                    self.own_answers += 1
                    self.loop.send(sock, [pack_header(VERSION, Cmd.PING_ACK, 0)])


class Peer:
    """The other node's end of the meta socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(20)

    def ping(self, count: int = 1) -> None:
        self.sock.sendall(pack_header(VERSION, Cmd.PING, 0) * count)

    def ack(self) -> None:
        self.sock.sendall(pack_header(VERSION, Cmd.WRITE_ACK, ACK_BODY_BYTES) + bytes(ACK_BODY_BYTES))

    def pongs(self, count: int) -> None:
        """Read exactly this many whole P_PING_ACK."""
        wanted = pack_header(VERSION, Cmd.PING_ACK, 0) * count
        got = b""
        while len(got) < len(wanted):
            more = self.sock.recv(len(wanted) - len(got))
            assert more
            got += more
        assert got == wanted

    def nothing_more(self) -> None:
        self.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.sock.recv(1)
        self.sock.settimeout(20)


@pytest.fixture
def setup(start_loop: Callable[..., Loop], port: Callable[[], int]) -> Iterator[tuple[PingCore, Loop, Guard, Peer]]:
    core = PingCore()
    where = addresses(port(), port())
    loop = start_loop(core, where)
    core.loop = loop
    guard = Guard(loop)
    loop.call_soon(loop.listen, True)
    wait_for(lambda: loop.network._listener is not None)
    with socket.create_connection(("127.0.0.1", where.own_port)) as sock:
        wait_for(lambda: [e for e in core.events if e[0] == "accepted"])
        yield core, loop, guard, Peer(sock)
        core.disk_returns.set()
        guard.stop()


def test_pings_are_answered_while_the_disk_is_stuck(setup: Any) -> None:
    """There is no clock in here: the disk returns only after the peer has its answers."""
    core, _, guard, peer = setup
    guard.start()
    peer.ack()
    assert core.stuck.wait(20)
    for count in (1, 2, 1):
        peer.ping(count)
        peer.pongs(count)
    core.disk_returns.set()
    wait_for(lambda: core.left_to_the_guard == 4)
    assert core.own_answers == 0
    peer.ping()
    peer.pongs(1)
    assert core.own_answers == 1
    peer.nothing_more()


def test_a_half_sent_packet_is_finished_before_the_pong(setup: Any) -> None:
    core, loop, guard, peer = setup
    link = loop.network.links[next(e[1] for e in core.events if e[0] == "accepted")]
    whole = pack_header(VERSION, Cmd.WRITE_ACK, ACK_BODY_BYTES) + b"s" * ACK_BODY_BYTES
    with loop.lock:  # as if the last sendmsg had ended inside a packet, and two more entries waited
        link.sock.send(whole[:11])
        link.send([whole])
        link.send([whole])
        link.sent_bytes += 11
        link._take(11)
        assert link.mid
        peer.ping()
        wait_for(lambda: guard.look(link) == 1)
    got = b""
    while len(got) < len(whole) + 16:
        got += peer.sock.recv(4096)
    assert got == whole + pack_header(VERSION, Cmd.PING_ACK, 0)


def test_a_ping_behind_half_a_packet_is_seen(setup: Any) -> None:
    core, loop, guard, peer = setup
    link = loop.network.links[next(e[1] for e in core.events if e[0] == "accepted")]
    whole = pack_header(VERSION, Cmd.BARRIER_ACK, 8) + b"b" * 8
    peer.sock.sendall(whole[:19])
    wait_for(lambda: core.tail == whole[:19])
    with loop.lock:
        peer.sock.sendall(whole[19:] + pack_header(VERSION, Cmd.PING, 0))
        wait_for(lambda: guard.look(link) == 1)
    peer.pongs(1)


def test_pings_already_decoded_or_answered_are_not_answered_twice(setup: Any) -> None:
    core, loop, guard, peer = setup
    link = loop.network.links[next(e[1] for e in core.events if e[0] == "accepted")]
    with loop.lock:
        peer.ping(2)
        wait_for(lambda: guard.look(link) == 2)
        assert guard.look(link) == 0
        peer.ping(1)
        wait_for(lambda: guard.look(link) == 1)
    peer.pongs(3)
    wait_for(lambda: core.left_to_the_guard == 3)
    peer.nothing_more()
