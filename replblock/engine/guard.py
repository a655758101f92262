# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers the peer's P_PING while the loop is stuck in a disk call, so that a slow disk does not cost the link.

The guard only peeks: the bytes stay in the socket, and when the loop gets to them the core asks `ping_was_answered`. A
pong leaves between two packets, never inside one (Link.finish_entry, Link.inject).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from replblock.engine.link import AGAIN, Link
from replblock.engine.loop import Loop
from replblock.wire.commands import Cmd
from replblock.wire.headers import H80, H95, H100, MAGIC_80, MAGIC_95, MAGIC_100, pack_header

STUCK_S = 0.1
"""The shortest ping-timeout is 0.1 s and its default 0.5 s: begin to look after this long inside one wake-up."""
LOOK_AT_MOST_S = 0.15
"""How often it looks: at half of the ping-timeout, which the peer likely has too, and so seldom if that is long."""
PEEK_MAX_BYTES = 1 << 20


def pings_beyond(data: bytes | memoryview, start: int, version: int) -> int:
    """How many whole P_PING packets end beyond `start` in a run of packets; what cannot be parsed ends the count."""
    count, at, size = 0, 0, len(data)
    header_bytes = H100.size if version >= 100 else H80.size
    while at + header_bytes <= size:
        if version >= 100:
            magic, _, cmd, length, _ = H100.unpack_from(data, at)
            known = magic == MAGIC_100
        else:
            magic, cmd, length = H80.unpack_from(data, at)
            known = magic == MAGIC_80
            if not known:
                magic, cmd, length = H95.unpack_from(data, at)
                known = magic == MAGIC_95
        if not known:
            break
        at += header_bytes + length
        if cmd == Cmd.PING and length == 0 and start < at <= size:
            count += 1
    return count


class Guard:
    """A thread that looks now and then whether the loop is stuck."""

    def __init__(self, loop: Loop, ping_timeout_ms: Callable[[], int] = lambda: 0) -> None:
        self._loop = loop
        self._ping_timeout_ms = ping_timeout_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replblock-guard", daemon=True)
        self.pongs = 0
        """Pings answered here so far."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _run(self) -> None:
        while not self._stop.wait(min(max(STUCK_S, self._ping_timeout_ms() / 2000), LOOK_AT_MOST_S)):
            link = self._loop.ping_link
            since = self._loop.busy_since
            if link is not None and since and time.monotonic() - since >= STUCK_S:
                try:
                    self.look(link)
                except (OSError, ValueError):
                    pass  # the link is closing; the loop will notice by itself

    def look(self, link: Link) -> int:
        """Answer the pings that wait unread on `link`; returns how many were answered now."""
        pings = link.pings
        if pings is None or link.broken:
            return 0
        with pings.lock:
            known = pings.before + pings.chunk if pings.chunk else pings.leftover()
            try:
                peeked = link.sock.recv(PEEK_MAX_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno in AGAIN:
                    return 0
                raise
            waiting = pings_beyond(known + peeked, len(known), pings.version) - pings.answered
            answered = 0
            while answered < waiting and link.finish_entry():
                if not link.inject(pack_header(pings.version, Cmd.PING_ACK, 0)):
                    break
                answered += 1
            pings.answered += answered
        self.pongs += answered
        return answered
