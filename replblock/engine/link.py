# SPDX-License-Identifier: GPL-2.0-or-later
"""One TCP connection as the loop sees it: what waits to be sent, what the guard answered, how much to read at once."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, islice

from replblock.core.host import Buffer

IOV_MAX = os.sysconf("SC_IOV_MAX")
RECV_MIN_BYTES = 64 << 10
RECV_MAX_BYTES = 2 << 20
"""One payload of 1 MiB and the start of the next in one read."""
AGAIN = (errno.EAGAIN, errno.EINTR)


class Link:
    """A socket with its out-queue.

    The queue holds one list of buffers for each `send` (so it knows where a packet may end); nothing is copied. Only
    the engine's thread of the moment appends; `send_lock` guards what takes away, because the guard may do so too.
    """

    __slots__ = (
        "broken", "dialing", "fd", "held", "mask", "mid", "number", "out", "pings", "queued_bytes", "recv_bytes",
        "room", "send_lock", "sent_bytes", "sock", "told_sent", "told_unsent",
    )  # fmt: skip

    def __init__(self, number: int, sock: socket.socket, dialing: bool) -> None:
        self.number = number
        self.sock = sock
        self.fd = sock.fileno()
        self.dialing = dialing
        self.held = False
        self.mask = 0
        self.broken = 0
        self.out: deque[list[Buffer]] = deque()
        self.mid = False
        """The last sendmsg ended inside the first entry of the queue."""
        self.queued_bytes = 0
        self.sent_bytes = 0
        self.told_sent = 0
        self.told_unsent = 0
        """What had been sent, and the most that waited, when the core was last told of room."""
        self.recv_bytes = RECV_MIN_BYTES
        self.room: memoryview | None = None
        """Where the next bytes go: the core's, for a payload that is half here."""
        self.send_lock = threading.Lock()
        self.pings: Pings | None = None
        """Set once the guard watches this socket too."""

    @property
    def unsent(self) -> int:
        return self.queued_bytes - self.sent_bytes

    def send(self, parts: Sequence[Buffer]) -> None:
        if self.broken:
            return
        self.out.append(list(parts))
        self.queued_bytes += sum(map(len, parts))

    def flush(self) -> int:
        """Give TCP what it takes now. Returns 0 or the errno that ends this link."""
        out = self.out
        with self.send_lock:
            while out:
                # chain: a wake-up queues many small entries, and IOV_MAX buffers go at once
                buffers = out[0] if len(out) == 1 else list(islice(chain.from_iterable(out), IOV_MAX))
                if len(buffers) > IOV_MAX:
                    buffers = buffers[:IOV_MAX]
                try:
                    sent = self.sock.sendmsg(buffers)
                except OSError as error:
                    return 0 if error.errno in AGAIN else error.errno or errno.EIO
                self.sent_bytes += sent
                if self.sent_bytes == self.queued_bytes:
                    out.clear()
                    self.mid = False
                    return 0
                self._take(sent)
        return 0

    def finish_entry(self) -> bool:
        """Send the rest of a half-sent entry; True when the stream stands between two packets. For the guard."""
        with self.send_lock:
            if self.mid:
                try:
                    sent = self.sock.sendmsg(self.out[0][:IOV_MAX])
                except OSError:
                    return False
                self.sent_bytes += sent
                self._take(sent)
            return not self.mid

    def inject(self, packet: bytes) -> bool:
        """Send a whole packet now, before what is queued; False if the stream is inside a packet or TCP is full."""
        with self.send_lock:
            if self.mid:
                return False
            try:
                sent = self.sock.send(packet)
            except OSError:
                return False
            if sent < len(packet):
                rest = packet[sent:]
                self.out.appendleft([rest])
                self.sent_bytes -= len(rest)
                self.mid = True
            return True

    def _take(self, sent: int) -> None:
        """Drop `sent` bytes from the front of the queue; a half-sent buffer becomes a slice of itself."""
        out = self.out
        self.mid = False
        while out:
            entry = out[0]
            taken = 0
            for index, part in enumerate(entry):
                if sent < len(part):
                    if taken or sent:
                        out[0] = [memoryview(part)[sent:], *entry[index + 1 :]]
                        self.mid = True
                    return
                sent -= len(part)
                taken += len(part)
            out.popleft()

    def keep_safe(self, data: Buffer) -> None:
        """The owner of `data` takes it back: copy it if it still waits here to be sent.

        A half-sent buffer no longer is `data` itself; one without an owner (`obj` None) is a door's for certain.
        """
        owner = data.obj if isinstance(data, memoryview) else data
        with self.send_lock:
            for entry in self.out:
                for index, part in enumerate(entry):
                    if part is data or (isinstance(part, memoryview) and (part.obj is None or part.obj is owner)):
                        entry[index] = bytes(part)

    def drop_queue(self) -> None:
        with self.send_lock:
            self.out.clear()
            self.sent_bytes = self.queued_bytes
            self.mid = False

    def grow_reads(self, got: int) -> None:
        """Read more at once while reads come full (a big payload is on its way), less again afterwards."""
        if got == self.recv_bytes:
            self.recv_bytes = min(2 * self.recv_bytes, RECV_MAX_BYTES)
        elif got < self.recv_bytes >> 3 and self.recv_bytes > RECV_MIN_BYTES:
            self.recv_bytes >>= 1


class Pings:
    """What guard and loop share about the socket that carries pings; `lock` is held while either reads the socket."""

    __slots__ = ("answered", "before", "chunk", "leftover", "lock", "version")

    def __init__(self, version: int, leftover: Callable[[], bytes]) -> None:
        self.version = version
        self.leftover = leftover
        self.lock = threading.Lock()
        self.answered = 0
        """Pings the guard has answered and the core has not seen yet."""
        self.before = b""
        self.chunk = b""
        """Bytes the core is decoding at this moment, and what it held undecoded before them."""
