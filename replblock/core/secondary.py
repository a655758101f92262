# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of the peer's writes and reads on this node.

Writes are applied in the order they arrive. Nothing of the next epoch begins before the barrier's fdatasync has
returned, so that after a power loss this disk holds every flushed epoch and any part of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from replblock.core.acks import PeerAcks
from replblock.core.compressing import Compression
from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.core.overlap import Busy
from replblock.core.peer_epoch import PeerEpoch
from replblock.core.peer_reads import PeerReads
from replblock.core.pieces import EXTENT_BYTES, Ident, Whole, split
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire.commands import Cmd
from replblock.wire.digests import digest, digest_size
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import (
    DP_DISCARD,
    DP_FUA,
    DP_MAY_SET_IN_SYNC,
    DP_RW_SYNC,
    DP_SEND_RECEIVE_ACK,
    DP_SEND_WRITE_ACK,
    FEATURE_ORDERED,
    FEATURE_WZEROES,
)
from replblock.wire.headers import pack_header
from replblock.wire.packets import DATA_BODY, Data, Trim

if TYPE_CHECKING:
    from replblock.core.resource import Resource

_WRITE_ACK = int(Cmd.WRITE_ACK)
_NOT_STRAIGHT = ~(DP_RW_SYNC | DP_SEND_WRITE_ACK)
"""Flags of a write that ask for more than to be written, and perhaps acknowledged."""
MAX_PENDING_BYTES = 64 << 20
"""Writes of the peer that wait for this disk: beyond this the data connection is not read until half of it is done."""


