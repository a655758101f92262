# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket `RUN/RES.ctl`: one JSON object a line in, one a line out, served by the loop itself.

{"verb": "primary", "args": {"force": true}}  →  {"exit_code": 0, "lines": [], "data": {}}

A connection may ask again after each answer. A streaming verb keeps its connection: lines follow until one side ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replblock.engine.client import control_path, unix_address
from replblock.engine.loop import Loop

BACKLOG = 16
MAX_CLIENTS = 64
MAX_ASKED = 64
"""Lines of one client that wait for their turn."""
MAX_REQUEST_BYTES = 1 << 20
"""Of one client, read and not yet served."""
MAX_UNSENT_BYTES = 4 << 20
"""A client that watches events and does not read them is dropped."""
EXIT_USAGE, EXIT_FATAL = 1, 20

Answer = dict[str, Any]
Verb = Callable[[dict[str, Any], "Client"], None]
"""Called with the engine's lock held; answers through the client, at once or later, exactly once."""


def answer(exit_code: int = 0, lines: list[str] | None = None, data: dict[str, Any] | None = None) -> Answer:
    return {"exit_code": exit_code, "lines": lines or [], "data": data or {}}


class Client:
    """One connection. `reply` may be called from the loop's thread only; a gone client is ignored."""

    def __init__(self, server: Control, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._input = b""
        self._output = b""
        self._mask = select.EPOLLIN
        self._asked: list[bytes] = []
        self._working = False
        self._serving = False
        self.gone = False
        self.streaming = False
        self.on_drained: Callable[[], None] | None = None

    def reply(self, result: Answer) -> None:
        """The answer to the verb at hand; the next line of this connection has its turn."""
        self.push(result)
        self._working = False
        self._next()

    def push(self, result: Answer) -> None:
        """One line, of a stream or as an answer."""
        if self.gone:
            return
        self._output += json.dumps(result, separators=(",", ":")).encode() + b"\n"
        self._send()
        if len(self._output) > MAX_UNSENT_BYTES:
            self.drop()

    def drop(self) -> None:
        if not self.gone:
            self.gone = True
            self._server.forget(self, self._sock)
            self._sock.close()

    def handle(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._send()
        if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()

    def _read(self) -> None:
        if self.gone:
            return
        try:
            data = self._sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        *lines, self._input = (self._input + data).split(b"\n")
        self._asked += [line for line in lines if line.strip()]
        waiting_bytes = len(self._input) + sum(map(len, self._asked))
        if waiting_bytes > MAX_REQUEST_BYTES or len(self._asked) > MAX_ASKED:
            self.drop()
            return
        self._next()

    def _next(self) -> None:
        if self._serving:
            return  # a verb answered at once: the loop below goes on, not a deeper call
        self._serving = True
        try:
            while self._asked and not self._working and not self.streaming and not self.gone:
                self._working = True
                self._server.serve(self, self._asked.pop(0))
        finally:
            self._serving = False

    def _send(self) -> None:
        if self.gone:
            return
        try:
            while self._output:
                self._output = self._output[self._sock.send(self._output) :]
        except BlockingIOError:
            pass
        except OSError:
            self.drop()
            return
        mask = select.EPOLLIN | (select.EPOLLOUT if self._output else 0)
        if mask != self._mask:
            self._server.poll.modify(self._sock.fileno(), mask)
            self._mask = mask
        if not self._output and self.on_drained is not None:
            drained, self.on_drained = self.on_drained, None
            drained()


class Control:
    """Listens, and looks the verbs up in `verbs`."""

    def __init__(self, loop: Loop, run_dir: str | Path, resource: str, verbs: dict[str, Verb]) -> None:
        self._loop = loop
        self.poll = loop.poll
        self.path = control_path(run_dir, resource)
        self._verbs = verbs
        self._clients: set[Client] = set()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Bind (mode 0600) and serve. The caller made sure that no other engine of this resource runs."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            with unix_address(self.path) as address:
                listener.bind(address)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        self._listener = listener
        self._loop.watch(listener.fileno(), self._accept)
        self.poll.register(listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        if self._listener is not None:
            self.poll.unregister(self._listener.fileno())
            self._loop.watch(self._listener.fileno(), None)
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
        for client in list(self._clients):
            client.drop()

    def streams(self) -> list[Client]:
        return [client for client in self._clients if client.streaming]

    def serve(self, client: Client, line: bytes) -> None:
        try:
            request = json.loads(line)
            verb, args = request["verb"], request.get("args", {})
            if not isinstance(verb, str) or not isinstance(args, dict):
                raise ValueError("verb and args")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            client.reply(answer(EXIT_USAGE, ['a control request is {"verb": "…", "args": {…}}, one a line']))
            return
        handler = self._verbs.get(verb)
        if handler is None:
            known = ", ".join(self._verbs)
            client.reply(answer(EXIT_USAGE, [f"'{verb[:40]}' is not a verb of the engine; it knows: {known}"]))
            return
        handler(args, client)

    def forget(self, client: Client, sock: socket.socket) -> None:
        self._clients.discard(client)
        self.poll.unregister(sock.fileno())
        self._loop.watch(sock.fileno(), None)

    def _accept(self, mask: int) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self._clients) >= MAX_CLIENTS:
            sock.close()
            return
        sock.setblocking(False)
        client = Client(self, sock)
        self._clients.add(client)
        self._loop.watch(sock.fileno(), client.handle)
        self.poll.register(sock.fileno(), select.EPOLLIN)
