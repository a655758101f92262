# SPDX-License-Identifier: GPL-2.0-or-later
"""How two nodes that dial each other end up with one pair of connections: data and meta.

Both nodes listen and dial. Whoever dials the data connection waits; the other dials the meta connection
back (DRBD 8.4 wire format, the two TCP connections). When both dialed data at the same moment, both nodes
must keep the same one: that of the node with the greater address. A kernel peer decides by chance instead;
then one more round, with jitter, brings the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from replblock.core.settings import Settings
from replblock.wire.commands import Cmd
from replblock.wire.headers import pack_header

DIAL_META_AFTER_MS = 3000
"""How long the side that dialed data waits for the peer's meta connection before it dials that too."""
MAX_UNKNOWN = 16
"""Accepted connections that have not said yet what they are for; beyond this the oldest is closed."""


class Ports(Protocol):
    """The part of the host that the rendezvous uses."""

    def listen(self, wanted: bool) -> None: ...
    def dial(self) -> int: ...
    def send(self, sock: int, parts: list[bytes]) -> None: ...
    def close(self, sock: int) -> None: ...
    def timer(self, name: str, delay_ms: int | None) -> None: ...
    def random64(self) -> int: ...


class Rendezvous:
    """Brings the two connections together; calls `met(data, meta, resolve_conflicts)` once per success."""

    def __init__(self, ports: Ports, settings: Settings, met: Callable[[int, int, bool], None]) -> None:
        self._ports = ports
        self.settings = settings
        self._met = met
        self._dialing: dict[int, Cmd] = {}
        self._unknown: dict[int, bool] = {}
        """Accepted and silent, oldest first; True once the timer has come by."""
        self._data: int | None = None
        self._meta: int | None = None
        self._dialed_data = False
        self._dialed_meta = False
        self.active = False
        self.attempts = 0

    def start(self, soon: bool = True) -> None:
        """Begin to look for the peer; with `soon` the first dial goes out at once."""
        assert not self.active
        self.active = True
        self.attempts = 0
        self._ports.listen(True)
        if soon:
            self._dial(Cmd.INITIAL_DATA)
        else:
            self._later()

    def stop(self) -> None:
        """Stop looking and close everything that is not a finished pair."""
        self.active = False
        self._ports.listen(False)
        self._ports.timer("rendezvous", None)
        self._ports.timer("first-packet", None)
        for sock in [*self._dialing, *self._unknown, self._data, self._meta]:
            if sock is not None:
                self._ports.close(sock)
        self._forget()

    def owns(self, sock: int) -> bool:
        """True for sockets that are not yet part of a finished pair."""
        return sock in self._dialing or sock in self._unknown or sock in (self._data, self._meta)

    def _forget(self) -> None:
        self._dialing.clear()
        self._unknown.clear()
        self._data = self._meta = None
        self._dialed_data = self._dialed_meta = False

    def _dial(self, purpose: Cmd) -> None:
        self.attempts += 1
        self._dialing[self._ports.dial()] = purpose

    def _later(self) -> None:
        """Dial again after connect-int, give or take a seventh, so that two nodes do not cross for ever."""
        base = self.settings.connect_int_ms
        spread = max(1, base * 2 // 7)
        self._ports.timer("rendezvous", base - base // 7 + self._ports.random64() % spread)

    def on_dialed(self, sock: int, errno: int) -> None:
        """A dial ended."""
        purpose = self._dialing.pop(sock, None)
        if purpose is None:
            return
        taken = self._data if purpose is Cmd.INITIAL_DATA else self._meta
        if errno or taken is not None:
            self._ports.close(sock)
            if errno and (self._data is None or self._meta is None):
                self._later()
            return
        self._ports.send(sock, [pack_header(0, purpose, 0)])
        if purpose is Cmd.INITIAL_DATA:
            self._data, self._dialed_data = sock, True
            self._ports.timer("rendezvous", DIAL_META_AFTER_MS)
        else:
            self._meta, self._dialed_meta = sock, True
        self._check()

    def on_accepted(self, sock: int) -> None:
        """The peer dialed us; its first packet will say what this connection is for."""
        if not self.active:
            self._ports.close(sock)
            return
        if not self._unknown:
            self._ports.timer("first-packet", 4 * self.settings.ping_timeout_ms)
        self._unknown[sock] = False
        if len(self._unknown) > MAX_UNKNOWN:
            oldest = next(iter(self._unknown))
            del self._unknown[oldest]
            self._ports.close(oldest)

    def on_first(self, sock: int, cmd: int) -> None:
        """The first packet of an accepted connection."""
        self._unknown.pop(sock, None)
        if cmd == Cmd.INITIAL_DATA:
            if self._data is not None and self._dialed_data:
                if self.settings.own_address > self.settings.peer_address:
                    self._ports.close(sock)
                    return
                self._ports.close(self._data)
            elif self._data is not None:
                self._ports.close(self._data)  # the peer dialed again: its older connection is dead
            self._data, self._dialed_data = sock, False
            if self._meta is not None and self._dialed_meta:
                self._ports.close(self._meta)
                self._meta = None
            if self._meta is None and Cmd.INITIAL_META not in self._dialing.values():
                self._dial(Cmd.INITIAL_META)
        elif cmd == Cmd.INITIAL_META:
            if self._meta is not None:
                self._ports.close(self._meta)
            self._meta, self._dialed_meta = sock, False
        else:
            self._ports.close(sock)
            return
        self._check()

    def on_closed(self, sock: int) -> None:
        """A connection that was not yet part of a pair is gone."""
        self._dialing.pop(sock, None)
        self._unknown.pop(sock, None)
        if sock == self._data:
            self._data = None
            if self._meta is not None:
                self._ports.close(self._meta)
                self._meta = None
            self._later()
        elif sock == self._meta:
            self._meta = None
            self._later()

    def on_timer(self, name: str) -> None:
        """`rendezvous`: dial what is missing; `first-packet`: who never said what he wants is thrown out."""
        if not self.active:
            return
        if name == "first-packet":
            for sock, seen_before in list(self._unknown.items()):
                if seen_before:
                    del self._unknown[sock]
                    self._ports.close(sock)
                else:
                    self._unknown[sock] = True
            if self._unknown:
                self._ports.timer("first-packet", 4 * self.settings.ping_timeout_ms)
            return
        missing = Cmd.INITIAL_DATA if self._data is None else Cmd.INITIAL_META
        if missing not in self._dialing.values():
            self._dial(missing)

    def _check(self) -> None:
        if self._data is None or self._meta is None:
            return
        data, meta, resolve_conflicts = self._data, self._meta, not self._dialed_meta
        self._data = self._meta = None
        self.stop()
        self._met(data, meta, resolve_conflicts)
