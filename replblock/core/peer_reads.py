# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads of a peer that has no data, or none that is good, of its own."""

from __future__ import annotations

from collections.abc import Callable
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

MAX_ASKED_BYTES = 64 << 20
"""What the peer has asked to read and has not taken: beyond this its data connection is not read either."""
MIN_ASKED_BYTES = 4096
"""A read costs memory beside its data."""


class PeerReads:
    """Serves P_DATA_REQUEST from an UpToDate disk, and bounds what the peer may leave untaken of all its reads."""

    def __init__(self, path: SecondaryPath) -> None:
        self._path = path
        self._asked_bytes = 0
        self._taken: Callable[[], None] | None = None

    def reset(self) -> None:
        """The connection is gone."""
        self._asked_bytes = 0
        self._taken = None

    def asked(self, link: Link, size_bytes: int) -> None:
        """The peer asked for so much; `answered` follows for each, of a resync too."""
        self._asked_bytes += max(size_bytes, MIN_ASKED_BYTES)
        if not self._path.holding and self._untaken_bytes(link) > MAX_ASKED_BYTES:
            self._path.hold_until(self._wait_until_taken)

    def _wait_until_taken(self, go_on: Callable[[], None]) -> None:
        self._taken = go_on

    def _untaken_bytes(self, link: Link) -> int:
        return self._asked_bytes + self._path.resource.host.unsent_bytes(link.data)

    def answered(self, link: Link, size_bytes: int) -> None:
        """Queued for the peer, or refused."""
        if self._path.link is link:
            self._asked_bytes -= max(size_bytes, MIN_ASKED_BYTES)
            self.on_sent(link)

    @property
    def waits_for_room(self) -> bool:
        """The peer has asked for more than it takes."""
        return self._taken is not None

    def on_sent(self, link: Link) -> None:
        """The peer may have taken what it asked for."""
        if self._taken is not None and self._untaken_bytes(link) < MAX_ASKED_BYTES // 2:
            go_on, self._taken = self._taken, None
            go_on()

    def on_data_request(self, body: memoryview) -> None:
        """P_DATA_REQUEST: a read of a peer without (good) data."""
        link = self._path.link
        if link is None:
            raise ProtocolError("P_DATA_REQUEST before the handshake", Cmd.DATA_REQUEST)
        request = BlockReq.unpack(body)
        self._path.check_range(request.sector, request.size_bytes, Cmd.DATA_REQUEST)
        if request.size_bytes > max_bio_bytes(link.version):
            raise ProtocolError(f"P_DATA_REQUEST for {request.size_bytes} bytes at once", Cmd.DATA_REQUEST)
        self.asked(link, request.size_bytes)
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
            self._refuse(link, request)
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
            self._refuse(link, request)
            what = f"reading {request.size_bytes} bytes at {request.sector << 9} for the peer"
            self._path.resource.disk_failed(error, what)
            return
        self._path.send_block(link, Cmd.DATA_REPLY, request.sector, request.block_id, data)
        self.answered(link, request.size_bytes)

    def _refuse(self, link: Link, request: BlockReq) -> None:
        self._path.ack(link, Cmd.NEG_DREPLY, request.sector, request.block_id, request.size_bytes)
        self.answered(link, request.size_bytes)
