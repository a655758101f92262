# SPDX-License-Identifier: GPL-2.0-or-later
"""Acknowledgements of the peer, and the answers to the application.

A: on this disk and taken by TCP; B: on this disk and received by the peer; C: on both disks.
"""

from __future__ import annotations

import errno as errnos
from collections import deque
from collections.abc import Callable
from functools import partial

from replblock.core.epochs import ACKED, LIVE, LOST, Epoch
from replblock.core.path import AGAIN, BARRIER, ID, LOCAL, NET, NET_FAILED, NET_IN_SYNC, NET_LOST, NET_OK, Lost
from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.core.resend import NOT_KEPT, Resend, epoch_of, in_parts, is_copy
from replblock.state.names import Conn, Disk, Role
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import ID_SYNCER
from replblock.wire.packets import BLOCK_ACK_BODY


class Completion(Resend):
    """When a request is done, and what becomes of it when the connection or the data is lost."""

    # --- acknowledgements ---

    def on_ack(self, body: memoryview) -> None:
        """P_RECV_ACK, P_WRITE_ACK."""
        _sector, ident, _size, _seq = BLOCK_ACK_BODY.unpack(body)
        self.on_write_acks([ident])

    def on_write_acks(self, idents: list[bytes]) -> None:
        """These writes are there, in the order of their acks."""
        link, unacked = self._link, self._unacked
        for ident in idents:
            request = unacked.pop(ident, None)
            if request is None:
                raise ProtocolError(f"an ack for the unknown write {ident.hex()}", Cmd.WRITE_ACK)
            request._net = NET_OK
            request._waits &= ~NET
            if not request._waits:
                self._complete(request)
                if self._link is not link:
                    return  # what was lost with it is looked at there

    def on_rs_write_ack(self, body: memoryview) -> None:
        """P_RS_WRITE_ACK: a resynced range, or a write during the resync that leaves its blocks in sync."""
        sector, ident, size, _seq = BLOCK_ACK_BODY.unpack(body)
        if ident == ID_SYNCER:
            self._r.sync.source.on_write_ack(sector, size)
            return
        request = self._unacked.pop(ident, None)
        if request is None:
            raise ProtocolError(f"an ack for the unknown write {ident.hex()}", Cmd.RS_WRITE_ACK)
        request._net = NET_IN_SYNC if ID.unpack(ident)[0] > self._unsure_ident else NET_OK
        request._waits &= ~NET
        if not request._waits:
            self._complete(request)

    def on_neg_ack(self, body: memoryview) -> None:
        """P_NEG_ACK: the peer could not write it; our copy is the only one."""
        sector, ident, size, _seq = BLOCK_ACK_BODY.unpack(body)
        if ident == ID_SYNCER:
            self._r.sync.source.on_neg_ack(sector, size)
            return
        self._r.secondary.check_range(sector, size, Cmd.NEG_ACK)
        self._unsure_ident = self._ident
        self.refused_there |= self._alone_ok
        self._r.sync.source.write_failed()
        meta = self._r.meta
        if meta is not None:
            meta.bitmap.set_range(sector >> 3, -(-(sector * 512 + size) // 4096))
            for epoch in self.log.everything():
                for older in epoch.requests:
                    if older._net == NET_IN_SYNC:
                        older._net = NET_OK  # it may be an older write to these blocks: it must not clear their bits
        untold = self._untold or ID.unpack(ident)[0] <= self._untold_ident
        if untold and self._alone_ok and self._r.state.pdsk == Disk.UP_TO_DATE:
            # it failed there as the last copy, which stays UpToDate: answered now, only this disk would have it
            text = f"the peer could not write {size} bytes at sector {sector}, and calls its disk UpToDate all the same"
            self._r.links.drop(Conn.NETWORK_FAILURE, "not-written-and-up-to-date", f"{text}: connecting anew")
            return
        request = self._unacked.get(ident) or self._received(ident)
        if request is None:
            self._forgotten += self._primary and not self._alone_ok  # answered when this disk still was a good one
            return
        if is_copy(request) and not self._alone_ok and self._primary and self._suspends:
            # newer writes to its blocks may be on the peer's disk already: all of them have to follow it once more
            text = f"the peer could not write {size} bytes at sector {sector} of the last copy: connecting anew"
            self._not_before_ms = self._host.now_ms() + self._r.settings.connect_int_ms
            self._r.links.drop(Conn.NETWORK_FAILURE, "last-copy-not-written", text)
            return
        self._unacked.pop(ident, None)
        waited = request._waits & (NET | BARRIER)  # else it is frozen, or waits for this disk: then this mark counts
        request._net = NET_FAILED
        request._waits &= ~NET
        if not self._alone_ok or request._elsewhere:
            request._net = NET_LOST
            request._waits &= ~BARRIER
        if not waited or request._waits:
            return
        if request._net == NET_LOST:
            self._no_data(request, refused=True)
        else:
            self._complete(request)

    def _received(self, ident: bytes) -> Request | None:
        """Under A and B the unanswered write that the peer has been taken to have."""
        for epoch in self.log.everything():
            for request in epoch.requests:
                if request._ident == ident and epoch_of(request) is epoch:
                    if request in self._unsent:
                        self._unsent.remove(request)
                    return request
        return None

    @property
    def waits_for_tcp(self) -> bool:
        """Under protocol A: some writes are not answered yet because TCP has not taken them."""
        return bool(self._unsent)

    def on_sent(self) -> None:
        """Protocol A: everything queued is with TCP."""
        if self._unsent and not self._out:
            unsent, self._unsent = self._unsent, []
            for request in unsent:
                request._net = NET_OK
                request._waits &= ~NET
                if not request._waits:
                    self._complete(request)

    def oldest_wait_ms(self, now_ms: int) -> int:
        """For how long the oldest unanswered write, read or barrier has been waiting."""
        oldest = now_ms
        for waiting in (self._unacked, self._reads):
            for request in waiting.values():
                oldest = min(oldest, request._sent_ms)
                break  # they stand in the order in which they were sent
        if self.log.closed:
            oldest = min(oldest, self.log.closed[0].closed_ms)
        return now_ms - oldest

    def _complete(self, request: Request) -> None:
        if self.frozen:
            self._held.append(request)
            return
        if not self._alone_ok and self._only_received(request):
            return
        if request._elsewhere and self._alone_ok and self._r.state.pdsk != Disk.UP_TO_DATE and self._acked(request):
            self._later(request)  # the only disk that counts now may not have it: made a good one by force, say
            return
        epoch = request._epoch
        busy = None
        if epoch is not None:
            if type(epoch) is tuple:
                busy, epoch = epoch
            if epoch is not None:
                epoch.completed = True  # type: ignore[attr-defined]
                if request._parent is not None and self._alone_ok and not request._firm:
                    self._counts_with_this_disk(request._parent, epoch)  # type: ignore[arg-type]
                if not self._alone_ok and epoch.fate == LIVE and not request.errno:  # type: ignore[attr-defined]
                    self._keep(request)
            request._epoch = None
        if request._net == NET_IN_SYNC and not (request.errno or request._elsewhere) and self._r.meta is not None:
            self._r.sync.source.in_sync(request.offset_bytes, request.length_bytes)
        self._in_flight -= 1
        self._in_flight_bytes -= request.length_bytes
        if request.op == Op.WRITE:
            request.data = b""
        elif request.op == Op.FLUSH:
            if request.errno:
                self._telling = max(self._telling, request._order)
        elif request._kept is None:
            request._kept = NOT_KEPT
        request.done(request)
        if busy is not None:
            self.busy.free(busy)
            if not self._going:  # else it comes to what began just now
                self.go()
        if self._parked:
            self._unpark()
        if not self._in_flight:
            self._r.admin.drained()

    def _acked(self, request: Request) -> bool:
        """Is it an unanswered write that the peer has acknowledged?"""
        counts = bool(request._ident) and not request.errno and not is_copy(request)
        return counts and request._net in (NET_OK, NET_IN_SYNC)

    def _counts_with_this_disk(self, whole: Request, epoch: Epoch) -> None:
        """A part is done under A or B; the whole may be answered only when this disk is good no more."""
        before = epoch_of(whole)
        if before is None or before.fate == ACKED:
            whole._epoch = epoch

    def _only_received(self, request: Request) -> bool:
        """Sent under A or B while this disk still was a good one: now the peer must have it on its disk."""
        if request._firm or request.errno or request.op in (Op.READ, Op.FLUSH):
            return False
        epoch = epoch_of(request)
        parts = in_parts(request)
        if epoch is None or epoch.fate == ACKED or (epoch.fate == LOST and not parts):
            return False
        if parts and epoch.fate == LIVE:
            request._epoch = self.log.current if self.log.current.requests else self.log.closed[-1]  # has all parts
        self._only_there(request)
        if not request._waits:
            self._no_data(request)
        return True

    def _no_data(self, request: Request, refused: bool = False) -> None:
        """Neither here nor there: on-no-data-accessible. `refused`: it failed where there is data."""
        state = self._r.state
        if is_copy(request):
            self._copy_failed(request)
            return
        if state.role == Role.PRIMARY and (self._suspends or state.suspended):
            if refused and self._data_in_reach:
                self._refuse(request)
            else:
                self._park(request)
            return
        request.errno = errnos.EIO
        request._waits = 0
        self._complete(request)

    def _copy_failed(self, request: Request) -> None:
        """What was answered long ago waits in its old place, or the next flush fails."""
        if self._primary and not self._data_in_reach and (self._suspends or self._r.state.suspended):
            self._answered_and_lost(request)
        else:
            self._forgotten += self._primary
            request.errno = errnos.EIO
        self._complete(request)

    # --- this disk is lost ---

    def disk_lost(self) -> None:
        """What this disk took does not count any more: for writes that are not answered the peer's copy decides."""
        for epoch in self.log.everything():
            for request in epoch.requests:
                request._elsewhere = True
        if self._starting is not None:
            self._starting._elsewhere = True
        for request in [*self._unacked.values(), *self._unsent]:
            if not request._waits & (LOCAL | BARRIER):
                self._only_there(request)
        held, self._held = self._held, deque()
        for request in held:
            if request.op in (Op.READ, Op.FLUSH) or request.errno or request._waits or in_parts(request):
                self._held.append(request)  # with its parts it is looked at when it goes on
                continue
            self._only_there(request)
            if request._net == NET_LOST:
                self._no_data(request)
            elif not request._waits:
                self._held.append(request)

    def _only_there(self, request: Request) -> None:
        """This disk did not take it: the peer's copy decides, if it is on its disk and not only received."""
        epoch = epoch_of(request)
        request._elsewhere = True
        if request._waits & AGAIN:
            return
        if epoch is None or epoch.fate == LOST or request._net in (NET_FAILED, NET_LOST):
            request._net = NET_LOST
            return
        if request._net == NET_IN_SYNC:
            request._net = NET_OK
        good = self._r.state.pdsk == Disk.UP_TO_DATE
        if not good and epoch.fate != LIVE:
            request._net = NET_LOST  # the next resync overwrites what an Inconsistent peer has
        elif epoch.fate == LIVE and not (request._firm and good):
            request._waits |= BARRIER
            epoch.waiters.append(partial(self._firmly_there, request, epoch))
            if epoch is self.log.current:
                self.close_epoch()

    def _firmly_there(self, request: Request, epoch: Epoch, acknowledged: bool) -> None:
        if not request._waits & BARRIER or epoch_of(request) is not epoch:
            return
        request._waits &= ~BARRIER
        good = acknowledged and self._r.state.pdsk == Disk.UP_TO_DATE
        if not good:
            request._net = NET_LOST
        if not request._waits:
            if good:
                self._complete(request)
            else:
                self._no_data(request)

    # --- larger than the peer takes at once ---

    def _split(self, request: Request, begin: Callable[[Request], None]) -> None:
        """Peers of older protocols take 128 or 32 KiB at once: the request becomes several."""
        step = self._most_bytes
        start, end = request.offset_bytes, request.offset_bytes + request.length_bytes
        reading = request.op == Op.READ
        data = memoryview(request.data)
        children = [
            Request(request.op, at, min(step, end - at), self._child_done,
                    b"" if reading else data[at - start : at - start + step], request.fua, request.may_punch)
            for at in range(start, end, step)
        ]  # fmt: skip
        if reading:
            request.data = bytearray(request.length_bytes)
        request._waits = len(children) << 2
        self._in_flight += len(children)
        self._in_flight_bytes += request.length_bytes
        for child in children:
            child._parent = request
            child._order = request._order
            begin(child)

    def _child_done(self, child: Request) -> None:
        parent = child._parent
        assert parent is not None
        parent.errno = parent.errno or child.errno
        if child.op == Op.READ and not child.errno:
            at = child.offset_bytes - parent.offset_bytes
            memoryview(parent.data)[at : at + child.length_bytes] = child.data
        parent._waits -= 4
        if not parent._waits:
            self._complete(parent)

    # --- the connection breaks ---

    def connection_lost(self) -> Lost:
        """Everything the peer may not have for good becomes different; nothing is completed yet."""
        self._mark_unflushed()
        epochs = self.log.reset()
        lost = Lost(epochs, [*self._unacked.values(), *self._unsent], list(self._reads.values()))
        self._unacked.clear()
        self._unsent = []
        self._reads.clear()
        self._out.clear()
        self._link = None
        self._straight = False
        self._most_bytes = MAX_REQUEST_BYTES
        self._host.timer("epoch", None)
        return lost

    def resolve(self, lost: Lost) -> None:
        """The new state is known (and a new generation on its way to disk): now they may be answered."""
        suspended = self._primary and self._r.state.suspended
        for request in lost.writes:
            request._waits &= ~NET
            if is_copy(request):
                self._answered_and_lost(request)
                if not request._waits:
                    self._complete(request)
            elif suspended:
                self._later(request)
            elif self._alone_ok:
                if request._elsewhere:
                    self._later(request)  # the disk that became UpToDate just now does not have it
                elif not request._waits:
                    self._complete(request)
            elif request._waits:
                request._net = NET_LOST  # on inconsistent data alone it counts for nothing
            else:
                self._no_data(request)
        if self._primary and not self._alone_ok:
            self._last_copy_lost(lost.epochs, suspended)
        else:
            for epoch in lost.epochs:
                self._forget(epoch)  # kept while our own copy was no good one
        for request in lost.reads:
            self._in_flight -= 1
            self._in_flight_bytes -= request.length_bytes
            self.submit([request])
        for epoch in lost.epochs:
            for waiter in epoch.waiters:
                waiter(False)
        self._retry()
