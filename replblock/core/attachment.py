# SPDX-License-Identifier: GPL-2.0-or-later
"""The local disk of a resource: attach, detach, and what becomes of it when it fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.core.activity import ActivityLog
from replblock.core.fitting import misfit
from replblock.core.host import Disk as DiskPort
from replblock.core.judging import refused_unheard
from replblock.core.metastore import MetaStore
from replblock.core.parting import part_before_lost_writes_go
from replblock.core.refusals import attach_refusal_text
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import Geometry
from replblock.meta.superblock import Flag, Superblock
from replblock.state.attach import attach as attach_verdict
from replblock.state.generations import plain
from replblock.state.losses import DETACHED_AHEAD, io_error
from replblock.state.names import Conn, Disk, Role
from replblock.state.peer import lost_data_refusal

if TYPE_CHECKING:
    from replblock.core.resource import Resource


UNFLUSHED = -2
"""Stands for data that no generation names."""


class Attachment:
    """Brings a disk in (DRBD 8.4, attach) and takes it out again."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.activity: ActivityLog | None = None
        self._left: MetaStore | None = None
        self._untold: tuple[frozenset[int], int, int] | None = None
        """What a failed disk's metadata must tell, and may not: the generations it is known by; flags, mask."""
        self.trouble: list[str] = []
        """What went wrong during the last detach, for whoever ordered it."""
        self._inherited = False
        """What a killed engine left on this disk is not known to be durable; a detach may overtake its attach."""
        self.crashed_primary = False
        self.was_degraded = False
        """PRIMARY_IND without CONNECTED_IND at the last attach: degr-wfc-timeout applies."""
        self.lost_unflushed = False
        """The disk failed under a Primary with unflushed writes: alone it is not what its users have seen."""

    def attach(
        self, disk: DiskPort, geometry: Geometry, superblock: Superblock, done: Callable[[str], None]
    ) -> None:
        """Use this disk. `done("")` when it is in use, `done(sentence)` when it cannot be."""
        r = self._r
        assert r.disk_idle, "calls to the old disk, and to its metadata, end first"
        problem = misfit(r, disk, geometry, superblock) or self._other_data(superblock.uuid_current)
        if problem:
            done(problem)
            return
        superblock = self._told(superblock)

        def metadata_failed(errno: int) -> None:
            if r.meta is meta:
                r.disk_failed(errno, "writing metadata")

        meta = MetaStore(disk, geometry, superblock, metadata_failed)
        size = min(disk.data_sectors, geometry.data_sectors, r.settings.size_sectors or disk.data_sectors)
        # the agreed size stands until the peer is asked again: a device does not change under its users
        if superblock.la_size_sectors and not r.links.link:
            size = min(size, superblock.la_size_sectors)
        elif r.links.link and r.size_sectors:
            size = min(size, r.size_sectors)
        try:
            meta.load(size)
        except (OSError, MetadataError) as error:
            done(f"(118) IO error(s) occurred during initial access to meta-data: {error}")
            return
        verdict = attach_verdict(int(superblock.flags), r.state, fencing=r.settings.fencing)
        if verdict.set_all_bits:
            meta.bitmap.fill()
            r.why("notice", verdict.set_all_bits_because, "every block counts as different")
        self.crashed_primary = verdict.crashed_primary
        self.was_degraded = verdict.degraded
        r.change("attach", forced=True, disk=Disk.ATTACHING)
        r.disk, r.meta = disk, meta
        self.activity = activity = ActivityLog(meta, self._slots(geometry), r.primary, r.disk_failed)
        activity.disabled = not r.settings.al_updates
        meta.put_flags(
            (Flag.CRASHED_PRIMARY if verdict.crashed_primary else 0)
            | (Flag.AL_DISABLED if activity.disabled else 0),
            Flag.CRASHED_PRIMARY | Flag.AL_DISABLED,
        )
        if meta.la_size_sectors != size:
            meta.put_size(size)
        r.size_sectors = size
        r.primary.disk_changed()

        def settled(errno: int) -> None:
            if errno:
                if r.meta is meta:
                    self._drop()
                done(f"(118) IO error(s) occurred during initial access to meta-data: {os.strerror(errno)}")
                return
            if r.meta is not meta or r.state.disk != Disk.ATTACHING:
                done("the disk was detached before it was in use")
                return
            self._untold = None
            if r.handshake.exchanging:
                # the peer goes by what it was told, that there is no disk: it is told of this one when both are
                # Connected, else this node decides about a resync and the peer does not
                r.handshake.when_over(lambda: settled(0))
                return
            if meta.al_replayed_extents:
                text = (
                    f"this node crashed as Primary: {meta.al_replayed_extents} extents of 4 MiB from the activity log "
                    f"are taken as different ({meta.bitmap.count} blocks of 4 KiB marked)"
                )
                r.why("notice", "activity-log-replayed", text)
            other_data = self._other_data(meta.uuids.current)
            if other_data:  # the connection broke meanwhile
                self.cut_short()
                done(other_data)
                return
            r.exposed_uuid = r.exposed_uuid or meta.uuids.current
            r.disk_after_negotiation = verdict.disk
            if r.state.conn >= Conn.CONNECTED:
                r.change("attach", forced=True, disk=Disk.NEGOTIATING)
                r.last_sent_bits = meta.bitmap.count
                refusal = refused_unheard(r)
                if refusal is not None:
                    r.sync.decision = refusal
                    r.sync.call_handlers(refusal)
                    self.abort("own-attach-aborted")
                    done(attach_refusal_text(refusal, r.settings.resource))
                    return
                r.handshake.send_sizes()
                r.handshake.send_uuids()
                r.send_state()
            else:
                r.change("attach", forced=True, disk=verdict.disk, pdsk=verdict.pdsk)
            done("")

        def durable(errno: int) -> None:
            if r.meta is not meta:
                done("the disk was detached before it was in use")
            elif errno:
                self._note_lost_writes(False)
                self._drop()
                text = f"{r.settings.disk_path}: {os.strerror(errno)} while flushing what the killed engine left; "
                text += f"look after the disk, then run: replctl attach {r.settings.resource}"
                r.when_disk_idle(lambda: done(text))
            else:
                self._inherited = False
                meta.settle(settled)
                activity.go_on()

        self._inherited = verdict.crashed_primary and r.settings.disk_flushes
        if self._inherited:
            # an engine that was killed left its writes in the page cache, and no later epoch speaks of them: the first
            # flush of the next Primary, which may be the peer, has to find them durable
            activity.hold()
            meta.flush(durable)
        else:
            meta.settle(settled)

    def _other_data(self, current: int) -> str:
        """A diskless Primary alone takes back only the data it lost: its users have seen that, and nothing older."""
        r = self._r
        alone = r.state._replace(disk=Disk.DISKLESS)
        if lost_data_refusal(alone, UNFLUSHED if self.lost_unflushed else r.exposed_uuid, current):
            return "(150) Can only attach to the data we lost last (see kernel log)."
        return ""

    def _slots(self, geometry: Geometry) -> int:
        blocks = geometry.al_stripes * geometry.al_stripe_size_4k
        return max(2, min(self._r.settings.al_extents, (blocks - 1) * 919, 65534))

    def abort(self, rule: str) -> None:
        """The handshake refused the disk that was being attached, or could not bring it up to date."""
        decision, name = self._r.sync.decision, self._r.settings.resource
        if rule == "own-attach-aborted" and decision is not None:
            text = attach_refusal_text(decision, name)
        else:
            text = "this disk's data is older than what is in use, and the peer has no disk: the attach was undone"
        self._r.why("error", rule, text)
        self._drop()

    def cut_short(self) -> None:
        """The link broke before the peer could tell what this disk lacks, and our users have seen newer data."""
        text = "the connection broke during the attach, and the disk's data is older than what is in use: detached"
        self._r.why("error", "negotiation-cut-short", text)
        self._drop()

    # --- out again ---

    @property
    def idle(self) -> bool:
        """Nothing is still being written to the metadata of a disk that is detached."""
        return self._left is None or not self._left.writing

    def detach(self, done: Callable[[], None]) -> None:
        """Orderly: everything to disk, clean metadata, then Diskless."""
        r = self._r
        meta, disk = r.meta, r.disk
        self.trouble = []
        if meta is None or disk is None:
            done()
            return

        def drained() -> None:
            # the peer is the only copy soon: what it has not flushed yet is in our activity log, which ends here
            r.primary.drain_log(safe_there)

        def told() -> None:
            # who is answered may end the engine: what this disk lacks, or is, must stand in its metadata
            r.when_disk_idle(done)

        def safe_there() -> None:
            if r.meta is meta:
                meta.flush(flushed)
            else:
                told()

        def flushed(errno: int) -> None:
            if r.meta is not meta:
                told()
            elif errno:
                text = f"{r.settings.disk_path}: {os.strerror(errno)} while flushing before detach: detached as it is"
                r.why("error", "flush-failed-at-detach", text)
                self.trouble.append(text)
                self._give_up(data_lost=True)
                told()
            else:
                r.secondary.epoch.flushed_all()
                meta.put_flags(0, Flag.PRIMARY_IND)
                meta.retire(retired)

        def retired(errno: int) -> None:
            if r.meta is meta:
                self._gone()
            done()

        if self._peer_lags_unnamed() or self._peer_is_behind():
            r.mint_postponed = False
            r.aftermath.force_new_generation(DETACHED_AHEAD)
        # from here on nothing new goes to this disk; the peer has everything that comes later
        r.change("detaching", forced=True, disk=Disk.FAILED)
        part_before_lost_writes_go(r)
        if r.state.conn >= Conn.CONNECTED:
            r.send_state()
        r.when_disk_idle(drained)

    def _drop(self) -> None:
        r = self._r
        disk = r.disk
        waiting = self.activity.forget_waiting() if self.activity is not None else []
        r.change("detached", forced=True, disk=Disk.FAILED)
        self._left = r.meta
        r.meta, r.disk, self.activity = None, None, None
        r.change("detached", forced=True, disk=Disk.DISKLESS)
        r.handshake.expose_peers_data()
        if r.state.conn >= Conn.CONNECTED:
            r.send_state()
        r.sync.source.all_written()
        r.primary.disk_changed()
        r.primary.disk_lost()
        if disk is not None:
            r.when_disk_idle(disk.close)
        for start in waiting:
            start()
        r.primary.go()

    def _note_lost_writes(self, target_finished: bool) -> None:
        """A write or a flush failed: this disk lacks what was written here last, and its generations do not say so.

        If the peer has everything, this is no version of the data any more. Else, as long as the peer has not moved on
        (then it got all that was sent), nobody knows who lacks what: the flag makes that a split brain.
        """
        r = self._r
        meta, state = r.meta, r.state
        if meta is None:
            return
        coming, alone = self._inherited, state.conn < Conn.CONNECTED
        # as long as nothing was answered without it, a peer that is gone may have what is missing here: a Primary's, or
        # the target of a resync, which may have ended; so it may what a killed engine left on a disk that is coming
        maybe_there = state.role == Role.PRIMARY or meta.uuids.bitmap != 0
        if alone and not coming and (meta.flags & Flag.WENT_ON_ALONE or not maybe_there):
            return
        if not coming and self._peer_has_everything(target_finished):
            flags, mask = Flag(0), Flag.CONSISTENT | Flag.WAS_UP_TO_DATE
            text = "what was written here last may be missing: the disk is Inconsistent when it comes back"
            r.why("warning", "unflushed-disk-is-inconsistent", text)
        elif state.role == Role.PRIMARY or coming or alone:
            flags = mask = Flag.LOST_WRITES
            text = "what was written here last may be missing, and it is not certain that the peer has it: the peer is "
            text += "not overwritten from this disk unless it is told to give up its data"
            r.why("warning", "unflushed-disk-lost-writes", text)
        else:
            return
        meta.put_flags(flags, mask)
        # what only the peer has is not acknowledged before: who dies meanwhile would come back as a crashed Primary
        r.aftermath.disk_failed()
        self._untold = frozenset(map(plain, meta.uuids[:2])), int(flags), int(mask)

    def _told(self, superblock: Superblock) -> Superblock:
        """Whether the metadata could still be written when the data failed is not known: it is told again."""
        if self._untold is None or plain(superblock.uuid_current) not in self._untold[0]:
            return superblock
        _, flags, mask = self._untold
        return superblock._replace(flags=superblock.flags.without(mask) | Flag(flags))

    def _peer_has_everything(self, target_finished: bool) -> bool:
        """A good disk there that is no other data: a peer that meets a failing disk is not asked about generations."""
        r = self._r
        meta, theirs = r.meta, r.handshake.peer_uuids
        if meta is None or theirs is None or r.state.conn < Conn.CONNECTED or self._lacks_something_there():
            return False
        ours = plain(meta.uuids.current)
        # else a peer of this generation, or one that moved on from it
        if not target_finished and ours not in (plain(theirs.current), plain(theirs.bitmap)):
            return False
        # under A the application may have been answered before the peer had it
        return r.state.role != Role.PRIMARY or r.settings.protocol != "A" or r.primary.log.empty

    def _peer_lags_unnamed(self) -> bool:
        """Has this Primary answered what the peer may lack, and no generation tells it?

        Frozen without the peer, which may have been shot, the generation that would tell so waits for the thaw. With a
        bitmap in use there is none, only a flag. Without this disk there is nothing to write either to.
        """
        r = self._r
        meta, state = r.meta, r.state
        if meta is None or state.role != Role.PRIMARY or not meta.bitmap.count:
            return False
        return r.mint_postponed or (bool(meta.flags & Flag.WENT_ON_ALONE) and state.pdsk != Disk.UP_TO_DATE)

    def _lacks_something_there(self) -> bool:
        """A refused write is answered with this disk alone. That the peer's one is gone is heard after the refusal."""
        r = self._r
        return r.state.pdsk < Disk.UP_TO_DATE or r.primary.refused_there

    def _peer_is_behind(self) -> bool:
        """Does the peer, connected, lack what this Primary has answered, in the generation that both have?

        Until its metadata says Inconsistent its power loss, or its disk's, brings back what looks like our data.
        """
        r = self._r
        meta, state, theirs = r.meta, r.state, r.handshake.peer_uuids
        if meta is None or (theirs is not None and plain(theirs.current) != plain(meta.uuids.current)):
            return False  # a generation tells it: ahead by order, say
        behind = state.conn >= Conn.CONNECTED and self._lacks_something_there()
        return behind and state.role == Role.PRIMARY and meta.bitmap.count > 0

    def failed(self, errno: int, what: str, *, target_finished: bool = False) -> None:
        """A local I/O error: pass_on, call-local-io-error or detach (DRBD 8.4, on-io-error).

        `target_finished`: this was the source, and the target has said that it has everything for good.
        """
        r = self._r
        metadata = what.startswith(("writing metadata", "writing the activity log"))
        data_lost = what.startswith(("writing", "flushing")) and not metadata
        # after a failed fdatasync nobody knows what is on the disk: it can no more be passed on than lost metadata
        for_good = metadata or what.startswith("flushing")
        where = f"{r.settings.disk_path}: {os.strerror(errno)} while {what}"
        if r.meta is None or r.state.disk < Disk.FAILED:
            return  # an attach that does not succeed says so itself
        if r.state.disk == Disk.FAILED:
            self._failed_on_its_way_out(where, data_lost=data_lost, for_good=for_good)
            return
        policy = r.settings.on_io_error
        meaning = io_error(policy, r.state.disk, metadata=for_good)
        good_peer = r.state.conn >= Conn.CONNECTED and r.state.pdsk == Disk.UP_TO_DATE
        if meaning.disk == Disk.INCONSISTENT and r.state.disk == Disk.UP_TO_DATE and not good_peer:
            # Inconsistent, it would be overwritten by the first peer that comes, however old that one's data is
            text = "on-io-error pass_on: who asked is told; the disk stays UpToDate, there is no better copy"
            r.why("error", "io-error-on-last-copy", f"{where}: {text}")
            return
        r.why("error", meaning.name, f"{where}: {meaning.explain}")
        if meaning.handler is not None and meaning.handler in r.settings.handlers:
            r.host.run_handler(meaning.handler, {}, lambda code: None)
        if meaning.disk is None:
            return
        known: dict[str, Any] = {"conn": Conn.CONNECTED, "pdsk": Disk.UP_TO_DATE} if target_finished else {}
        r.change(meaning.name, forced=True, disk=meaning.disk, **known)

        def tell() -> None:
            if r.state.conn >= Conn.CONNECTED:
                r.send_state()

        if meaning.disk != Disk.FAILED:
            r.aftermath.disk_failed(tell)
            return
        part_before_lost_writes_go(r)
        tell()
        self._give_up(data_lost=data_lost, target_finished=target_finished)

    def _failed_on_its_way_out(self, where: str, *, data_lost: bool, for_good: bool) -> None:
        """It is being detached already: who dies before the end of that would come back with a disk that looks good."""
        r = self._r
        assert r.meta is not None
        if not self.trouble:
            text = f"{where} during the detach" + (": detached as it is" if for_good else "")
            r.why("error", "io-error-at-detach", text)
            self.trouble.append(text)
        if data_lost and self._untold is None:
            r.meta.save_bitmap()
            self._note_lost_writes(False)
        if for_good:
            self._give_up(data_lost=data_lost)  # the rest of the detach would tell nothing, and find all in order

    def _give_up(self, *, data_lost: bool, target_finished: bool = False) -> None:
        """Detached as it is: the activity log stays, and names what may be missing."""
        r = self._r
        if r.meta is None:
            return  # given up already, by a write that had waited and was begun when the disk was called Failed
        r.meta.save_bitmap()  # a write that failed here may be on the peer's disk, and be marked nowhere else
        # given up in the middle of writes it is as if they had failed, whatever it was that did
        if data_lost or r.primary.writing:
            self._note_lost_writes(target_finished)
        self.lost_unflushed = r.state.role == Role.PRIMARY
        if self._peer_lags_unnamed() or self._peer_is_behind():
            r.exposed_uuid = plain(r.host.random64())
        self._gone()
        if r.secondary.unflushed:
            # what the peer sent and this disk took was never flushed: only a lost connection tells the peer so
            text = "the disk failed with writes of the peer that no flush covers: connecting anew"
            r.links.drop(Conn.NETWORK_FAILURE, "disk-failed-unflushed", text)

    def _gone(self) -> None:
        """The disk was in use. What a Primary without one sends until it hears of this, no disk that comes may take."""
        r = self._r
        last = r.state.conn >= Conn.CONNECTED and r.state.peer == Role.PRIMARY and r.state.pdsk < Disk.INCONSISTENT
        self._drop()
        if last:
            text = "the disk is gone under a Primary that has no other one: connecting anew"
            r.links.drop(Conn.NETWORK_FAILURE, "last-copy-gone", text)
