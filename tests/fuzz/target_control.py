# SPDX-License-Identifier: GPL-2.0-or-later
"""Target of the control socket: any bytes, any JSON; the verbs are the engine's own, on a core without a peer."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable
from typing import Any

from replblock.engine.control import MAX_ASKED, MAX_REQUEST_BYTES, Client, Control, Verb, answer
from replblock.engine.service import Engine
from replblock.engine.verbs import CORE_VERBS, core_verb, log_level
from tests.fuzz.feed import Feed
from tests.fuzz.puppet import Stage

MOST_BYTES = 4096


class Poll:
    def register(self, fd: int, mask: int) -> None:
        pass

    modify = register

    def unregister(self, fd: int) -> None:
        pass


class Loop:
    poll = Poll()

    def watch(self, fd: int, handle: Callable[[int], None] | None) -> None:
        pass


class Log:
    level = "info"

    def set_level(self, level: str) -> None:
        if level not in ("debug", "info"):
            raise ValueError(f"'{level}' is not a log level")


class Bench:
    """As much of engine.service.Engine as verbs of the core need."""

    def __init__(self, node: Stage) -> None:
        self.core = node.a.resource
        self.settings = node.a.settings  # type: ignore[attr-defined]
        self.volume = 0
        self.log = Log()


def control(data: bytes) -> None:
    """Every line is answered by one line of JSON, or the client is dropped; the engine lives."""
    feed = Feed(data)
    node = Stage(feed.one_of(("fresh", "diskless", "data", "primary")))
    engine: Any = Bench(node)
    verbs = {name: _bound(core_verb(name), engine) for name in CORE_VERBS}
    verbs["status"] = lambda args, client: client.reply(answer(data=engine.core.status()))
    verbs["log_level"] = _bound(log_level, engine)
    server = Control(Loop(), "/nonexistent", "r0", verbs)  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        ours.setblocking(False)
        client = Client(server, theirs)
        server._clients.add(client)
        while feed:
            piece = feed.rest(1 + feed.below(MOST_BYTES))
            try:
                ours.sendall(piece)
            except OSError:
                assert client.gone
                break
            client.handle(select.EPOLLIN)
            node.a.finish()
            node.run(30)
            _answers(ours)
            if client.gone:
                break
            assert len(client._input) <= MAX_REQUEST_BYTES and len(client._asked) <= MAX_ASKED
        client.drop()
    node.check()


def _answers(ours: socket.socket) -> None:
    said = b""
    try:
        while piece := ours.recv(1 << 16):
            said += piece
    except (BlockingIOError, ConnectionResetError):
        pass
    for line in said.splitlines():
        found = json.loads(line)
        assert isinstance(found["exit_code"], int) and isinstance(found["lines"], list)


def _bound(verb: Callable[[Any, dict[str, Any], Client], None], engine: Any) -> Verb:
    return Engine._bound(engine, verb)
