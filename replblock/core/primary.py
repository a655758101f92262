# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of the application's requests on the node where they arrive: the way of a write.

A write: activity log, transfer log and packet, local disk, and completion when the protocol's promise holds.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable
from functools import partial

from replblock.core.flushing import Flushing
from replblock.core.host import PENDING
from replblock.core.overlap import ON_DISK, Busy
from replblock.core.path import (
    FLUSHING_BARRIER_MS,
    ID,
    LOCAL,
    NET,
    NET_HERE,
    NET_LOST,
    NET_PENDING,
)  # fmt: skip
from replblock.core.requests import Op, Request
from replblock.core.resend import epoch_of, is_copy
from replblock.core.straight import Later, Straight
from replblock.wire.commands import Cmd
from replblock.wire.flags import (
    DP_DISCARD,
    DP_FUA,
    DP_MAY_SET_IN_SYNC,
    DP_SEND_WRITE_ACK,
    DP_ZEROES,
    FEATURE_WZEROES,
    dp_mask,
)
from replblock.wire.headers import MAGIC_100, pack_header
from replblock.wire.packets import DATA_PACKET_100, Data, Trim


class PrimaryPath(Straight, Flushing):
    """Requests in, completions out."""

    # --- what surrounds the path ---

    @property
    def idle(self) -> bool:
        """No request under way (parked ones count)."""
        return not (self._in_flight or self._parked or self._refused)

    @property
    def disk_idle(self) -> bool:
        """No read or write of ours is under way on the local disk."""
        return not self._local_pending and not self._reading and not self._local

    @property
    def counters(self) -> dict[str, int]:
        """Figures of /proc/drbd: ap, lo, pe."""
        return {
            "ap": self._in_flight + len(self._parked) + len(self._refused), "lo": self._local_pending,
            "pe": len(self._unacked) + len(self._reads),
            "ep": len(self.log.closed) + 1,
        }  # fmt: skip

    def disk_changed(self) -> None:
        """Attached or detached."""
        self.reroute(self._r.state, self._r.state)

    def freeze(self, reason: str) -> None:
        """No request begins or completes until `thaw` of the same reason."""
        self.frozen.add(reason)

    def fail_held(self) -> None:
        """The new generation could not be made durable: what waits for it must not be acknowledged."""
        for request in self._held:
            if request.op != Op.READ:
                request.errno = errnos.EIO

    def give_up(self) -> None:
        """This disk's data is to be overwritten: of what was begun on it nothing is answered with success any more."""
        self.fail_held()
        if self.writing:
            self._given_up = True
            self.when_written(self._all_given_up)

    def _all_given_up(self) -> None:
        self._given_up = False

    def thaw(self, reason: str) -> None:
        """Go on where `freeze` stopped."""
        self.frozen.discard(reason)
        while self._held and not self.frozen:
            self._complete(self._held.popleft())  # what begins then may fail this disk, which the others count on
        if not self.frozen:
            self._unpark()

    def _unpark(self) -> None:
        self._turns = len(self._parked)  # each once: what finds no data parks itself again
        if self._unparking:
            return  # one of them was answered at once: the loop below goes on, however many there are
        self._unparking = True
        try:
            while self._turns and self._parked and not self.frozen:
                limit = self._room_bytes()
                if self._in_flight_bytes >= limit and self._parked[0]._parent is None:
                    return
                self._turns -= 1
                self.submit([self._parked.popleft()])
        finally:
            self._unparking = False

    # --- in ---

    def submit_new(self, requests: list[Request]) -> None:
        """Of doors, in order; each is answered by its own `done`."""
        at = 0
        while at < len(requests):
            if requests[at].op == Op.READ:
                end = self._read_straight(requests, at)
            else:
                end = self._begin_straight(requests, at) if self._straight else at
            if end == at:
                self._begin_one(requests[at])
                end += 1
            at = end
        self.go()

    def submit(self, requests: list[Request]) -> None:
        """Begin requests, in order; some have begun before."""
        for request in requests:
            self._begin_one(request)
        self.go()

    def _begin_one(self, request: Request) -> None:
        limit = self._room_bytes()
        if self.frozen or (self._in_flight_bytes >= limit and request._parent is None) or (
            (self._again or self._resending) and self._data_in_reach  # these go first
        ):
            self._line_up(request)
            return
        self._in_flight += 1
        self._in_flight_bytes += request.length_bytes
        op = request.op
        if op == Op.WRITE:
            self._write(request)
        elif op == Op.READ:
            self._read(request)
        elif op == Op.FLUSH:
            self._flush(request)
        else:
            self._zero(request)

    def hand_over(self) -> None:
        """Whatever else is sent on the data connection goes behind the writes gathered so far.

        Begun in the middle of a wake-up (their extents became hot), they would be overtaken: by a request for resync
        data, whose answer would then be older than what this disk has, or by a new state.
        """
        if self._out:
            out, self._out = self._out, []
            self._r.links.send_parts(out)

    def go(self) -> None:
        """Send what was gathered, then write it here: the peer works while we do.

        An answer may begin other requests in the middle of this: they come behind what was gathered before, or an older
        write to the same blocks would end up on top of theirs.
        """
        if self._out:
            link = self._link
            self._r.links.send_parts(self._out)
            self._out = []
            if link is not None:
                self._host.push(link.data)
        local = self._local
        if local:
            outer, self._going = self._going, True
            try:
                while local:
                    self._write_straight()
                    if local:
                        self._write_here(local.popleft())
            finally:
                self._going = outer
            if self._retries:
                self._retry()

    # --- write ---

    def _write(self, request: Request) -> None:
        start = request.offset_bytes
        end = start + request.length_bytes
        again = self._again
        # what is sent again goes first, the oldest before the others, the last of it too while it waits for the log
        new_in_between = not request._order and self._starting is not None
        older_first = again and (not request._order or again[0].order < request._order)
        if self.frozen or not self._primary or new_in_between or older_first:
            self._not_yet(request)
            return
        if self.busy.count and (not self._ordered or self._r.sync.ranges_matter):
            busy = self.busy.find(start, end)
            if busy is not None:
                busy.waiters.append(partial(self._write, request))
                return
        activity = self._r.attachment.activity
        if activity is not None:
            first, last = start >> 22, (end - 1) >> 22
            if not activity.covers(first, last):
                activity.want(first, last, partial(self._write, request))  # its range may be busy by then
                return
        self._begin(request)

    def _begin(self, request: Request) -> None:
        """Its extents are hot: into the transfer log and onto the wire, or into the bitmap."""
        start = request.offset_bytes
        end = start + request.length_bytes
        waits = 0
        here = request._net == NET_HERE and not request._elsewhere
        if request is self._starting:
            self._starting = None
        if self._remote:
            if request.length_bytes > self._most_bytes and request.data:
                self._split(request, self._write)
                return
            epoch = self.log.current
            if epoch.requests:
                if (epoch.completed and not self._ordered) or len(epoch.requests) >= self._epoch_limit():
                    self.close_epoch()
                    epoch = self.log.current
                    self._host.timer("epoch", FLUSHING_BARRIER_MS)
            else:
                self._host.timer("epoch", FLUSHING_BARRIER_MS)
            epoch.requests.append(request)
            extents = epoch.extents
            extents.add(start >> 22)
            extents.add((end - 1) >> 22)
            request._epoch = epoch
            self._ident = ident = self._ident + 1
            request._ident = key = ID.pack(ident)
            request._order = request._order or ident
            request._net = NET_PENDING
            request._firm = bool(self._flags & DP_SEND_WRITE_ACK)
            self._send_write(request, key)
            waits = NET
            if self._asynchronous:
                self._unsent.append(request)
            else:
                request._sent_ms = self._host.now_ms()
                self._unacked[key] = request
        elif self._alone_ok:
            self._mark(request)
        else:
            self._nowhere(request)  # a write on top of inconsistent data alone would be thrown away by the resync
            return
        if not self._ordered and self._remote:
            # a kernel peer reads for a resync beside it: nothing that overlaps is asked for until it is answered
            request._epoch = (self.busy.add(start, end, "write"), request._epoch)
        if here:
            request._waits = waits | request._waits & LOCAL
            if not request._waits:
                self._complete(request)
        elif self._begins_here:
            request._elsewhere = False
            request._waits = waits | LOCAL
            self._local.append(request)
        else:
            request._waits = waits | request._waits & LOCAL
            request._elsewhere = True
            if self._r.meta is not None:
                self._mark(request)  # a disk that is attached just now, or becomes a target's, does not get it

    def _send_write(self, request: Request, key: bytes) -> None:
        link = self._link
        assert link is not None
        self._seq = seq = (self._seq + 1) & 0xFFFFFFFF
        sector = request.offset_bytes >> 9
        length = request.length_bytes
        flags = self._flags | DP_FUA if request.fua else self._flags
        if flags & DP_MAY_SET_IN_SYNC and is_copy(request):
            flags ^= DP_MAY_SET_IN_SYNC  # not written here once more: something newer that failed may lie on top of it
        self.sent_sectors += length >> 9
        if request.op != Op.WRITE and not request.data:
            zeroes = bool(link.features & FEATURE_WZEROES)
            command = Cmd.ZEROES if zeroes else Cmd.TRIM
            if zeroes:
                flags |= DP_ZEROES | (DP_DISCARD if request.may_punch else 0)
            else:
                flags |= DP_DISCARD
            body = Trim(sector, key, seq, flags & dp_mask(link.version), length).pack()
            self._out.append(pack_header(link.version, command, len(body), self._volume(link)) + body)
            return
        data = request.data
        extra = self._digest(data) if self._digest is not None else b""
        if link.version >= 100:
            size = 24 + len(extra) + length
            head = DATA_PACKET_100.pack(MAGIC_100, self._r.settings.volume, 0, size, 0, sector, key, seq, flags)
        else:
            body = Data(sector, key, seq, flags & dp_mask(link.version)).pack()
            head = pack_header(link.version, Cmd.DATA, len(body) + len(extra) + length) + body
        if self._compression is not None:
            packet = self._compression.packet(link, Cmd.DATA, head[-24:], extra, data)
            if packet is not None:
                self._out.append(packet)
                return
        self._out.append(head + extra if extra else head)
        self._out.append(data)

    def _write_here(self, request: Request, turn: Busy | None = None) -> None:
        """`turn`: its place in the line behind older writes to the same blocks."""
        disk = self._r.disk
        start = request.offset_bytes
        end = start + request.length_bytes
        if turn is None:
            if self.busy.count and self.busy.queue(start, end, "local", partial(self._write_here, request), ON_DISK):
                self._local_pending += 1
                return
        else:
            self._local_pending -= 1
        if disk is None or not self._has_disk:
            self._local_done(request, errnos.EIO)
            if turn is not None:
                self.busy.free(turn)
            return
        self.written_sectors += request.length_bytes >> 9
        if request.fua:
            slow = turn or self.busy.add(start, end, "local")
            self._local_pending += 1
            if request.op == Op.WRITE:
                disk.write_fua(start, request.data, partial(self._local_done_later, request, slow))
            else:
                done = partial(self._zeroed_fua, request, slow)
                result = disk.zero(start, request.length_bytes, request.may_punch, done)
                if result != PENDING:
                    self._zeroed_fua(request, slow, result)
            return
        later = Later(self, request)
        if request.op == Op.WRITE or request.data:
            result = disk.write(start, request.data, later)
        else:
            result = disk.zero(start, request.length_bytes, request.may_punch, later)
        if result == PENDING:
            later.busy = turn or self.busy.add(start, end, "local")
            self._local_pending += 1
        else:
            self._local_done(request, result)
            if turn is not None:
                self.busy.free(turn)

    @property
    def writing(self) -> bool:
        """Writes to this disk are under way that may never get there if it is given up now."""
        return bool(self._local_pending or self._local)

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call back when every write that was begun here is on this disk (not yet flushed)."""
        if self._local_pending or self._local:
            self._retries.append(partial(self.when_written, callback))
        else:
            callback()

    def _zeroed_fua(self, request: Request, slow: Busy, error: int) -> None:
        disk = self._r.disk
        if error or disk is None:
            self._local_done_later(request, slow, error or errnos.EIO)
        else:
            self._r.flush_disk(partial(self._local_done_later, request, slow))

    def _local_done_later(self, request: Request, busy: Busy, error: int) -> None:
        self._local_pending -= 1
        self._local_done(request, error)
        self.busy.free(busy)
        self.local_done()

    def local_done(self) -> None:
        """A write to this disk ended: what waited for its range, and the activity log, go on."""
        self.go()
        if self._retries:
            self._retry()

    def _local_done(self, request: Request, error: int) -> None:
        if self._given_up:
            request.errno = request.errno or errnos.EIO  # a verdict has come meanwhile that discards it
        if error:
            if self._r.meta is not None:
                self._mark(request)
            self._r.sync.source.not_written(request.offset_bytes, request.length_bytes)
            self._r.write_failed(error, request.length_bytes, request.offset_bytes, fua=request.fua)
        if error or not self._has_disk or (not self._alone_ok and epoch_of(request) is None):
            # this disk took it, but does not count: it failed, was detached, or its data is to be overwritten
            request._elsewhere = True
            self._only_there(request)
        request._waits &= ~LOCAL
        if not request._waits:
            if request._net == NET_LOST:
                self._no_data(request, refused=bool(error))
            else:
                self._complete(request)
