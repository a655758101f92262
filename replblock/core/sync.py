# SPDX-License-Identifier: GPL-2.0-or-later
"""What two connected nodes make of each other's data: the handshake's decision, and the way from there to UpToDate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from replblock.core.aside import StepsAside
from replblock.core.bitmaps import BitmapExchange
from replblock.core.checksums import Checksums
from replblock.core.judging import Judged, adopt, judge
from replblock.core.parting import (
    ABOUT_TO_BE_SOURCE,
    crosses_attach,
    part_from_source_without_disk,
    part_from_target_to_be,
    part_while_frozen,
    would_lose_exposed_data,
)
from replblock.core.progress import Progress
from replblock.core.refusals import refusal_text, state_refusal_text
from replblock.core.source import ResyncSource
from replblock.core.target import AWAITS_SYNC_UUID, ResyncTarget
from replblock.core.verify import OnlineVerify
from replblock.meta.superblock import Flag
from replblock.state.generations import Generations
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.peer import (
    Action,
    Reaction,
    considers_resync,
    peer_state,
    skips_initial_sync,
    take_over,
)
from replblock.state.policies import Decision
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import FEATURE_ORDERED
from replblock.wire.packets import StateWord, SyncUuid

if TYPE_CHECKING:
    from replblock.core.link import Link
    from replblock.core.metastore import MetaStore
    from replblock.core.resource import Resource

BLOCK_BYTES = 4096

SYNCING = frozenset({Conn.SYNC_SOURCE, Conn.SYNC_TARGET, Conn.PAUSED_SYNC_S, Conn.PAUSED_SYNC_T})


class Resync:
    """Decides, exchanges bitmaps, runs and ends the resync, whichever side this node is on."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.aside = StepsAside(resource)
        self.bitmaps = BitmapExchange(resource, self._bitmap_received)
        self.source = ResyncSource(resource)
        self.target = ResyncTarget(resource)
        self.checksums = Checksums(resource)
        self.verify = OnlineVerify(resource)
        self.decision: Decision | None = None
        self.last_in_sync_s = 0
        self._consider = False
        self.progress = Progress(resource)

    @property
    def running(self) -> bool:
        """A resync is under way or paused."""
        return self._r.state.conn in SYNCING

    @property
    def by_order(self) -> bool:
        """This disk is to be the target of a full resync by order, and nothing of that has begun."""
        r = self._r
        disk = r.disk_after_negotiation if r.state.disk == Disk.NEGOTIATING else r.state.disk
        return r.meta is not None and disk == Disk.OUTDATED and bool(r.meta.flags & Flag.FULL_SYNC)

    @property
    def disk_idle(self) -> bool:
        """No read or write of the resync is under way on the local disk."""
        reading = self.source.reading + self.checksums.reading + self.verify.reading
        return self.target.writing == 0 and reading == 0

    @property
    def ranges_matter(self) -> bool:
        """Application writes must look for busy ranges."""
        return self.target.asking or self.source.reading > 0 or self.verify.ranges_matter

    # --- the peer's state ---

    def on_peer_state(self, body: memoryview) -> None:
        """P_STATE."""
        r = self._r
        try:
            report = State.unpack(StateWord.unpack(body).value)
        except ValueError as error:
            raise ProtocolError(f"P_STATE: {error}", Cmd.STATE) from None
        own = r.state
        theirs = r.handshake.peer_uuids
        reaction = peer_state(
            own, report, uuid_flags=theirs.flags if theirs is not None else None, consider_resync=self._consider
        )
        if reaction.action == Action.FINISH_RESYNC:
            self.source.target_finished()
            return
        if reaction.action == Action.END_INCOMPLETE:
            self.source.target_gave_up()
            return
        if reaction.action == Action.DISAGREE:
            text = f"both nodes would be the same side of the resync (rule {reaction.rule}): nothing is copied"
            text += f"; make the after-sb policies equal, or run on one: replctl invalidate {r.settings.resource}"
            r.links.drop(Conn.DISCONNECTING, reaction.rule, text, "error")
            return
        if reaction.action == Action.FINISH_VERIFY:
            if self.verify.target.started:
                self.verify.target.source_finished()
        elif reaction.action != Action.TAKE_OVER:
            return
        if part_from_source_without_disk(r, reaction.peer_disk) or crosses_attach(r, own, report):
            return
        r.remembered.report(report, reaction.peer_disk)
        if report.conn == Conn.CONNECTED and report.disk == Disk.UP_TO_DATE:
            self.target.end_unconfirmed = False
            if report.pdsk == Disk.UP_TO_DATE:
                r.primary.peer_knows()
        fresh = own.conn < Conn.CONNECTED
        new_disk_there = report.disk >= Disk.NEGOTIATING > own.pdsk
        # without a resync Outdated, too, becomes UpToDate; it may be a word from before a resync that our disk ended
        good_now = reaction.peer_disk > Disk.INCONSISTENT >= own.pdsk
        if (fresh or new_disk_there or good_now) and would_lose_exposed_data(r, own):
            return
        judged: Judged | None = None
        conn: Conn | None = None
        told = False
        if reaction.handshake:
            self._consider = False
            if own.pdsk <= Disk.FAILED < report.disk and not fresh:
                # before deciding: the decision may repair our generations, and the peer must come to its mirror image
                r.handshake.send_uuids()
                told = True
            judged = self._decide(report, reaction)
            decision = judged.decision
            own, conn = r.state, decision.conn  # a loser may just have given up its role
            if conn == Conn.DISCONNECTING and own.disk != Disk.NEGOTIATING and report.disk != Disk.NEGOTIATING:
                text = refusal_text(decision, r.settings.resource, own.role)
                r.links.drop(Conn.DISCONNECTING, decision.rule, text, "error")
                return
        marks_stay = judged is not None and judged.decision.keep_bits
        outcome = take_over(
            own, report, reaction, r.rules(), conn, new_uuid_pending=r.mint_postponed, marks_stay=marks_stay
        )
        if part_while_frozen(r, outcome.rule):
            return
        r.handshake.show_state()
        if outcome.state is None:
            text = state_refusal_text(own, report, outcome.rule, r.settings.resource)
            r.links.drop(Conn.DISCONNECTING, outcome.rule, text, "error")
            return
        if judged is not None and not judged.decision.refused:
            adopt(r, judged)
            if judged.decision.full_sync and conn in (Conn.WF_BITMAP_S, Conn.WF_BITMAP_T):
                self.mark_everything()
        r.change(reaction.handshake_rule or outcome.rule, forced=True, **outcome.state._asdict())
        if outcome.rule.startswith("own-attach-"):
            if judged is not None:
                part_from_target_to_be(r, "refused-when-heard", "the peer has heard of the disk that is refused")
            r.attachment.abort(outcome.rule)
            return
        if fresh:
            r.handshake.finished()
            r.send_state()
        elif outcome.announce or own.pdsk <= Disk.FAILED < report.disk:
            # a forced peer, or one that just attached a disk, needs ours to come to its own decision
            r.handshake.expose_peers_data()
            if not told:
                r.handshake.send_uuids()
            r.send_state()
        elif r.state.disk != own.disk and (own.disk == Disk.NEGOTIATING or r.state.disk < own.disk):
            r.send_state()  # worse: else a source without a disk takes this one, without a resync, for good
        if conn is not None:
            self._begin()

    def _decide(self, report: State, reaction: Reaction) -> Judged:
        r = self._r
        judged = judge(r, report, reaction.peer_disk)
        decision = self.decision = judged.decision
        if not decision.refused:
            r.why("notice", decision.rule, f"{reaction.handshake_rule}: {decision.text}")
        self.call_handlers(decision)
        own = r.state
        discarded = own.role == Role.PRIMARY and own.disk == Disk.UP_TO_DATE and decision.conn == Conn.WF_BITMAP_T
        if decision.demote or discarded:
            r.primary.give_up()  # what waits for an answer is given up with the rest
        if decision.demote:
            r.aftermath.demote_as_it_is()
        return judged

    def call_handlers(self, decision: Decision) -> None:
        """A split brain, or a Primary that loses: whoever is configured to hear of it does."""
        for name in decision.handlers:
            if name in self._r.settings.handlers:
                self._r.host.run_handler(name, {}, lambda code: None)

    def mark_everything(self, *, ordered_target: bool = False) -> None:
        """A full resync: every block counts as different, durably, before anything else of it happens.

        `ordered_target`: the flag stays until this disk is something else than Outdated. The order may come to nothing,
        and then no generation tells that this disk lacks what the source was written meanwhile.
        """
        meta = self._r.meta
        assert meta is not None
        meta.put_flags(Flag.FULL_SYNC, Flag.FULL_SYNC)
        meta.save()
        meta.bitmap.fill()
        meta.save_bitmap()
        if not ordered_target:
            meta.put_flags(0, Flag.FULL_SYNC)
            meta.save()

    # --- bitmaps ---

    def _begin(self) -> None:
        conn = self._r.state.conn
        if conn == Conn.WF_BITMAP_S:
            self.bitmaps.expect()
            self.bitmaps.send()
        elif conn == Conn.WF_BITMAP_T:
            self.bitmaps.expect()

    def _bitmap_received(self) -> None:
        r = self._r
        meta = r.meta
        if meta is None:
            return
        if r.state.conn == Conn.WF_BITMAP_T:
            self.bitmaps.send()
            meta.save_bitmap()
            r.change("bitmap-exchanged", forced=True, conn=Conn.WF_SYNC_UUID)
        elif r.state.conn == Conn.WF_BITMAP_S:
            self.start_as_source()

    # --- begin ---

    def start_as_source(self) -> None:
        """The bitmaps are equal: give the resync its generation, then tell the target."""
        self._r.fencing.guard("before-resync-source", lambda: self.source.when_durable(self._start_as_source))

    def _start_as_source(self, meta: MetaStore, link: Link) -> None:
        r = self._r
        uuids, number = meta.uuids.resync_start_source(r.host.random64())
        meta.put(uuids)
        if not meta.bitmap.count:
            # no block of it is only here; else the flag stays until the target has begun, and asks for the first one
            meta.put_flags(0, Flag.WENT_ON_ALONE)

        def durable(error: int) -> None:
            if error or r.links.link is not link or r.state.conn not in ABOUT_TO_BE_SOURCE:
                return
            r.links.send(Cmd.SYNC_UUID, SyncUuid(number).pack())
            r.remembered.resync_began(number, here_is_source=True)
            self.source.begin()
            self.count_from_here("SyncSource")
            r.change("resync-started", forced=True, conn=Conn.SYNC_SOURCE)
            if not meta.bitmap.count and link.version < 96:
                self.source.target_finished()

        meta.save(durable)

    def on_sync_uuid(self, body: memoryview) -> None:
        """P_SYNC_UUID: the source begins."""
        r = self._r
        meta = r.meta
        if meta is None or r.state.conn not in AWAITS_SYNC_UUID:
            raise ProtocolError(f"P_SYNC_UUID in state {r.state.conn.label}", Cmd.SYNC_UUID)
        number, link = SyncUuid.unpack(body).value, r.links.link

        def begin(go_on: Callable[[], None]) -> None:
            r.secondary.when_written(partial(r.primary.when_written, partial(written, go_on)))

        def written(go_on: Callable[[], None]) -> None:
            if r.links.link is link:
                r.fencing.guard("before-resync-target", lambda: self.target.begin(number, go_on))

        # what was written before belongs to the data of now; what the source's Primary writes from now on is right on
        # top of the source's data only: the former is written before the resync begins, and the latter waits
        r.secondary.hold_until(begin)

    def count_from_here(self, side: str) -> None:
        """The resync begins: what its progress is measured by."""
        r = self._r
        assert r.meta is not None
        total = r.meta.bitmap.count
        self.progress.begin(total)
        self.aside.begin()
        r.host.log(
            "info", "resync-started",
            f"Began resync as {side} (will sync {total * 4} KB [{total} bits set]).",
        )  # fmt: skip

    def starting(self, conn: Conn, rule: str) -> None:
        """invalidate, invalidate-remote: a full resync by order (`rule`: whose), without an exchange of bitmaps."""
        self.mark_everything(ordered_target=self._r.state.disk == Disk.OUTDATED)
        if conn == Conn.STARTING_SYNC_T:
            self._r.change(rule, forced=True, conn=Conn.WF_SYNC_UUID)
        else:
            self.start_as_source()

    # --- on the way ---

    def clear_bits(self, offset_bytes: int, length_bytes: int) -> None:
        """These blocks are equal on both nodes now; only whole blocks count, but for the last of the device."""
        meta = self._r.meta
        if meta is None:
            return
        end_bytes = offset_bytes + length_bytes
        end = meta.bitmap.bits if end_bytes == self._r.size_bytes else end_bytes >> 12
        first = -(-offset_bytes // BLOCK_BYTES)
        if first < end:
            meta.clear_bits(first, end)

    def mark_progress(self) -> None:
        """Keep what speed is computed from; called whenever somebody looks."""
        meta = self._r.meta
        if self.verify.running:
            self.progress.mark(self.verify.left_blocks)
        elif self.running and meta is not None:
            self.progress.mark(meta.bitmap.count)

    def on_neg_reply(self, body: memoryview) -> None:
        """P_NEG_RS_DREPLY: the answer to a question of the resync or of the verify."""
        if not self.verify.source.on_neg_reply(body):
            self.target.on_neg_reply(body)

    def on_timer(self, name: str) -> None:
        """Timers `resync`, `verify`, `aside`."""
        if name == "resync":
            self.mark_progress()
            self.target.on_timer()
        else:
            (self.verify if name == "verify" else self.aside).on_timer()

    def state_changed(self, old: State, new: State) -> None:
        """Pauses, and the peer that was forced to Primary."""
        if considers_resync(old, new):
            self._consider = True
        self.progress.state_changed(new)
        self.target.state_changed(old, new)
        self.verify.state_changed(old, new)
        self.aside.state_changed(old, new)
        in_sync = new.conn == Conn.CONNECTED and new.disk == new.pdsk == Disk.UP_TO_DATE
        if in_sync or (old.conn >= Conn.CONNECTED > new.conn and old.disk == old.pdsk == Disk.UP_TO_DATE):
            self.last_in_sync_s = self._r.host.wall_s()

    def connection_lost(self) -> None:
        """Whatever was under way ends here; the bitmap keeps what is left."""
        self._consider = False
        self.bitmaps.reset()
        self.target.reset()
        self.checksums.reset()
        self.verify.reset()
        self.source.reset()
        self.aside.reset()

    def on_peer_uuids_changed(self) -> None:
        """P_UUIDS while connected: the peer declares both fresh disks equal, or only moved on."""
        r = self._r
        theirs, meta, link = r.handshake.peer_uuids, r.meta, r.links.link
        if theirs is None or meta is None or link is None:
            return
        if skips_initial_sync(r.state, meta.uuids.current, theirs.flags, link.version):
            meta.bitmap.zero()
            meta.put(meta.uuids.skip_initial_sync(theirs.current, r.state.role == Role.PRIMARY))
            meta.put_flags(0, Flag.WENT_ON_ALONE)
            meta.save_bitmap()
            self.peer_is_like_us()  # a kernel says what it has before it retires the bitmap's generation
            r.change("skip-initial-sync", forced=True, disk=Disk.UP_TO_DATE, pdsk=Disk.UP_TO_DATE)
            r.send_state()  # an older P_STATE of ours may reach the peer after it declared both disks equal
            meta.save()

    # --- the end ---

    def _log_end(self, failed: int) -> None:
        total = self.progress.total_blocks
        text = self.progress.done_text("Resync", total)
        self._r.host.log("info", "resync-done", text + (f"; {failed} blocks failed and stay marked" if failed else ""))
        spared = self.checksums.summary(total)
        if spared:
            self._r.host.log("info", "resync-checksums", spared)
        if zeroes := self.progress.zero_sectors:
            self._r.host.log("info", "resync-zeroes", f"{zeroes // 2}K were zeroes: told, not sent")

    def finished_as_target(self, failed: int) -> None:
        """Every block is here and flushed, and the source knows: become what it is."""
        r = self._r
        meta, theirs = r.meta, r.handshake.peer_uuids
        assert meta is not None and theirs is not None
        link = r.links.link
        self._log_end(failed)
        meta.save_bitmap()
        if failed:
            r.change("resync-failed", forced=True, conn=Conn.CONNECTED)
        else:
            peers = Generations(theirs.current, theirs.bitmap, theirs.history0, theirs.history1)
            meta.put(meta.uuids.resync_done_target(peers, r.state.role == Role.PRIMARY))
            self.peer_is_like_us()
            self.source.all_written()
            # a kernel says nothing at the end of a resync it was the source of
            self.target.end_unconfirmed = link is not None and bool(link.features & FEATURE_ORDERED)
            # until the disk itself says so, it is the target again when it comes back: no answer may count with it
            r.primary.freeze("resync-done")
            r.change("resync-done", forced=True, conn=Conn.CONNECTED, disk=Disk.UP_TO_DATE, pdsk=Disk.UP_TO_DATE)
            r.aftermath.freeze_until_saved("resync-done", for_good=False)
            r.primary.thaw("resync-done")

        def durable(error: int) -> None:
            if r.links.link is link:
                r.send_state()

        meta.save(durable)

    def peer_is_like_us(self) -> None:
        """The end of a resync: both nodes have the same generations, and P_UUIDS is not sent again to say so."""
        handshake, meta = self._r.handshake, self._r.meta
        if handshake.peer_uuids is not None and meta is not None:
            handshake.peer_uuids = handshake.peer_uuids._replace(**meta.uuids._asdict())
        self._r.remembered.in_sync()

    def finished_as_source(self) -> None:
        """The target has everything on its disk."""
        r = self._r
        meta = r.meta
        assert meta is not None
        self._log_end(0)
        meta.put(meta.uuids.resync_done_source())
        meta.put_flags(0, Flag.WENT_ON_ALONE)  # also where writes of now covered what was marked: nothing was asked for
        self.peer_is_like_us()
        meta.save_bitmap()
        r.change("resync-done", forced=True, conn=Conn.CONNECTED, pdsk=Disk.UP_TO_DATE)
        link = r.links.link

        def durable(error: int) -> None:
            if not error and link is not None and r.links.link is link and link.features & FEATURE_ORDERED:
                r.send_state()

        meta.save(durable)
