# SPDX-License-Identifier: GPL-2.0-or-later
"""Small cores for the engine's tests: an unreplicated one that only uses the disk, and one that records events."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from replblock.core.host import PENDING
from replblock.core.requests import Op, Request
from replblock.engine.backing import open_backing, reopen
from replblock.engine.disk import FileDisk
from replblock.engine.network import Addresses
from replblock.meta import geometry
from replblock.status import model


class RecordingCore:
    """Keeps what the loop says; `react` may be replaced by the test."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.received: dict[int, bytes] = {}
        self.wakeups = 0
        self.doors_open = False
        self.local_reads_ok = False
        self.size_bytes = 1 << 20
        self.users_generation = 0
        self.react: Callable[[tuple[Any, ...]], None] = lambda event: None
        self.rooms: list[int] = []
        """How many bytes the core wants in their place each time it is asked; it does, until they are used up."""
        self._place = memoryview(b"")

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self.react(event)

    def on_dialed(self, sock: int, errno: int) -> None:
        self._note("dialed", sock, errno)

    def on_accepted(self, sock: int, peer_address: str) -> None:
        self._note("accepted", sock, peer_address)

    def on_bytes(self, sock: int, data: bytes) -> None:
        self.received[sock] = self.received.get(sock, b"") + data
        self._note("bytes", sock, data)

    def room(self, sock: int) -> memoryview | None:
        self._place = memoryview(bytearray(self.rooms.pop(0) if self.rooms else 0))
        return self._place or None

    def on_filled(self, sock: int, count_bytes: int) -> None:
        self.received[sock] += self._place[:count_bytes]
        self._place = self._place[count_bytes:]
        self._note("filled", sock, count_bytes)

    def on_closed(self, sock: int, errno: int) -> None:
        self._note("closed", sock, errno)

    def on_sent(self, sock: int) -> bool:
        self._note("sent", sock)
        return True

    def on_timer(self, name: str) -> None:
        self._note("timer", name)

    def submit(self, requests: list[Request]) -> None:
        for request in requests:
            request.done(request)

    def end_wakeup(self) -> None:
        self.wakeups += 1


class PlainCore(RecordingCore):
    """A primary without a peer: every request goes to the disk and is answered when it is done."""

    def __init__(self, disk: Any, local_reads: bool = False) -> None:
        super().__init__()
        self.disk = disk
        self.doors_open = True
        self.local_reads_ok = local_reads
        self.size_bytes = disk.data_sectors * 512

    def submit(self, requests: list[Request]) -> None:
        for request in requests:
            self._begin(request)

    def _begin(self, request: Request) -> None:
        def done(errno: int, data: Any = b"") -> None:
            request.errno = errno
            if request.op == Op.READ:
                request.data = data
            request.done(request)

        disk = self.disk
        if request.op == Op.WRITE and request.fua:
            disk.write_fua(request.offset_bytes, request.data, done)
        elif request.op == Op.WRITE:
            result = disk.write(request.offset_bytes, request.data, done)
            if result != PENDING:
                done(result)
        elif request.op == Op.READ:
            result = disk.read(request.offset_bytes, request.length_bytes, done)
            if not isinstance(result, int):
                done(0, result)
        elif request.op == Op.FLUSH:
            disk.flush(done)
        else:
            result = disk.zero(request.offset_bytes, request.length_bytes, request.may_punch, done)
            if result != PENDING:
                done(result)


def make_disk(path: Any, post: Callable[..., None], size_bytes: int = 8 << 20, **options: Any) -> FileDisk:
    """A file with room for internal metadata (not written), opened as a disk."""
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.truncate(size_bytes)
    data = open_backing(str(path), direct=bool(options.get("direct")))
    where = geometry.internal(os.path.getsize(path) // 512)
    return FileDisk(data, reopen(data, str(path)), where, post, path=str(path), **options)


def addresses(port: int, peer_port: int) -> Addresses:
    return Addresses(own_port=port, peer_port=peer_port)


class FakeAnswer(NamedTuple):
    exit_code: int = 0
    lines: list[str] = []
    data: dict[str, Any] = {}


class UnreplicatedCore(PlainCore):
    """Enough of core.resource.Resource for the whole engine to run around it: one node, no peer."""

    def __init__(self, settings: Any, host: Any) -> None:
        RecordingCore.__init__(self)
        self.settings, self.host = settings, host
        self.disk = None
        self.size_bytes = 0

    def command(self, verb: str, args: dict[str, Any], reply: Callable[[FakeAnswer], None]) -> None:
        if verb == "attach":
            self.disk = args["disk"]
            self.size_bytes = self.disk.data_sectors * 512
            self.local_reads_ok = True
        elif verb == "primary":
            self.doors_open = True
        elif verb in ("secondary", "down"):
            self.doors_open = False
        elif verb not in ("connect", "disconnect", "net_options"):
            reply(FakeAnswer(20, [f"the fake core does not know {verb}"]))
            return
        self.host.state_changed(None, None)
        if verb == "down" and self.disk is not None:
            self.disk.close()
        self.host.call_soon(reply, FakeAnswer())

    def status(self) -> dict[str, Any]:
        role = "Primary" if self.doors_open else "Secondary"
        return model.resource(
            name=self.settings.resource,
            role=role,
            devices=[
                model.device(
                    disk_state="UpToDate" if self.disk is not None else "Diskless",
                    minor=self.settings.minor,
                    size=self.size_bytes // 1024,
                )
            ],
        )
