# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads of a peer that has no data, or none that is good, of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.state.names import Disk
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.limits import max_bio_bytes
from replblock.wire.packets import BlockReq

if TYPE_CHECKING:
    from replblock.core.secondary import SecondaryPath


class PeerReads:
    """Serves P_DATA_REQUEST from an UpToDate disk."""

    def __init__(self, path: SecondaryPath) -> None:
        self._path = path

    def on_data_request(self, body: memoryview) -> None:
        """P_DATA_REQUEST: a read of a peer without (good) data."""
        link = self._path.link
        if link is None:
            raise ProtocolError("P_DATA_REQUEST before the handshake", Cmd.DATA_REQUEST)
        request = BlockReq.unpack(body)
        self._path.check_range(request.sector, request.size_bytes, Cmd.DATA_REQUEST)
        if request.size_bytes > max_bio_bytes(link.version):
            raise ProtocolError(f"P_DATA_REQUEST for {request.size_bytes} bytes at once", Cmd.DATA_REQUEST)
        self._serve(link, request)

    def _serve(self, link: Link, request: BlockReq) -> None:
        if self._path.link is not link:
            return
        start = request.sector << 9
        busy = self._path.resource.primary.busy.find(start, start + request.size_bytes)
        if busy is not None:
            busy.waiters.append(partial(self._serve, link, request))  # never older than what was acknowledged
            return
        disk = self._path.resource.disk
        if disk is None or self._path.resource.state.disk != Disk.UP_TO_DATE:
            self._path.ack(link, Cmd.NEG_DREPLY, request.sector, request.block_id, request.size_bytes)
            return
        done = partial(self._read, link, request)
        result = disk.read(request.sector << 9, request.size_bytes, done)
        if not isinstance(result, int):
            self._read(link, request, 0, result)
        elif result != PENDING:
            self._read(link, request, result, b"")

    def _read(self, link: Link, request: BlockReq, error: int, data: Buffer) -> None:
        if self._path.link is not link:
            return
        if error:
            self._path.ack(link, Cmd.NEG_DREPLY, request.sector, request.block_id, request.size_bytes)
            what = f"reading {request.size_bytes} bytes at {request.sector << 9} for the peer"
            self._path.resource.disk_failed(error, what)
            return
        self._path.send_block(link, Cmd.DATA_REPLY, request.sector, request.block_id, data)
