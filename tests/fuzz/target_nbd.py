# SPDX-License-Identifier: GPL-2.0-or-later
"""Target of the direct door: what a client says, to the machines in any pieces, and to a session over a slow core.

Limits are scaled down meanwhile, so that short inputs reach every path: large payloads, split requests, full bounds.
"""

from __future__ import annotations

import errno
import random
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from replblock.core.requests import Op, Request
from replblock.engine import session as sessions
from replblock.engine.allocation import everything
from replblock.engine.direct import FLAGS
from replblock.engine.session import Session
from replblock.nbd import negotiation as options
from replblock.nbd import transmission
from replblock.nbd.names import ProtocolError, Rep
from replblock.nbd.negotiation import Export, Negotiation, Refusal
from replblock.nbd.transmission import Asked, Decoder
from tests.fuzz.feed import Feed
from tests.nbd import speaker as c

SIZE = 64 << 10
PAYLOAD, ROOM, REQUEST, RANGE, UNANSWERED, AT_MOST = 2048, 300, 512, 8192, 6, 2048
SCALED: tuple[tuple[Any, dict[str, int]], ...] = (
    (transmission, {"MAX_PAYLOAD_BYTES": PAYLOAD, "ROOM_FROM_BYTES": ROOM}),
    (options, {"MAX_OPTION_BYTES": 1024, "MAX_OPTIONS": 12}),
    (sessions, {"MAX_PAYLOAD_BYTES": PAYLOAD, "MAX_REQUEST_BYTES": REQUEST, "MAX_RANGE_BYTES": RANGE,
                "MAX_UNANSWERED": UNANSWERED}),
)  # fmt: skip
MOST_SAID = 12 * 8192
"""Twelve options, each answered with a few lines or one text of 4 KiB at most."""
STRUCTURED = c.hello() + c.option(c.STRUCTURED)
STARTS = (
    b"", c.hello(), c.hello(1) + c.option(c.EXPORT_NAME, b"0"), c.hello() + c.go(b"0"), STRUCTURED + c.go(b""),
    STRUCTURED + c.contexts(c.SET_CONTEXTS, b"0", b"base:allocation") + c.go(b"0", 3),
)  # fmt: skip
SIZES = (1, 2, 7, 16, 28, 29, 100, 540, 4096)


@contextmanager
def scaled() -> Iterator[None]:
    kept = [(module, {name: getattr(module, name) for name in names}) for module, names in SCALED]
    try:
        for module, names in SCALED:
            for name, value in names.items():
                setattr(module, name, value)
        yield
    finally:
        for module, names in kept:
            for name, value in names.items():
                setattr(module, name, value)


def look_up(name: str) -> Export:
    if name == "secondary":
        raise Refusal(Rep.ERR_POLICY, "this node is not primary")
    if name not in ("", "0"):
        raise Refusal(Rep.ERR_UNKNOWN, f"there is no volume {name!r} here")
    return Export("0", SIZE, FLAGS, (512, 512, PAYLOAD), "r0 on alpha")


class Heard(NamedTuple):
    """What the machines made of a client's words."""

    said: bytes
    requests: list[Asked]
    entered: bool
    structured: bool
    allocation: bool
    closed: bool
    error: str


def machines(pieces: list[bytes]) -> tuple[Heard, int]:
    """Negotiation, then transmission, until the client has left; and how many bytes that took.

    The bounds hold after every piece; nothing but ProtocolError is raised.
    """
    negotiation, decoder = Negotiation(("0",), look_up), Decoder()
    requests: list[Asked] = []
    error, left, fed = "", False, 0
    try:
        for data in pieces:
            if negotiation.closed or left:
                break
            fed += len(data)
            if not negotiation.chosen:
                negotiation.receive(data)
                assert sum(map(len, negotiation.out)) < MOST_SAID
                assert negotiation.closed or len(negotiation._held) <= 16 + 1024
                data = negotiation.leftover if negotiation.chosen else b""
            while data:
                room = decoder.room
                if room is None:
                    new, data = decoder.receive(data), b""
                else:
                    assert 0 < len(room) <= PAYLOAD
                    count = min(len(room), len(data))
                    room[:count] = data[:count]
                    new, data = decoder.took(count), data[count:]
                requests += new
                left = left or any(one.kind == c.DISC for one in new)
                assert len(decoder._held) < 28 + PAYLOAD and (decoder.room is None or not decoder._held)
    except ProtocolError as problem:
        error = str(problem)
        assert error.isprintable() and len(error) < 400, error
    for one in requests:
        assert len(one.payload) == (one.length_bytes if one.kind == c.WRITE and one.length_bytes <= PAYLOAD else 0)
    plain = [one._replace(payload=bytes(one.payload)) for one in requests]
    return Heard(b"".join(negotiation.out), plain, negotiation.chosen is not None, negotiation.structured,
                 negotiation.allocation, negotiation.closed, error), fed  # fmt: skip


