# SPDX-License-Identifier: GPL-2.0-or-later
"""Online verify: are both disks equal? What differs is marked on both nodes; nothing is copied.

The node where it was ordered (VerifyS, `verify_source`) asks for digests and compares; the other one (VerifyT,
`verify_target`) answers. Here: the order, begin and end, and what both sides have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.core.answers import Answer, Reply
from replblock.core.verify_source import VerifySource
from replblock.core.verify_target import VerifyTarget
from replblock.state.codes import Code
from replblock.state.names import VERIFYING, Conn, Disk
from replblock.state.packed import State

if TYPE_CHECKING:
    from replblock.core.resource import Resource

BLOCK_SECTORS = 8
MOST_RANGES_LOGGED = 64
MOST_FOUND_KEPT = 1 << 16
STOP_SINCE_VERSION, NO_STOP_VERSION = 97, 100


class OnlineVerify:
    """At most one at a time, on either side."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.start_sector = 0
        """Where the next one begins if nobody says otherwise: where the last one came to."""
        self.stop_sector: int | None = None
        self.found_bits = 0
        """Marked blocks at the end of the verify that ends in this moment, for the handler."""
        self.source = VerifySource(resource, self)
        self.target = VerifyTarget(resource, self)
        self._found: set[int] = set()
        self._under_way = False

    @property
    def running(self) -> bool:
        """Under way, on either side."""
        return self._r.state.conn in VERIFYING

    @property
    def reading(self) -> int:
        """Reads of the local disk that are under way."""
        return self.source.reading + self.target.reading

    @property
    def ranges_matter(self) -> bool:
        """Application writes must look for busy ranges."""
        return self.source.asking or self.target.holding

    @property
    def left_blocks(self) -> int:
        """Not yet compared."""
        return self.source.left_blocks if self._r.state.conn == Conn.VERIFY_S else self.target.left_blocks

    @property
    def peer_hears_the_end(self) -> bool:
        """From this version on the source may stop early, and says so by a P_STATE."""
        link = self._r.links.link
        return link is not None and link.version >= STOP_SINCE_VERSION and link.version != NO_STOP_VERSION

    # --- the order ---

    def command(self, args: dict[str, Any], reply: Reply) -> None:
        """`verify [--start] [--stop]`, in sectors. While it runs here: the stop sector may be changed."""
        r = self._r
        start, stop = args.get("start"), args.get("stop")
        if r.state.conn == Conn.VERIFY_S:
            if stop is not None:
                self.stop_sector = int(stop)
                self.source.stop_changed()
            reply(Answer())
            return
        refusal = r.would(conn=Conn.VERIFY_S)
        if refusal is not None:
            reply(r.admin.refused(refusal))
            return
        code = self.needs_disks()
        if code is not None:
            reply(r.admin.refused_code(code, None, "verify-needs-good-disks"))
            return
        if r.admin.pending is not None:
            reply(r.admin.busy())
            return

        def answered(retcode: int | None) -> None:
            if retcode is None or retcode < 1:
                reply(r.admin.peer_refused(retcode))
                return
            if start is not None:
                self.start_sector = int(start)
            self.stop_sector = None if stop is None else int(stop)
            if self.needs_disks() is None:
                r.change("verify", conn=Conn.VERIFY_S)
            if r.state.conn != Conn.VERIFY_S:
                r.admin.changed_meanwhile()
                reply(r.admin.refused_code(Code.IN_TRANSIENT_STATE, None, "changed-while-asking"))
                return
            reply(Answer())

        r.admin.ask_peer(answered, conn=Conn.VERIFY_S)

    def needs_disks(self) -> Code | None:
        """Both disks must be good ones: DRBD's adjustment of a wanted state would call any disk UpToDate."""
        state = self._r.state
        if state.disk < Disk.INCONSISTENT:
            return Code.NO_LOCAL_DISK
        if state.pdsk < Disk.INCONSISTENT:
            return Code.NO_REMOTE_DISK
        return None if state.disk == state.pdsk == Disk.UP_TO_DATE else Code.NO_UP_TO_DATE_DISK

    # --- begin and end ---

    def state_changed(self, old: State, new: State) -> None:
        """It begins, and whatever ends it."""
        if old.role != new.role:
            self.source.role_changed(new.role)
        if new.conn in VERIFYING and not self._under_way:
            self._under_way = True
            self._r.sync.aside.begin()
            if new.conn == Conn.VERIFY_S:
                self.source.begin()
            else:
                self.target.begin()
        elif new.conn not in VERIFYING:
            self.cut_short()

    def cut_short(self) -> None:
        """It is over before its end: the next one goes on where this one came to."""
        if not self._under_way:
            return
        reached = self._over()
        if reached is not None:
            self.start_sector = reached
            self._r.why("notice", "verify-cut-short", f"Online Verify reached sector {reached}")

    def _over(self) -> int | None:
        """Up to which sector all is compared."""
        self._under_way = False
        self._log_ranges()
        source, target = self.source.over(), self.target.over()
        return source if source is not None else target

    def finish(self) -> None:
        """All that was to be compared is."""
        r = self._r
        meta = r.meta
        assert meta is not None
        compared = r.sync.progress.total_blocks - self.left_blocks
        text = r.sync.progress.done_text("Online verify", compared)
        was_source = r.state.conn == Conn.VERIFY_S
        reached = self._over() or 0
        self.start_sector = 0 if reached >= r.size_sectors else reached
        bits = meta.bitmap.count
        r.host.log("info", "verify-done", text + self.source.second_looks())
        if bits:
            name = r.settings.resource
            text = f"Online verify found {bits} 4k block out of sync! They are marked on both nodes; to have the "
            text += f"Primary's copied: replctl disconnect {name}, replctl connect {name}"
            r.why("error", "verify-found", text)
        meta.save_bitmap()
        self.found_bits = bits
        r.change("verify-done", forced=True, conn=Conn.CONNECTED)
        self.found_bits = 0
        if was_source and self.peer_hears_the_end:
            r.send_state()

    def reset(self) -> None:
        """The connection is gone."""
        self.cut_short()
        self.source.reset()
        self.target.reset()

    # --- what is found ---

    def differs(self, first: int) -> None:
        """This block is not the same on both nodes: marked, for good until it is copied."""
        meta = self._r.meta
        if meta is None:
            return
        meta.bitmap.set_range(first, first + 1)
        if len(self._found) < MOST_FOUND_KEPT:
            self._found.add(first)

    def _log_ranges(self) -> None:
        """What was found, in DRBD's words; the first of it, if that is much."""
        found, self._found = sorted(self._found), set()
        ranges: list[list[int]] = []
        for first in found:
            if ranges and ranges[-1][1] == first:
                ranges[-1][1] = first + 1
            else:
                ranges.append([first, first + 1])
        log = self._r.host.log
        for start, end in ranges[:MOST_RANGES_LOGGED]:
            size = min(end * BLOCK_SECTORS, self._r.size_sectors) - start * BLOCK_SECTORS
            log("warning", "verify-out-of-sync", f"Out of sync: start={start * BLOCK_SECTORS}, size={size} (sectors)")
        if len(ranges) > MOST_RANGES_LOGGED:
            log("warning", "verify-out-of-sync", f"Out of sync: {len(ranges) - MOST_RANGES_LOGGED} more ranges")

    def on_timer(self) -> None:
        """Timer `verify`."""
        self.source.on_timer()
