# SPDX-License-Identifier: GPL-2.0-or-later
"""Who else may come to the port, and what a node does while its peer cannot be had: one clear line, bounded retries."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import struct
import time

import nbd
import pytest

from replblock.wire.commands import Cmd
from replblock.wire.handshake import Features
from replblock.wire.headers import pack_packet
from tests.e2e.pair import MIB, PORT, Node, Pair
from tests.e2e.waiting import wait_until

DISK_BYTES = 32 * MIB


def come_from(address: str, to: Node) -> socket.socket:
    sock = socket.socket()
    sock.bind((address, 0))
    sock.settimeout(20)
    sock.connect((to.address, PORT))
    return sock


def closed_by(sock: socket.socket) -> bytes:
    """Everything the node says until it closes."""
    said = b""
    try:
        while piece := sock.recv(65536):
            said += piece
    except ConnectionResetError:
        pass
    sock.close()
    return said


def nobody_listens(address: str, to: Node) -> None:
    """While it has its peer a node takes no connections at all, as DRBD."""
    with pytest.raises(ConnectionRefusedError):
        come_from(address, to).close()


def lines(node: Node, text: str) -> list[str]:
    return [line for line in node.log().splitlines() if text in line]


def client_hello() -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="example.org")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_another_address_gets_nothing(pair: Pair) -> None:
    """Closed without a word; a hundred of them make one line, and the peer comes through all the same."""
    pair.make_disks(DISK_BYTES)
    pair.a.do("up", "r0")
    stranger = pair.a.address.rpartition(".")[0] + ".77"
    for _ in range(100):
        assert closed_by(come_from(stranger, pair.a)) == b""
    found = lines(pair.a, "stranger-refused")
    assert 1 <= len(found) <= 2, found
    assert stranger in found[0] and pair.b.address in found[0]
    assert stranger in pair.a.why()
    pair.b.do("up", "r0")
    pair.a.wait_state("Connected")
    for node in pair.nodes:
        nobody_listens(stranger, node)


OPENINGS = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "HTTP"),
    "TLS": (client_hello(), "TLS"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH"),
    "random": (random.Random(5).randbytes(4096), ""),
    "zeroes": (bytes(4096), ""),
}


@pytest.mark.parametrize("kind", OPENINGS)
def test_other_protocols_from_the_peers_address(pair: Pair, kind: str) -> None:
    """The first bytes that cannot be DRBD's end it, with one line that says what it looks like."""
    data, name = OPENINGS[kind]
    pair.make_disks(DISK_BYTES)
    pair.a.do("up", "r0")
    sock = come_from(pair.b.address, pair.a)
    sock.sendall(data)
    closed_by(sock)
    found = pair.a.wait_log("not-a-peer")
    assert name in found and name in pair.a.why()
    assert len(lines(pair.a, "not-a-peer")) == 1
    pair.b.do("up", "r0")
    pair.a.wait_state("Established")
    nobody_listens(pair.b.address, pair.a)


def test_half_a_packet_then_silence(pair: Pair) -> None:
    """Connections that say nothing, or half of something, are thrown out, and do not keep the peer away."""
    pair.make_disks(DISK_BYTES)
    pair.configure(net={"ping-timeout": 3})
    pair.a.do("up", "r0")
    whole = struct.pack(">IHH", 0x83740267, 0x15, 0)        # P_INITIAL_DATA with a header of 8 bytes
    silent, half, stalled = (come_from(pair.b.address, pair.a) for _ in range(3))
    half.sendall(whole[:5])
    stalled.sendall(whole + struct.pack(">IHH", 0x83740267, 0xFFFE, 32)[:3])
    for sock in (silent, half, stalled):
        closed_by(sock)
    pair.configure()
    pair.b.do("up", "r0")
    pair.a.wait_state("Established")


