# SPDX-License-Identifier: GPL-2.0-or-later
"""One NBD client of the direct door: its socket, what it asked and what it is owed."""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING

from replblock.core.host import Buffer
from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.engine.link import AGAIN, IOV_MAX, RECV_MAX_BYTES, RECV_MIN_BYTES
from replblock.nbd.names import SIMPLE_REPLY, Cmd, CmdFlag, ProtocolError
from replblock.nbd.negotiation import Negotiation
from replblock.nbd.transmission import (
    MAX_PAYLOAD_BYTES,
    WRITE,
    Asked,
    Decoder,
    Extent,
    data_chunk_head,
    error_chunk,
    extents_chunk,
    simple_reply,
)

if TYPE_CHECKING:
    from replblock.engine.direct import DirectDoor

OP_WRITE, OP_READ, OP_FLUSH = Op.WRITE, Op.READ, Op.FLUSH
"""Looked up once: most of what comes is a plain write."""
SECTOR_MASK = 511
MAX_UNANSWERED = 1024
MAX_UNANSWERED_BYTES = 16 << 20
"""With so many requests, or bytes of them and of answers not taken, the client is not read from any more."""
MAX_RANGE_BYTES = 128 << 20
"""Of one trim or zeroing for the core; longer ones are split."""

NBD_ERRORS = {
    **{number: number for number in (errno.EPERM, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.ESHUTDOWN)},
    errno.EROFS: errno.EPERM, errno.EDQUOT: errno.ENOSPC, errno.EFBIG: errno.ENOSPC,
}  # fmt: skip
"""The protocol's words, with Linux's numbers; all else is EIO. EOVERFLOW and ENOTSUP answer what we do not offer."""

WRONG_FLAGS: dict[int, int] = {
    kind: ~int(CmdFlag.FUA | allowed) for kind, allowed in (
        (Cmd.READ, CmdFlag.DF), (Cmd.WRITE, 0), (Cmd.FLUSH, 0), (Cmd.TRIM, 0), (Cmd.CACHE, 0),
        (Cmd.WRITE_ZEROES, CmdFlag.NO_HOLE), (Cmd.BLOCK_STATUS, CmdFlag.REQ_ONE),
    )
}  # fmt: skip
"""FUA is allowed with every request and means something with those that write (nbd/doc/proto.md). Plain numbers: the
complement of an IntFlag has only bits that have names."""


def nbd_error(number: int) -> int:
    """The protocol's word for an errno."""
    return NBD_ERRORS.get(number, errno.EIO) if number else 0


class One(Request):
    """A request of the core that is one of the client's."""

    __slots__ = ("cookie",)

    cookie: int


class Whole:
    """A request of the client that is several of the core's: answered with the last of them."""

    __slots__ = ("_left", "cookie", "errno", "op", "parts", "session")

    def __init__(self, session: Session, cookie: int, op: Op, parts: list[tuple[int, int]], data: Buffer,
                 fua: bool, may_punch: bool) -> None:  # fmt: skip
        self.session = session
        self.cookie = cookie
        self.op = op
        self.errno = 0
        self._left = len(parts)
        start = parts[0][0]
        view = memoryview(data)
        self.parts = [
            Request(op, at, size, self._answered, view[at - start : at - start + size], fua, may_punch)
            for at, size in parts
        ]

    def _answered(self, part: Request) -> None:
        self.errno = part.errno or self.errno
        self._left -= 1
        if not self._left:
            session = self.session
            length = sum(one.length_bytes for one in self.parts)
            if self.op in (Op.READ, Op.WRITE):
                session.unanswered_bytes -= length
            if self.op == Op.READ and not self.errno:
                session.answer_read(self.cookie, self.parts[0].offset_bytes, length, [one.data for one in self.parts])
            else:
                session.answer(self.cookie, self.errno, self.op == Op.READ)


