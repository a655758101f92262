# SPDX-License-Identifier: GPL-2.0-or-later
"""A direct door on a running loop for tests, over a core whose disk is memory, and raw clients of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbd

from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.engine.direct import DirectDoor
from replblock.engine.loop import Loop
from tests.engine.conftest import PATIENCE_S
from tests.engine.fakes import RecordingCore
from tests.nbd import speaker as c


class MemoryCore(RecordingCore):
    """A primary without a peer. `holds`: which requests stay unanswered until `release`; `fails`: with which errno."""

    def __init__(self, size_bytes: int = 8 << 20) -> None:
        super().__init__()
        self.content = bytearray(size_bytes)
        self.size_bytes = size_bytes
        self.doors_open = True
        self.holds: Callable[[Request], bool] = lambda request: False
        self.fails: Callable[[Request], int] = lambda request: 0
        self.held: list[Request] = []
        self.seen: list[tuple[Op, int, int, bool, bool]] = []
        self.asked_bytes = 0

    def submit(self, requests: list[Request]) -> None:
        for one in requests:
            assert not (one.offset_bytes | one.length_bytes) % 512
            assert one.offset_bytes + one.length_bytes <= self.size_bytes
            assert one.op not in (Op.READ, Op.WRITE) or 0 < one.length_bytes <= MAX_REQUEST_BYTES
            assert one.op != Op.WRITE or len(one.data) == one.length_bytes
            self.seen.append((one.op, one.offset_bytes, one.length_bytes, one.fua, one.may_punch))
            self.asked_bytes += one.length_bytes
            if self.holds(one):
                self.held.append(one)
            else:
                self._carry_out(one)

    def _carry_out(self, one: Request) -> None:
        one.errno = self.fails(one)
        where = slice(one.offset_bytes, one.offset_bytes + one.length_bytes)
        if not one.errno:
            if one.op == Op.READ:
                one.data = bytes(self.content[where])
            elif one.op == Op.WRITE:
                self.content[where] = one.data
            elif one.op != Op.FLUSH:
                self.content[where] = bytes(one.length_bytes)
        one.done(one)

    @property
    def held_bytes(self) -> int:
        return sum(one.length_bytes for one in self.held)

    def release(self) -> None:
        """In the loop."""
        self.holds = lambda request: False
        held, self.held = self.held, []
        for one in held:
            self._carry_out(one)


class Served:
    """A door with its loop and core, and clients of it."""

    def __init__(self, loop: Loop, core: Any, path: Path) -> None:
        self.loop, self.core, self.path = loop, core, path
        self.door = DirectDoor(loop, path, description="r0 on alpha")
        self.in_loop(self.door.listen)
        self._raw: list[Raw] = []

    def in_loop(self, call: Callable[[], Any]) -> Any:
        """Run something with the engine's lock held and wait for its result."""
        done, result = threading.Event(), []

        def run() -> None:
            result.append(call())
            done.set()

        self.loop.call_soon(run)
        assert done.wait(PATIENCE_S)
        return result[0]

    def release(self) -> None:
        self.in_loop(self.core.release)

    def uri(self, export: str = "0") -> str:
        return f"nbd+unix:///{export}?socket={self.path}"

    def connect(self, export: str = "0", structured: bool = True, allocation: bool = False) -> nbd.NBD:
        """libnbd, which lets wrong requests through."""
        handle = nbd.NBD()
        handle.set_strict_mode(0)
        handle.set_request_structured_replies(structured)
        if allocation:
            handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.set_export_name(export)
        handle.connect_unix(str(self.path))
        return handle

    def raw(self) -> Raw:
        self._raw.append(Raw(self.path))
        return self._raw[-1]

    def entered(self, structured: bool = False, allocation: bool = False) -> Raw:
        """A raw client in the transmission phase."""
        client = self.raw().greet()
        if structured or allocation:
            assert client.option(c.option(c.STRUCTURED))[-1].kind == c.ACK
        if allocation:
            assert client.option(c.contexts(c.SET_CONTEXTS, b"0", b"base:allocation"))[-1].kind == c.ACK
        assert client.option(c.go(b"0"))[-1].kind == c.ACK
        return client

    def others_go_on(self, rounds: int = 20) -> None:
        """Another client is served, wake-up by wake-up: what was ready before has had its turn when this returns."""
        other = self.connect()
        for _ in range(rounds):
            other.pread(512, 0)
        other.shutdown()

    def end(self) -> None:
        for client in self._raw:
            client.close()
        self.in_loop(self.door.close)


class Raw:
    """A client that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(path))
        self._got = b""

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def greet(self, flags: int = 3) -> Raw:
        assert self.receive(len(c.GREETING)) == c.GREETING
        self.send(c.hello(flags))
        return self

    def receive(self, count: int) -> bytes:
        while len(self._got) < count:
            self._more()
        data, self._got = self._got[:count], self._got[count:]
        return data

    def _more(self) -> None:
        piece = self.sock.recv(1 << 20)
        assert piece, "the server closed the connection"
        self._got += piece

    def option(self, data: bytes) -> list[c.Reply]:
        """The replies to one option."""
        self.send(data)
        found: list[c.Reply] = []
        while not found or not (found[-1].kind == c.ACK or found[-1].kind & 0x80000000):
            head = self.receive(20)
            found += c.replies(head + self.receive(int.from_bytes(head[16:], "big")))[0]
        return found

    def answers(self, count: int, reads: dict[int, int] | None = None) -> dict[int, c.Answer]:
        """So many answers, by cookie."""
        found: dict[int, c.Answer] = {}
        while True:
            new, self._got = c.answers(self._got, reads)
            for one in new:
                assert one.cookie not in found
                found[one.cookie] = one
            if len(found) >= count:
                assert len(found) == count
                return found
            self._more()

    def ask(self, data: bytes, cookie: int = 1, read_bytes: int = 0) -> c.Answer:
        """One request, one answer."""
        self.send(data)
        return self.answers(1, {cookie: read_bytes})[cookie]

    def until_closed(self) -> bytes:
        """What the server still says before it closes."""
        while True:
            try:
                piece = self.sock.recv(1 << 20)
            except ConnectionResetError:  # it did not read all we said
                piece = b""
            if not piece:
                return self._got
            self._got += piece
