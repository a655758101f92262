# SPDX-License-Identifier: GPL-2.0-or-later
"""The side of a resync that gets the data: it asks for marked blocks, as fast as it is allowed to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from replblock.core.host import PENDING
from replblock.core.link import Link
from replblock.core.overlap import ON_DISK, Busy
from replblock.core.rate import STEP_MS, RateController
from replblock.core.thin import make_zero
from replblock.meta.superblock import Flag
from replblock.state.names import Conn, Role
from replblock.state.packed import State
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import FEATURE_THIN_RESYNC, ID_SYNCER
from replblock.wire.limits import max_bio_bytes
from replblock.wire.packets import BlockAck, BlockDesc, BlockReq, Data

if TYPE_CHECKING:
    from replblock.core.resource import Resource

BLOCK_BYTES = 4096
MAX_REQUEST_BLOCKS = 256
PAGE_SECTORS = 8
_TARGET = frozenset({Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T})
AWAITS_SYNC_UUID = frozenset({Conn.WF_SYNC_UUID, Conn.BEHIND, Conn.WF_BITMAP_T})


class ResyncTarget:
    """Requests marked ranges in ascending order; a range is done when it is written here and acknowledged."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.running = False
        self.may_write = False
        """The disk itself says that it is Inconsistent."""
        self._position = 0
        self._budget_sectors = 0
        self._arrived_sectors = 0
        self._in_flight_sectors = 0
        self._outstanding: dict[int, tuple[int, Busy | None]] = {}
        self._failed: dict[int, int] = {}
        self._asked_before: set[int] = set()
        """Asked for in a resync that is over. An answer that still comes is none to the next one: it may be older than
        what was marked since, and a refusal comes on the other connection."""
        self.writing = 0
        self._ending: object | None = None
        """The end of this resync is under way: the flush, and the ping after it."""
        self.end_unconfirmed = False
        """A resync to here is complete; its source has not said yet that it recorded the end."""
        self._controller: RateController | None = None
        self.received_sectors = 0

    @property
    def asking(self) -> bool:
        """Blocks are on their way here, or soon will be."""
        return self.running or bool(self._outstanding)

    @property
    def failed_blocks(self) -> int:
        """Blocks that the source could not read or this node could not write."""
        return sum(self._failed.values())

    @property
    def want_kib(self) -> int:
        """What the controller wanted last, KiB/s."""
        return self._controller.want_kib if self._controller is not None else 0

    def begin(self, number: int, go_on: Callable[[], None]) -> None:
        """The source begins, and names the generation; `go_on` when its data may be written here."""
        r = self._r
        meta, link = r.meta, r.links.link
        if meta is None or link is None or r.state.conn not in AWAITS_SYNC_UUID:
            go_on()  # a disk went away meanwhile, and the resync with it
            return
        self.may_write = False
        meta.put(meta.uuids.resync_start_target(number, r.state.role == Role.PRIMARY))
        meta.put_flags(0, Flag.WENT_ON_ALONE)  # what was written alone goes with the rest
        r.remembered.resync_began(number, here_is_source=False)
        r.sync.count_from_here("SyncTarget")
        r.sync.checksums.begin_target()
        r.change("resync-started", forced=True, conn=Conn.SYNC_TARGET)

        def durable(error: int) -> None:
            # not before the disk says Inconsistent may the first foreign block land on it
            if r.links.link is link:
                self.may_write = not error
                r.primary.reroute(r.state, r.state)
                if not error and r.state.conn == Conn.SYNC_TARGET:
                    self.start()
            go_on()

        meta.save_bitmap()
        meta.save(durable)

    def start(self) -> None:
        """SyncTarget began: the state is on disk."""
        self.running = True
        self._ending = None
        self._position = 0
        self._failed.clear()
        self._controller = RateController.of(self._r.settings)
        self._budget_sectors = self._arrived_sectors = 0
        self._step()

    def settings_changed(self) -> None:
        """Of a resync that runs, too: an operator who wants it faster wants that now."""
        if self._controller is not None:
            self._controller = RateController.of(self._r.settings)

    def stop(self) -> None:
        """Paused, or over; in a pause, whatever was asked for and still comes is taken."""
        self.running = False
        self._r.host.timer("resync", None)

    def state_changed(self, old: State, new: State) -> None:
        """Pauses, the end, and the Primary that is a target."""
        if old.role != new.role == Role.PRIMARY:
            self.promoted()
        if old.conn == Conn.SYNC_TARGET != new.conn:
            self.stop()
        elif old.conn == Conn.PAUSED_SYNC_T and new.conn == Conn.SYNC_TARGET and self.may_write:
            self.start()
        if old.conn in _TARGET and new.conn not in _TARGET:
            self._asked_before.update(self._outstanding)

    def reset(self) -> None:
        """The connection is gone."""
        self.stop()
        outstanding, self._outstanding = self._outstanding, {}
        self._asked_before.clear()
        self._in_flight_sectors = 0
        self._ending = None
        self.end_unconfirmed = self.may_write = False
        for _, busy in outstanding.values():
            if busy is not None:
                self._r.primary.busy.free(busy)

    def promoted(self) -> None:
        """From now on application writes come here: they wait for what was asked for, else its older data wins.

        Not before: a Secondary applies its peer's writes and the replies in the order in which they arrive.
        """
        for first, (length, busy) in self._outstanding.items():
            if busy is None:
                start = first * BLOCK_BYTES
                end = min(start + length * BLOCK_BYTES, self._r.size_bytes)
                self._outstanding[first] = (length, self._r.primary.busy.add(start, end, "resync"))

    def on_timer(self) -> None:
        """Every 100 ms."""
        if self.running:
            self._step()

    def _step(self) -> None:
        controller = self._controller
        assert controller is not None
        # the source's answers come in between steps too: unspent budget is not carried over; half a block too much is
        owed = min(0, self._budget_sectors)
        wanted = controller.step(self._in_flight_sectors, self._arrived_sectors)
        self._budget_sectors = min(owed + wanted, self._r.sync.aside.room())
        self._arrived_sectors = 0
        self._r.host.timer("resync", STEP_MS)
        self._pump()

    def _cap_sectors(self) -> int:
        return max(self._r.settings.max_buffers // 2 * PAGE_SECTORS, MAX_REQUEST_BLOCKS * PAGE_SECTORS)

    def _pump(self) -> None:
        """Ask for marked ranges while budget and window allow."""
        r = self._r
        meta = r.meta
        if not self.running or meta is None or self._ending is not None:
            return
        if r.state.role == Role.PRIMARY and r.primary.resending:
            return  # the source lacks them still: its older data would take their place here
        bitmap = meta.bitmap
        cap = self._cap_sectors()
        asked: list[tuple[int, int, int]] = []
        round_again = False
        while self._budget_sectors > 0 and self._in_flight_sectors < cap:
            first = bitmap.next_set(self._position)
            if first < 0:
                if self._outstanding or self.writing:
                    break
                if bitmap.count <= self.failed_blocks:
                    self._finish()
                    break
                first = bitmap.next_set(0)
                if first < 0 or round_again:
                    break  # nothing that could be asked for now
                round_again = True
            known = self._failed.get(first) or self._outstanding.get(first, (0, None))[0]
            if known:
                self._position = first + known  # what was marked behind it since is not part of it
                continue
            length = self._length_from(first)
            start = first * BLOCK_BYTES
            size = min(length * BLOCK_BYTES, r.size_bytes - start)
            self._position = first + length
            busy = None
            if r.state.role == Role.PRIMARY:
                if r.primary.busy.find(start, start + size) is not None:
                    break  # an application write is there right now: the next step comes by again
                busy = r.primary.busy.add(start, start + size, "resync")
            self._outstanding[first] = (length, busy)
            self._in_flight_sectors += size >> 9
            self._budget_sectors -= size >> 9
            asked.append((first, start, size))
        if asked:
            r.sync.aside.took(sum(size for _, _, size in asked) >> 9)
            self._ask(asked)
        if not self._outstanding and not self.writing and bitmap.count <= self.failed_blocks:
            self._finish()

    def _ask(self, asked: list[tuple[int, int, int]]) -> None:
        """Ask for these blocks: first, start, size; or whether they are equal."""
        r = self._r
        link, checksums = r.links.link, r.sync.checksums
        for first, start, size in asked:
            if not checksums.asks:
                thin = link is not None and link.features & FEATURE_THIN_RESYNC
                cmd = Cmd.RS_THIN_REQ if thin else Cmd.RS_DATA_REQUEST
                r.links.send(cmd, BlockReq(start >> 9, ID_SYNCER, size).pack())
            elif link is None or r.links.link is not link:
                return  # an earlier one could not be read, and that was the end of the connection
            elif self.still_wants(first):
                checksums.ask(link, first, start, size)
            else:
                self.forgo(first)

    def still_wants(self, first: int) -> bool:
        """These blocks are on the list, and the resync they are for goes on."""
        r = self._r
        mine = first in self._outstanding and first not in self._asked_before
        return mine and r.disk is not None and r.state.conn == Conn.SYNC_TARGET

    def forgo(self, first: int) -> None:
        """Not asked for after all."""
        if first in self._outstanding:
            self._done(first)

    def equal(self, first: int, size_bytes: int, counts: bool) -> bool:
        """The source has the same: nothing is to be written. Whether that was for the resync of now."""
        known = self._outstanding.get(first)
        start = first * BLOCK_BYTES
        if known is None or size_bytes != min(known[0] * BLOCK_BYTES, self._r.size_bytes - start):
            raise ProtocolError(f"equal checksums of {size_bytes} bytes, which nobody asked for", Cmd.RS_IS_IN_SYNC)
        current = first not in self._asked_before
        if current:
            self._arrived_sectors += size_bytes >> 9
            if counts:
                self._r.sync.clear_bits(start, size_bytes)
        self._done(first)
        self._pump()
        return current

    def write_failed(self, start: int, end: int) -> None:
        """A write of the peer failed here."""
        for first, (length, _) in self._outstanding.items():
            if first * BLOCK_BYTES < end and start < (first + length) * BLOCK_BYTES:
                self._r.sync.checksums.write_failed(first)

    def _length_from(self, first: int) -> int:
        """Blocks of one request: marked, naturally aligned, within the budget and what the protocol carries at once."""
        meta = self._r.meta
        assert meta is not None
        link = self._r.links.link
        most = max_bio_bytes(link.version) // BLOCK_BYTES if link is not None else 1
        aligned = first & -first if first else most
        # of a large request the budget's part: a power of two, for the sake of those that follow
        affordable = 1 << max(0, (self._budget_sectors // PAGE_SECTORS).bit_length() - 1)
        return max(1, meta.bitmap.set_run(first, min(aligned, most, affordable)))

    def on_reply(self, body: memoryview) -> None:
        """P_RS_DATA_REPLY."""
        head = Data.unpack(body[:24])
        payload = self._r.secondary.verified(body[24:], Cmd.RS_DATA_REPLY)
        self._answered(Cmd.RS_DATA_REPLY, head.sector, len(payload), payload)

    def on_deallocated(self, body: memoryview) -> None:
        """P_RS_DEALLOCATED: the source has only zeroes there."""
        told = BlockDesc.unpack(body)
        self._r.sync.progress.zero_sectors += told.size_bytes >> 9
        self._answered(Cmd.RS_DEALLOCATED, told.sector, told.size_bytes, None)

    def _answered(self, cmd: Cmd, sector: int, size: int, payload: memoryview | None) -> None:
        r = self._r
        link = r.links.link
        first = sector >> 3
        known = self._outstanding.get(first)
        if known is None or link is None:
            raise ProtocolError(f"resync data for sector {sector} that was not asked for", cmd)
        length, _busy = known
        if size != min(length * BLOCK_BYTES, r.size_bytes - (sector << 9)):
            raise ProtocolError(f"resync data of {size} bytes, {length} blocks were asked for", cmd)
        if r.disk is None or r.meta is None or first in self._asked_before:
            self._done(first)
            return
        self._write(link, sector, size, payload, first)

    def _write(
        self, link: Link, sector: int, size: int, payload: memoryview | None, first: int, turn: Busy | None = None
    ) -> None:
        r = self._r
        busy = r.primary.busy
        start, end = sector << 9, (sector << 9) + size
        begin = partial(self._write, link, sector, size, payload, first)
        if turn is None and busy.count and busy.queue(start, end, "local", begin, ON_DISK):
            return
        disk = r.disk
        if disk is None or r.links.link is not link or first in self._asked_before:
            if r.links.link is link:
                self._done(first)
            if turn is not None:
                busy.free(turn)
            return
        box: list[Busy] = []
        done = partial(self._written_later, link, sector, size, first, box)
        if payload is not None:
            result = disk.write(start, payload, done)
        else:
            punch = bool(r.settings.rs_discard_granularity)
            result = make_zero(disk, start, size, punch, partial(self._still_for, link, first), done)
        if result == PENDING:
            self.writing += 1
            box.append(turn or busy.add(start, end, "local"))
        else:
            self._written(link, sector, size, first, result)
            if turn is not None:
                busy.free(turn)

    def _still_for(self, link: Link, first: int) -> bool:
        return self._r.links.link is link and first not in self._asked_before

    def _written_later(self, link: Link, sector: int, size: int, first: int, box: list[Busy], error: int) -> None:
        self.writing -= 1
        self._written(link, sector, size, first, error)
        self._r.primary.busy.free(box[0])
        self._r.primary.local_done()

    def _written(self, link: Link, sector: int, size: int, first: int, error: int) -> None:
        r = self._r
        if r.links.link is not link:
            return
        if first in self._asked_before:
            self._done(first)
            if error:
                r.disk_failed(error, f"writing {size} bytes at {sector << 9} during the resync")
            return
        ack = BlockAck(sector, ID_SYNCER, size)
        if error:
            self._failed[first] = -(-size // BLOCK_BYTES)
            r.secondary.ack_resync(link, Cmd.NEG_ACK, ack)
            self._done(first)
            r.disk_failed(error, f"writing {size} bytes at {sector << 9} during the resync")
            return
        self.received_sectors += size >> 9
        self._arrived_sectors += size >> 9
        r.sync.clear_bits(sector << 9, size)
        r.secondary.ack_resync(link, Cmd.RS_WRITE_ACK, ack)
        self._done(first)
        self._pump()

    def _done(self, first: int) -> None:
        length, busy = self._outstanding.pop(first)
        self._asked_before.discard(first)
        self._r.sync.checksums.answered(first)
        start = first * BLOCK_BYTES
        self._in_flight_sectors -= min(length * BLOCK_BYTES, self._r.size_bytes - start) >> 9
        if busy is not None:
            self._r.primary.busy.free(busy)
            self._r.primary.go()

    def on_neg_reply(self, body: memoryview) -> None:
        """P_NEG_RS_DREPLY: the source cannot read it; the blocks stay marked."""
        ack = BlockAck.unpack(body)
        first = ack.sector >> 3
        if first in self._outstanding:
            if first not in self._asked_before:
                self._failed[first] = -(-ack.size_bytes // BLOCK_BYTES)
            self._done(first)
            self._pump()

    def _finish(self) -> None:
        """Data to disk, then be sure that the source saw our last acks, then the new state, then tell."""
        r = self._r
        disk, link = r.disk, r.links.link
        if self._ending is not None or disk is None or link is None or r.state.conn != Conn.SYNC_TARGET:
            return
        ending = self._ending = object()
        failed = self.failed_blocks

        def flushed(error: int) -> None:
            if error and r.disk is disk:
                # also when the resync that it was for is over: the kernel tells of it once
                r.disk_failed(error, "flushing at the end of the resync")
                return
            if r.links.link is not link or self._ending is not ending:
                return
            r.secondary.end_wakeup()
            r.links.ping(seen)

        def seen() -> None:
            if r.links.link is not link or r.meta is None or r.state.conn != Conn.SYNC_TARGET:
                return
            if self._ending is not ending:
                return  # of another resync on the same connection
            if not failed and r.meta.bitmap.count:
                self._ending = None  # marked meanwhile: not the end yet
                self._position = 0
                self._pump()
                return
            if r.admin.pending is not None:
                # what the peer agrees to (a detach) is for the target that it knows: the next step ends it
                self._ending = None
                return
            self.stop()
            self._ending = None
            r.sync.finished_as_target(failed)

        r.flush_disk(flushed)
