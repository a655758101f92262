# SPDX-License-Identifier: GPL-2.0-or-later
"""Flushes, zeroes and trims of the application, and the epochs of the transfer log they close."""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable
from functools import partial

from replblock.core.completion import Completion
from replblock.core.epochs import UnexpectedBarrierAck
from replblock.core.path import EXTENT_BYTES, LOCAL, NET, NET_LOST, NET_PENDING
from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import FEATURE_TRIM, FEATURE_WZEROES
from replblock.wire.headers import pack_header
from replblock.wire.packets import Barrier, BarrierAck

_ZEROES = bytes(MAX_REQUEST_BYTES)


class Flushing(Completion):
    """What makes data durable, here and there."""

    @property
    def loss_untold(self) -> bool:
        """Answered writes may be on no disk any more, and no flush of an application has failed since."""
        return self._forgotten > self._told

    def hand_in(self, requests: list[Request]) -> None:
        """A flush notes what is known of losses now: it fails for what is untold, and for what is lost from now on.

        Answered so, it has told of what was known at its hand-in; what was lost later may have been answered since. And
        it has told those only who come after that answer: whoever handed in a flush before it waits for his own.
        """
        if self._forgotten:
            for request in requests:
                if request.op == Op.FLUSH:
                    request._firm, request._order = self.loss_untold, self._forgotten

    def end_wakeup(self) -> None:
        """From now on a flush may come from somebody who has seen the answers of this wake-up."""
        self._told = self._telling

    def _lost_before(self, request: Request) -> bool:
        return self._primary and not request.fua and (request._firm or self._forgotten > request._order)

    def _fail(self, request: Request) -> None:
        request.errno = errnos.EIO
        self._r.why("error", "lost-before-flush", "a flush fails: answered writes may be on no disk any more")
        self._complete(request)

    # --- zeroes, trim, flush ---

    def _zero(self, request: Request) -> None:
        """TRIM and WRITE_ZEROES, an activity-log extent at a time; TRIM reads back as zeroes on both nodes."""
        link = self._link if self._remote else None
        packets = link is None or bool(link.features & (FEATURE_WZEROES | FEATURE_TRIM))
        if request.op == Op.TRIM and not packets:
            request._waits = 0
            self._complete(request)  # advice that the peer cannot take is not taken here either
            return
        if request._parent is not None and (packets or request.data):
            self._write(request)  # it is a part already, and was parked
            return
        step = EXTENT_BYTES if packets else self._most_bytes
        may_punch = request.may_punch or request.op == Op.TRIM
        offset, end = request.offset_bytes, request.offset_bytes + request.length_bytes
        children = []
        while offset < end:
            length = min(end, (offset // step + 1) * step) - offset
            data = b"" if packets else memoryview(_ZEROES)[:length]
            children.append(Request(Op.ZERO, offset, length, self._child_done, data, request.fua, may_punch))
            offset += length
        request._waits = len(children) << 2
        self._in_flight += len(children)
        self._in_flight_bytes += request.length_bytes
        for child in children:
            child._parent = request
            child._order = request._order
            self._write(child)

    def _flush(self, request: Request) -> None:
        """Everything completed before is durable here; under C, and where ours is no good copy, also on the peer.

        A demotion's own flush (`fua`) waits for both. It tells no application of a loss: the next one's flush does,
        be it after the next promotion.
        """
        self.go()
        if self._lost_before(request):
            self._fail(request)
            return
        if self._primary and not self._data_in_reach:
            self._unflushed(request, bool(self._again))
            return
        waits = 0
        disk = self._r.disk if self._has_disk else None
        if disk is not None and self._r.settings.disk_flushes:
            waits |= LOCAL
        if self._link is not None:
            if self.log.current.requests:
                self.close_epoch()
            if self.log.closed and (self._r.settings.protocol == "C" or not self._alone_ok or request.fua):
                waits |= NET
                self.log.closed[-1].waiters.append(partial(self._flushed_there, request))
        request._waits = waits
        if waits & LOCAL:
            self._r.flush_disk(partial(self._flushed_here, request))
        elif not waits:
            self._complete(request)

    def _flushed_here(self, request: Request, error: int) -> None:
        if error:
            self._r.disk_failed(error, "flushing")
            if not self._remote:
                request._net = NET_LOST
            elif self.log.closed and not request._waits & NET:
                # under A and B the peer's disk was not waited for; now it is the only one that can keep the promise
                request._waits |= NET
                self.log.closed[-1].waiters.append(partial(self._flushed_there, request))
        request._waits &= ~LOCAL
        self._flush_done(request)

    def _flushed_there(self, request: Request, acknowledged: bool) -> None:
        if not acknowledged and (not self._alone_ok or (self._primary and self._r.state.suspended)):
            request._net = NET_LOST
        request._waits &= ~NET
        self._flush_done(request)

    def _flush_done(self, request: Request) -> None:
        if request._waits:
            return
        if request._net == NET_LOST:
            request._net = NET_PENDING
            self._unflushed(request, True)
        elif self._lost_before(request):
            self._fail(request)  # meanwhile
        else:
            self._complete(request)

    def _unflushed(self, request: Request, lost: bool) -> None:
        """While suspended it is asked again after the thaw, behind what is sent again."""
        self._no_data(request)
        self._forgotten += lost and request.fua and bool(request.errno)

    # --- epochs ---

    def close_epoch(self) -> None:
        """Close the open epoch, which has writes, with a barrier that flushes."""
        link = self._link
        assert link is not None
        epoch = self.log.close(self._host.now_ms())
        self._out.append(pack_header(link.version, Cmd.BARRIER, 8) + Barrier(epoch.barrier).pack())

    def drain_log(self, done: Callable[[], None]) -> None:
        """Call back when the peer has flushed everything sent so far, or when the connection broke."""
        if self._link is not None and self.log.current.requests:
            self.close_epoch()
            self.go()
        if self.log.closed:
            self.log.closed[-1].waiters.append(lambda acknowledged: done())
        else:
            done()

    def on_epoch_timer(self) -> None:
        """The open epoch has been open long enough."""
        if self._link is not None and self.log.current.requests:
            self.close_epoch()
            self.go()

    def on_barrier_ack(self, body: memoryview) -> None:
        """P_BARRIER_ACK."""
        ack = BarrierAck.unpack(body)
        try:
            epoch = self.log.acknowledge(ack.barrier, ack.set_size)
        except UnexpectedBarrierAck as error:
            raise ProtocolError(str(error), Cmd.BARRIER_ACK) from None
        if self._kept_bytes:
            self._forget(epoch)
        activity = self._r.attachment.activity
        if activity is not None:
            activity.touch(epoch.extents)
        for waiter in epoch.waiters:
            waiter(True)
        self._retry()
        if self._parked:
            self._unpark()

    def _retry(self) -> None:
        retries, self._retries = self._retries, []
        for retry in retries:
            retry()

    def pinned(self, extent: int) -> bool:
        """A write to this extent is not done here, or not yet covered by a barrier ack."""
        if self.log.pinned(extent):
            return True
        start, end = extent * EXTENT_BYTES, (extent + 1) * EXTENT_BYTES
        if self.busy.find(start, end, "local") is not None:
            return True  # of ours, or of a diskless peer that works on our disk
        return any(r.offset_bytes < end and start < r.offset_bytes + r.length_bytes for r in self._local)

    def unpin_soon(self, retry: Callable[[], None]) -> None:
        """The activity log is full of extents in use: finish the epoch."""
        self._retries.append(retry)
        if self._link is not None and self.log.current.requests:
            self.close_epoch()
            self.go()
