# SPDX-License-Identifier: GPL-2.0-or-later
"""What all parts of the path of the application's requests share: their state, and where requests go.

The path is one object, built as a line of classes, each a module of its own: PathState, Completion (acks and answers),
Reads, Flushing (flushes, zeroes, epochs), PrimaryPath (writes). There is no indirection on the way of a write.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from replblock.core.compressing import Compression
from replblock.core.epochs import Epoch, TransferLog
from replblock.core.host import Buffer
from replblock.core.link import Link
from replblock.core.overlap import Busy, BusyRanges
from replblock.core.requests import MAX_REQUEST_BYTES, Request
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire.commands import Cmd
from replblock.wire.digests import digest
from replblock.wire.flags import DP_MAY_SET_IN_SYNC, DP_RW_SYNC, DP_SEND_RECEIVE_ACK, DP_SEND_WRITE_ACK, FEATURE_ORDERED
from replblock.wire.headers import pack_header
from replblock.wire.limits import max_bio_bytes
from replblock.wire.packets import BlockDesc

if TYPE_CHECKING:
    from replblock.core.metastore import MetaStore
    from replblock.core.resource import Resource

FLUSHING_BARRIER_MS = 1000
"""At the latest so long after its first write an epoch is closed: bounds what a peer's power loss can cost."""
MAX_EPOCH_WRITES_ORDERED = 65536
"""Between two replblock nodes an epoch needs no barrier for order; this bounds the memory of the transfer log."""
EXTENT_BYTES = 4 << 20
LOCAL, NET, BARRIER, AGAIN = 1, 2, 4, 8
"""What a request waits for: this disk, the peer's ack, the barrier ack of its epoch, its turn to be sent again."""
NET_PENDING, NET_OK, NET_IN_SYNC, NET_FAILED, NET_LOST, NET_HERE = 0, 1, 2, 3, 4, 5
ID = struct.Struct(">Q")
_NOT_YET_TARGET = frozenset({Conn.WF_BITMAP_T, Conn.WF_SYNC_UUID})
_TARGET = frozenset({Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T})


class Lost:
    """What a broken connection leaves behind."""

    __slots__ = ("epochs", "reads", "writes")

    def __init__(self, epochs: list[Epoch], writes: list[Request], reads: list[Request]) -> None:
        self.epochs = epochs
        self.writes = writes
        self.reads = reads


class Again(NamedTuple):
    """A write that is to be sent again, in the order of its first sending."""

    order: int
    request: Request
    here: MetaStore | None
    """The disk that has or gets it already."""


