# SPDX-License-Identifier: GPL-2.0-or-later
"""The direct door and clients that ask for much, go without a word, come in crowds or speak something else."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replblock.core.requests import Op
from replblock.engine.direct import COMPLAIN_MS, MAX_SESSIONS
from replblock.engine.loop import Loop
from replblock.engine.session import MAX_UNANSWERED
from tests.engine.clients import MemoryCore, Raw, Served
from tests.engine.conftest import PATIENCE_S, Lines, wait_for
from tests.nbd import speaker as c

MIB = 1 << 20
SOCKET_BYTES = MIB
"""More than a Unix socket takes before its other end reads."""


@pytest.fixture
def served(start_loop: Callable[..., Loop], tmp_path: Path) -> Iterator[Served]:
    core = MemoryCore()
    served = Served(start_loop(core), core, tmp_path / "r0.direct")
    yield served
    served.end()


# ---- asking for more than is answered


@pytest.mark.parametrize("size", [64 << 10, MIB, 3 * MIB])
@pytest.mark.parametrize("structured", [True, False])
def test_who_does_not_read_his_answers_is_not_read_from(served: Served, size: int, structured: bool) -> None:
    """All requests come in one piece; the core is asked for no more than the bound, and the rest when he reads."""
    core, client = served.core, served.entered(structured)
    count = 96 * MIB // size
    core.content[:] = os.urandom(MIB) * 8
    client.send(b"".join(c.request(c.READ, n, n % 5 * MIB, size) for n in range(count)))
    wait_for(lambda: core.asked_bytes >= served.door.bytes_at_most)
    served.others_go_on()
    assert core.asked_bytes <= served.door.bytes_at_most + size + SOCKET_BYTES
    for cookie, answer in client.answers(count, dict.fromkeys(range(count), size)).items():
        data = answer.body[8:] if structured else answer.body
        assert data == core.content[cookie % 5 * MIB :][:size]
    assert client.ask(c.request(c.FLUSH, 1)).error == 0


def test_writes_wait_in_the_socket_while_the_core_has_enough(served: Served) -> None:
    core, client = served.core, served.entered()
    core.holds = lambda request: request.op == Op.WRITE
    data = [bytes([n, 3]) * (32 << 10) for n in range(128)] * 4
    sender = threading.Thread(
        target=lambda: [client.send(c.write(n, n % 128 << 16, one)) for n, one in enumerate(data)], daemon=True
    )
    sender.start()
    wait_for(lambda: core.held_bytes > served.door.bytes_at_most)
    served.others_go_on()
    assert core.held_bytes <= served.door.bytes_at_most + (64 << 10) and sender.is_alive()
    served.release()
    assert all(answer.error == 0 for answer in client.answers(len(data)).values())
    sender.join()
    assert core.content == b"".join(data[:128])


@pytest.mark.parametrize("kind", [c.FLUSH, c.TRIM, c.ZEROES])
def test_many_small_requests_wait_too(served: Served, kind: int) -> None:
    core, client = served.core, served.entered()
    core.holds = lambda request: request.op not in (Op.READ, Op.WRITE)
    count = 5 * MAX_UNANSWERED
    client.send(b"".join(c.request(kind, n, 0, 0 if kind == c.FLUSH else 512) for n in range(count)))
    wait_for(lambda: len(core.held) > MAX_UNANSWERED)
    served.others_go_on()
    assert len(core.held) == MAX_UNANSWERED + 1
    served.release()
    assert set(client.answers(count)) == set(range(count))


def test_failed_reads_do_not_count_for_ever(served: Served) -> None:
    """Large ones are several of the core's: whoever met many errors must still be read from."""
    served.core.fails = lambda request: errno.EIO
    client = served.entered()
    for _ in range(2 * served.door.bytes_at_most // (2 * MIB) + 2):
        assert client.ask(c.request(c.READ, 1, 0, 2 * MIB)).error == errno.EIO
    served.core.fails = lambda request: 0
    assert client.ask(c.request(c.READ, 1, 0, 512), read_bytes=512).error == 0


def test_one_request_larger_than_the_bound_is_served(served: Served) -> None:
    served.door.bytes_at_most = MIB
    client = served.entered()
    for _ in range(3):
        assert client.ask(c.write(1, 0, b"l" * 8 * MIB)).error == 0
        assert client.ask(c.request(c.READ, 1, 0, 8 * MIB), read_bytes=8 * MIB).body == b"l" * 8 * MIB


def test_a_client_that_drips_is_understood(served: Served) -> None:
    client = served.raw()
    for byte in c.hello() + c.go(b"0") + c.write(7, 512, b"drip" * 128) + c.request(c.READ, 8, 512, 512):
        client.send(bytes([byte]))
    said = client.receive(len(c.GREETING))
    assert said == c.GREETING
    while True:
        head = client.receive(20)
        (reply,), _ = c.replies(head + client.receive(int.from_bytes(head[16:], "big")))
        if reply.kind == c.ACK:
            break
    assert client.answers(2, {8: 512})[8].body == b"drip" * 128


# ---- going


def test_who_leaves_with_requests_under_way_counts_until_they_are_answered(served: Served) -> None:
    """A demotion in between would let another node write while these still may."""
    core, client = served.core, served.entered()
    core.holds = lambda request: True
    client.send(b"".join(c.write(n, n * 512, b"x" * 512) for n in range(3)) + c.request(c.READ, 9, 0, 3 * MIB))
    wait_for(lambda: len(core.held) == 6)
    client.close()
    wait_for(lambda: not served.door._sessions)
    assert served.door.clients == 1
    assert not served.in_loop(lambda: served.door.shut("secondary is under way"))
    served.in_loop(lambda: [core._carry_out(core.held.pop()) for _ in range(5)])
    assert served.door.clients == 1
    served.release()
    wait_for(lambda: served.door.clients == 0)
    assert served.in_loop(lambda: served.door.shut("secondary is under way"))
    assert core.content[:1536] == b"x" * 1536


def test_who_leaves_while_his_payload_is_under_way_is_gone(served: Served) -> None:
    client = served.entered()
    client.send(c.write(1, 0, bytes(4 * MIB))[: 2 * MIB])
    client.close()
    wait_for(lambda: served.door.clients == 0)
    assert not served.core.seen


@pytest.mark.parametrize("count", [3, 3 * MAX_UNANSWERED])
def test_disc_is_obeyed_when_all_before_it_is_answered(served: Served, count: int) -> None:
    """Also when it was read long before its turn. What comes after it is not carried out."""
    core, client = served.core, served.entered()
    core.holds = lambda request: True
    asked = b"".join(c.write(n, n % 16 * 512, bytes([n % 256]) * 512) for n in range(count))
    threading.Thread(target=lambda: client.send(asked + c.request(c.DISC, 0) + c.write(count, 0, b"late" * 128)),
                     daemon=True).start()  # fmt: skip
    wait_for(lambda: len(core.held) == min(count, MAX_UNANSWERED + 1))
    assert served.door.clients == 1
    served.release()
    found, rest = c.answers(client.until_closed())
    assert [(one.cookie, one.error) for one in found] == [(n, 0) for n in range(count)] and not rest
    assert served.door.clients == 0
    last = {n % 16: n for n in range(count)}
    assert core.content[: 16 * 512] == b"".join(bytes([last.get(n, 0) % 256]) * 512 for n in range(16))


def test_the_end_of_the_door_is_the_end_of_its_clients(served: Served) -> None:
    clients = [served.entered(), served.raw().greet()]
    served.in_loop(served.door.close)
    assert [client.until_closed() for client in clients] == [b"", b""]
    with pytest.raises(ConnectionRefusedError):
        Raw(served.path)


# ---- crowds


def test_a_crowd_before_the_door_keeps_nobody_out(served: Served, log: Lines) -> None:
    """Beyond MAX_SESSIONS the oldest that has chosen nothing has to go; who has chosen stays."""
    inside = served.entered()
    crowd = [served.raw().greet() for _ in range(MAX_SESSIONS - 1)]
    assert crowd[0].option(c.option(c.LIST))[-1].kind == c.ACK
    latest = served.entered()
    assert crowd[0].until_closed() == b""
    assert crowd[1].option(c.option(c.LIST))[-1].kind == c.ACK
    for client in (inside, latest):
        assert client.ask(c.request(c.FLUSH, 1)).error == 0
    assert f"{MAX_SESSIONS} are here already" in log.with_rule("door-refused")[0]


def test_no_more_than_max_sessions(served: Served) -> None:
    """Those count that went with requests under way: else a frozen device would gather them without bound."""
    served.core.holds = lambda request: True
    clients = [served.entered() for _ in range(MAX_SESSIONS)]
    for client in clients:
        client.send(c.request(c.FLUSH, 1))
    wait_for(lambda: len(served.core.held) == MAX_SESSIONS)
    assert served.raw().until_closed() == b""
    for client in clients[:-1]:
        client.close()
    wait_for(lambda: len(served.door._sessions) == 1)
    assert served.door.clients == MAX_SESSIONS
    assert served.raw().until_closed() == b""
    served.release()
    assert clients[-1].answers(1)
    wait_for(lambda: served.door.clients == 1)
    served.entered()


def test_no_descriptor_left_is_no_reason_to_spin(served: Served, log: Lines) -> None:
    """accept fails as long as the process has too many files open; the client waits and is let in then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        gaps = []
        while (gap := os.dup(client.fileno())) < client.fileno():
            gaps.append(gap)
        os.close(gap)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        try:
            client.connect(str(served.path))
            wait_for(lambda: log.with_rule("accept-failed"))
            before = served.core.wakeups
            for _ in range(3):
                served.in_loop(lambda: None)
            assert served.core.wakeups - before < 20
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for gap in gaps:
                os.close(gap)
        assert client.recv(18) == c.GREETING


# ---- what is no NBD

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown-flags": c.hello(0x80),
    "no-option": c.hello() + b"IHAVEOPS" + bytes(8),
    "endless-option": c.hello() + c.option(c.GO, length=1 << 31),
    "endless-options": c.hello() + c.option(c.LIST) * 200,
    "no-request": c.hello() + c.go(b"0") + b"\x25\x60\x95\x12" + bytes(24),
    "after-a-request": c.hello() + c.go(b"0") + c.request(c.FLUSH, 1) + bytes(28),
    "extended": c.hello() + c.go(b"0") + bytes.fromhex("21e41c71") + bytes(28),
    "no-export": c.hello() + c.option(c.EXPORT_NAME, b"7"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_ends_its_own_connection_only(served: Served, log: Lines, name: str) -> None:
    other = served.entered()
    client = served.raw()
    client.send(GARBAGE[name])
    assert client.until_closed().startswith(c.GREETING)
    assert other.ask(c.request(c.FLUSH, 1)).error == 0
    wait_for(lambda: served.door.clients == 1)
    assert len(log.lines) == 1


def test_garbage_behind_requests_under_way(served: Served) -> None:
    """They are the core's: their client counts until they are answered, though there is nobody to answer to."""
    served.core.holds = lambda request: True
    client = served.entered()
    client.send(c.write(1, 0, b"w" * 512))
    wait_for(lambda: served.core.held)
    client.send(b"garbage" * 10)
    assert client.until_closed() == b""
    assert not served.in_loop(lambda: served.door.shut("secondary is under way"))
    served.release()
    wait_for(lambda: served.door.clients == 0)


def test_what_was_answered_before_the_garbage_is_said(served: Served) -> None:
    client = served.raw()
    client.send(c.hello() + c.option(c.LIST) + b"garbage" * 10)
    found, rest = c.replies(client.until_closed()[len(c.GREETING) :])
    assert [reply.kind for reply in found] == [c.SERVER, c.ACK] and not rest


def test_the_log_is_not_a_clients_to_fill(served: Served, log: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in COMPLAIN_MS, which counts the others; no line as long as a client likes, nor with what he likes."""
    now_ms = served.loop.now_ms()
    monkeypatch.setattr(served.loop, "now_ms", lambda: now_ms)
    for name in GARBAGE:
        client = served.raw()
        client.send(GARBAGE[name])
        client.until_closed()
    client = served.raw().greet()
    for _ in range(50):
        client.option(c.go(b"7"))
    assert len(log.lines) == 1
    now_ms += COMPLAIN_MS
    (refusal,) = client.option(c.go(b"\x1b[2J\r" + b"x" * 4000))
    assert len(log.lines) == 2 and "more since the last such line" in log.lines[1][2]
    assert log.lines[1][2].isprintable() and len(log.lines[1][2]) < 300
    assert refusal.body.decode().isprintable()


def test_events_of_a_closed_socket_are_nobodys(served: Served) -> None:
    """The next client gets its number: one wake-up may bring both."""
    for _ in range(50):
        crowd = [served.raw().greet() for _ in range(5)]
        for client in crowd:
            client.close()
        assert served.entered().ask(c.request(c.FLUSH, 1)).error == 0
    wait_for(lambda: served.door.clients == 50)
