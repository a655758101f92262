# SPDX-License-Identifier: GPL-2.0-or-later
"""The side of an online verify that answers with digests, and hears what the comparison found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.core.overlap import ON_DISK, Busy
from replblock.state.names import Conn, Disk, Role
from replblock.wire.commands import Cmd
from replblock.wire.digests import digest, known
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import OV_OUT_OF_SYNC
from replblock.wire.limits import max_bio_bytes
from replblock.wire.packets import BlockAck, BlockReq

if TYPE_CHECKING:
    from replblock.core.resource import Resource
    from replblock.core.verify import OnlineVerify

PAGE_SECTORS = 8
MOST_HELD = 8192
"""Beyond that the source has to look twice, as it does anyway."""


class VerifyTarget:
    """Serves questions as long as the disk is good, also those that come when this node takes the verify for over."""

    def __init__(self, resource: Resource, verify: OnlineVerify) -> None:
        self._r = resource
        self._verify = verify
        self._active = False
        self._reached: int | None = None
        """Up to which block there are results; None before the first question, which says where it begins."""
        self._held: dict[int, Busy] = {}
        """Read for a kernel peer, and not compared yet: no write of this node's application may overtake that."""
        self.reading = 0

    @property
    def holding(self) -> bool:
        """Application writes must look."""
        return self.reading > 0 or bool(self._held)

    @property
    def left_blocks(self) -> int:
        """Without a result."""
        meta = self._r.meta
        return (meta.bitmap.bits if meta is not None else 0) - (self._reached or 0)

    @property
    def started(self) -> bool:
        """The source has asked: what it reports from now on is from after its beginning."""
        return self._active and self._reached is not None

    def begin(self) -> None:
        """This node has agreed."""
        self._active, self._reached = True, None
        self._r.sync.progress.begin(self.left_blocks)

    def over(self) -> int | None:
        """It ended: up to which sector there are results."""
        if not self._active:
            return None
        self._active = False
        self.reset()
        return None if self._reached is None else min(self._reached * PAGE_SECTORS, self._r.size_sectors)

    def reset(self) -> None:
        """It is over, or the connection is gone."""
        held, self._held = self._held, {}
        for busy in held.values():
            self._r.primary.busy.free(busy)

    # --- answering ---

    def on_request(self, body: memoryview) -> None:
        """P_OV_REQUEST."""
        r = self._r
        request = BlockReq.unpack(body)
        link = r.links.link
        if link is None:
            return
        r.secondary.check_range(request.sector, request.size_bytes, Cmd.OV_REQUEST)
        if request.size_bytes > max_bio_bytes(link.version):
            raise ProtocolError(f"P_OV_REQUEST for {request.size_bytes} bytes at once", Cmd.OV_REQUEST)
        if self._active and self._reached is None:
            self._reached = request.sector // PAGE_SECTORS
            r.sync.progress.begin(self.left_blocks)
            r.host.log("info", "verify-started", f"Online Verify start sector: {request.sector}")
        r.secondary.reads.asked(link, request.size_bytes)
        r.sync.aside.answer(request.size_bytes, partial(self._line_up, link, request))

    def _line_up(self, link: Link, request: BlockReq) -> None:
        r = self._r
        if r.links.link is not link:
            return
        r.primary.go()  # what this node has sent is on this disk before it is read
        # in line with all writes that were begun here; a kernel peer takes ours as they come: not before it answered
        start, behind = request.sector << 9, ON_DISK if r.secondary.ordered else (*ON_DISK, "write")
        begin, busy = partial(self._read, link, request), r.primary.busy
        if not busy.count or not busy.queue(start, start + request.size_bytes, "verify-read", begin, behind):
            begin(None)

    def _read(self, link: Link, request: BlockReq, turn: Busy | None) -> None:
        r = self._r
        start = request.sector << 9
        if r.links.link is link:
            disk = r.disk
            if disk is None or r.state.disk != Disk.UP_TO_DATE or not known(r.settings.verify_alg):
                self._refuse(link, request)
            else:
                box: list[Busy] = []
                result = disk.read(start, request.size_bytes, partial(self._read_later, link, request, box))
                if not isinstance(result, int):
                    self._reply(link, request, result)
                elif result == PENDING:
                    self.reading += 1
                    box.append(turn or r.primary.busy.add(start, start + request.size_bytes, "verify-read"))
                    return
                else:
                    self._failed(link, request, result)
        if turn is not None:
            r.primary.busy.free(turn)

    def _read_later(self, link: Link, request: BlockReq, box: list[Busy], error: int, data: Buffer) -> None:
        self.reading -= 1
        if self._r.links.link is link:
            if error:
                self._failed(link, request, error)
            else:
                self._reply(link, request, data)
        self._r.primary.busy.free(box[0])
        self._r.primary.go()

    def _reply(self, link: Link, request: BlockReq, data: Buffer) -> None:
        r = self._r
        answer = BlockReq(request.sector, request.block_id, request.size_bytes).pack()
        r.links.send(Cmd.OV_REPLY, answer + digest(r.settings.verify_alg)(data))
        hold = self._active and r.state.role == Role.PRIMARY and not r.secondary.ordered
        if hold and request.sector not in self._held and len(self._held) < MOST_HELD:
            start = request.sector << 9
            self._held[request.sector] = r.primary.busy.add(start, start + request.size_bytes, "verify")
        r.secondary.reads.answered(link, request.size_bytes)

    def _failed(self, link: Link, request: BlockReq, error: int) -> None:
        self._refuse(link, request)
        start = request.sector << 9
        self._r.disk_failed(error, f"reading {request.size_bytes} bytes at {start} for the online verify")

    def _refuse(self, link: Link, request: BlockReq) -> None:
        ack = BlockAck(request.sector, request.block_id, request.size_bytes)
        self._r.secondary.ack_resync(link, Cmd.NEG_RS_DREPLY, ack)
        self._r.secondary.reads.answered(link, request.size_bytes)

    # --- hearing ---

    def on_result(self, body: memoryview) -> None:
        """P_OV_RESULT. The source marks what differs, and so does this node, unless a resync has begun."""
        r = self._r
        ack = BlockAck.unpack(body)
        r.secondary.check_range(ack.sector, ack.size_bytes, Cmd.OV_RESULT)
        held = self._held.pop(ack.sector, None)
        if held is not None:
            r.primary.busy.free(held)
            r.primary.go()
        first = ack.sector // PAGE_SECTORS
        end = -(-(ack.sector + (ack.size_bytes >> 9)) // PAGE_SECTORS)
        if ack.block_id == OV_OUT_OF_SYNC and r.state.conn in (Conn.VERIFY_T, Conn.CONNECTED):
            for block in range(first, end):
                self._verify.differs(block)
        if not self._active or self._reached is None:
            return
        self._reached = max(self._reached, end)
        if not self.left_blocks and not self._verify.peer_hears_the_end:
            self._verify.finish()

    def source_finished(self) -> None:
        """It says so on the one connection; what it found may still be on its way on the other."""
        link = self._r.links.link

        def heard() -> None:
            if self._r.links.link is link and self.started:
                self._verify.finish()

        self._r.links.ping(heard)