class Session:
    """Runs with the engine's lock held. Ends when the client goes, or breaks the protocol."""

    __slots__ = (
        "_decoder", "_dirty", "_door", "_later", "_leaving", "_mask", "_negotiation", "_out", "_out_bytes",
        "_recv_bytes", "_sock", "_structured", "allocation", "ended", "fd", "opened", "unanswered", "unanswered_bytes",
    )  # fmt: skip

    def __init__(self, door: DirectDoor, sock: socket.socket) -> None:
        self._door = door
        self._sock = sock
        self.fd = sock.fileno()
        self._negotiation: Negotiation | None = Negotiation(door.names, door.look_up)
        self._decoder = Decoder()
        self._structured = False
        self.allocation = False
        self.opened = False
        """In the transmission phase: it counts as a client of the device."""
        self.ended = False
        self._leaving = False
        self._later: list[Asked] = []
        """Read already, but beyond the bounds: they wait until others are answered."""
        self.unanswered = 0
        self.unanswered_bytes = 0
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._dirty = False
        self._recv_bytes = RECV_MIN_BYTES
        self._mask = select.EPOLLIN
        self._say()

    # ---- from the client

    def handle(self, mask: int) -> None:
        """An event of the socket."""
        if self.ended:
            return
        if mask & select.EPOLLOUT:
            self._mark()
        if self._leaving and mask & (select.EPOLLHUP | select.EPOLLERR):
            self.end()
        elif mask & ~select.EPOLLOUT:
            try:
                self._read()
            except ProtocolError as error:
                self._door.complain("nbd-protocol", f"NBD client dropped: {error}")
                self.flush()
                self.end()

    def _read(self) -> None:
        room = self._decoder.room
        try:
            if room is not None:
                count = self._sock.recv_into(room)
                data = b""
            else:
                data = self._sock.recv(self._recv_bytes)
                count = len(data)
        except OSError as error:
            if error.errno not in AGAIN:
                self.end()
            return
        if not count:
            self.end()
        elif room is not None:
            self._take(self._decoder.took(count))
        elif self._negotiation is None:
            if count == self._recv_bytes:
                self._recv_bytes = min(2 * count, RECV_MAX_BYTES)
            elif count < self._recv_bytes >> 3 and self._recv_bytes > RECV_MIN_BYTES:
                self._recv_bytes >>= 1  # a large buffer for a small read is given back at a price
            self._take(self._decoder.receive(data))
        else:
            self._negotiate(self._negotiation, data)

    def _negotiate(self, negotiation: Negotiation, data: bytes) -> None:
        try:
            negotiation.receive(data)
        finally:
            self._say()
        if negotiation.closed:
            self._leaving = True
        elif negotiation.chosen is not None:
            self._structured, self.allocation = negotiation.structured, negotiation.allocation
            self._negotiation = None
            self.opened = True
            self._door.entered(self)
            if negotiation.leftover:
                self._take(self._decoder.receive(negotiation.leftover))

    def _say(self) -> None:
        """What the negotiation has to say."""
        assert self._negotiation is not None
        said, self._negotiation.out = self._negotiation.out, []
        if said:
            self._out += said
            self._out_bytes += sum(map(len, said))
            self._mark()

    def _take(self, asked: list[Asked]) -> None:
        """Requests become the core's, as many as the bounds have it: one read may bring thousands of large ones."""
        if self._later:
            self._later += asked
            return
        requests: list[Request] = []
        size_bytes = self._door.size_bytes
        answered = self._answered
        bytes_at_most = self._door.bytes_at_most
        following = iter(asked)
        for one_asked in following:
            if self.unanswered > MAX_UNANSWERED or self.unanswered_bytes + self._out_bytes > bytes_at_most:
                self._later = [one_asked, *following]
                break
            kind, flags, cookie, offset, length, payload = one_asked
            if kind == WRITE and not flags and len(payload) == length <= MAX_REQUEST_BYTES:
                if length and not (offset | length) & SECTOR_MASK and offset + length <= size_bytes:
                    self.unanswered += 1
                    self.unanswered_bytes += length
                    one = One(OP_WRITE, offset, length, answered, payload)
                    one.cookie = cookie
                    requests.append(one)
                    continue
            if kind == Cmd.DISC:
                self._leaving = True
                break
            self.unanswered += 1
            problem = self._problem(kind, flags, offset, length, size_bytes)
            if problem or (kind == Cmd.WRITE and len(payload) != length):
                self.answer(cookie, problem or errno.EINVAL, kind in (Cmd.READ, Cmd.BLOCK_STATUS))
                continue
            fua = bool(flags & CmdFlag.FUA)
            if kind == Cmd.WRITE:
                self.unanswered_bytes += length
                if length <= MAX_REQUEST_BYTES:
                    one = One(Op.WRITE, offset, length, answered, payload, fua)
                    one.cookie = cookie
                    requests.append(one)
                else:
                    requests += self._split(cookie, Op.WRITE, offset, length, MAX_REQUEST_BYTES, payload, fua)
            elif kind == Cmd.READ:
                self.unanswered_bytes += length
                if length <= MAX_REQUEST_BYTES:
                    one = One(Op.READ, offset, length, answered)
                    one.cookie = cookie
                    requests.append(one)
                else:
                    requests += self._split(cookie, Op.READ, offset, length, MAX_REQUEST_BYTES)
            elif kind == Cmd.FLUSH:
                one = One(Op.FLUSH, 0, 0, answered)
                one.cookie = cookie
                requests.append(one)
            elif kind == Cmd.TRIM:
                requests += self._split(cookie, Op.TRIM, offset, length, MAX_RANGE_BYTES, b"", fua, True)
            elif kind == Cmd.WRITE_ZEROES:
                may_punch = not flags & CmdFlag.NO_HOLE
                requests += self._split(cookie, Op.ZERO, offset, length, MAX_RANGE_BYTES, b"", fua, may_punch)
            elif kind == Cmd.BLOCK_STATUS:
                self._door.look_at_extents(self, cookie, offset, length, bool(flags & CmdFlag.REQ_ONE))
            else:
                self._door.prefetch(self, cookie, offset, length)
        if requests:
            self._door.submit(requests)
        if self._leaving or self._too_much():
            self._mark()

    def _take_later(self) -> None:
        """Those that were read before their turn."""
        later, self._later = self._later, []
        self._take(later)
        self._mark()

    def _problem(self, kind: int, flags: int, offset: int, length: int, size_bytes: int) -> int:
        """An errno for a request that cannot be, whatever the data."""
        wrong = WRONG_FLAGS.get(kind)
        if wrong is None or flags & wrong or (kind == Cmd.BLOCK_STATUS and not self.allocation):
            return errno.EINVAL
        if flags and flags & CmdFlag.DF and not self._structured:
            return errno.EINVAL
        if kind == Cmd.FLUSH:
            return errno.EINVAL if offset or length else 0
        if not length or (offset | length) & SECTOR_MASK:
            return errno.EINVAL
        if kind <= Cmd.WRITE and length > MAX_PAYLOAD_BYTES:
            return errno.EINVAL
        if offset + length > size_bytes:
            return errno.ENOSPC if kind in (Cmd.WRITE, Cmd.WRITE_ZEROES) else errno.EINVAL
        return 0

    def _split(self, cookie: int, op: Op, offset: int, length: int, most: int, data: Buffer = b"",
               fua: bool = False, may_punch: bool = False) -> list[Request]:  # fmt: skip
        end = offset + length
        parts = [(at, min(most, end - at)) for at in range(offset, end, most)]
        return Whole(self, cookie, op, parts, data, fua, may_punch).parts

    # ---- to the client

    def _answered(self, request: Request) -> None:
        """`done` of a request that is one of the client's."""
        assert type(request) is One
        op = request.op
        if op != OP_FLUSH:
            self.unanswered_bytes -= request.length_bytes
        if op == OP_READ:
            if request.errno:
                self.answer(request.cookie, request.errno, True)
            else:
                self.answer_read(request.cookie, request.offset_bytes, request.length_bytes, [request.data])
            return
        self._out.append(simple_reply(request.cookie, nbd_error(request.errno)))
        self._out_bytes += SIMPLE_REPLY.size
        self.unanswered -= 1
        if not self._dirty:
            self._mark()

    def answer(self, cookie: int, problem: int, in_chunks: bool = False) -> None:
        """`in_chunks`: where structured replies are agreed, this kind of request has to be answered by one."""
        if in_chunks and self._structured:
            said = error_chunk(cookie, nbd_error(problem))
        else:
            said = simple_reply(cookie, nbd_error(problem))
        self._owe(said)

    def answer_read(self, cookie: int, offset: int, length: int, data: list[Buffer]) -> None:
        if self._structured:
            head = data_chunk_head(cookie, offset, length)
        else:
            head = simple_reply(cookie)
        self._owe(head, *data)

    def answer_extents(self, cookie: int, extents: list[Extent]) -> None:
        self._owe(extents_chunk(cookie, extents))

    def _owe(self, *said: Buffer) -> None:
        self._out += said
        self._out_bytes += sum(map(len, said))
        self.unanswered -= 1
        if not self._dirty:
            self._mark()

    def _mark(self) -> None:
        """Something is to be sent, or to be looked at, at the end of this wake-up."""
        if not self._dirty:
            self._dirty = True
            self._door.replies.append(self)

    def flush(self) -> None:
        """Send what the socket takes now; then go on reading, or not, or part."""
        self._dirty = False
        if self.ended:
            self._out.clear()
            self._door.seen_off(self)
            return
        out = self._out
        while out:
            batch = out if len(out) <= IOV_MAX else out[:IOV_MAX]
            try:
                sent = self._sock.sendmsg(batch)
            except OSError as error:
                if error.errno not in AGAIN:
                    self.end()
                    return
                break
            self._out_bytes -= sent
            if not self._out_bytes:
                out.clear()
            else:
                _drop(out, sent)
        if self._leaving and not self.unanswered and not out:
            self.end()
            return
        too_much = self._too_much()
        if self._later and not too_much:
            self._door.later(self._take_later)
        reading = not (self._leaving or self._later or too_much)
        mask = (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if out else 0)
        if mask != self._mask:
            self._mask = mask
            self._door.wants(self, mask)

    def _too_much(self) -> bool:
        return self.unanswered > MAX_UNANSWERED or self.unanswered_bytes + self._out_bytes > self._door.bytes_at_most

    def end(self) -> None:
        """The connection is gone; what is under way still has to be answered by the core before the client is."""
        if not self.ended:
            self.ended = True
            self._later.clear()
            self._out.clear()
            self._out_bytes = 0
            self._door.forget(self)
            self._sock.close()


def _drop(out: list[Buffer], sent: int) -> None:
    """Take `sent` bytes from the front."""
    for index, part in enumerate(out):
        if sent < len(part):
            if sent:
                out[index] = memoryview(part)[sent:]
            del out[:index]
            return
        sent -= len(part)
    out.clear()