class SecondaryPath(PeerAcks):
    """Applies what the peer sends and acknowledges it as the peer asked."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._held: list[tuple[int, int, memoryview]] = []
        self._holds = 0
        """How many wait with the data connection held back: barriers for their flush, new generations for the metadata,
        a resync for the writes before it, a request of the peer for a flush or an answer, a full queue for room."""
        self.epoch = PeerEpoch(self)
        self._last = 0, 0
        """The last write of this connection: sector and bytes."""
        self._pending = 0
        self._pending_bytes = 0
        self._room: Callable[[], None] | None = None
        self._when_written: list[Callable[[], None]] = []
        self._digest: Callable[[Buffer], bytes] | None = None
        self._digest_bytes = 0
        self._compression: Compression | None = None
        self._as_they_come = False
        """Payloads of this connection are neither checked nor compressed, and every write says which ack it wants."""
        self._judged: State | None = None
        self._straight = False
        """In this state a write needs nothing but the disk."""
        self.reads = PeerReads(self)
        self.received_sectors = 0
        self.written_sectors = 0

    @property
    def idle(self) -> bool:
        """Nothing of the peer's is under way here."""
        return not self._pending and not self.holding

    @property
    def unflushed(self) -> bool:
        """Writes of the peer are here that no barrier ack covers."""
        return self._link is not None and self.epoch.unflushed

    @property
    def unacked(self) -> int:
        """Writes of the peer not yet acknowledged."""
        return self._pending

    def connected(self, link: Link) -> None:
        """A new connection."""
        alg = self._r.settings.data_integrity_alg
        self._link = link
        self._digest = digest(alg) if alg else None
        self._digest_bytes = digest_size(alg) if alg else 0
        self._compression = self._r.links.compression.of(link)
        self._as_they_come = link.version >= 100 and not alg and self._compression is None
        self.epoch.begin()
        self._last = 0, 0
        self._seq = 0

    def connection_lost(self) -> None:
        """What was received is applied; what waited behind a barrier is forgotten: it was never acknowledged."""
        self._link = None
        self._acks.clear()
        self._held.clear()
        self._room = None
        self.reads.reset()
        self._holds = 0

    # --- holding back ---

    @property
    def holding(self) -> bool:
        """Packets of the data connection wait."""
        return self._holds > 0

    def hold(self, packets: Sequence[tuple[int, int, memoryview]]) -> None:
        """These came after a barrier that is not on disk yet."""
        self._held.extend(packets)

    def hold_until(self, begin: Callable[[Callable[[], None]], None]) -> None:
        """Hold the data connection until `begin(go_on)` calls go_on."""
        link = self._link
        assert link is not None
        self._holds += 1
        self._host.hold(link.data, True)

        def go_on() -> None:
            if self._link is not link:
                return
            self._holds -= 1
            if self._holds:
                return
            self._host.hold(link.data, False)
            held, self._held = self._held, []
            if held:
                self._r.links.resume(held)

        begin(go_on)

    # --- writes ---

    def on_data(self, body: memoryview) -> None:
        """P_DATA."""
        link = self._link
        if link is None:
            raise ProtocolError("P_DATA before the handshake", Cmd.DATA)
        sector, ident, _seq, flags = DATA_BODY.unpack_from(body)
        if not self._as_they_come or flags & _NOT_STRAIGHT or not self._goes_straight(link, sector, ident, flags, body):
            self._goes_round(link, sector, ident, flags, body)
        if self._pending_bytes > MAX_PENDING_BYTES and not self.holding:
            self.hold_until(self._wait_for_room)

    def _goes_round(self, link: Link, sector: int, ident: bytes, flags: int, body: memoryview) -> None:
        payload = self.verified(body[24:], Cmd.DATA)
        size = len(payload)
        self.check_range(sector, size, Cmd.DATA)
        self.epoch.size += 1
        self.received_sectors += size >> 9
        flags = self._flags(link, flags)
        if flags & DP_SEND_RECEIVE_ACK and self._takes:
            self.ack(link, Cmd.RECV_ACK, sector, ident, size)
        self._apply(link, sector, size, ident, flags, payload, None)

    def _goes_straight(self, link: Link, sector: int, ident: bytes, flags: int, body: memoryview) -> bool:
        """A write with nothing in its way goes to the disk: what `_apply` does, without looking at what cannot be.

        False: something may be in its way, and nothing was done.
        """
        r = self._r
        state, disk, meta = r.state, r.disk, r.meta
        if state is not self._judged:
            self._judged = state
            self._straight = (
                state.disk >= Disk.INCONSISTENT and state.pdsk >= Disk.INCONSISTENT and state.conn != Conn.WF_BITMAP_S
            )
        size = len(body) - 24
        if not self._straight or disk is None or meta is None or r.primary.busy.count:
            return False
        if size & 511 or not size or sector + (size >> 9) > r.size_sectors:
            return False
        start = sector << 9
        epoch = self.epoch
        epoch.size += 1
        if epoch.taken_by is None:
            epoch.taken_by = meta
        self.received_sectors += size >> 9
        self.written_sectors += size >> 9
        self._last = sector, size
        done = _Later(self, link, sector, size, ident, flags)
        result = disk.write(start, body[24:], done)
        if result == 0:
            if flags & DP_SEND_WRITE_ACK:
                self._ack_100(_WRITE_ACK, sector, ident, size)
        elif result == PENDING:
            done.busy = r.primary.busy.add(start, start + size, "local")
            self._pending += 1
            self._pending_bytes += size
        else:
            self._written(link, sector, size, ident, flags, result)
        return True

    def _wait_for_room(self, go_on: Callable[[], None]) -> None:
        self._room = go_on

    def verified(self, payload: memoryview, cmd: Cmd) -> memoryview:
        """Take the integrity digest off a payload; a wrong one costs the peer the connection."""
        if self._digest_bytes and self._digest is not None:
            sent, payload = payload[: self._digest_bytes], payload[self._digest_bytes :]
            if self._digest(payload) != bytes(sent):
                raise ProtocolError(f"Digest integrity check FAILED for {len(payload)} bytes of P_{cmd.name}", cmd)
        if self._compression is not None:
            self._compression.heard(len(payload))
        return payload

    def on_trim(self, body: memoryview) -> None:
        """P_TRIM: with WZEROES agreed a discard, without it zeroes; here it always reads back as zeroes."""
        self._on_zero(body, Cmd.TRIM)

    def on_zeroes(self, body: memoryview) -> None:
        """P_ZEROES."""
        self._on_zero(body, Cmd.ZEROES)

    def _on_zero(self, body: memoryview, cmd: Cmd) -> None:
        link = self._link
        if link is None:
            raise ProtocolError(f"P_{cmd.name} before the handshake", cmd)
        trim = Trim.unpack(body)
        self.check_range(trim.sector, trim.size_bytes, cmd)
        self.epoch.size += 1
        flags = self._flags(link, trim.dp_flags)
        if flags & DP_SEND_RECEIVE_ACK and self._takes:
            self.ack(link, Cmd.RECV_ACK, trim.sector, trim.block_id, trim.size_bytes)
        punch = (cmd == Cmd.TRIM and bool(link.features & FEATURE_WZEROES)) or bool(trim.dp_flags & DP_DISCARD)
        if trim.size_bytes <= EXTENT_BYTES:
            self._apply(link, trim.sector, trim.size_bytes, trim.block_id, flags, None, punch)
            return
        # up to 128 MiB: more extents than the activity log may hold at once
        pieces = split(trim.sector, trim.size_bytes)
        whole = Whole(len(pieces), trim.sector, trim.block_id, trim.size_bytes, bool(flags & DP_SEND_WRITE_ACK))
        for sector, size_bytes in pieces:
            self._apply(link, sector, size_bytes, whole, flags | DP_SEND_WRITE_ACK, None, punch)

    def _flags(self, link: Link, flags: int) -> int:
        """Before version 100 the configured protocol says which acks the peer wants."""
        if link.version >= 100:
            return flags
        protocol = self._r.settings.protocol
        return flags | (DP_SEND_WRITE_ACK if protocol == "C" else DP_SEND_RECEIVE_ACK if protocol == "B" else 0)

    def check_range(self, sector: int, size_bytes: int, cmd: Cmd) -> None:
        """Raises ProtocolError unless the range lies within the device."""
        if size_bytes % 512 or (sector << 9) + size_bytes > self._r.size_bytes or not size_bytes:
            raise ProtocolError(f"P_{cmd.name} of {size_bytes} bytes at sector {sector} is beyond the device", cmd)

    def _apply(
        self, link: Link, sector: int, size: int, ident: Ident, flags: int, payload: memoryview | None,
        punch: bool | None, turn: Busy | None = None,
    ) -> None:  # fmt: skip
        """Begin the write unless it must wait: for overlapping ones before it, or for its extents to be hot.

        `turn`: its place in the line behind overlapping writes; later ones keep behind it.
        """
        r = self._r
        busy = r.primary.busy
        start, end = sector << 9, (sector << 9) + size
        again = partial(self._apply, link, sector, size, ident, flags, payload, punch)
        # until its bitmap is here, nobody but us remembers what a Primary without a good disk writes
        alone = r.state.pdsk < Disk.INCONSISTENT or (
            r.state.conn == Conn.WF_BITMAP_S and r.state.peer == Role.PRIMARY and r.sync.bitmaps.expected
        )
        if turn is None:
            self._last = sector, size
            if alone:
                self.mark_last()
            takes = self._takes
            begin = again if takes else partial(self._refuse, link, sector, ident, size)
            if busy.count and busy.queue(start, end, "waiting", partial(self._again, size, begin)):
                self._pending += 1
                self._pending_bytes += size
                return
            if not takes:
                self._refuse(link, sector, ident, size)
                return
        disk, meta = r.disk, r.meta
        if disk is None or meta is None:
            self._refuse(link, sector, ident, size, turn)
            return
        if alone and r.attachment.activity is not None:
            # the peer works on our disk alone: its crash and ours must find these extents in the log
            activity = r.attachment.activity
            first, last = start >> 22, (end - 1) >> 22
            if not activity.covers(first, last):
                self._pending += 1
                self._pending_bytes += size
                # not "local" yet: nothing that waits for the activity log may keep its extents from being evicted
                turn = turn or busy.add(start, end, "waiting")
                activity.want(first, last, partial(self._again, size, again, turn))
                return
        if turn is not None:
            turn.why = "local"
        self.epoch.taken_by = self.epoch.taken_by or meta
        self.written_sectors += size >> 9
        if flags & DP_FUA:
            entry = turn or busy.add(start, end, "local")
            self._pending += 1
            self._pending_bytes += size
            later = partial(self._written_later, link, sector, size, ident, flags, entry)
            if payload is not None:
                disk.write_fua(start, payload, later)
            elif (result := disk.zero(start, size, bool(punch), partial(self._zeroed, later))) != PENDING:
                self._zeroed(later, result)
            return
        done = _Later(self, link, sector, size, ident, flags)
        if payload is not None:
            result = disk.write(start, payload, done)
        else:
            result = disk.zero(start, size, bool(punch), done)
        if result == PENDING:
            done.busy = turn or busy.add(start, end, "local")
            self._pending += 1
            self._pending_bytes += size
        else:
            self._written(link, sector, size, ident, flags, result)
            if turn is not None:
                busy.free(turn)

    @property
    def _takes(self) -> bool:
        """What comes now is written here. A disk that is being detached still gets what came before, in its turn.

        One that is being attached gets nothing: what comes was meant for the one before.
        """
        r = self._r
        return r.disk is not None and r.meta is not None and r.state.disk >= Disk.INCONSISTENT

    def mark_last(self) -> None:
        """What came last stands as different: the peer's disk may lack it."""
        meta, (sector, size) = self._r.meta, self._last
        if meta is not None and size:
            meta.bitmap.set_range(sector >> 3, -(-((sector << 9) + size) // 4096))

    def _again(self, size: int, apply: Callable[[Busy], None], turn: Busy) -> None:
        self._pending -= 1
        self._pending_bytes -= size
        apply(turn)
        self._drain()

    def _zeroed(self, later: Callable[[int], None], error: int) -> None:
        disk = self._r.disk
        if error or disk is None:
            later(error or 5)
        else:
            self._r.flush_disk(later)

    def _written_later(
        self, link: Link, sector: int, size: int, ident: Ident, flags: int, busy: object, error: int
    ) -> None:
        self._pending -= 1
        self._pending_bytes -= size
        self._written(link, sector, size, ident, flags, error)
        self._r.primary.busy.free(busy)  # type: ignore[arg-type]
        self._drain()
        self._r.primary.local_done()

    @property
    def resource(self) -> Resource:
        """Whose path this is."""
        return self._r

    @property
    def link(self) -> Link | None:
        """The connection, from its handshake until it is lost."""
        return self._link

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call back when every write the peer has sent is on this disk (not yet flushed)."""
        if self._pending:
            self._when_written.append(callback)
        else:
            callback()

    def _drain(self) -> None:
        if self._room is not None and self._pending_bytes < MAX_PENDING_BYTES // 2:
            go_on, self._room = self._room, None
            go_on()
        if not self._pending and self._when_written:
            waiting, self._when_written = self._when_written, []
            for callback in waiting:
                callback()

    def _written(self, link: Link, sector: int, size: int, ident: Ident, flags: int, error: int) -> None:
        r = self._r
        if error:
            if r.meta is not None:
                r.meta.bitmap.set_range(sector >> 3, -(-((sector << 9) + size) // 4096))
                r.sync.target.write_failed(sector << 9, (sector << 9) + size)
            self._nack(link, sector, ident, size)
            r.write_failed(error, size, sector << 9, " for the peer", fua=bool(flags & DP_FUA))
            return
        in_sync = bool(flags & DP_MAY_SET_IN_SYNC) and Conn.SYNC_SOURCE <= r.state.conn <= Conn.PAUSED_SYNC_T
        if in_sync and r.meta is not None:
            r.sync.clear_bits(sector << 9, size)
        if flags & DP_SEND_WRITE_ACK:
            self.ack(link, Cmd.RS_WRITE_ACK if in_sync else Cmd.WRITE_ACK, sector, ident, size)

    def _refuse(self, link: Link, sector: int, ident: Ident, size: int, turn: Busy | None = None) -> None:
        """In its turn: never ahead of the answer to an older write of the same blocks."""
        self._nack(link, sector, ident, size)
        if turn is not None:
            self._r.primary.busy.free(turn)

    # --- the rest ---

    def send_block(self, link: Link, cmd: Cmd, sector: int, ident: bytes, data: Buffer) -> None:
        """P_DATA_REPLY or P_RS_DATA_REPLY with its digest."""
        extra = self._digest(data) if self._digest is not None else b""
        body = Data(sector, ident, 0, 0).pack()
        if self._compression and (packet := self._compression.packet(link, cmd, body, extra, data)):
            self._r.links.send_parts([packet])
            return
        volume = self._r.settings.volume if link.version >= 100 else 0
        head = pack_header(link.version, cmd, len(body) + len(extra) + len(data), volume) + body + extra
        self._r.links.send_parts([head, data])

    @property
    def ordered(self) -> bool:
        """The peer knows that we apply in order of arrival."""
        return self._link is not None and bool(self._link.features & FEATURE_ORDERED)


class _Later:
    """Completion of a write that went to the pool."""

    __slots__ = ("args", "busy", "path")

    def __init__(self, path: SecondaryPath, link: Link, sector: int, size: int, ident: Ident, flags: int) -> None:
        self.path = path
        self.args = (link, sector, size, ident, flags)
        self.busy: object = None

    def __call__(self, error: int) -> None:
        self.path._written_later(*self.args, self.busy, error)
