# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop and its sockets, over loopback TCP."""

from __future__ import annotations

import errno
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from replblock.engine.loop import Loop
from replblock.engine.network import LOW_WATER_BYTES
from tests.engine.conftest import Lines, wait_for
from tests.engine.fakes import RecordingCore, addresses


def do(loop: Loop, call: Callable[[], Any]) -> Any:
    """Run something in the loop and wait for its result."""
    done = threading.Event()
    result: list[Any] = []

    def run() -> None:
        result.append(call())
        done.set()

    loop.call_soon(run)
    assert done.wait(20)
    return result[0]


class Pair:
    """Two loops, one listening, one dialing."""

    def __init__(self, start_loop: Callable[..., Loop], port: Callable[[], int]) -> None:
        a, b = port(), port()
        self.cores = RecordingCore(), RecordingCore()
        self.loops = start_loop(self.cores[0], addresses(a, b)), start_loop(self.cores[1], addresses(b, a))
        do(self.loops[1], lambda: self.loops[1].listen(True))
        self.dialed = do(self.loops[0], self.loops[0].dial)
        wait_for(lambda: ("dialed", self.dialed, 0) in self.cores[0].events)
        accepted = wait_for(lambda: [e for e in self.cores[1].events if e[0] == "accepted"])[0]
        assert accepted[2] == "127.0.0.1"
        self.accepted = accepted[1]


def test_bytes_arrive_in_order_in_both_directions(start_loop: Any, port: Any) -> None:
    pair = Pair(start_loop, port)
    (left, right), (core_left, core_right) = pair.loops, pair.cores
    pieces = [bytes([number % 251]) * (number * 37 % 5000) for number in range(3000)]

    def send() -> None:
        for index in range(0, len(pieces), 3):
            left.send(pair.dialed, pieces[index : index + 3])

    do(left, send)
    do(right, lambda: right.send(pair.accepted, [b"back"]))
    wanted = b"".join(pieces)
    wait_for(lambda: len(core_right.received.get(pair.accepted, b"")) == len(wanted))
    assert core_right.received[pair.accepted] == wanted
    wait_for(lambda: core_left.received.get(pair.dialed) == b"back")


def test_what_the_core_has_a_place_for_is_received_there(start_loop: Any, port: Any) -> None:
    pair = Pair(start_loop, port)
    left, core = pair.loops[0], pair.cores[1]
    rooms = [700_000, 1, 3_000_000]
    core.rooms = list(rooms)
    sent = random.Random(1).randbytes(8 << 20)
    do(left, lambda: left.send(pair.dialed, [sent]))
    wait_for(lambda: len(core.received.get(pair.accepted, b"")) == len(sent))
    assert core.received[pair.accepted] == sent
    assert sum(event[2] for event in core.events if event[0] == "filled") == sum(rooms)


def test_a_peer_that_closes_leaves_its_place_half_filled(start_loop: Any, port: Any) -> None:
    pair = Pair(start_loop, port)
    left, core = pair.loops[0], pair.cores[1]
    core.rooms = [4 << 20]
    do(left, lambda: left.send(pair.dialed, [bytes(2 << 20)]))
    wait_for(lambda: len(core.received.get(pair.accepted, b"")) == 2 << 20)
    do(left, lambda: left.close(pair.dialed))
    wait_for(lambda: ("closed", pair.accepted, 0) in core.events)


def test_the_core_hears_when_everything_is_sent_and_of_room_before(start_loop: Any, port: Any) -> None:
    pair = Pair(start_loop, port)
    left, right = pair.loops
    do(right, lambda: right.hold(pair.accepted, True))
    do(left, lambda: left.send(pair.dialed, [bytes(64 << 20)]))
    assert do(left, lambda: left.unsent_bytes(pair.dialed)) > LOW_WATER_BYTES
    assert not [e for e in pair.cores[0].events if e[0] == "sent"]
    do(right, lambda: right.hold(pair.accepted, False))
    wait_for(lambda: len(pair.cores[1].received.get(pair.accepted, b"")) == 64 << 20)
    wait_for(lambda: do(left, lambda: left.unsent_bytes(pair.dialed)) == 0)
    wait_for(lambda: [e for e in pair.cores[0].events if e[0] == "sent"])


def test_push_sends_at_once_and_the_core_still_hears_of_it(start_loop: Any, port: Any) -> None:
    pair = Pair(start_loop, port)
    left = pair.loops[0]

    def send() -> int:
        left.send(pair.dialed, [b"now"])
        left.push(pair.dialed)
        return left.unsent_bytes(pair.dialed)

    assert do(left, send) == 0
    wait_for(lambda: ("sent", pair.dialed) in pair.cores[0].events)
    wait_for(lambda: pair.cores[1].received.get(pair.accepted) == b"now")


