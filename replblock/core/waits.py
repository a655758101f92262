# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that wait: for the peer, for the end of a resync."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.core.answers import EXIT_TIMEOUT, Answer, Reply
from replblock.state.names import Conn
from replblock.state.packed import State

if TYPE_CHECKING:
    from replblock.core.resource import Resource


class Waits:
    """Whoever waits is answered by the state he waits for, or by his time-out."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._waiting: dict[str, tuple[Callable[[State], bool], Reply]] = {}
        self._number = 0

    def wait_connect(self, args: dict[str, Any], reply: Reply) -> None:
        """Until connected, or StandAlone: then there is nothing to wait for."""
        self._wait(lambda s: s.conn >= Conn.CONNECTED or s.conn == Conn.STANDALONE, args, reply)

    def wait_sync(self, args: dict[str, Any], reply: Reply) -> None:
        """Until connected without a resync, or StandAlone."""
        self._wait(lambda s: s.conn in (Conn.CONNECTED, Conn.STANDALONE), args, reply)

    def _wait(self, until: Callable[[State], bool], args: dict[str, Any], reply: Reply) -> None:
        if until(self._r.state):
            reply(Answer())
            return
        self._number += 1
        name = f"admin-wait-{self._number}"
        self._waiting[name] = (until, reply)
        timeout_s = args.get("timeout_s") or 0
        if timeout_s:
            self._r.host.timer(name, int(timeout_s * 1000))

    def state_changed(self, new: State) -> None:
        """Answer those whose state has come."""
        for name, (until, reply) in list(self._waiting.items()):
            if until(new):
                del self._waiting[name]
                self._r.host.timer(name, None)
                reply(Answer())

    def on_timer(self, name: str) -> None:
        """A time-out."""
        if name in self._waiting:
            _, reply = self._waiting.pop(name)
            reply(Answer(EXIT_TIMEOUT, [f"{self._r.settings.resource}: timeout while waiting for the peer"]))
