# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams within one node: from the bundle of a resource with several volumes to the engines of these.

An engine that waits for its peer has a socket in the run directory, and has none when it does not: so the bundle sees
whether all of them do.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

from replblock.engine.listening import LISTEN_BACKLOG
from replblock.engine.network import Network

LOOK_MS = 1000
NONBLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class EngineSide(Network):
    """An engine's only way to its peer; `addresses.own` is the path. It waits, and never dials."""

    def dial(self) -> int:
        link = self._add(socket.socket(socket.AF_UNIX, NONBLOCKING), dialing=True)
        self._later(self._dial_ended, link, errno.ECONNREFUSED)
        return link.number

    def _new_listener(self) -> socket.socket:
        path = Path(self.addresses.own)
        new = path.with_name(f"{path.name}~")
        new.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, NONBLOCKING)
        try:
            sock.bind(str(new))
            new.chmod(0o600)
            sock.listen(LISTEN_BACKLOG)
            new.rename(path)  # who finds it can connect; what an engine that was killed left is out of the way
        except OSError:
            sock.close()
            raise
        self._timer("link-file", LOOK_MS, self._look)
        return sock

    def _look(self) -> None:
        """Somebody took the file away: nobody would ever come."""
        if self._listener is not None:
            if Path(self.addresses.own).exists():
                self._timer("link-file", LOOK_MS, self._look)
            else:
                self.listen(False)
                self.listen(True)

    def _listen_problem(self, error: OSError) -> str:
        return f"cannot wait for the other volumes at {self.addresses.own}: {error.strerror}"

    def _admit(self, sock: socket.socket, address: Any) -> bool:
        return True

    def _close_listener(self) -> None:
        if self._listener is not None:
            Path(self.addresses.own).unlink(missing_ok=True)
        super()._close_listener()


class BundleSide:
    """core.bundle.Locals: streams to the engines at these paths."""

    def __init__(self, paths: dict[int, Path], network: Network) -> None:
        self._paths = paths
        self._network = network
        self.send = network.send
        self.unsent_bytes = network.unsent_bytes
        self.hold = network.hold
        self.close = network.close

    @property
    def all_wait(self) -> bool:
        """Does every volume's engine wait for its peer?"""
        return all(path.exists() for path in self._paths.values())

    def dial(self, volume: int) -> tuple[int, int] | None:
        """The data and the meta stream."""
        numbers: list[int] = []
        for _ in range(2):
            sock = self._connected(self._paths[volume])
            if sock is None:
                for number in numbers:
                    self._network.close(number)
                return None
            numbers.append(self._network.adopt(sock))
        return numbers[0], numbers[1]

    @staticmethod
    def _connected(path: Path) -> socket.socket | None:
        sock = None
        try:
            before = path.stat().st_ino
            sock = socket.socket(socket.AF_UNIX, NONBLOCKING)
            sock.connect(str(path))
            return sock
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno == errno.ECONNREFUSED and path.exists() and path.stat().st_ino == before:
                path.unlink(missing_ok=True)  # its engine was killed
            return None


class Ends:
    """What the network of the bundle's side tells, handed to the bundle."""

    def __init__(self, bundle: Any) -> None:
        self._bundle = bundle

    def on_bytes(self, sock: int, data: bytes) -> None:
        self._bundle.on_local_bytes(sock, data)

    def room(self, sock: int) -> None:
        return None

    def on_closed(self, sock: int, error: int) -> None:
        self._bundle.on_local_closed(sock)

    def on_sent(self, sock: int) -> bool:
        return bool(self._bundle.on_sent(sock))
