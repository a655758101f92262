# SPDX-License-Identifier: GPL-2.0-or-later
"""The straight way of a request: what `PrimaryPath._write`, `_read` and their followers do with nothing in the way.

A run of them is looked at together: what holds for all of them is asked once. Whoever is not plainly one of these is
left to the other way, which knows everything; a test compares both, packet by packet.
"""

from __future__ import annotations

from functools import partial

from replblock.core.activity import EXTENT_BYTES_LOG2
from replblock.core.host import PENDING
from replblock.core.overlap import Busy
from replblock.core.path import FLUSHING_BARRIER_MS, ID, LOCAL, NET
from replblock.core.reads import Reads
from replblock.core.requests import Op, Request
from replblock.state.names import Disk
from replblock.wire.commands import Cmd
from replblock.wire.flags import DP_SEND_WRITE_ACK
from replblock.wire.headers import MAGIC_100
from replblock.wire.packets import DATA_PACKET_100

_DATA = int(Cmd.DATA)
_READ, _WRITE = Op.READ, Op.WRITE


class Straight(Reads):
    """Many at once."""

    def _begin_straight(self, requests: list[Request], at: int) -> int:
        """Begin new writes from `at` on, as many in a row as have nothing in their way; returns where that ends.

        Nothing in here calls anybody who could change what is asked at the start.
        """
        flags, epoch, activity = self._flags, self.log.current, self._r.attachment.activity
        if self.frozen or self._starting is not None or self._again or self._resending or activity is None:
            return at
        if activity.disabled or (self.busy.count and self._r.sync.ranges_matter):
            return at
        hot, extents, sent = activity.hot, epoch.extents, epoch.requests
        new_epoch, end = not sent, min(len(requests), at + self._epoch_limit() - len(sent))
        room_bytes = self._room_bytes() - self._in_flight_bytes
        out, local, unacked, unsent = self._out, self._local, self._unacked, self._unsent
        firm, asynchronous = bool(flags & DP_SEND_WRITE_ACK), self._asynchronous
        volume, now_ms = self._r.settings.volume, self._host.now_ms()
        ident, seq, begun_bytes, first = self._ident, self._seq, 0, at
        while at < end:
            request = requests[at]
            if request.op != _WRITE or request.fua or begun_bytes >= room_bytes:
                break
            start, length = request.offset_bytes, request.length_bytes
            extent, last = start >> EXTENT_BYTES_LOG2, (start + length - 1) >> EXTENT_BYTES_LOG2
            if extent not in hot or last not in hot:
                break
            extents.add(extent)
            if last != extent:
                extents.add(last)
            sent.append(request)
            ident += 1
            seq = (seq + 1) & 0xFFFFFFFF
            request._epoch, request._order, request._firm, request._waits = epoch, ident, firm, NET | LOCAL
            request._ident = key = ID.pack(ident)
            out.append(DATA_PACKET_100.pack(MAGIC_100, volume, _DATA, 24 + length, 0, start >> 9, key, seq, flags))
            out.append(request.data)
            begun_bytes += length
            if asynchronous:
                unsent.append(request)
            else:
                request._sent_ms = now_ms
                unacked[key] = request
            local.append(request)
            at += 1
        if new_epoch and sent:
            self._host.timer("epoch", FLUSHING_BARRIER_MS)
        self._ident, self._seq = ident, seq
        self._in_flight += at - first
        self._in_flight_bytes += begun_bytes
        self.sent_sectors += begun_bytes >> 9
        return at

    def _read_straight(self, requests: list[Request], at: int) -> int:
        """Answer reads from `at` on, as many in a row as this disk has at hand; returns where that ends."""
        r = self._r
        disk, meta = r.disk, r.meta
        if disk is None or meta is None or r.state.disk != Disk.UP_TO_DATE:
            return at
        if self.frozen or self._again or self._resending or self._in_flight_bytes >= self._room_bytes():
            return at
        while at < len(requests) and requests[at].op == _READ:
            request = requests[at]
            at += 1
            length = request.length_bytes
            result = disk.read(request.offset_bytes, length, partial(self._read_later, request, meta))
            if type(result) is int:
                self._in_flight += 1
                self._in_flight_bytes += length
                self._read_begun(request, result)
                return at  # a failure may change everything
            self.read_sectors += length >> 9
            request.data = result  # type: ignore[assignment]
            request.done(request)
        return at

    def _write_straight(self) -> None:
        """What was begun goes to the disk, up to the first that something is in the way of."""
        disk, local, busy = self._r.disk, self._local, self.busy
        if disk is None or not self._has_disk or not self._alone_ok or self._given_up:
            return
        while local and not busy.count:
            request = local[0]
            if request.op != _WRITE or request.fua:
                return
            local.popleft()
            start, length = request.offset_bytes, request.length_bytes
            self.written_sectors += length >> 9
            later = Later(self, request)
            result = disk.write(start, request.data, later)
            if result == 0:
                request._waits &= ~LOCAL
                if not request._waits:
                    self._local_done(request, 0)
                    return  # an answer may change everything
            elif result == PENDING:
                later.busy = busy.add(start, start + length, "local")
                self._local_pending += 1
            else:
                self._local_done(request, result)
                return


class Later:
    """Completion of a local write that went to the pool."""

    __slots__ = ("busy", "path", "request")

    def __init__(self, path: Straight, request: Request) -> None:
        self.path = path
        self.request = request
        self.busy: Busy | None = None

    def __call__(self, error: int) -> None:
        assert self.busy is not None
        self.path._local_done_later(self.request, self.busy, error)
