# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbdkit door: callbacks on nbdkit's threads become requests of the core, and wait for their answer.

Three things make this quick. Each worker thread keeps its Python thread state from its first callback to the end of the
connection (nbdkit would make and destroy one for every callback), and waits on an eventfd of its own. All sit on one
processor with the loop (engine.processor). Buffers are not copied: nbdkit's are valid until the callback
returns, and what a socket has not sent by then is copied at that moment.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.engine.loop import Loop
from replblock.engine.processor import Seats

SECTOR_BYTES = 512
MAX_NBD_BYTES = 32 << 20
PREFERRED_BYTES = 4096
MAX_TRIM_BYTES = 128 << 20
"""One request for the core; longer trims and zeroings are split."""

_api = ctypes.pythonapi
_api.PyThreadState_Get.restype = ctypes.c_void_p
_api.PyThreadState_Clear.argtypes = (ctypes.c_void_p,)
_api.PyThreadState_Delete.argtypes = (ctypes.c_void_p,)


class Refused(OSError):
    """The door stays shut; the errno is what the client sees, the text goes to the log."""


class Waiter:
    """One worker thread: counts its unanswered requests and rings when the last one is answered."""

    __slots__ = ("bell", "errno", "inside", "loop", "pending", "state", "thread")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.bell = os.eventfd(0, os.EFD_CLOEXEC)
        self.pending = 0
        self.inside = False
        self.errno = 0
        self.state: int | None = None
        self.thread = threading.get_native_id()

    def answered(self, request: Request) -> None:
        """`done` of a request; runs with the engine's lock held."""
        if request.errno:
            self.errno = request.errno
        if request.op == Op.WRITE:
            self.loop.network.keep_safe(request.data)
        self.pending -= 1
        if not self.pending and not self.inside:
            self.loop.bells.append(self.bell)

    def run(self, requests: list[Request]) -> int:
        """Hand over and wait; the errno of the last request that failed, or 0."""
        self.pending = len(requests)
        self.errno = 0
        at_work = self.loop.at_work
        at_work.add(self)
        if not self.loop.hand_over(requests, self):
            os.eventfd_read(self.bell)
        at_work.discard(self)
        return self.errno

    def close(self) -> None:
        os.close(self.bell)


class Handle:
    """One NBD connection."""

    __slots__ = ("readonly", "waiters")

    def __init__(self, readonly: bool) -> None:
        self.readonly = readonly
        self.waiters: list[Waiter] = []