def test_a_peer_that_is_not_there_is_dialed_at_connect_int(pair: Pair) -> None:
    """connect-int 1 s: in some seconds there are some attempts, not hundreds, whether the peer's port is closed, takes
    connections and closes them, or talks nonsense; the log does not grow with them."""
    pair.make_disks(DISK_BYTES)
    pair.a.do("up", "r0")
    before = len(pair.a.log().splitlines())
    with socket.create_server((pair.b.address, PORT)) as server:
        server.settimeout(0.2)
        attempts = 0
        answers = (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", random.Random(1).randbytes(200))
        end = time.monotonic() + 6
        while time.monotonic() < end:
            try:
                sock, _ = server.accept()
            except TimeoutError:
                continue
            sock.sendall(answers[attempts % 3])
            sock.close()
            attempts += 1
    assert 2 <= attempts <= 14, attempts
    grown = len(pair.a.log().splitlines()) - before
    assert grown <= 2 * attempts + 2
    pair.b.do("up", "r0")
    pair.a.wait_state("Established")


@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "fell silent"),
        (pack_packet(0, Cmd.CONNECTION_FEATURES, Features(86, 0, 101).pack())[:11], "fell silent"),
        (pack_packet(0, Cmd.CONNECTION_FEATURES, Features(200, 0, 300).pack()), "incompatible DRBD dialects"),
        (pack_packet(0, Cmd.CONNECTION_FEATURES, bytes(80)), "has a body of 80 bytes"),
        (pack_packet(0, Cmd.AUTH_RESPONSE, bytes(20)), "AUTH_RESPONSE"),
        (random.Random(3).randbytes(300), "no DRBD packet header"),
    ],
    ids=["silence", "half-a-packet", "from-the-future", "all-zeroes", "out-of-turn", "noise"],
)
def test_a_peer_that_begins_well(pair: Pair, answer: bytes, text: str, early: bool) -> None:
    """Both connections stand, or one, and the first packets are right; then it goes wrong: named, and no storm of new
    attempts."""
    pair.configure(net={"ping-timeout": 3})
    pair.make_disks(DISK_BYTES)
    with socket.create_server((pair.b.address, PORT)) as server:
        server.settimeout(20)
        pair.a.do("up", "r0")
        data, _ = server.accept()
        if not early:
            meta = come_from(pair.b.address, pair.a)
            meta.sendall(pack_packet(0, Cmd.INITIAL_META))
            assert len(data.recv(8, socket.MSG_WAITALL)) == 8           # P_INITIAL_DATA
            assert data.recv(8, socket.MSG_WAITALL)                     # P_CONNECTION_FEATURES: the pair is complete
        data.sendall(answer)
        if early:
            meta = come_from(pair.b.address, pair.a)
            meta.sendall(pack_packet(0, Cmd.INITIAL_META))
        pair.a.wait_log(text)
        assert text in pair.a.why()
        data.close()
        meta.close()
        server.settimeout(3)
        attempts = 0
        end = time.monotonic() + 3
        try:
            while time.monotonic() < end:
                server.accept()[0].close()
                attempts += 1
        except TimeoutError:
            pass
        assert attempts <= 8, attempts
    assert "Inconsistent" in pair.a.state() and pair.a.alive()
    assert "Traceback" not in pair.a.log()
    if "StandAlone" in pair.a.state():
        pair.a.do("connect", "r0")
    pair.b.do("up", "r0")
    pair.a.wait_state("Established")


def test_a_busy_port_is_said_once_and_tried_again(pair: Pair) -> None:
    pair.make_disks(DISK_BYTES)
    with socket.create_server((pair.a.address, PORT)):
        pair.a.do("up", "r0")
        line = pair.a.wait_log("listen-failed")
        assert f"{pair.a.address}" in line and str(PORT) in line and "another program uses this port" in line
        assert "listen-failed" in pair.a.why()
    pair.a.wait_log("listening-again")
    assert "listen-failed" not in pair.a.why()
    assert len(lines(pair.a, "listen-failed")) == 1
    pair.b.do("up", "r0")
    pair.b.wait_state("Established")


def test_a_stopped_peer_times_out_and_comes_back(pair: Pair) -> None:
    """SIGSTOP: TCP stays up, nobody answers pings. Writing goes on after ping-timeout; SIGCONT brings it in sync."""
    pair.configure(net={"ping-timeout": 5})
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    handle.pwrite(os.urandom(65536), 0)
    pair.b.signal(signal.SIGSTOP)
    handle.pwrite(os.urandom(65536), MIB)               # ends when the peer is given up
    handle.flush()
    assert "Connecting" in pair.a.state()
    line = pair.a.wait_log("ping-timeout")
    assert "500 ms" in line
    assert "ping-timeout" in pair.a.why()
    handle.pwrite(os.urandom(65536), 2 * MIB)
    pair.b.signal(signal.SIGCONT)
    pair.assert_same_data()
    handle.shutdown()
    assert len(lines(pair.a, "ping-timeout")) == 1


def test_a_secondary_opens_its_door_to_nobody(pair: Pair) -> None:
    pair.make_disks(DISK_BYTES)
    pair.clean()
    for node in pair.nodes:
        with pytest.raises(nbd.Error):
            nbd.NBD().connect_uri(node.uri)
        assert "not primary" in node.wait_log("door-refused")
    pair.a.do("primary", "r0")
    with pytest.raises(nbd.Error):
        nbd.NBD().connect_uri(pair.b.uri)
    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    for verb in ("secondary", "down"):
        said = pair.a.refused(verb, "r0", code=11)
        assert "(-12) Device is held open by someone" in said and "1 NBD client" in said
    handle.pwrite(b"still here" + bytes(502), 0)
    handle.shutdown()
    wait_until(lambda: pair.a.try_("secondary", "r0").code == 0, "the client to be gone")


def test_killed_nodes_come_back(pair: Pair) -> None:
    """kill -9 of the secondary, of both, and of the primary alone: never a question, never a difference."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    for victims in ((pair.b,), (pair.a, pair.b), (pair.a,)):
        handle = nbd.NBD()
        handle.connect_uri(pair.a.uri)
        handle.pwrite(os.urandom(MIB), 0)
        handle.flush()
        for node in victims:
            node.kill()
        for node in victims:
            node.do("up", "r0")
        pair.settle()
        if pair.a in victims:
            pair.a.do("primary", "r0")
        pair.assert_same_data()
