# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of the application's requests on the node where they arrive.

A write: activity log, transfer log and packet, local disk, and completion when the protocol's promise holds:
A: on this disk and taken by TCP; B: on this disk and received by the peer; C: on both disks.
"""

from __future__ import annotations

import errno as errnos
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from replblock.core.epochs import Epoch, TransferLog, UnexpectedBarrierAck
from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.core.overlap import ON_DISK, Busy, BusyRanges
from replblock.core.requests import MAX_REQUEST_BYTES, Op, Request
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire.commands import Cmd
from replblock.wire.digests import digest
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import (
    DP_DISCARD,
    DP_FUA,
    DP_MAY_SET_IN_SYNC,
    DP_RW_SYNC,
    DP_SEND_RECEIVE_ACK,
    DP_SEND_WRITE_ACK,
    DP_ZEROES,
    FEATURE_ORDERED,
    FEATURE_TRIM,
    FEATURE_WZEROES,
    ID_SYNCER,
    dp_mask,
)
from replblock.wire.headers import MAGIC_100, pack_header
from replblock.wire.packets import BLOCK_ACK_BODY, Barrier, BarrierAck, BlockDesc, BlockReq, Data, Trim

if TYPE_CHECKING:
    from replblock.core.resource import Resource

FLUSHING_BARRIER_MS = 1000
"""At the latest so long after its first write an epoch is closed: bounds what a peer's power loss can cost."""
EXTENT_BYTES = 4 << 20
MAX_EPOCH_WRITES_ORDERED = 65536
"""Between two replblock nodes an epoch needs no barrier for order; this bounds the memory of the transfer log."""

LOCAL, NET = 1, 2
NET_PENDING, NET_OK, NET_IN_SYNC, NET_FAILED, NET_LOST = 0, 1, 2, 3, 4

_DATA_100 = struct.Struct(">IHHIIQ8sII")
_ID = struct.Struct(">Q")
_ZEROES = bytes(MAX_REQUEST_BYTES)


class Lost:
    """What a broken connection leaves behind."""

    __slots__ = ("epochs", "reads", "writes")

    def __init__(self, epochs: list[Epoch], writes: list[Request], reads: list[Request]) -> None:
        self.epochs = epochs
        self.writes = writes
        self.reads = reads


