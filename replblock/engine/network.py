# SPDX-License-Identifier: GPL-2.0-or-later
"""The peer sockets of one resource: dialing, listening, reading and sending, by number.

A number is never used twice, so an event that was on its way when a socket closed cannot reach its successor. Events go
to the core from `handle` only (the loop's thread, engine lock held), or through `later`; never from inside a call.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from replblock.core.host import Buffer
from replblock.engine.leaving import Leaving
from replblock.engine.link import AGAIN, RECV_MIN_BYTES, Link, Pings
from replblock.engine.listening import Addresses as Addresses
from replblock.engine.listening import Listening, Log
from replblock.engine.securing import Securing

LOW_WATER_BYTES = 256 << 10
"""The core hears `on_sent` when a queue that was longer than this gets shorter, and when it runs empty."""
REGISTERED = 1 << 40
"""In a link's mask: epoll knows it, whatever it waits for."""

class Network(Listening):
    """Owned by the loop, which lends it the poll, timers and a way to call later."""

    def __init__(
        self,
        addresses: Addresses,
        poll: select.epoll,
        watch: Callable[[int, Callable[[int], None] | None], None],
        later: Callable[..., None],
        timer: Callable[..., None],
        now_ms: Callable[[], int],
        log: Log,
    ) -> None:
        super().__init__(addresses, poll, watch, timer, now_ms, log)
        self._later = later
        self.core: Any = None                   # hears of sockets: on_dialed, on_accepted, on_bytes, on_closed, on_sent
        self.links: dict[int, Link] = {}
        self._last = 0
        self._dirty: list[Link] = []
        self._leaving = Leaving(poll, watch, timer)
        self.securing: Securing | None = None
        """If the configuration asks for it: nothing is said in the clear then."""

    # ---- what the core calls

    def dial(self) -> int:
        sock = self._new_socket()
        link = self._add(sock, dialing=True)
        a = self.addresses
        try:
            sock.bind((a.own, 0))
            error = sock.connect_ex((a.peer, a.peer_port))
        except OSError as problem:
            error = problem.errno or errno.EIO
        if error in (0, errno.EINPROGRESS, errno.EAGAIN):
            self._want(link, select.EPOLLOUT)
        else:
            self._later(self._dial_ended, link, error)
        return link.number

    def send(self, number: int, parts: Sequence[Buffer]) -> None:
        link = self.links.get(number)
        if link is not None and not link.broken:
            link.out.append(list(parts))
            link.queued_bytes += sum(map(len, parts))
            self._dirty.append(link)

    def push(self, number: int) -> None:
        """Send now what is queued; the core hears of it at the end of the wake-up, with the rest."""
        link = self.links.get(number)
        if link is not None and not link.broken and not link.dialing and link.out:
            error = link.flush()
            if error:
                self._break(link, error)

    def unsent_bytes(self, number: int) -> int:
        link = self.links.get(number)
        return link.unsent if link is not None else 0

    def close(self, number: int) -> None:
        """What is queued gets one try, so that a last answer can leave; then the socket is gone."""
        link = self._let_go(number)
        if link is not None:
            link.sock.close()

    def part(self, data: int, meta: int) -> None:
        """As `close`, of a pair whose peer is to read to the end why."""
        links = self._let_go(data), self._let_go(meta)
        if links[0] is not None and links[1] is not None:
            self._leaving.begin(links[0].sock, links[1].sock)

    def _let_go(self, number: int) -> Link | None:
        link = self.links.pop(number, None)
        if link is None:
            return None
        if link.out and not link.broken and not link.dialing:
            link.flush()
        link.broken = errno.EBADF
        link.drop_queue()
        self._forget(link)
        return link

    def hold(self, number: int, held: bool) -> None:
        link = self.links.get(number)
        if link is not None and link.held != held:
            link.held = held
            self._want(link)

    def set_addresses(self, addresses: Addresses) -> None:
        """Use these from the next dial on, and for listening now; a connection that stands is left alone."""
        if addresses != self.addresses:
            self.addresses = addresses
            if self._listen_wanted:
                self.listen(False)
                self.listen(True)

    # ---- what the loop calls

    def flush(self) -> bool:
        """Send what was queued since; True if somebody in the core went on for it (there may be more to send)."""
        dirty, self._dirty = self._dirty, []
        heard = False
        for link in dirty:
            if link.broken or link.dialing:
                continue
            if link.out:
                error = link.flush()
                if error:
                    self._break(link, error)
                    continue
            unsent = link.unsent
            if bool(unsent) != bool(link.mask & select.EPOLLOUT):
                self._want(link)
            told = link.told_unsent
            if (unsent == 0 and link.sent_bytes != link.told_sent) or unsent < LOW_WATER_BYTES <= told:
                link.told_sent = link.sent_bytes
                link.told_unsent = 0
                if self.core.on_sent(link.number):
                    heard = True
            elif unsent > told:
                link.told_unsent = unsent
        return heard

    @property
    def has_queued(self) -> bool:
        return bool(self._dirty)

    def keep_safe(self, data: Buffer) -> None:
        """A door is about to take `data` back."""
        for link in self.links.values():
            if link.out:
                link.keep_safe(data)

    def close_all(self) -> None:
        self.listen(False)
        for number in list(self.links):
            self.close(number)
        self._leaving.close_all()

    # ---- events of one link

    def _handle(self, link: Link, mask: int) -> None:
        if link.dialing:
            error = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or self._met_itself(link.sock)
            if self.securing is None or error:
                self._dial_ended(link, error)
            else:
                self._secure(link, server=False)
            return
        if mask & select.EPOLLOUT:
            self._dirty.append(link)
        if link.held and not mask & (select.EPOLLERR | select.EPOLLHUP):
            return
        if mask & ~select.EPOLLOUT:
            self._read(link)

    def _read(self, link: Link) -> None:
        if link.room is not None:
            self._fill(link, link.room)
            return
        pings = link.pings
        try:
            if pings is None:
                data = link.sock.recv(link.recv_bytes)
            else:
                with pings.lock:
                    data = link.sock.recv(link.recv_bytes)
                    pings.before, pings.chunk = pings.leftover(), data
        except OSError as error:
            if error.errno not in AGAIN:
                self._ended(link, error.errno or errno.EIO)
            return
        if not data:
            self._ended(link, 0)
            return
        self.core.on_bytes(link.number, data)
        if pings is not None:
            pings.chunk = b""
        elif len(data) >= RECV_MIN_BYTES:
            link.room = self.core.room(link.number)
        if link.room is None:
            link.grow_reads(len(data))

    def _fill(self, link: Link, room: memoryview) -> None:
        """The rest of a large payload, into its place."""
        try:
            count = link.sock.recv_into(room)
        except OSError as error:
            if error.errno not in AGAIN:
                self._ended(link, error.errno or errno.EIO)
            return
        if not count:
            self._ended(link, 0)
            return
        link.room = room[count:] if count < len(room) else None
        self.core.on_filled(link.number, count)

    def _dial_ended(self, link: Link, error: int) -> None:
        if link.number not in self.links:
            return
        link.dialing = False
        if error:
            self.close(link.number)
        else:
            self._want(link)
            self._dirty.append(link)
        self.core.on_dialed(link.number, error)

    def _met_itself(self, sock: socket.socket) -> int:
        """TCP connects a socket to itself when nobody listens and the free port it got is the one it dials."""
        try:
            return errno.ECONNREFUSED if sock.getsockname() == sock.getpeername() else 0
        except OSError as error:
            return error.errno or errno.EIO

    def _ended(self, link: Link, error: int) -> None:
        """The peer closed (0), or the socket failed."""
        if link.number in self.links:
            link.broken = error or errno.ECONNRESET
            self.close(link.number)
            self.core.on_closed(link.number, error)

    def _break(self, link: Link, error: int) -> None:
        """Sending failed: say so after this wake-up; nothing more is read or sent."""
        link.broken = error
        link.drop_queue()
        self._forget(link)
        self._later(self._ended, link, error)

    # ---- TLS

    def secure_with(self, securing: Securing | None) -> None:
        """From now on; what stands is connected anew."""
        self.securing = securing
        for link in list(self.links.values()):
            if not link.broken:
                self._break(link, errno.ECONNRESET)

    def _secure(self, link: Link, server: bool) -> None:
        """What is read and sent goes through a tunnel from now on; `_secured` follows."""
        assert self.securing is not None
        self._forget(link)
        sock = socket.socket(fileno=link.sock.detach())  # the tunnel's from now on, and nobody else's
        if self.securing.begin(sock, server, partial(self._secured, link, server)):
            return
        sock.close()
        if server:
            self.close(link.number)
        else:
            self._later(self._dial_ended, link, errno.EAGAIN)

    def _secured(self, link: Link, server: bool, sock: socket.socket | None) -> None:
        if self.links.get(link.number) is not link:
            if sock is not None:
                sock.close()
            return
        if sock is not None:
            link.sock, link.fd = sock, sock.fileno()
            self._watch(link.fd, lambda mask: self._handle(link, mask))
        if not server:
            self._dial_ended(link, errno.EPROTO if sock is None else 0)
        elif sock is None:
            self.close(link.number)
        else:
            link.dialing = False
            self._want(link)
            self.core.on_accepted(link.number, self.addresses.peer)

    def _accepted(self, sock: socket.socket) -> None:
        if self.securing is not None:
            self._secure(self._add(sock, dialing=True), server=True)
            return
        self.core.on_accepted(self.adopt(sock), self.addresses.peer)

    # ---- sockets

    def adopt(self, sock: socket.socket) -> int:
        """One that is connected already."""
        link = self._add(sock, dialing=False)
        self._want(link)
        return link.number

    def _new_socket(self) -> socket.socket:
        sock = socket.socket(self.addresses.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_buffers(sock)
        return sock

    def _add(self, sock: socket.socket, dialing: bool) -> Link:
        self._last += 1
        link = Link(self._last, sock, dialing)
        self.links[link.number] = link
        self._watch(link.fd, lambda mask: self._handle(link, mask))
        return link

    def _want(self, link: Link, mask: int | None = None) -> None:
        """Tell epoll what this link waits for (the mask given, or what its state asks for)."""
        if link.broken:
            return
        if mask is None:
            mask = (0 if link.held else select.EPOLLIN) | (select.EPOLLOUT if link.unsent else 0)
        if link.mask == 0:
            self._poll.register(link.fd, mask)
        elif link.mask != mask | REGISTERED:
            self._poll.modify(link.fd, mask)
        link.mask = mask | REGISTERED

    def _forget(self, link: Link) -> None:
        """Nothing is read or sent any more; the socket stays open."""
        if link.mask:
            self._poll.unregister(link.fd)
            link.mask = 0
        if link.fd >= 0:
            self._watch(link.fd, None)
            link.fd = -1

    def meta_ready(self, number: int, version: int, leftover: Callable[[], bytes]) -> Link | None:
        link = self.links.get(number)
        if link is not None:
            link.pings = Pings(version, leftover)
        return link