class PathState:
    """The state of the path, and which way the present state of the resource sends a request."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._host = resource.host
        self.log = TransferLog()
        self.busy = BusyRanges()
        self.ready = False
        self.frozen: set[str] = set()
        self._parked: deque[Request] = deque()
        self._unparking = False
        self._turns = 0
        self._refused: list[Request] = []
        """Under suspend-io: data was within reach, and could not be read or written. They begin anew later."""
        self._held: deque[Request] = deque()
        """Done in a freeze. Each is here until it is answered: whoever takes a disk or the peer away looks here."""
        self._unacked: dict[bytes, Request] = {}
        self._reads: dict[bytes, Request] = {}
        self._unsent: list[Request] = []
        self._again: list[Again] = []
        self._brought_forward = False
        self._resending = False
        self._starting: Request | None = None
        self._not_before_ms = 0
        """The peer could not write what was sent again: it is not asked every millisecond."""
        self._kept_bytes = 0
        self._forgotten = 0
        """How often answered writes whose data is not kept went down with the last copy: a flush has to fail."""
        self._told = 0
        """The last of these that a flush which was handed in since has told of, by being answered with an error."""
        self._telling = 0
        """The same, this wake-up included: what is handed in later in it was on its way before that answer."""
        self._given_up = False
        """Writes that are still on their way to this disk stand on data that is to be overwritten."""
        self._out: list[Buffer] = []
        self._local: deque[Request] = deque()
        self._going = False
        self._local_pending = 0
        self._reading = 0
        self._ident = 0
        self._seq = 0
        self._most_bytes = MAX_REQUEST_BYTES
        """The largest read or write that may go to the peer."""
        self._in_flight_bytes = 0
        self._in_flight = 0
        self._remote = False
        self._out_of_sync = False
        self._has_disk = False
        self._primary = False
        self._alone_ok = False
        self._untold = False
        """This disk became a good one, and the peer may still take its own for the last copy."""
        self._untold_ident = 0
        """The last write that was sent before the peer said that it knows."""
        self._unsure_ident = 0
        """The last write that was sent before the peer's disk failed one: the acks of those leave nothing in sync."""
        self.refused_there = False
        """The peer could not write what this disk has, and has not said yet what its own one is worth now."""
        self._begins_here = False
        """Writes that begin now go to this disk; else, if there is one, they are marked and come with the resync."""
        self._flags = 0
        self._link: Link | None = None
        self._ordered = False
        self._digest: Callable[[Buffer], bytes] | None = None
        self._compression: Compression | None = None
        self._as_they_are = False
        """Payloads of this connection are neither checked nor compressed, and writes need no epochs for their order."""
        self._straight = False
        """In this state a new write goes here and there, and is no part of a resync (straight.py)."""
        self._retries: list[Callable[[], None]] = []
        self.sent_sectors = self.read_sectors = self.written_sectors = 0

    def connected(self, link: Link) -> None:
        """A new connection speaks; counters of the wire begin anew."""
        s = self._r.settings
        self._link = link
        self._seq = 0
        self._most_bytes = max_bio_bytes(link.version)
        self._ordered = bool(link.features & FEATURE_ORDERED)
        self._untold = self.refused_there = False
        self._digest = digest(s.data_integrity_alg) if s.data_integrity_alg else None
        self._compression = self._r.links.compression.of(link)
        self._as_they_are = (
            self._ordered and link.version >= 100 and self._digest is None and self._compression is None
        )

    def reroute(self, old: State, new: State) -> None:
        """Where writes go, in this state (DRBD 8.4: send data, send P_OUT_OF_SYNC, or only mark)."""
        s = self._r.state
        conn, pdsk = s.conn, s.pdsk
        if old.pdsk >= Disk.INCONSISTENT > pdsk:
            self._mark_unflushed()  # whatever the peer had not flushed may be missing when its disk comes back
            self._unsure_ident = self._ident
        self._remote = self._link is not None and (
            (pdsk == Disk.UP_TO_DATE and conn >= Conn.CONNECTED)
            or (pdsk >= Disk.INCONSISTENT and Conn.WF_BITMAP_T <= conn < Conn.AHEAD)
        )
        version = self._link.version if self._link is not None else 0
        self._out_of_sync = conn in (Conn.AHEAD, Conn.WF_BITMAP_S) and version >= 96
        self._primary = s.role == Role.PRIMARY
        self._has_disk = self._r.meta is not None and s.disk >= Disk.INCONSISTENT
        # what is written here now is right on top of the source's data only: not before the disk says Inconsistent
        becoming_target = conn in _NOT_YET_TARGET or (conn in _TARGET and not self._r.sync.target.may_write)
        self._begins_here = self._has_disk and not becoming_target
        alone_ok = self._has_disk and s.disk == Disk.UP_TO_DATE
        if pdsk != Disk.UP_TO_DATE or alone_ok > self._alone_ok:
            self.refused_there = False
        if alone_ok and not self._alone_ok:
            for epoch in self.log.everything():
                self._forget(epoch)  # this disk has it all; sent again it would overwrite what comes from now on
            # a kernel peer whose disk fails a write calls it Inconsistent even if it is the last copy
            self._untold = self._primary and self._link is not None and self._ordered
        self._alone_ok = alone_ok
        flags = DP_RW_SYNC
        resyncing = Conn.SYNC_SOURCE <= conn <= Conn.PAUSED_SYNC_T and conn not in (Conn.VERIFY_S, Conn.VERIFY_T)
        protocol = self._r.settings.protocol
        if resyncing:
            flags |= DP_SEND_WRITE_ACK if becoming_target else DP_MAY_SET_IN_SYNC | DP_SEND_WRITE_ACK
        elif protocol == "C" or not self._alone_ok:
            flags |= DP_SEND_WRITE_ACK
        elif protocol == "B":
            flags |= DP_SEND_RECEIVE_ACK
        self._flags = flags
        self._asynchronous = not flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK)
        self._straight = (
            self._as_they_are and self._remote and self._primary and self._begins_here
            and not flags & DP_MAY_SET_IN_SYNC
        )  # fmt: skip
        for reason, word in (("user", "susp"), ("no-data", "susp_nod"), ("fencing", "susp_fen")):
            if getattr(self._r.state, word):  # as it is now: what a thaw lets begin may fail the last disk
                self.freeze(reason)
            elif reason in self.frozen:
                self.thaw(reason)
        if self._parked:
            self._unpark()  # what found no data before may find some now

    def peer_knows(self) -> None:
        """The peer has said that it takes this disk for a good one."""
        if self._untold:
            self._untold, self._untold_ident = False, self._ident

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

    def _room_bytes(self) -> int:
        """So many bytes may be under way."""
        return self._r.settings.max_in_flight_bytes - self._kept_bytes

    def _epoch_limit(self) -> int:
        return MAX_EPOCH_WRITES_ORDERED if self._ordered else self._r.settings.max_epoch_size

    # --- what the later classes of the line provide ---

    def submit(self, requests: list[Request]) -> None:
        raise NotImplementedError

    def go(self) -> None:
        raise NotImplementedError

    def freeze(self, reason: str) -> None:
        raise NotImplementedError

    def thaw(self, reason: str) -> None:
        raise NotImplementedError

    def _forget(self, epoch: Epoch) -> None:
        raise NotImplementedError

    def close_epoch(self) -> None:
        raise NotImplementedError

    def _complete(self, request: Request) -> None:
        raise NotImplementedError

    def _no_data(self, request: Request, refused: bool = False) -> None:
        raise NotImplementedError

    def _write(self, request: Request) -> None:
        raise NotImplementedError

    def _zero(self, request: Request) -> None:
        raise NotImplementedError

    def _unpark(self) -> None:
        raise NotImplementedError

    def _retry(self) -> None:
        raise NotImplementedError

    def _local_done(self, request: Request, error: int) -> None:
        raise NotImplementedError

    def _local_done_later(self, request: Request, busy: Busy, error: int) -> None:
        raise NotImplementedError
