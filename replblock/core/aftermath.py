# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of state leaves in the metadata: flags, the Primary bit, and where rules say so a new generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.core.metastore import MetaStore
from replblock.meta.superblock import Flag
from replblock.state.attach import clears_crashed_primary, metadata_flags
from replblock.state.losses import (
    AHEAD_BY_ORDER,
    BESIDE_ITS_USER,
    DETACHED_AHEAD,
    POSTPONED,
    mints_new_uuid,
    settle_pending,
)
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State

if TYPE_CHECKING:
    from replblock.core.resource import Resource


def alone(state: State) -> bool:
    """May this disk be written to without the peer's?"""
    no_disk_there = state.pdsk < Disk.INCONSISTENT  # it may have ended its resync before it went
    return (state.role == Role.PRIMARY and (state.conn < Conn.CONNECTED or no_disk_there)) or (
        state.peer == Role.PRIMARY and no_disk_there
    )


def peers_last_copy(state: State) -> bool:
    """Does a Primary without a good disk of its own work on this disk?"""
    return state.peer == Role.PRIMARY and state.pdsk < Disk.UP_TO_DATE


class Aftermath:
    """Called with every change of state, while a disk is attached."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._freezes = 0
        self._not_flushed: MetaStore | None = None
        """Of a Primary that was demoted without a flush: its activity log counts until that is made up for."""

    def note_on_disk(self, meta: MetaStore, old: State, new: State, promotion_forced: bool) -> None:
        before = meta.superblock
        if new.disk == Disk.UP_TO_DATE:
            self._r.attachment.lost_unflushed = False
        if clears_crashed_primary(old, new):
            self._r.attachment.crashed_primary = False
            meta.put_flags(0, Flag.LOST_WRITES)
            self._r.handshake.crash_is_history()
        flags = metadata_flags(new, int(meta.flags), crashed_primary=self._r.attachment.crashed_primary)
        if new.conn == Conn.WF_BITMAP_S and new.peer == Role.PRIMARY:
            flags |= Flag.PRIMARY_IND  # the peer still works on our disk alone, until its bitmap says what it lacks
        if self._not_flushed is meta:
            flags |= Flag.PRIMARY_IND
        if Flag(before.flags) & ~Flag(flags) & Flag.PRIMARY_IND:
            meta.save_bitmap()  # the activity log does not count any more: what it covered stands in the bitmap first
        if new.conn >= Conn.CONNECTED:
            flags = int(flags) & ~int(Flag.PEERS_LAST_COPY) | (Flag.PEERS_LAST_COPY if peers_last_copy(new) else 0)
        if new.disk >= Disk.INCONSISTENT and new.disk != Disk.OUTDATED:
            flags = int(flags) & ~int(Flag.FULL_SYNC)  # the bitmap on the disk says it all
        elif new.conn == Conn.STARTING_SYNC_T:
            flags = int(flags) | Flag.FULL_SYNC  # an order, and what is answered from now on is on the peer's disk only
        meta.put_flags(flags, 0xFFFFFFFF)
        unsure = self._r.sync.target.end_unconfirmed
        rule = mints_new_uuid(
            old, new, meta.uuids.bitmap, forced=promotion_forced, end_unconfirmed=unsure,
            peers_last_copy=bool(meta.flags & Flag.PEERS_LAST_COPY),
        )  # fmt: skip
        if rule in POSTPONED:
            self._r.mint_postponed = True
        elif rule is not None:
            self._r.sync.target.end_unconfirmed = False
            self.force_new_generation(rule)
        elif self._r.mint_postponed and (settling := settle_pending(old, new)) is not None:
            self._r.mint_postponed = False
            # writes that were frozen are in the bitmap already: the generation must move on in either case,
            # unless a resync that covers them has begun; what is Outdated or worse is no data to go on with
            if meta.uuids.bitmap == 0 and new.disk >= Disk.UP_TO_DATE:
                self.force_new_generation(settling.rule)
        if old.role != new.role:
            # after the minting: bit 0 of the bitmap's generation tells who was Primary when the nodes parted
            meta.put(meta.uuids.as_primary(new.role == Role.PRIMARY))
        self._note_changes_of_our_own(meta, new)
        if old.disk >= Disk.INCONSISTENT or new.disk >= Disk.INCONSISTENT:
            self._r.exposed_uuid = meta.uuids.current
        worse = old.disk >= Disk.CONSISTENT > new.disk >= Disk.INCONSISTENT
        log_counts = old.role == new.role == Role.PRIMARY and Flag(flags) & ~Flag(before.flags) & Flag.PRIMARY_IND
        if worse:
            # from now on the peer's copy decides: who dies before that is durable would come back as if its own did
            self.freeze_until_saved("disk-worse", for_good=False)
        elif log_counts:
            # a Primary's disk came back: what only the peer gets from now on is told by the activity log alone
            self.freeze_until_saved("log-counts", for_good=False)
        if meta.superblock == before:
            return
        if peers_last_copy(new) and self._r.secondary.link is not None:
            # it writes on: the new generation tells of that, and the log counts under PRIMARY_IND only
            self._r.secondary.hold_until(lambda go_on: meta.save(lambda error: go_on()))
        elif not (worse or log_counts):
            meta.save()

    def demote_as_it_is(self) -> None:
        """A policy's verdict: this Primary is none any more, whatever its device's users say.

        What was acknowledged by both disks may be in this one's cache only, and the peer's log does not cover it:
        data before metadata, here too.
        """
        r = self._r
        meta = self._not_flushed = r.meta
        r.primary.ready = False
        r.change("after-sb-demote", forced=True, role=Role.SECONDARY)

        def flushed(error: int) -> None:
            if r.meta is not meta or meta is None:
                return
            if error:
                r.disk_failed(error, "flushing after the demotion by a policy")
            else:
                self._not_flushed = None
                self.note_on_disk(meta, r.state, r.state, False)

        if meta is not None:
            meta.flush(flushed)

    def _note_changes_of_our_own(self, meta: MetaStore, new: State) -> None:
        """A resync that was cut off leaves its bitmap in use, and no new generation is minted then.

        That this disk moved on alone since is told by a flag, durably before anything is acknowledged: if the peer
        had finished the resync and moves on too, it is a split brain.
        """
        uuids = meta.uuids
        if not alone(new) or meta.flags & Flag.WENT_ON_ALONE or not uuids.bitmap or new.disk < Disk.INCONSISTENT:
            return
        meta.put_flags(Flag.WENT_ON_ALONE, Flag.WENT_ON_ALONE)
        self.freeze_until_saved("moved-on-alone")

    def disk_failed(self, then: Callable[[], None] | None = None) -> None:
        """Nobody is told anything before the metadata says what this disk is worth, or cannot be written.

        Neither the application here nor a Primary there: with a refusal it goes on without this disk, maybe in the
        same generation, and a node that died meanwhile would come back as good as before. `then`: what else is told.
        """
        acknowledge = self._r.secondary.hold_acks()

        def saved() -> None:
            acknowledge()
            if then is not None:
                then()

        self.freeze_until_saved("disk-failed", for_good=False, then=saved)

    def freeze_until_saved(self, why: str, *, for_good: bool = True, then: Callable[[], None] | None = None) -> None:
        """Save the superblock; nothing is acknowledged before it is durable.

        Not `for_good`: the peer has what is held back, too, and if it cannot be saved it is acknowledged all the same.
        """
        meta = self._r.meta
        assert meta is not None
        self._freezes += 1
        reason = f"{why}-{self._freezes}"
        self._r.primary.freeze(reason)

        def durable(error: int) -> None:
            if error and for_good:
                # nobody was told that these are done, and nothing on disk tells that they are
                self._r.primary.fail_held()
            self._r.primary.thaw(reason)
            if then is not None:
                then()

        meta.save(durable)

    def force_new_generation(self, why: str) -> None:
        """Mint a new current UUID in any case."""
        meta = self._r.meta
        assert meta is not None
        mint = meta.uuids.new_current
        if why in (AHEAD_BY_ORDER, BESIDE_ITS_USER, DETACHED_AHEAD) and meta.uuids.bitmap:
            mint = meta.uuids.moved_on_again
        uuids = mint(self._r.host.random64(), self._r.state.role == Role.PRIMARY)
        meta.put_flags(0 if self._r.state.conn < Conn.CONNECTED else int(meta.flags), Flag.PEERS_LAST_COPY)
        meta.put(uuids)
        if self._r.state.role != Role.PRIMARY:
            # what the Primary's disk did not take any more is told by its log only: this node is none without changes
            self._r.secondary.mark_last()
            # a Primary's power loss takes what it had not flushed; what a peer's one was answered counts as here
            meta.save_after_flush()
        self._r.remembered.moved_on()
        meta.put_flags(Flag.WENT_ON_ALONE if alone(self._r.state) else 0, Flag.WENT_ON_ALONE)
        self._r.host.log("info", why, f"new current UUID {':'.join(f'{u:016X}' for u in uuids)}")
        self.freeze_until_saved("new-uuid")
        if self._r.state.conn >= Conn.CONNECTED:
            self._r.handshake.send_uuids()
