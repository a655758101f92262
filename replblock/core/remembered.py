# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node knows of the peer's data while it cannot be asked: for `explain`, never for a decision.

The generations come from P_UUIDS, role and disk from P_STATE; a resync changes the generations on both nodes by rules,
without a packet, so they are followed here. What the peer did after the connection broke nobody here can know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.meta.superblock import Flag
from replblock.state.generations import Generations, plain
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire import flags
from replblock.wire.handshake import Uuids

if TYPE_CHECKING:
    from replblock.core.resource import Resource


class Remembered:
    """The peer as last heard of, and when the two data sets parted. Times are seconds since 1970, 0: not known."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.generations: Generations | None = None
        self.bits = 0
        self.crashed_primary = False
        self.went_on = False
        self.lost = False
        self.role: Role = Role.UNKNOWN
        self.disk: Disk = Disk.DUNKNOWN
        self.heard_s = 0
        self.version = 0
        self.features = 0
        self.parted_s = 0
        self.moved_on_s = 0
        """When this node's data got the first generation of its own since it was last connected."""

    # --- what is heard ---

    def uuids(self, theirs: Uuids) -> None:
        """P_UUIDS."""
        self.generations = Generations(theirs.current, theirs.bitmap, theirs.history0, theirs.history1)
        self.bits = theirs.dirty_bits
        self.crashed_primary = bool(theirs.flags & flags.UUID_CRASHED_PRIMARY)
        self.went_on = bool(theirs.flags & flags.UUID_WENT_ON_ALONE)
        self.lost = bool(theirs.flags & flags.UUID_LOST_WRITES)
        self._heard()

    def report(self, report: State, disk: Disk) -> None:
        """P_STATE; `disk` as it counts."""
        self.role, self.disk = report.role, disk
        self._heard()

    def _heard(self) -> None:
        self.heard_s = self._r.host.wall_s()
        link = self._r.links.link
        if link is not None:
            self.version, self.features = link.version, link.features

    # --- what is known without a packet ---

    def repaired(self, theirs: Generations) -> None:
        """The handshake corrected what a lost packet left behind."""
        self.generations = theirs

    def resync_began(self, number: int, *, here_is_source: bool) -> None:
        """P_SYNC_UUID was sent or came."""
        theirs, meta = self.generations, self._r.meta
        if theirs is None or meta is None:
            return
        self.bits = meta.bitmap.count
        if here_is_source:
            self.generations = theirs.resync_start_target(number, self.role == Role.PRIMARY)
        elif plain(theirs.bitmap) != plain(number):
            self.generations, self.went_on = theirs.rotate_set("bitmap", number), False

    def in_sync(self) -> None:
        """Both nodes have the same data and generations now."""
        meta = self._r.meta
        if meta is not None:
            self.generations = meta.uuids.as_primary(self.role == Role.PRIMARY)
            self.bits, self.crashed_primary = meta.bitmap.count, False
            self.went_on = self.lost = False

    def state_changed(self, old: State, new: State) -> None:
        """When the nodes parted; the last role and disk of the peer stay."""
        now = self._r.host.wall_s()
        if old.conn >= Conn.CONNECTED > new.conn:
            self.parted_s = now
        if new.conn >= Conn.CONNECTED:
            if new.peer != Role.UNKNOWN:
                self.role, self.disk, self.heard_s = new.peer, new.pdsk, now
            self.moved_on_s = 0

    def moved_on(self) -> None:
        """This node's data got a new generation."""
        if self._r.state.conn < Conn.CONNECTED and not self.moved_on_s:
            self.moved_on_s = self._r.host.wall_s()

    # --- for status ---

    def facts(self) -> dict[str, Any]:
        """Everything `explain` needs, JSON-able; keys as in the status room's tables."""
        r, s = self._r, self._r.settings
        link, meta = r.links.link, r.meta
        peer: dict[str, Any] | None = None
        if self.generations is not None:
            peer = {
                **_node(s.peer_node, self.generations, self.bits, self.disk, self.role, self.crashed_primary),
                "went-on-alone": self.went_on,
                "lost-writes": self.lost,
                "heard-ms": self.heard_s * 1000 or None,
                "not-before-ms": None if r.state.conn >= Conn.CONNECTED else self.parted_s * 1000 or None,
            }
        mine: dict[str, Any] | None = None
        if meta is not None:
            crashed = bool(meta.flags & Flag.CRASHED_PRIMARY)
            mine = {
                **_node(s.node, meta.uuids, meta.bitmap.count, r.state.disk, r.state.role, crashed),
                "discard-my-data": r.handshake.discard_my_data,
                "in-use": r.in_use(),
                "went-on-alone": bool(meta.flags & Flag.WENT_ON_ALONE),
                "lost-writes": bool(meta.flags & Flag.LOST_WRITES),
                "since-ms": self.moved_on_s * 1000 or None,
                "not-before-ms": None if r.state.conn >= Conn.CONNECTED else self.parted_s * 1000 or None,
            }
        version, features = self.version, self.features
        if link is not None and link.version:
            version, features = link.version, link.features
        return {
            "here": mine,
            "there": peer,
            "blocks": meta.bitmap.bits if meta is not None else 0,
            "version": version or None,
            "peer-is-replblock": bool(features & flags.FEATURE_ORDERED) if version else None,
            "rule-41-feature": bool(features & flags.FEATURE_WSAME) if version else None,
            "options": {
                "after-sb-0pri": s.after_sb_0pri, "after-sb-1pri": s.after_sb_1pri, "after-sb-2pri": s.after_sb_2pri,
                "always-asbp": s.always_asbp, "rr-conflict": s.rr_conflict,
                "allow-two-primaries": s.allow_two_primaries,
            },
        }  # fmt: skip


def _node(name: str, uuids: Generations, bits: int, disk: Disk, role: Role, crashed: bool) -> dict[str, Any]:
    return {
        "name": name, "uuids": [f"{uuid:016X}" for uuid in uuids], "marked-blocks": bits, "disk": disk.label,
        "role": role.label, "crashed-primary": crashed,
    }  # fmt: skip