class PrimaryPath:
    """Requests in, completions out."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._host = resource.host
        self.log = TransferLog()
        self.busy = BusyRanges()
        self.ready = False
        self.frozen: set[str] = set()
        self._parked: deque[Request] = deque()
        self._held: list[Request] = []
        self._unacked: dict[bytes, Request] = {}
        self._reads: dict[bytes, Request] = {}
        self._unsent: list[Request] = []
        self._out: list[Buffer] = []
        self._local: list[Request] = []
        self._local_pending = 0
        self._reading = 0
        self._ident = 0
        self._seq = 0
        self._in_flight_bytes = 0
        self._in_flight = 0
        self._remote = False
        self._out_of_sync = False
        self._has_disk = False
        self._alone_ok = False
        self._flags = 0
        self._promise = NET
        self._link: Link | None = None
        self._ordered = False
        self._digest: Callable[[Buffer], bytes] | None = None
        self._retries: list[Callable[[], None]] = []
        self.sent_sectors = self.read_sectors = self.written_sectors = 0

    # --- what surrounds the path ---

    @property
    def idle(self) -> bool:
        """No request under way (parked ones count)."""
        return not self._in_flight and not self._parked

    @property
    def disk_idle(self) -> bool:
        """No read or write of ours is under way on the local disk."""
        return not self._local_pending and not self._reading and not self._local

    @property
    def counters(self) -> dict[str, int]:
        """Figures of /proc/drbd: ap, lo, pe."""
        return {
            "ap": self._in_flight + len(self._parked), "lo": self._local_pending,
            "pe": len(self._unacked) + len(self._reads),
            "ep": len(self.log.closed) + 1,
        }  # fmt: skip

    def connected(self, link: Link) -> None:
        """A new connection speaks; counters of the wire begin anew."""
        s = self._r.settings
        self._link = link
        self._seq = 0
        self._ordered = bool(link.features & FEATURE_ORDERED)
        self._digest = digest(s.data_integrity_alg) if s.data_integrity_alg else None

    def disk_changed(self) -> None:
        """Attached or detached."""
        self.reroute(self._r.state, self._r.state)

    def reroute(self, old: State, new: State) -> None:
        """Where writes go, in this state (DRBD 8.4: send data, send P_OUT_OF_SYNC, or only mark)."""
        s = self._r.state
        conn, pdsk = s.conn, s.pdsk
        if old.pdsk >= Disk.INCONSISTENT > pdsk:
            self._mark_unflushed()  # whatever the peer had not flushed may be missing when its disk comes back
        self._remote = self._link is not None and (
            (pdsk == Disk.UP_TO_DATE and conn >= Conn.CONNECTED)
            or (pdsk >= Disk.INCONSISTENT and Conn.WF_BITMAP_T <= conn < Conn.AHEAD)
        )
        version = self._link.version if self._link is not None else 0
        self._out_of_sync = conn in (Conn.AHEAD, Conn.WF_BITMAP_S) and version >= 96
        self._has_disk = self._r.meta is not None and s.disk >= Disk.INCONSISTENT
        self._alone_ok = self._has_disk and s.disk == Disk.UP_TO_DATE
        flags = DP_RW_SYNC
        self._promise = NET
        resyncing = Conn.SYNC_SOURCE <= conn <= Conn.PAUSED_SYNC_T and conn not in (Conn.VERIFY_S, Conn.VERIFY_T)
        protocol = self._r.settings.protocol
        if resyncing:
            flags |= DP_MAY_SET_IN_SYNC | DP_SEND_WRITE_ACK
        elif protocol == "C" or not self._alone_ok:
            flags |= DP_SEND_WRITE_ACK
        elif protocol == "B":
            flags |= DP_SEND_RECEIVE_ACK
        self._flags = flags
        self._asynchronous = not flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK)
        for reason, on in (("user", s.susp), ("no-data", s.susp_nod), ("fencing", s.susp_fen)):
            if on:
                self.freeze(reason)
            elif reason in self.frozen:
                self.thaw(reason)

    def _mark_unflushed(self) -> None:
        """Blocks of all writes without a barrier ack are different from now on."""
        meta = self._r.meta
        if meta is not None:
            for epoch in self.log.everything():
                for request in epoch.requests:
                    end = request.offset_bytes + request.length_bytes
                    meta.bitmap.set_range(request.offset_bytes >> 12, -(-end // 4096))
                    if request._net == NET_IN_SYNC:
                        request._net = NET_OK  # its leave to clear bits is void

    def freeze(self, reason: str) -> None:
        """No request begins or completes until `thaw` of the same reason."""
        self.frozen.add(reason)

    def fail_held(self) -> None:
        """The new generation could not be made durable: what waits for it must not be acknowledged."""
        for request in self._held:
            if request.op != Op.READ:
                request.errno = errnos.EIO

    def thaw(self, reason: str) -> None:
        """Go on where `freeze` stopped."""
        self.frozen.discard(reason)
        if self.frozen:
            return
        held, self._held = self._held, []
        for request in held:
            self._complete(request)
        self._unpark()

    def _unpark(self) -> None:
        while self._parked and not self.frozen and self._in_flight_bytes < self._r.settings.max_in_flight_bytes:
            self.submit([self._parked.popleft()])

    # --- in ---

    def submit(self, requests: list[Request]) -> None:
        """Begin requests, in order; each is answered by its own `done`."""
        limit = self._r.settings.max_in_flight_bytes
        for request in requests:
            if self.frozen or self._in_flight_bytes >= limit:
                self._parked.append(request)
                continue
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
        self.go()

    def go(self) -> None:
        """Send what was gathered, then write it here: the peer works while we do."""
        if self._out:
            link = self._link
            self._r.links.send_parts(self._out)
            self._out = []
            if link is not None:
                self._host.push(link.data)
        if self._local:
            local, self._local = self._local, []
            for request in local:
                self._write_here(request)
            if self._retries:
                self._retry()

    # --- write ---

    def _write(self, request: Request) -> None:
        start = request.offset_bytes
        end = start + request.length_bytes
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
        if self._remote:
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
            request._ident = key = _ID.pack(ident)
            request._net = NET_PENDING
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
            self._no_data(request)  # a write on top of inconsistent data alone would be thrown away by the resync
            return
        if self._has_disk:
            request._waits = waits | LOCAL
            self._local.append(request)
            if not self._ordered and self._remote:
                request._epoch = (self.busy.add(start, end, "write"), request._epoch)
        else:
            request._waits = waits
            if self._r.meta is not None:
                self._mark(request)  # a disk that is being attached does not get this write

    def _epoch_limit(self) -> int:
        return MAX_EPOCH_WRITES_ORDERED if self._ordered else self._r.settings.max_epoch_size

    def _send_write(self, request: Request, key: bytes) -> None:
        link = self._link
        assert link is not None
        self._seq = seq = (self._seq + 1) & 0xFFFFFFFF
        sector = request.offset_bytes >> 9
        length = request.length_bytes
        flags = self._flags | DP_FUA if request.fua else self._flags
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
            head = _DATA_100.pack(MAGIC_100, self._r.settings.volume, 0, size, 0, sector, key, seq, flags)
        else:
            body = Data(sector, key, seq, flags & dp_mask(link.version)).pack()
            head = pack_header(link.version, Cmd.DATA, len(body) + len(extra) + length) + body
        self._out.append(head + extra if extra else head)
        self._out.append(data)

    def _volume(self, link: Link) -> int:
        return self._r.settings.volume if link.version >= 100 else 0

    def _mark(self, request: Request) -> None:
        """The peer does not get this write: its blocks are different from now on."""
        meta = self._r.meta
        assert meta is not None
        start, end = request.offset_bytes, request.offset_bytes + request.length_bytes
        newly = meta.bitmap.set_range(start >> 12, -(-end // 4096))
        if self._out_of_sync and newly and self._link is not None:
            body = BlockDesc(start >> 9, request.length_bytes).pack()
            header = pack_header(self._link.version, Cmd.OUT_OF_SYNC, len(body), self._volume(self._link))
            self._out.append(header + body)

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
        later = _Later(self, request)
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
        if error:
            if self._r.meta is not None:
                self._mark(request)
            self._r.disk_failed(error, f"writing {request.length_bytes} bytes at {request.offset_bytes}")
            if request._net in (NET_PENDING, NET_OK) and request._waits & NET:
                pass  # the peer's copy decides
            elif request._net not in (NET_OK, NET_IN_SYNC):
                request.errno = errnos.EIO
            request._net = NET_OK if request._net == NET_IN_SYNC else request._net
        request._waits &= ~LOCAL
        if not request._waits:
            if request._net == NET_LOST and not error:
                self._no_data(request)
            else:
                self._complete(request)

    # --- acknowledgements ---

    def on_ack(self, body: memoryview) -> None:
        """P_RECV_ACK, P_WRITE_ACK."""
        _sector, ident, _size, _seq = BLOCK_ACK_BODY.unpack(body)
        request = self._unacked.pop(ident, None)
        if request is None:
            raise ProtocolError(f"an ack for the unknown write {ident.hex()}", Cmd.WRITE_ACK)
        request._net = NET_OK
        request._waits &= ~NET
        if not request._waits:
            self._complete(request)

    def on_rs_write_ack(self, body: memoryview) -> None:
        """P_RS_WRITE_ACK: a resynced range, or a write during the resync that leaves its blocks in sync."""
        sector, ident, size, _seq = BLOCK_ACK_BODY.unpack(body)
        if ident == ID_SYNCER:
            self._r.sync.source.on_write_ack(sector, size)
            return
        request = self._unacked.pop(ident, None)
        if request is None:
            raise ProtocolError(f"an ack for the unknown write {ident.hex()}", Cmd.RS_WRITE_ACK)
        request._net = NET_IN_SYNC
        request._waits &= ~NET
        if not request._waits:
            self._complete(request)

    def on_neg_ack(self, body: memoryview) -> None:
        """P_NEG_ACK: the peer could not write it; our copy is the only one."""
        sector, ident, size, _seq = BLOCK_ACK_BODY.unpack(body)
        if ident == ID_SYNCER:
            self._r.sync.source.on_neg_ack(sector, size)
            return
        meta = self._r.meta
        if meta is not None:
            meta.bitmap.set_range(sector >> 3, -(-(sector * 512 + size) // 4096))
            for epoch in self.log.everything():
                for older in epoch.requests:
                    if older._net == NET_IN_SYNC:
                        older._net = NET_OK  # it may be an older write to these blocks: it must not clear their bits
        request = self._unacked.pop(ident, None)
        if request is None:
            return
        request._net = NET_FAILED
        request._waits &= ~NET
        if not self._alone_ok:
            request.errno = errnos.EIO
        if not request._waits:
            self._complete(request)

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
        """For how long the oldest unanswered write or barrier has been waiting."""
        oldest = now_ms
        for request in self._unacked.values():
            oldest = min(oldest, request._sent_ms)
            break
        if self.log.closed:
            oldest = min(oldest, self.log.closed[0].closed_ms)
        return now_ms - oldest

    def _complete(self, request: Request) -> None:
        if self.frozen:
            self._held.append(request)
            return
        epoch = request._epoch
        busy = None
        if epoch is not None:
            if type(epoch) is tuple:
                busy, epoch = epoch
            if epoch is not None:
                epoch.completed = True  # type: ignore[attr-defined]
            request._epoch = None
        if request._net == NET_IN_SYNC and not request.errno and self._r.meta is not None:
            self._r.sync.clear_bits(request.offset_bytes, request.length_bytes)
        self._in_flight -= 1
        self._in_flight_bytes -= request.length_bytes
        if request.op == Op.WRITE:
            request.data = b""
        request.done(request)
        if busy is not None:
            self.busy.free(busy)
            self.go()
        if self._parked:
            self._unpark()
        if not self._in_flight:
            self._r.admin.drained()

    def _no_data(self, request: Request) -> None:
        """Neither here nor there: on-no-data-accessible."""
        if self._r.settings.on_no_data_accessible == "suspend-io" and self._r.state.role == Role.PRIMARY:
            if type(request._epoch) is tuple:
                self.busy.free(request._epoch[0])
            request._epoch = None
            request._net = NET_PENDING
            self._in_flight -= 1
            self._in_flight_bytes -= request.length_bytes
            self._parked.append(request)
            return
        request.errno = errnos.EIO
        request._waits = 0
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
        step = EXTENT_BYTES if packets else MAX_REQUEST_BYTES
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
            self._write(child)

    def _child_done(self, child: Request) -> None:
        parent = child._parent
        assert parent is not None
        parent.errno = parent.errno or child.errno
        parent._waits -= 4
        if not parent._waits:
            self._complete(parent)

    def _flush(self, request: Request) -> None:
        """Everything completed before is durable here; under C (and diskless, and with `fua`) also on the peer."""
        self.go()
        waits = 0
        disk = self._r.disk if self._has_disk else None
        if disk is not None and self._r.settings.disk_flushes:
            waits |= LOCAL
        if self._link is not None:
            if self.log.current.requests:
                self.close_epoch()
            if self.log.closed and (self._r.settings.protocol == "C" or disk is None or request.fua):
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
                request.errno = errnos.EIO
        request._waits &= ~LOCAL
        if not request._waits:
            self._complete(request)

    def _flushed_there(self, request: Request, acknowledged: bool) -> None:
        if not acknowledged and not self._alone_ok:
            request.errno = errnos.EIO
        request._waits &= ~NET
        if not request._waits:
            self._complete(request)

    # --- epochs ---

    def close_epoch(self) -> None:
        """Close the open epoch, which has writes, with a barrier that flushes."""
        link = self._link
        assert link is not None
        epoch = self.log.close(self._host.now_ms())
        self._out.append(pack_header(link.version, Cmd.BARRIER, 8) + Barrier(epoch.barrier).pack())

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
        activity = self._r.attachment.activity
        if activity is not None:
            activity.touch(epoch.extents)
        for waiter in epoch.waiters:
            waiter(True)
        self._retry()

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

    # --- reads ---

    def _read(self, request: Request) -> None:
        meta, disk = self._r.meta, self._r.disk
        start, end = request.offset_bytes, request.offset_bytes + request.length_bytes
        state = self._r.state
        if disk is not None and meta is not None and (
            state.disk == Disk.UP_TO_DATE
            or (
                state.disk == Disk.INCONSISTENT
                and state.pdsk == Disk.UP_TO_DATE
                and state.conn in (Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T)  # before that the peer's bits are not known
                and not meta.bitmap.any_set(start >> 12, -(-end // 4096))
            )
        ):
            result = disk.read(start, request.length_bytes, partial(self._read_later, request))
            if not isinstance(result, int):
                self.read_sectors += request.length_bytes >> 9
                request.data = result
                self._complete(request)
            elif result == PENDING:
                self._reading += 1
            else:
                self._read_here(request, result, b"")
            return
        self._read_there(request)

    def _read_later(self, request: Request, error: int, data: Buffer) -> None:
        self._reading -= 1
        self._read_here(request, error, data)

    def _read_here(self, request: Request, error: int, data: Buffer) -> None:
        if error:
            meta = self._r.meta
            if meta is not None:
                end = request.offset_bytes + request.length_bytes
                meta.bitmap.set_range(request.offset_bytes >> 12, -(-end // 4096))
            self._r.disk_failed(error, f"reading {request.length_bytes} bytes at {request.offset_bytes}")
            self._read_there(request)
            return
        self.read_sectors += request.length_bytes >> 9
        request.data = data
        self._complete(request)

    def _read_there(self, request: Request) -> None:
        link, state = self._link, self._r.state
        if link is None or state.pdsk != Disk.UP_TO_DATE or state.conn < Conn.CONNECTED:
            self._no_data(request)
            return
        self._ident += 1
        request._ident = key = _ID.pack(self._ident)
        request._waits = NET
        request._sent_ms = self._host.now_ms()
        self._reads[key] = request
        body = BlockReq(request.offset_bytes >> 9, key, request.length_bytes).pack()
        self._out.append(pack_header(link.version, Cmd.DATA_REQUEST, len(body), self._volume(link)) + body)

    def on_data_reply(self, body: memoryview) -> None:
        """P_DATA_REPLY."""
        head = Data.unpack(body[:24])
        payload = self._r.secondary.verified(body[24:], Cmd.DATA_REPLY)
        request = self._reads.get(head.block_id)
        if request is None:
            raise ProtocolError("P_DATA_REPLY that nobody asked for", Cmd.DATA_REPLY)
        if len(payload) != request.length_bytes:
            raise ProtocolError("P_DATA_REPLY of another length than asked for", Cmd.DATA_REPLY)
        del self._reads[head.block_id]
        request.data = payload
        request._waits = 0
        self._complete(request)

    def on_neg_data_reply(self, body: memoryview) -> None:
        """P_NEG_DREPLY."""
        _sector, ident, _size, _seq = BLOCK_ACK_BODY.unpack(body)
        request = self._reads.pop(ident, None)
        if request is not None:
            request.errno = errnos.EIO
            request._waits = 0
            self._complete(request)

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
        self._host.timer("epoch", None)
        return lost

    def resolve(self, lost: Lost) -> None:
        """The new state is known (and a new generation on its way to disk): now they may be answered."""
        for request in lost.writes:
            request._waits &= ~NET
            if self._alone_ok:
                if not request._waits:
                    self._complete(request)
            elif request._waits:
                request._net = NET_LOST  # on inconsistent data alone it counts for nothing
            else:
                self._no_data(request)
        for request in lost.reads:
            self._in_flight -= 1
            self._in_flight_bytes -= request.length_bytes
            self.submit([request])
        for epoch in lost.epochs:
            for waiter in epoch.waiters:
                waiter(False)
        self._retry()


class _Later:
    """Completion of a local write that went to the pool."""

    __slots__ = ("busy", "path", "request")

    def __init__(self, path: PrimaryPath, request: Request) -> None:
        self.path = path
        self.request = request
        self.busy: Busy | None = None

    def __call__(self, error: int) -> None:
        assert self.busy is not None
        self.path._local_done_later(self.request, self.busy, error)
