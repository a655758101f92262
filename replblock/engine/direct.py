# SPDX-License-Identifier: GPL-2.0-or-later
"""The direct door: the loop itself speaks NBD on a Unix socket, beside nbdkit's, and by TCP where configured.

No thread and no wake-up per request: one wake-up reads many requests, the core gets them as one batch, and one
`sendmsg` answers all that are done (docs/performance.md has both doors side by side).
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replblock.core.requests import Request
from replblock.engine.allocation import MAX_EXTENTS, everything, extents
from replblock.engine.loop import Loop
from replblock.engine.nbdport import NbdPort
from replblock.engine.pool import Pool
from replblock.engine.session import MAX_UNANSWERED_BYTES, Session
from replblock.nbd.names import Rep, Transmission
from replblock.nbd.negotiation import Export, Refusal
from replblock.nbd.transmission import Extent

BLOCK_SIZES = (512, 4096, 32 << 20)
"""The same as through nbdkit."""
FLAGS = (
    Transmission.HAS_FLAGS | Transmission.SEND_FLUSH | Transmission.SEND_FUA | Transmission.SEND_TRIM
    | Transmission.SEND_WRITE_ZEROES | Transmission.CAN_MULTI_CONN | Transmission.SEND_CACHE
)  # fmt: skip
BACKLOG = 16
MAX_SESSIONS = 128
"""Beyond it whoever has not chosen an export yet has to go, the oldest first, or the new one."""
COMPLAIN_MS = 10_000
ACCEPT_AGAIN_MS = 1000
"""After the process had no descriptor left for a client."""
SHOWN_CHARACTERS = 64
"""Of a name that is not known here."""
MEMORY_SHARE = 32


class DirectDoor:
    """Everything here runs with the engine's lock held, except `clients`."""

    def __init__(self, loop: Loop, path: Path, names: tuple[str, ...] = ("", "0"), description: str = "") -> None:
        self._loop = loop
        self._path = path
        self.names = names[1:]
        """What a client that asks for a list sees; the first of the names given is the default one."""
        self._known = names
        self._description = description
        self._sessions: dict[int, Session] = {}
        self._open: set[Session] = set()
        self._listener: socket.socket | None = None
        self.port = NbdPort(loop, names[-1], self._admit)
        self._shut = ""
        self._complained_ms = -COMPLAIN_MS
        self._unsaid = 0
        self._looker: Pool | None = None
        self.replies = loop.replies
        self.bytes_at_most = min(MAX_UNANSWERED_BYTES, _memory_bytes() // MEMORY_SHARE)
        self.disk: Any = None
        """The attached FileDisk, for what is asked about it rather than read; the engine sets and clears it."""

    # ---- open and close

    def listen(self) -> None:
        """Raises OSError. What a dead engine left at the path must be gone."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.bind(os.fspath(self._path))
            self._path.chmod(0o600)         # before anybody can connect
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._loop.watch(listener.fileno(), self._accept)
        self._loop.poll.register(listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Nobody comes in any more, and whoever is there goes."""
        self.port.use(None)
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.poll.unregister(listener.fileno())
            self._loop.watch(listener.fileno(), None)
            listener.close()
        for session in list(self._sessions.values()):
            session.end()
        if self._looker is not None:
            self._looker.stop()

    @property
    def clients(self) -> int:
        """Clients with an export, and those that went with requests under way."""
        return len(self._open)

    def shut(self, reason: str) -> bool:
        """Refuse new clients from now on (a demotion is under way); False if there are some."""
        self._shut = reason
        return not self._open

    def reopen(self) -> None:
        self._shut = ""

    def _accept(self, mask: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                # level-triggered: without a pause this would spin
                self.complain("accept-failed", f"cannot accept an NBD client: {error.strerror}")
                self._loop.poll.modify(self._listener.fileno(), 0)
                self._loop.timer_call("direct-accept", ACCEPT_AGAIN_MS, self._accept_again)
            return
        self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        """A client, by whatever way it came."""
        idle = [one for one in self._sessions.values() if not one.opened]
        if len(idle) + len(self._open) >= MAX_SESSIONS:
            self.complain("door-refused", f"NBD client refused: {MAX_SESSIONS} are here already")
            if not idle:
                sock.close()
                return
            idle[0].end()
        sock.setblocking(False)
        session = Session(self, sock)
        self._sessions[session.fd] = session
        self._loop.watch(session.fd, session.handle)
        self._loop.poll.register(session.fd, select.EPOLLIN)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self._loop.poll.modify(self._listener.fileno(), select.EPOLLIN)

    def look_up(self, name: str) -> Export:
        """What a client may open. Raises Refusal, with the reason in the log."""
        if name not in self._known:
            shown = repr(name[:SHOWN_CHARACTERS])
            raise self._refuse(Rep.ERR_UNKNOWN, f"there is no volume {shown} here, only {self._known[-1]}")
        if self._shut:
            raise self._refuse(Rep.ERR_SHUTDOWN, self._shut)
        if not self._loop.core.doors_open:
            raise self._refuse(
                Rep.ERR_POLICY, "this node is not primary; run: replctl primary, or ask the other node"
            )
        return Export(self._known[-1], self.size_bytes, FLAGS, BLOCK_SIZES, self._description)

    def _refuse(self, reply: Rep, text: str) -> Refusal:
        self.complain("door-refused", f"NBD client refused: {text}")
        return Refusal(reply, text)

    def complain(self, rule: str, text: str) -> None:
        """One line, and not many a minute: a client may try as often as it likes."""
        now_ms = self._loop.now_ms()
        if now_ms - self._complained_ms < COMPLAIN_MS:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} more since the last such line)" if self._unsaid else ""
        self._complained_ms, self._unsaid = now_ms, 0
        self._loop.log("notice", rule, text + more)

    # ---- what sessions ask for

    @property
    def size_bytes(self) -> int:
        size: int = self._loop.core.size_bytes
        return size

    def submit(self, requests: list[Request]) -> None:
        """With those of other clients of this wake-up."""
        self._loop.enqueue(requests)

    def later(self, call: Callable[[], None]) -> None:
        """In the next wake-up, which comes at once."""
        self._loop.later(call)

    def wants(self, session: Session, mask: int) -> None:
        self._loop.poll.modify(session.fd, mask)

    def forget(self, session: Session) -> None:
        """Its socket is about to close."""
        if self._sessions.get(session.fd) is session:
            del self._sessions[session.fd]
            self._loop.poll.unregister(session.fd)
            self._loop.watch(session.fd, None)
        self.seen_off(session)

    def entered(self, session: Session) -> None:
        """It has an export."""
        self._open.add(session)

    def seen_off(self, session: Session) -> None:
        """An ended session is nobody's client any more once nothing of it is under way."""
        if session.ended and not session.unanswered:
            self._open.discard(session)

    def prefetch(self, session: Session, cookie: int, offset_bytes: int, length_bytes: int) -> None:
        """NBD_CMD_CACHE: a hint for the local disk, if there is one to read from. It may block, too."""
        descriptor = self._descriptor()
        if descriptor is None:
            session.answer(cookie, 0)
        else:
            self._aside(self._fetch, descriptor, session, cookie, offset_bytes, length_bytes)

    def _fetch(self, descriptor: Any, session: Session, cookie: int, offset_bytes: int, length_bytes: int) -> None:
        problem = 0
        try:
            os.posix_fadvise(descriptor.fd, offset_bytes, length_bytes, os.POSIX_FADV_WILLNEED)
        except OSError as error:
            problem = error.errno or errno.EIO
        self._loop.post(session.answer, cookie, problem)

    def look_at_extents(self, session: Session, cookie: int, offset_bytes: int, length_bytes: int, one: bool) -> None:
        """NBD_CMD_BLOCK_STATUS: in a thread, because file systems read their maps from the disk for it."""
        descriptor = self._descriptor()
        if descriptor is None:
            session.answer_extents(cookie, everything(length_bytes))
        else:
            self._aside(self._look, descriptor, session, cookie, offset_bytes, length_bytes, one)

    def _aside(self, job: Callable[..., None], *args: Any) -> None:
        if self._looker is None:
            self._looker = Pool("replblock-looker", 1)
        self._looker.put(job, *args)

    def _look(self, descriptor: Any, session: Session, cookie: int, offset_bytes: int, length_bytes: int,
              one: bool) -> None:  # fmt: skip
        found = extents(descriptor.fd, offset_bytes, length_bytes, 1 if one else MAX_EXTENTS)
        self._loop.post(self._looked, descriptor, session, cookie, length_bytes, found)

    def _looked(self, descriptor: Any, session: Session, cookie: int, length_bytes: int,
                found: list[Extent]) -> None:  # fmt: skip
        """What was found counts only if this disk still is the one that is read from."""
        session.answer_extents(cookie, found if self._descriptor() is descriptor else everything(length_bytes))

    def _descriptor(self) -> Any:
        disk = self.disk
        return disk.descriptor if disk is not None and self._loop.core.local_reads_ok else None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
