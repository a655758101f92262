# SPDX-License-Identifier: GPL-2.0-or-later
"""`resize`: the device grows while it is in use, after the disks below both nodes did.

Whoever is ordered to looks at its disk anew, moves internal metadata to the new end, and asks the peer by a P_SIZES
that names no current size. The peer does the same, grows, answers; then this node grows. The new area is marked as
different on both, and copied from the Primary. What breaks off on the way is told by generations: a Primary that
loses its peer begins one, and one that crashes is known as such; either way the marks are what the resync goes by.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from replblock.core.answers import EXIT_CONFIG, Answer, Reply
from replblock.core.detaching import FREEZE as DETACHING
from replblock.core.host import PENDING
from replblock.core.metastore import MetaStore
from replblock.meta.geometry import Geometry
from replblock.meta.moving import overlap_bytes, too_close
from replblock.state import resizing as rules
from replblock.state.codes import CONFIG_ERRORS, Code
from replblock.state.names import Conn, Disk, Role
from replblock.wire.flags import DDS_NO_RESYNC

if TYPE_CHECKING:
    from replblock.core.admin import Admin
    from replblock.core.link import Link
    from replblock.core.resource import Resource
    from replblock.wire.handshake import Sizes

TIMER = "admin-resize"
PATIENCE_TIMEOUTS = 7
"""With ko-count 0, so many `timeout`s pass before a peer that does not answer is given up."""
Then = Callable[[str], None]
"""then(problem): "" when all went well."""


class Asked:
    """A resize of ours that waits for the peer's P_SIZES."""

    def __init__(
        self, reply: Reply, assume_clean: bool, role: Role, old_limit_sectors: int, old_size_sectors: int
    ) -> None:
        self.reply = reply
        self.assume_clean = assume_clean
        self.role = role
        """What the peer knew us as when it read our question: it decides by that."""
        self.old_limit_sectors = old_limit_sectors
        self.old_size_sectors = old_size_sectors


