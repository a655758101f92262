# SPDX-License-Identifier: GPL-2.0-or-later
"""The side of a resync that has the good data: it serves what the target asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.core.overlap import Busy
from replblock.core.parting import ABOUT_TO_BE_SOURCE, part_from_target_to_be
from replblock.core.thin import only_zeroes
from replblock.meta.superblock import Flag
from replblock.state.names import Conn, Disk
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.limits import max_bio_bytes
from replblock.wire.packets import BLOCK_REQ_BODY, BlockAck, BlockDesc, BlockReq

if TYPE_CHECKING:
    from replblock.core.metastore import MetaStore
    from replblock.core.resource import Resource

SOURCE = frozenset({Conn.SYNC_SOURCE, Conn.PAUSED_SYNC_S})
MOST_UNWRITTEN = 64
"""Places where writes failed that are known one by one; of more, only from where to where they are."""


class Asked(NamedTuple):
    """What the target asks for."""

    request: BlockReq
    digest: bytes
    """Of what it has; empty if it wants the data whatever it is."""
    thin: bool
    """Where there are only zeroes it wants to be told just that."""


class ResyncSource:
    """Between reading a block and queueing the reply no application write may touch it, and none may be in flight."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.reading = 0
        """Reads in the pool: their ranges are busy, writes must look."""
        self.sent_sectors = 0
        self._finishing = False
        self._failures = 0
        """Blocks that could not be read here or written there since this resync began."""
        self._unwritten: list[tuple[int, int]] = []
        """Where writes of the application failed on this disk while the connection stood: from, to."""

    def when_durable(self, start: Callable[[MetaStore, Link], None]) -> None:
        """Call `start` when all that is on this disk is there for good, if a resync from it may still begin then.

        What a Primary wrote here that is no more, or has no good disk, is told by that one's marks only. The resync
        clears them: afterwards no power loss may take it from here.
        """
        r = self._r
        meta, link = r.meta, r.links.link
        if meta is None or link is None:
            return

        def written(go_on: Callable[[], None]) -> None:
            if r.links.link is link and r.meta is meta:
                meta.flush(partial(flushed, go_on))
            else:
                go_on()

        def flushed(go_on: Callable[[], None], error: int) -> None:
            about = r.state.conn in ABOUT_TO_BE_SOURCE
            if r.meta is meta and error:
                # also when the connection that it was for is gone: the kernel tells of it once
                if about or r.links.link is link:
                    text = "the disk could not be flushed before a resync from here"
                    part_from_target_to_be(r, "source-not-flushed", text)
                r.disk_failed(error, "flushing before a resync from here")
            elif r.meta is meta and r.links.link is link and about:
                start(meta, link)
            go_on()

        r.secondary.hold_until(lambda go_on: r.secondary.when_written(partial(written, go_on)))

    def begin(self) -> None:
        """A resync starts."""
        self._failures = 0
        self._r.sync.checksums.begin_source()

    def on_thin_request(self, body: memoryview) -> None:
        """P_RS_THIN_REQ: nothing but zeroes may be answered with a word."""
        self.on_request(body, thin=True)

    def on_request(self, body: memoryview, thin: bool = False) -> None:
        """P_RS_DATA_REQUEST, P_CSUM_RS_REQUEST."""
        r = self._r
        request = BlockReq.unpack(body)
        asked, size = Asked(request, bytes(body[BLOCK_REQ_BODY.size :]), thin), request.size_bytes
        link = r.links.link
        if link is None:
            return
        if size % 512 or not size or (request.sector << 9) + size > r.size_bytes or size > max_bio_bytes(link.version):
            raise ProtocolError(f"resync request for {size} bytes at sector {request.sector}", Cmd.RS_DATA_REQUEST)
        r.secondary.reads.asked(link, size)
        meta = r.meta
        if meta is None or r.state.conn not in SOURCE or not meta.flags & Flag.WENT_ON_ALONE:
            self._in_turn(link, asked)
            return
        # The target has begun: its disk says Inconsistent, and does not look as if it had moved on any more. From now
        # on this disk's changes are no longer its own; and before that is durable the target cannot come to the end.
        meta.put_flags(0, Flag.WENT_ON_ALONE)
        meta.save(lambda error: self._in_turn(link, asked))

    def _in_turn(self, link: Link, asked: Asked) -> None:
        if self._r.links.link is link:
            self._r.sync.aside.answer(asked.request.size_bytes, partial(self._serve, link, asked))

    def _serve(self, link: Link, asked: Asked) -> None:
        r, request = self._r, asked.request
        if r.links.link is not link:
            return
        disk = r.disk
        if disk is None or r.state.disk != Disk.UP_TO_DATE:
            self._refuse(link, request)
            return
        start = request.sector << 9
        end = start + request.size_bytes
        r.primary.go()  # a write that was sent to the peer in this wake-up is on this disk before it is read
        busy = r.primary.busy.find(start, end)
        if busy is not None:
            busy.waiters.append(partial(self._serve, link, asked))
            return
        box: list[Busy] = []
        result = disk.read(start, request.size_bytes, partial(self._read_later, link, asked, box))
        if not isinstance(result, int):
            self._reply(link, asked, result)
        elif result == PENDING:
            self.reading += 1
            box.append(r.primary.busy.add(start, end, "resync-read"))
        else:
            self._failed(link, request, result)

    def _read_later(self, link: Link, asked: Asked, box: list[Busy], error: int, data: Buffer) -> None:
        self.reading -= 1
        if self._r.links.link is link:
            if error:
                self._failed(link, asked.request, error)
            else:
                self._reply(link, asked, data)
        self._r.primary.busy.free(box[0])
        self._r.primary.go()

    def _reply(self, link: Link, asked: Asked, data: Buffer) -> None:
        request = asked.request
        if asked.digest and self._r.sync.checksums.same(data, asked.digest):
            self.in_sync(request.sector << 9, request.size_bytes)
            ack = BlockAck(request.sector, request.block_id, request.size_bytes)
            self._r.secondary.ack_resync(link, Cmd.RS_IS_IN_SYNC, ack)
            self._r.secondary.reads.answered(link, request.size_bytes)
            return
        self.sent_sectors += len(data) >> 9
        if asked.thin and only_zeroes(data):
            self._r.sync.progress.zero_sectors += len(data) >> 9
            self._r.links.send(Cmd.RS_DEALLOCATED, BlockDesc(request.sector, request.size_bytes).pack())
        else:
            self._r.secondary.send_block(link, Cmd.RS_DATA_REPLY, request.sector, request.block_id, data)
        self._r.secondary.reads.answered(link, request.size_bytes)

    def _failed(self, link: Link, request: BlockReq, error: int) -> None:
        self._refuse(link, request)
        self._r.disk_failed(error, f"reading {request.size_bytes} bytes at {request.sector << 9} for the resync")

    def _refuse(self, link: Link, request: BlockReq) -> None:
        self._failures += 1
        ack = BlockAck(request.sector, request.block_id, request.size_bytes)
        self._r.secondary.ack_resync(link, Cmd.NEG_RS_DREPLY, ack)
        self._r.secondary.reads.answered(link, request.size_bytes)

    def on_write_ack(self, sector: int, size_bytes: int) -> None:
        """P_RS_WRITE_ACK of resync data: the target has it."""
        self._r.secondary.check_range(sector, size_bytes, Cmd.RS_WRITE_ACK)
        if Conn.SYNC_SOURCE <= self._r.state.conn <= Conn.PAUSED_SYNC_T:
            self.in_sync(sector << 9, size_bytes)

    def in_sync(self, offset_bytes: int, length_bytes: int) -> None:
        """The peer has what it was sent, and it is here too: unless a later write failed here, and is there only.

        What an ack is for, and what has been sent since, nobody can tell: such blocks stay marked until the connection
        is made anew.
        """
        upto = offset_bytes + length_bytes
        if not any(offset_bytes < end and start < upto for start, end in self._unwritten):
            self._r.sync.clear_bits(offset_bytes, length_bytes)

    def not_written(self, offset_bytes: int, length_bytes: int) -> None:
        """This disk failed a write that the peer may have."""
        if self._r.meta is None:
            return  # the disk is gone, and with it what was known of it
        start, end, apart = offset_bytes, offset_bytes + length_bytes, []
        for known in self._unwritten:
            if known[1] < start or end < known[0]:
                apart.append(known)
            else:
                start, end = min(start, known[0]), max(end, known[1])
        self._unwritten = [*apart, (start, end)]
        if len(self._unwritten) > MOST_UNWRITTEN:
            self._unwritten = [(min(first for first, _ in self._unwritten), max(last for _, last in self._unwritten))]

    def all_written(self) -> None:
        """The disk of before is gone, or has got all that the peer has."""
        self._unwritten = []

    def on_neg_ack(self, sector: int, size_bytes: int) -> None:
        """The target could not write it: the blocks stay marked."""
        self.write_failed()
        text = f"the peer could not write {size_bytes} bytes at sector {sector} during the resync; they stay marked"
        self._r.why("warning", "resync-block-failed", text)

    def write_failed(self) -> None:
        """The target lacks a block that it was sent, of the resync or a new write: it may end without it."""
        self._failures += 1

    def target_finished(self) -> None:
        """The target says it has everything; so it is, if no bits are left here."""
        r = self._r
        meta, disk = r.meta, r.disk
        if meta is None or disk is None or self._finishing or r.state.conn < Conn.SYNC_SOURCE:
            return
        if meta.bitmap.count:
            r.links.ping(self._check_again)
            return
        self._finishing = True
        link = r.links.link

        def flushed(error: int) -> None:
            self._finishing = False
            if error:
                there = r.links.link is link and r.meta is meta and not meta.bitmap.count
                r.attachment.failed(error, "flushing at the end of the resync", target_finished=there)
                return
            # not where its disk went away meanwhile: this one goes on alone, and its generations tell so as they are
            if r.links.link is link and r.meta is meta and r.state.conn >= Conn.SYNC_SOURCE:
                if meta.bitmap.count:
                    self.target_finished()  # a write failed meanwhile: the end has to be looked at again
                else:
                    r.sync.finished_as_source()

        meta.flush(flushed)

    def target_gave_up(self, asked: bool = False) -> None:
        """The target ended Inconsistent: it lacks the blocks that failed. Both keep them marked."""
        r = self._r
        meta = r.meta
        if meta is None or r.state.conn < Conn.SYNC_SOURCE:
            return
        if not self._failures:
            if not asked:  # what failed there comes on the other connection
                r.links.ping(partial(self.target_gave_up, True))
            return  # an echo from before this resync
        text = f"the target ended the resync without blocks that failed; {meta.bitmap.count} stay marked"
        r.why("warning", "resync-incomplete", f"{text}; connect anew, or on the target: replctl invalidate "
                                              f"{r.settings.resource}")
        r.change("resync-failed", forced=True, conn=Conn.CONNECTED, pdsk=Disk.INCONSISTENT)
        meta.save_bitmap()

    def _check_again(self) -> None:
        r = self._r
        if r.meta is None or r.state.conn < Conn.SYNC_SOURCE:
            return
        if r.meta.bitmap.count:
            text = f"the peer ended the resync, but {r.meta.bitmap.count} blocks are still marked here; connecting anew"
            r.links.drop(Conn.NETWORK_FAILURE, "resync-left-bits", text)
        else:
            self.target_finished()

    def reset(self) -> None:
        """The connection is gone."""
        self._finishing = False
        self.all_written()