def test_a_closed_peer_is_reported_once_and_our_own_close_never(start_loop: Any, port: Any) -> None:
    pair = Pair(start_loop, port)
    left, right = pair.loops

    def goodbye() -> None:
        left.send(pair.dialed, [b"goodbye"])
        left.close(pair.dialed)

    do(left, goodbye)
    wait_for(lambda: ("closed", pair.accepted, 0) in pair.cores[1].events)
    assert pair.cores[1].received[pair.accepted] == b"goodbye"
    do(right, lambda: right.send(pair.accepted, [b"to nobody"]))
    do(right, lambda: None)
    assert len([e for e in pair.cores[1].events if e[0] == "closed"]) == 1
    assert not [e for e in pair.cores[0].events if e[0] == "closed"]


def test_a_dial_that_fails_says_why(start_loop: Any, port: Any) -> None:
    core = RecordingCore()
    loop = start_loop(core, addresses(port(), port()))
    number = do(loop, loop.dial)
    wait_for(lambda: ("dialed", number, errno.ECONNREFUSED) in core.events)
    nowhere = start_loop(core, addresses(port(), port())._replace(own="192.0.2.1"))
    number = do(nowhere, nowhere.dial)
    wait_for(lambda: ("dialed", number, errno.EADDRNOTAVAIL) in core.events)


def test_a_busy_port_is_named_once_and_tried_again(start_loop: Any, port: Any, log: Lines) -> None:
    own, peer = port(), port()
    squatter = socket.create_server(("127.0.0.1", own))
    loop = start_loop(RecordingCore(), addresses(own, peer))
    do(loop, lambda: loop.listen(True))
    assert len(log.with_rule("listen-failed")) == 1 and f"127.0.0.1:{own}" in log.with_rule("listen-failed")[0]
    squatter.close()
    wait_for(lambda: log.with_rule("listening-again"))
    socket.create_connection(("127.0.0.1", own)).close()
    assert len(log.with_rule("listen-failed")) == 1


def test_strangers_are_closed_and_logged_once(start_loop: Any, port: Any, log: Lines) -> None:
    """Invariant 10: connections are taken only from the configured peer's address."""
    core = RecordingCore()
    where = addresses(port(), port())._replace(peer="127.0.0.9")
    loop = start_loop(core, where)
    do(loop, lambda: loop.listen(True))
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", where.own_port)) as stranger:
            assert stranger.recv(1) == b""
    with socket.create_connection(("127.0.0.1", where.own_port), source_address=("127.0.0.9", 0)):
        wait_for(lambda: [e for e in core.events if e[0] == "accepted"])
    assert [e[2] for e in core.events if e[0] == "accepted"] == ["127.0.0.9"]
    assert len(log.with_rule("stranger-refused")) == 1


def test_nobody_listens_while_it_is_not_wanted(start_loop: Any, port: Any) -> None:
    where = addresses(port(), port())
    loop = start_loop(RecordingCore(), where)
    do(loop, lambda: loop.listen(True))
    socket.create_connection(("127.0.0.1", where.own_port)).close()
    do(loop, lambda: loop.listen(False))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", where.own_port)) == errno.ECONNREFUSED


def test_timers_fire_in_order_and_may_disarm_each_other(start_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    core = RecordingCore()
    loop = start_loop(core)
    core.react = lambda event: loop.timer("third", None) if event == ("timer", "second") else None

    def arm() -> None:
        now_ms = loop.now_ms()
        with monkeypatch.context() as at_once:
            at_once.setattr(loop, "now_ms", lambda: now_ms)     # a busy machine may take this thread off in between
            for name, delay in (("third", 1), ("second", 0), ("first", 0), ("last", 2)):
                loop.timer(name, delay)
        loop.timer("first", None)

    do(loop, arm)
    wait_for(lambda: ("timer", "last") in core.events)
    assert core.events == [("timer", "second"), ("timer", "last")]


def test_calls_from_many_threads_all_arrive(start_loop: Any) -> None:
    loop = start_loop()
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda base=base: [loop.call_soon(seen.append, base + n) for n in range(2000)])
        for base in range(0, 8000, 2000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: len(seen) == 8000)
    assert sorted(seen) == list(range(8000))
    for base in range(0, 8000, 2000):
        mine = [n for n in seen if base <= n < base + 2000]
        assert mine == sorted(mine)