class Resizing:
    """One resize at a time, ours or the peer's."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._asked: Asked | None = None
        self._fitting: Geometry | None = None
        """What counts while metadata moves, and where it was becomes zero."""
        self._after_fit: list[Callable[[], None]] = []
        self._zeroing = 0

    @property
    def asking(self) -> bool:
        """The peer may have grown, and wait for what comes next: nothing else may begin here."""
        return self._asked is not None

    @property
    def _otherwise_engaged(self) -> bool:
        """An order is under way that needs the peer as it is: a detach must not find it about to be a target."""
        return self._r.admin.pending is not None or DETACHING in self._r.primary.frozen

    @property
    def offered_sectors(self) -> int:
        """The most that the local disk can give to a device now, 0 without one."""
        r = self._r
        if r.meta is None or r.disk is None:
            return 0
        return r.disk.data_sectors if self._fitting is None else self._fitting.data_sectors

    @property
    def idle(self) -> bool:
        """No write of ours is under way on the local disk."""
        return not self._zeroing

    # --- our own ---

    def command(self, admin: Admin, args: dict[str, Any], reply: Reply) -> None:
        """The operator's `resize`."""
        r = self._r
        link = r.links.link
        clean, alone = bool(args.get("assume_clean")), bool(args.get("assume_peer_has_space"))
        busy = self._fitting is not None or self.asking or self._otherwise_engaged or r.handshake.undecided
        version = link.version if link is not None and r.state.conn == Conn.CONNECTED else 0
        no = rules.refused(rules.Facts(r.state, version, clean, alone, busy))
        disk, meta = r.disk, r.meta
        if no is not None or disk is None or meta is None:
            reply(self._refusal(admin, no or rules.Refused("no-disk", rules.NO_DISK)))
            return
        wanted = int(args.get("size_sectors") or 0)
        try:
            geometry = disk.measure()
        except OSError as error:
            reply(admin.failure(118, f"{CONFIG_ERRORS[118]} {os.strerror(error.errno or 0)}"))
            return
        no = rules.misfit(geometry.data_sectors, r.size_sectors, wanted) or _too_close(meta.geometry, geometry)
        if no is not None:
            reply(self._refusal(admin, no))
            return
        old_limit, conn = r.settings.size_sectors, r.state.conn
        self._limit(wanted)

        def fitted(problem: str) -> None:
            if problem:
                self._limit(old_limit)
                reply(Answer(EXIT_CONFIG, [f"{admin.minor}: {problem}"]))
            elif r.state.conn != conn or r.meta is not meta or self._otherwise_engaged:
                self._limit(old_limit)
                reply(admin.busy())
            elif conn == Conn.CONNECTED:
                self._asked = Asked(reply, clean, r.state.role, old_limit, r.size_sectors)
                r.host.timer(TIMER, (r.settings.ko_count or PATIENCE_TIMEOUTS) * r.settings.timeout_ms)
                r.handshake.send_uuids()
                r.handshake.send_sizes(DDS_NO_RESYNC if clean else 0, ask=True)
            elif alone:
                r.host.log("warning", "resize-alone", "resize while not connected was forced by the user")
                self._grow(rules.agreed(geometry.data_sectors, geometry.data_sectors, wanted), clean)
                reply(Answer())
            else:
                self._limit(old_limit)
                reply(Answer(lines=[f"{r.settings.resource}: not connected: the size stays {r.size_sectors // 2} KiB "
                                    f"until the peer is asked; then run: replctl resize {r.settings.resource}"]))

        self._fit(meta, geometry, fitted)

    def _refusal(self, admin: Admin, no: rules.Refused) -> Answer:
        if isinstance(no.number, Code):
            answer = admin.refused_code(no.number, None, no.rule)
        else:
            answer = admin.failure(no.number, CONFIG_ERRORS[no.number])
        if no.advice:
            answer.lines.append(no.advice.format(r=self._r.settings.resource))
        return answer

    def _limit(self, size_sectors: int) -> None:
        """As `size` in the configuration: the device does not become larger than this."""
        r = self._r
        if r.settings.size_sectors != size_sectors:
            r.settings = replace(r.settings, size_sectors=size_sectors)
            r.links.rendezvous.settings = r.settings

    # --- between the nodes ---

    def takes(self, theirs: Sizes) -> bool:
        """P_SIZES: is it a resize? One that would shrink the device, or comes from no disk, is not."""
        r, asked = self._r, self._asked
        if r.handshake.running or (theirs.c_size_sectors and asked is None):
            return False
        smallest = min(theirs.d_size_sectors, theirs.u_size_sectors or theirs.d_size_sectors)
        disk_here = r.meta is not None and r.disk is not None
        if r.state.conn == Conn.CONNECTED and disk_here and smallest >= r.size_sectors > 0:
            return True
        if asked is not None:
            self._answered()
            if r.size_sectors > asked.old_size_sectors:  # both nodes were ordered to: it has happened already
                asked.reply(Answer())
            else:
                self._changed_meanwhile(asked)
        return False

    def _changed_meanwhile(self, asked: Asked) -> None:
        """The peer may have grown, and wait for a resync that nobody would begin."""
        self._end(asked, self._r.admin.busy())
        self._r.admin.changed_meanwhile()

    def on_sizes(self, theirs: Sizes) -> None:
        """The peer asks, or answers. What it sends next may lie in the new area: that waits."""
        r = self._r
        link, meta, disk = r.links.link, r.meta, r.disk
        assert link is not None and meta is not None and disk is not None
        asked = self._answered()

        def begin(go_on: Callable[[], None]) -> None:
            if self._fitting is not None:  # the device must not grow over what is still to become zero
                self._after_fit.append(partial(begin, go_on))
                return
            try:
                geometry = disk.measure() if asked is None else meta.geometry
            except OSError:
                geometry = meta.geometry
            far = None if geometry == meta.geometry else _too_close(meta.geometry, geometry)
            if far is not None or geometry.data_sectors < r.size_sectors:
                text = far.advice if far is not None else "the disk became smaller"
                r.why("warning", "resize-disk-stays", f"{r.settings.disk_path}: {text}: its old size counts")
                geometry = meta.geometry
            self._fit(meta, geometry, partial(self._fitted, link, meta, theirs, asked, go_on))

        r.secondary.hold_until(begin)

    def _fitted(
        self, link: Link, meta: MetaStore, theirs: Sizes, asked: Asked | None, go_on: Callable[[], None], problem: str
    ) -> None:
        r = self._r
        if r.links.link is not link or r.meta is not meta:
            if asked is not None:
                self._end(asked, r.admin.busy())
            go_on()
            return
        if r.state.conn == Conn.CONNECTED and not problem:
            self._agree(theirs, asked)
        elif asked is not None:
            self._changed_meanwhile(asked)
        else:
            r.handshake.send_sizes(theirs.dds_flags)
        go_on()

    def _agree(self, theirs: Sizes, asked: Asked | None) -> None:
        r = self._r
        meta = r.meta
        assert meta is not None
        told = theirs.u_size_sectors
        if self._asked is not None:  # our own question is on its way, and the peer goes by both, too
            told = min(told or r.settings.size_sectors, r.settings.size_sectors or told)
        if asked is None and told != r.settings.size_sectors:
            text = f"the peer was told: size {told // 2} KiB (0: all there is); this node follows"
            r.why("notice", "size-adopted", f"{text}: change its configuration, too")
            self._limit(told)
        own, old = meta.geometry.data_sectors, r.size_sectors
        size = rules.agreed(own, theirs.d_size_sectors, r.settings.size_sectors)
        if asked is not None:  # what the peer has by now; or, where it asked itself, what it will have
            size = rules.agreed(size, theirs.c_size_sectors or theirs.d_size_sectors, theirs.u_size_sectors)
        clean = bool(theirs.dds_flags & DDS_NO_RESYNC) or (asked is not None and asked.assume_clean)
        role = r.state.role if asked is None else asked.role
        source = rules.here_is_source(role, r.state.peer, bool(r.links.link and r.links.link.resolve_conflicts))
        good = r.state.disk == r.state.pdsk == Disk.UP_TO_DATE and (asked is not None or not self._otherwise_engaged)
        if asked is not None and size > old and not good:
            self._changed_meanwhile(asked)
            return
        grew = size > old and good  # the peer goes by the size in our answer
        if grew:
            self._grow(size, clean)
        if theirs.c_size_sectors != r.size_sectors:
            r.handshake.send_sizes(DDS_NO_RESYNC if clean else 0)
        if grew and clean:
            r.why("notice", "resize-assume-clean", "resync of new storage suppressed with --assume-clean")
        elif grew:
            side = "here" if source else "the peer"
            r.why("notice", "resize-resync", f"resync of new storage after online grow: the source is {side}")
            r.change("resize", forced=True, conn=Conn.WF_BITMAP_S if source else Conn.WF_SYNC_UUID)
            if r.state.conn == Conn.WF_BITMAP_S:
                r.sync.start_as_source()
        if asked is not None:
            asked.reply(Answer(lines=[] if grew else [self._unchanged(own, theirs.d_size_sectors)]))

    def _unchanged(self, own_sectors: int, theirs_sectors: int) -> str:
        limit = self._r.settings.size_sectors
        told = f", size says {limit // 2} KiB" if limit else ""
        return (f"{self._r.settings.resource}: the size stays {self._r.size_sectors // 2} KiB: the disk here offers "
                f"{own_sectors // 2} KiB, the peer's {theirs_sectors // 2} KiB{told}")  # fmt: skip

    def _end(self, asked: Asked, answer: Answer) -> None:
        self._limit(asked.old_limit_sectors)
        asked.reply(answer)

    def _answered(self) -> Asked | None:
        asked, self._asked = self._asked, None
        if asked is not None:
            self._r.host.timer(TIMER, None)
        return asked

    def on_timer(self) -> None:
        """The peer may have grown, or not: on this connection nobody knows."""
        text = "the peer did not answer a resize: connecting anew"
        self._r.links.drop(Conn.NETWORK_FAILURE, "resize-not-answered", text)

    def connection_lost(self) -> None:
        """No answer will come."""
        asked = self._answered()
        if asked is not None:
            self._end(asked, self._r.admin.peer_refused(None))

    # --- the disk ---

    def _fit(self, meta: MetaStore, geometry: Geometry, then: Then) -> None:
        """The disk as it is now: internal metadata goes to the new end, and what it leaves becomes zero."""
        r = self._r
        disk, activity, old = r.disk, r.attachment.activity, meta.geometry
        if geometry == old or disk is None or activity is None:
            then("")
            return
        self._fitting = old

        def move() -> None:
            if r.meta is not meta:
                ended("the disk is gone")
            elif meta.settling:  # the superblock waits for a flush of the data: two must not count meanwhile
                meta.save(lambda errno: move())
            else:
                disk.adopt(geometry)
                text = f"the disk offers {geometry.data_sectors // 2} KiB now, it was {old.data_sectors // 2} KiB"
                moves = _moves(old, geometry)
                r.host.log("info", "disk-grew", text + ("; moving the metadata to its end" if moves else ""))
                meta.move(geometry, activity.moved if moves else None, moved)

        def ended(problem: str) -> None:
            self._fitting = None
            then(problem)
            waiting, self._after_fit = self._after_fit, []
            for go_on in waiting:
                go_on()

        def moved(errno: int) -> None:
            if r.meta is not meta or r.disk is not disk:
                ended("the disk is gone")
            elif errno:
                ended(f"{r.settings.disk_path}: {os.strerror(errno)} while moving the metadata")
            elif old.start_bytes >= geometry.data_sectors << 9 or not _moves(old, geometry):
                ended("")
            else:
                assert old.start_bytes >= r.size_bytes, "the device grew over metadata that still moves"
                self._zeroing += 1
                found = disk.zero(old.start_bytes, old.end_bytes - old.start_bytes, False, zeroed)
                if found != PENDING:
                    zeroed(found)

        def zeroed(errno: int) -> None:
            self._zeroing -= 1
            if errno:
                r.write_failed(errno, old.end_bytes - old.start_bytes, old.start_bytes, fua=False)
                ended(f"{r.settings.disk_path}: {os.strerror(errno)} where the metadata was")
            else:
                ended("")

        move()

    def set_size(self, size_sectors: int) -> None:
        """The nodes agreed on the size of the device while they connected."""
        r = self._r
        old, r.size_sectors = r.size_sectors, size_sectors
        if r.meta is not None:
            r.meta.put_size(size_sectors)
            r.meta.save_bitmap()
            r.meta.save()
        r.host.log("info", "size", f"size = {size_sectors // 2} KB (was {old // 2} KB)")
        if 0 < old < size_sectors and r.meta is not None:
            text = "the disks grew while the nodes were apart: what is new is marked, and copied with the next resync"
            r.why("notice", "grew-while-apart", text)
        r.resized()

    def _grow(self, size_sectors: int, assume_clean: bool) -> None:
        r = self._r
        meta, old = r.meta, r.size_sectors
        assert meta is not None
        meta.grow(size_sectors, not assume_clean)
        r.size_sectors = size_sectors
        r.primary.disk_changed()
        r.why("notice", "size", f"size = {size_sectors // 2} KB (was {old // 2} KB)")
        r.resized()


def _moves(old: Geometry, new: Geometry) -> bool:
    return (old.superblock_offset_bytes, old.bm_offset_bytes) != (new.superblock_offset_bytes, new.bm_offset_bytes)


def _too_close(old: Geometry, new: Geometry) -> rules.Refused | None:
    """Moved metadata must not lie over what counts until it is there: a crash would find neither."""
    over = overlap_bytes(old, new)
    return rules.Refused("metadata-overlaps", rules.LAYOUT, too_close(over)) if over else None
