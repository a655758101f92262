# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes that go to the peer a second time, because a broken connection left them without a good copy.

Two kinds. Unanswered ones, while I/O is suspended: they wait for the thaw and are then sent again, or completed on
this disk alone where the peer was fenced. And answered ones, where the peer's copy is the only good one: their data
is kept until the barrier ack says that it is on the peer's disk for good, so that a flush still means what it says.
"""

from __future__ import annotations

import errno as errnos
from bisect import insort
from collections import deque
from operator import attrgetter

from replblock.core.epochs import Epoch
from replblock.core.host import Buffer
from replblock.core.path import (
    AGAIN,
    LOCAL,
    NET_FAILED,
    NET_HERE,
    NET_LOST,
    NET_PENDING,
    Again,
    PathState,
)  # fmt: skip
from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.wire.flags import FEATURE_TRIM, FEATURE_WZEROES

_BY_ORDER = attrgetter("order")
NOT_KEPT = memoryview(b"")
"""Stands for the data of zeroes that were answered while this disk was a good one."""


def epoch_of(request: Request) -> Epoch | None:
    """The epoch it was last sent in, unless it is answered."""
    epoch = request._epoch
    return epoch[1] if type(epoch) is tuple else epoch  # type: ignore[return-value]


def in_parts(request: Request) -> bool:
    """Its parts were sent, not it itself; one of them counts with this disk only, until its epoch is acknowledged."""
    return not request._ident and epoch_of(request) is not None


def nobody(request: Request) -> None:
    """Its application was answered long ago."""


def is_copy(request: Request) -> bool:
    """A second sending of an answered write, or a part of one."""
    return request.done is nobody or (request._parent is not None and request._parent.done is nobody)


class Resend(PathState):
    """What is kept for the case that the peer loses it, and when it is sent again."""

    @property
    def _suspends(self) -> bool:
        return self._r.settings.on_no_data_accessible == "suspend-io"

    @property
    def _data_in_reach(self) -> bool:
        return self._remote or self._alone_ok

    @property
    def resending(self) -> bool:
        """Some writes have not been sent again yet; the next wake-up, or the end of a freeze, goes on with it."""
        return self._resending or bool(self._again)

    def _keep(self, request: Request) -> None:
        """It is answered while the peer's copy is the only good one, and not yet on the peer's disk for good."""
        if request._elsewhere:
            self._r.attachment.lost_unflushed = True  # a new generation may not have come yet
        if request.op != Op.WRITE:
            request._kept = request.data
        elif request._kept is None:
            request._kept = bytes(request.data)
            self._kept_bytes += request.length_bytes
            if self._link is not None and self._kept_bytes >= self._r.settings.max_in_flight_bytes // 4:
                if self.log.current.requests:
                    self.close_epoch()  # soon forgotten again

    def _forget(self, epoch: Epoch) -> None:
        """The peer has this epoch on its disk, or this disk is a good one again."""
        for request in epoch.requests:
            if request.op != Op.WRITE:
                request._kept = NOT_KEPT if request._kept is not None else None
            elif request._kept is not None:
                self._kept_bytes -= request.length_bytes
                request._kept = None

    def _park(self, request: Request) -> None:
        """Begin it from the start when there is data within reach."""
        self._set_aside(request)
        self._line_up(request)

    def _refuse(self, request: Request) -> None:
        """There was data within reach, and it failed: in every wake-up it would fail again."""
        self._set_aside(request)
        if not self._refused:
            self._host.timer("refused", self._r.settings.connect_int_ms)
        self._refused.append(request)

    def on_refused_timer(self) -> None:
        """The disk, or the peer's, had some time."""
        refused, self._refused = self._refused, []
        for request in refused:
            self._line_up(request)
        self._unpark()

    def _set_aside(self, request: Request) -> None:
        if type(request._epoch) is tuple:
            self.busy.free(request._epoch[0])
        request._epoch = None
        request._net = NET_PENDING
        self._in_flight -= 1
        self._in_flight_bytes -= request.length_bytes

    def _line_up(self, request: Request) -> None:
        if request._parent is not None:
            self._parked.appendleft(request)  # its parent is under way and holds the room that others wait for
        else:
            self._parked.append(request)

    def _not_yet(self, request: Request) -> None:
        """It waited for something else, and may not begin now; on a node that is no Primary any more it never may."""
        request._waits &= ~AGAIN
        if is_copy(request) or request._waits & LOCAL:
            self._nowhere(request)
        elif request._order:
            self._later(request)
        elif self._primary:
            self._park(request)
        else:
            request.errno = errnos.EROFS
            self._complete(request)

    def _later(self, request: Request) -> None:
        """It was sent and is not answered: it is sent again, before anything new, or completed here alone."""
        if request is self._starting:
            self._starting = None
        here = None if request._elsewhere else self._r.meta
        self._brought_forward = False
        insort(self._again, Again(request._order, request, here), key=_BY_ORDER)
        request._waits = request._waits & LOCAL | AGAIN
        epoch, request._epoch = request._epoch, None
        if type(epoch) is tuple:
            self.busy.free(epoch[0])

    def _last_copy_lost(self, epochs: list[Epoch], suspended: bool) -> None:
        """The connection to the only good copy broke: what had no barrier ack may be missing there."""
        held = {id(request) for request in self._held}
        taken = set()
        unanswered = []
        for epoch in epochs:
            for request in epoch.requests:
                owner = epoch_of(request)
                if is_copy(request) or (owner is None and not request._waits):
                    self._answered_and_lost(request)
                elif owner is epoch and not request._waits & AGAIN:
                    if id(request) in held:
                        taken.add(id(request))
                    if suspended:
                        self._later(request)
                    elif request._waits & LOCAL:
                        request._net = NET_LOST  # on inconsistent data alone it counts for nothing
                    elif id(request) in held:
                        unanswered.append(request)
        if taken:
            self._held = deque(request for request in self._held if id(request) not in taken)
        for request in unanswered:
            self._no_data(request)  # it may be held again: something else may have frozen the path

    def _answered_and_lost(self, request: Request) -> None:
        """A copy of it takes its place in the line; the request itself may still be under way on this disk."""
        if request.errno or request._net == NET_FAILED:
            return
        kept, request._kept = request._kept, None
        if kept is None:
            if request.op == Op.WRITE and not request.data:
                self._forgotten += 1  # it was answered when this disk had it, too
                return
            if not is_copy(request):
                return  # parked: it begins anew
            kept = request.data
            self._kept_bytes += request.length_bytes if request.op == Op.WRITE else 0
        elif kept is NOT_KEPT:
            self._forgotten += 1  # so were these; sent again they would overwrite what was written later
            return
        request._net = NET_FAILED  # its copy counts from now on
        again = Request(
            request.op, request.offset_bytes, request.length_bytes, nobody, kept, request.fua, request.may_punch
        )
        again._order = request._order
        again._elsewhere = request._elsewhere
        # written here once more it would overwrite newer writes, which are sent to the peer only
        here = None if request._elsewhere else self._r.meta
        self._brought_forward = False
        insort(self._again, Again(again._order, again, here), key=_BY_ORDER)

    def _nowhere(self, request: Request) -> None:
        """It was about to be sent when the connection broke."""
        request._waits &= ~AGAIN
        if request is self._starting:
            self._starting = None
        if is_copy(request):
            self._answered_and_lost(request)
            self._complete(request)
        elif request._waits & LOCAL:
            self._later(request)
        else:
            self._no_data(request)

    def send_again(self) -> None:
        """At the end of a wake-up: whatever waits for a good copy goes out, in its old order, before anything new."""
        if not self.resending or self.frozen:
            return
        if not self._primary or not self._data_in_reach:
            self._give_up()
            return
        wait_ms = self._not_before_ms - self._host.now_ms()
        if wait_ms > 0 and not self._alone_ok:
            self._host.timer("again", wait_ms)
            return
        if not self._brought_forward:
            self._bring_forward()
            self._brought_forward = True
        self._resending = True
        while self._starting is None:  # else it waits for the activity log, or for an older write
            if not self._again:
                self._resending = False
                self._unpark()
                return
            self._start_again(self._again.pop(0))

    def _bring_forward(self) -> None:
        """What was answered last is carried by every older write to the same sectors already.

        The peer took it before it was answered, and may have it still: sent again as they were, the older ones would
        take it away until it comes again itself, and it would be lost if this node died in between.
        """
        newest: dict[int, Buffer] = {}
        for entry in reversed(self._again):
            request = entry.request
            if request.length_bytes > MAX_REQUEST_BYTES:
                continue  # zeroes, of which there may be a whole device
            first, count = request.offset_bytes >> 9, request.length_bytes >> 9
            found = [n for n in range(count) if first + n in newest]
            if found:
                data = bytearray(request.data or bytes(request.length_bytes))
                for n in found:
                    data[n << 9 : (n + 1) << 9] = newest[first + n]
                request.data = bytes(data)
            if is_copy(request) and request.op != Op.TRIM:
                view = memoryview(request.data or bytes(request.length_bytes))
                for n in range(count):
                    newest.setdefault(first + n, view[n << 9 : (n + 1) << 9])

    def _give_up(self) -> None:
        """Nobody to send it to: the unanswered are answered; the rest waits, unless this node is Primary no more."""
        again, self._again = self._again, []
        self._resending = False
        for entry in again:
            request = entry.request
            if is_copy(request):
                if self._primary:
                    self._again.append(entry)
                else:
                    self._kept_bytes -= request.length_bytes if request.op == Op.WRITE else 0
            elif self._primary and self._suspends:
                self._again.append(entry)
            else:
                request._waits &= ~AGAIN
                request.errno = errnos.EIO if self._primary else errnos.EROFS
                if not request._waits:
                    self._complete(request)

    def _start_again(self, entry: Again) -> None:
        """AGAIN is over when it begins: what becomes of its first writing here meanwhile settles nothing."""
        request = entry.request
        if request.done is nobody:
            self._in_flight += 1
            self._in_flight_bytes += request.length_bytes
            if request.op == Op.WRITE:
                self._kept_bytes -= request.length_bytes
        # it may have failed here since it stood in the line
        here = entry.here is not None and entry.here is self._r.meta and self._has_disk and not request._elsewhere
        request._net = NET_HERE if here else NET_PENDING
        request._elsewhere = not here
        if not self._remote and here:
            request._net = NET_PENDING
            request._waits &= ~AGAIN
            if not request._waits:
                self._complete(request)  # its blocks are marked since the connection broke
            return
        link = self._link
        if request.op != Op.WRITE and not request.data and link is not None and self._remote:
            if not link.features & (FEATURE_WZEROES | FEATURE_TRIM):
                request._net = NET_PENDING
                request._waits &= ~AGAIN
                self._zero(request)
                return
        self._starting = request
        self._write(request)
        if not self._ordered and self.log.current.requests and is_copy(request):
            self.log.current.completed = True  # it was answered: what follows must not overtake it


