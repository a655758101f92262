# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads of the application: from the local disk where its data is good, from the peer otherwise."""

from __future__ import annotations

import errno as errnos
from functools import partial
from typing import TYPE_CHECKING

from replblock.core.completion import Completion
from replblock.core.host import PENDING, Buffer
from replblock.core.path import ID, NET
from replblock.core.requests import Request
from replblock.state.names import Conn, Disk
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.headers import pack_header
from replblock.wire.packets import BLOCK_ACK_BODY, BlockReq, Data

if TYPE_CHECKING:
    from replblock.core.metastore import MetaStore


class Reads(Completion):
    """Where a read goes, and what becomes of it when that fails."""

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
            result = disk.read(start, request.length_bytes, partial(self._read_later, request, meta))
            if isinstance(result, int):
                self._read_begun(request, result)
            else:
                self.read_sectors += request.length_bytes >> 9
                request.data = result
                self._complete(request)
            return
        self._read_there(request)

    def _read_begun(self, request: Request, result: int) -> None:
        """The disk did not answer at once, or with an error."""
        if result == PENDING:
            self._reading += 1
        else:
            self._read_here(request, result, b"")

    def _read_later(self, request: Request, meta: MetaStore, error: int, data: Buffer) -> None:
        self._reading -= 1
        if error or (meta is self._r.meta and self._has_disk):
            self._read_here(request, error, data)
        else:
            self._read(request)  # a disk that was given up meanwhile may have lost what was answered, and read so

    def _read_here(self, request: Request, error: int, data: Buffer) -> None:
        if error:
            if self._r.meta is not None:
                self._mark(request)
            self._r.disk_failed(error, f"reading {request.length_bytes} bytes at {request.offset_bytes}")
            self._read_there(request)
            return
        self.read_sectors += request.length_bytes >> 9
        request.data = data
        self._complete(request)

    def _read_there(self, request: Request) -> None:
        link, state = self._link, self._r.state
        if link is None or state.pdsk != Disk.UP_TO_DATE or state.conn < Conn.CONNECTED:
            self._no_data(request, refused=True)  # by this disk, if that is a good one
            return
        if request.length_bytes > self._most_bytes:
            self._split(request, self._read)
            return
        self._ident += 1
        request._ident = key = ID.pack(self._ident)
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