class Door:
    """What the plugin's callbacks call. `hold_states` is for nbdkit's threads; a test's own threads keep theirs."""

    def __init__(
        self,
        loop: Loop,
        export_names: tuple[str, ...] = ("", "0"),
        hold_states: bool = True,
        seats: Seats | None = None,
    ) -> None:
        self._loop = loop
        self._names = export_names
        self._hold_states = hold_states
        self._seats = seats
        self._threads = threading.local()
        self._handles: set[Handle] = set()
        self._lock = threading.Lock()
        self._shut = ""
        self.set_error: Callable[[int], None] = lambda problem: None
        """nbdkit's own way to say which errno the client gets."""
        self.disk: Any = None
        """The attached FileDisk, for direct reads; the engine sets and clears it."""
        self.read_sectors = 0
        """Read so, past the core; counted without the lock, a few may get lost."""

    # ---- open and close

    @property
    def clients(self) -> int:
        """Open connections."""
        return len(self._handles)

    def shut(self, reason: str) -> bool:
        """Refuse new connections from now on (a demotion is under way); False if there are open ones."""
        with self._lock:
            self._shut = reason
            return not self._handles

    def reopen(self) -> None:
        with self._lock:
            self._shut = ""

    def open(self, readonly: bool, export_name: str) -> Handle:
        """Raises Refused, with the reason in the log, unless this node is primary and may serve."""
        with self._lock:
            if self._shut:
                self._refuse(errno.EBUSY, self._shut)
            if export_name not in self._names:
                self._refuse(errno.ENOENT, f"there is no volume '{export_name}' here, only {self._names[-1]}")
            if not self._loop.core.doors_open:
                self._refuse(errno.EROFS, "this node is not primary; run: replctl primary, or ask the other node")
            handle = Handle(readonly)
            self._handles.add(handle)
            return handle

    def close(self, handle: Handle) -> None:
        """The connection is gone; its worker threads have ended, their thread states with them."""
        with self._lock:
            self._handles.discard(handle)
            if self._seats is not None:
                self._seats.leave(*(waiter.thread for waiter in handle.waiters))
                if not self._handles:
                    self._seats.clear()
        for waiter in handle.waiters:
            if waiter.state is not None:
                _api.PyThreadState_Clear(waiter.state)
                _api.PyThreadState_Delete(waiter.state)
            waiter.close()
        handle.waiters.clear()

    # ---- requests

    def size_bytes(self) -> int:
        size: int = self._loop.core.size_bytes
        return size

    def pread(self, handle: Handle, buffer: memoryview, offset: int) -> None:
        length = len(buffer)
        waiter = self._waiter(handle)  # first: a thread that only reads shall keep its state too
        self._check(offset, length)
        disk = self.disk
        if disk is not None and self._loop.core.local_reads_ok:
            descriptor = disk.descriptor
            if descriptor is not None:
                try:
                    if os.preadv(descriptor.fd, (buffer,), offset) == length:
                        self.read_sectors += length >> 9
                        return
                except OSError:
                    pass  # the core asks again, and acts on what comes of it
        requests = [
            Request(Op.READ, at, size, waiter.answered) for at, size in pieces(offset, length, MAX_REQUEST_BYTES)
        ]
        self._finish(waiter.run(requests))
        at = 0
        for request in requests:
            buffer[at : at + request.length_bytes] = request.data
            at += request.length_bytes

    def pwrite(self, handle: Handle, buffer: memoryview, offset: int, fua: bool) -> None:
        length = len(buffer)
        waiter = self._waiter(handle)
        self._check(offset, length)
        if length <= MAX_REQUEST_BYTES:
            requests = [Request(Op.WRITE, offset, length, waiter.answered, buffer, fua)]
        else:
            requests = [
                Request(Op.WRITE, at, size, waiter.answered, buffer[at - offset : at - offset + size], fua)
                for at, size in pieces(offset, length, MAX_REQUEST_BYTES)
            ]
        self._finish(waiter.run(requests))

    def flush(self, handle: Handle) -> None:
        waiter = self._waiter(handle)
        self._finish(waiter.run([Request(Op.FLUSH, 0, 0, waiter.answered)]))

    def trim(self, handle: Handle, length: int, offset: int, fua: bool) -> None:
        self._range(handle, Op.TRIM, length, offset, fua, True)

    def zero(self, handle: Handle, length: int, offset: int, fua: bool, may_trim: bool) -> None:
        self._range(handle, Op.ZERO, length, offset, fua, may_trim)

    # ---- below

    def _range(self, handle: Handle, op: Op, length: int, offset: int, fua: bool, may_punch: bool) -> None:
        self._check(offset, length)
        waiter = self._waiter(handle)
        self._finish(
            waiter.run(
                [
                    Request(op, at, size, waiter.answered, fua=fua, may_punch=may_punch)
                    for at, size in pieces(offset, length, MAX_TRIM_BYTES)
                ]
            )
        )

    def _check(self, offset: int, length: int) -> None:
        if (offset | length) % SECTOR_BYTES or not length:
            self._fail(errno.EINVAL, f"{length} bytes at {offset}: requests are whole sectors of {SECTOR_BYTES}")
        if offset < 0 or offset + length > self._loop.core.size_bytes:
            self._fail(errno.EINVAL, f"{length} bytes at {offset} lie outside the device")

    def _finish(self, problem: int) -> None:
        if problem:
            self._fail(problem, os.strerror(problem))

    def _fail(self, problem: int, text: str) -> NoReturn:
        self.set_error(problem)
        raise OSError(problem, text)

    def _refuse(self, problem: int, text: str) -> NoReturn:
        self._loop.log("notice", "door-refused", f"NBD client refused: {text}")
        self.set_error(problem)
        raise Refused(problem, text)

    def _waiter(self, handle: Handle) -> Waiter:
        try:
            waiter: Waiter = self._threads.waiter
        except AttributeError:
            waiter = self._threads.waiter = Waiter(self._loop)
            if self._hold_states:
                _api.PyGILState_Ensure()
                waiter.state = _api.PyThreadState_Get()
            handle.waiters.append(waiter)
            if self._seats is not None:
                self._seats.take(self._loop.native_id, waiter.thread)
        return waiter


def pieces(offset: int, length: int, most: int) -> list[tuple[int, int]]:
    """(offset, length) parts of at most `most` bytes."""
    return [(at, min(most, offset + length - at)) for at in range(offset, offset + length, most)]
