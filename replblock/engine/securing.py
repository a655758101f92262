# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections on their way to be encrypted ones, and what the operator hears when they do not get there."""

from __future__ import annotations

import socket
from collections.abc import Callable

from replblock.engine.tls import Tls
from replblock.engine.tunnel import Tunnel

MAX_HANDSHAKES = 8
"""Of those who come; each has a thread, and beyond it they are closed unheard. This node dials one at a time."""


class Securing:
    """In the loop's thread, with the engine's lock held; `post` brings a tunnel's words there."""

    def __init__(
        self, tls: Tls, post: Callable[..., None], log: Callable[[str, str, str], None], notes: dict[str, str]
    ) -> None:
        self._tls = tls
        self._post = post
        self._log = log
        self._notes = notes
        self._accepted = 0

    def begin(self, sock: socket.socket, server: bool, done: Callable[[socket.socket | None], None]) -> bool:
        """Takes the socket; `done` gets what to use instead, or None. False: there are too many already."""
        if server and self._accepted >= MAX_HANDSHAKES:
            return False
        self._accepted += server

        def ended(instead: socket.socket | None, problem: str) -> None:
            self._accepted -= server
            if problem:
                self._complain(problem)
            else:
                self._notes.pop("tls-failed", None)
            done(instead)

        Tunnel(
            sock, self._tls, server,
            lambda instead, problem: self._post(ended, instead, problem),
            lambda problem: self._post(self._complain, problem),
        ).start()  # fmt: skip
        return True

    def _complain(self, problem: str) -> None:
        if self._notes.get("tls-failed") != problem:  # it is tried again and again
            self._notes["tls-failed"] = problem
            self._log("error", "tls-failed", problem)