class Bench:
    """A door, its loop and its core in one: requests wait until they are drawn."""

    names = ("0",)
    size_bytes = SIZE
    bytes_at_most = AT_MOST

    def __init__(self, chance: random.Random, may_fail: bool) -> None:
        self.chance = chance
        self.may_fail = may_fail
        self.look_up = look_up
        self.replies: list[Session] = []
        self.waiting: list[Callable[[], None]] = []
        self.queued: list[list[Request]] = []
        self.calls: list[Callable[[], None]] = []
        self.read_bytes = 0
        self.mask = select.EPOLLIN
        self.complaints = 0

    def submit(self, requests: list[Request]) -> None:
        for one in requests:
            assert not (one.offset_bytes | one.length_bytes) % 512 and one.offset_bytes + one.length_bytes <= SIZE
            assert one.length_bytes <= (REQUEST if one.op in (Op.READ, Op.WRITE) else RANGE)
            assert one.op != Op.WRITE or len(one.data) == one.length_bytes > 0
            self.waiting.append(lambda one=one: self._done(one))  # type: ignore[misc]

    def _done(self, one: Request) -> None:
        if self.may_fail and self.chance.random() < 0.2:
            one.errno = self.chance.choice((errno.EIO, errno.ENOSPC, errno.EROFS, errno.EBUSY))
        elif one.op == Op.READ:
            one.data = bytes(one.length_bytes)
            self.read_bytes += one.length_bytes
        one.done(one)

    def prefetch(self, session: Session, cookie: int, offset: int, length: int) -> None:
        self.waiting.append(lambda: session.answer(cookie, 0))

    def look_at_extents(self, session: Session, cookie: int, offset: int, length: int, one: bool) -> None:
        self.waiting.append(lambda: session.answer_extents(cookie, everything(length)))

    def later(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def wants(self, session: Session, mask: int) -> None:
        self.mask = mask

    def forget(self, session: Session) -> None:
        self.mask = 0

    def entered(self, session: Session) -> None:
        pass

    seen_off = entered

    def complain(self, rule: str, text: str) -> None:
        self.complaints += 1

    def settle(self) -> None:
        """The end of a wake-up, and the next one's beginning."""
        while self.replies or self.calls:
            for session in self.replies[:]:
                self.replies.remove(session)
                session.flush()
            calls, self.calls = self.calls, []
            for call in calls:
                call()


def served(data: bytes, heard: Heard, chance: random.Random) -> None:
    """A session lives through it within its bounds, and every request is answered once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        bench = Bench(chance, may_fail=heard.structured)
        session = Session(bench, theirs)  # type: ignore[arg-type]
        said, at, idle = bytearray(), 0, 0
        leaves = chance.random() < 0.1
        while idle < 3:
            moved = False
            if leaves and chance.random() < 0.05:
                _gone(session, bench, ours)
                return
            if at < len(data) and chance.random() < 0.7:
                try:
                    sent = ours.send(data[at : at + chance.choice(SIZES)])
                    at, moved = at + sent, True
                except OSError:
                    assert session.ended
                    at = len(data)
            if bench.mask & select.EPOLLIN and _readable(theirs) and not session.ended:
                moved = True
                session.handle(select.EPOLLIN)
            bench.settle()
            while bench.waiting and chance.random() < 0.6:
                moved = True
                bench.waiting.pop(chance.randrange(len(bench.waiting)))()
            bench.settle()
            assert session.unanswered <= UNANSWERED + 1
            assert session.ended or session.unanswered_bytes + session._out_bytes < AT_MOST + PAYLOAD + MOST_SAID
            try:
                while piece := ours.recv(1 << 16):
                    said += piece
                    moved = True
                    if not session.ended:
                        session.handle(select.EPOLLOUT)
                        bench.settle()
            except (BlockingIOError, ConnectionResetError):
                pass
            idle = 0 if moved or bench.waiting or at < len(data) else idle + 1
        assert not session.unanswered and not session.unanswered_bytes
        assert session.ended == bool(heard.error or heard.closed or _left(heard))
        assert bench.complaints == bool(heard.error)
        if heard.error:
            return
        assert said.startswith(heard.said)
        _check(bytes(said[len(heard.said) :]), heard, bench)


def _gone(session: Session, bench: Bench, ours: socket.socket) -> None:
    """The client closes: what is under way is answered by the core, and nobody is left."""
    ours.close()
    while not session.ended:
        session.handle(select.EPOLLIN | select.EPOLLHUP)
        bench.settle()
    while bench.waiting:
        bench.waiting.pop()()
        bench.settle()
    assert not session.unanswered and not session.unanswered_bytes and not session._out and not session._later


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def _left(heard: Heard) -> bool:
    return any(one.kind == c.DISC for one in heard.requests)


def _check(said: bytes, heard: Heard, bench: Bench) -> None:
    """As many answers as requests before the end, each with its cookie; reads have their bytes."""
    kinds = [one.kind for one in heard.requests]
    asked = heard.requests[: kinds.index(c.DISC)] if c.DISC in kinds else heard.requests
    if not heard.structured:
        assert len(said) == 16 * len(asked) + bench.read_bytes
        return
    found, rest = c.answers(said)
    assert not rest
    assert sorted(one.cookie for one in found) == sorted(one.cookie for one in asked)
    for one in found:
        assert one.chunk in (-1, 1, 5, 0x8001) and one.error in (0, 1, 5, 22, 28)


def nbd(data: bytes) -> None:
    """The same requests, words and end whole, by single bytes and in pieces; then a session, within its bounds."""
    feed = Feed(data)
    start, chance = feed.one_of(STARTS), random.Random(feed.below(65536))
    stream = start + feed.rest(1 << 16)
    with scaled():
        single, fed = machines([stream[i : i + 1] for i in range(len(stream))])
        stream = stream[:fed]   # who has left says nothing: whether it is heard depends on the pieces
        pieces, at = [], 0
        while at < len(stream):
            pieces.append(stream[at : at + chance.choice(SIZES)])
            at += len(pieces[-1])
        for other, _ in (machines(pieces), machines([stream])):
            if single.error:  # requests that came in one piece with the error are not carried out
                assert other.requests == single.requests[: len(other.requests)]
                other = other._replace(requests=single.requests)
            assert other == single
        served(stream, single, chance)
