# SPDX-License-Identifier: GPL-2.0-or-later
"""May a device grow now, to which size, and from whose data: the decisions of `resize` (DRBD 8.4, drbd_adm_resize)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.codes import Code
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State

NO_DISK, DURING_RESYNC, NO_PRIMARY, NO_ASSUME_CLEAN = 138, 130, 131, 153
TOO_SMALL, LAYOUT, SHRINK = 111, 116, 170
ASSUME_CLEAN_SINCE_VERSION = 93


class Facts(NamedTuple):
    """The moment at which somebody orders a resize."""

    state: State
    version: int                   # of the protocol agreed upon; 0 without a connection
    assume_clean: bool
    assume_peer_has_space: bool
    busy: bool                     # a handshake, a change that asks the peer, or another resize is under way


class Refused(NamedTuple):
    """Why not: DRBD's number of a configuration error, or its code of a change of state; and what to do."""

    rule: str
    number: int | Code
    advice: str = ""


class Rule(NamedTuple):
    """One refusal."""

    name: str
    when: Callable[[Facts], bool]
    number: int | Code
    advice: str                    # {r} is the resource


def _one_good_disk_only(f: Facts) -> bool:
    return f.state.conn == Conn.CONNECTED and not f.state.disk == f.state.pdsk == Disk.UP_TO_DATE


REFUSALS: tuple[Rule, ...] = (
    Rule("no-disk", lambda f: f.state.disk < Disk.INCONSISTENT, NO_DISK,
         "sizes are agreed between two disks; run: replctl attach {r}"),
    Rule("resync-running", lambda f: f.state.conn > Conn.CONNECTED, DURING_RESYNC,
         "wait for its end: replctl wait-sync {r}"),
    Rule("busy", lambda f: f.busy or f.state.conn == Conn.WF_REPORT_PARAMS, Code.IN_TRANSIENT_STATE, ""),
    Rule("no-primary", lambda f: f.state.role == f.state.peer == Role.SECONDARY, NO_PRIMARY,
         "the new area is copied from the Primary; run on one node: replctl primary {r}"),
    Rule("peer-without-disk", lambda f: f.state.conn == Conn.CONNECTED and f.state.pdsk < Disk.INCONSISTENT,
         Code.NO_REMOTE_DISK, "sizes are agreed between two disks; run on the peer: replctl attach {r}"),
    Rule("disks-not-up-to-date", _one_good_disk_only, Code.NO_UP_TO_DATE_DISK,
         "both disks must be UpToDate, see: replctl status {r}"),
    Rule("peer-too-old-for-assume-clean",
         lambda f: f.assume_clean and 0 < f.version < ASSUME_CLEAN_SINCE_VERSION, NO_ASSUME_CLEAN, ""),
    Rule("alone-and-no-primary",
         # DRBD would grow, and find at the next connection that the generations are equal: nothing would be copied
         lambda f: f.assume_peer_has_space and f.state.conn < Conn.CONNECTED and f.state.role != Role.PRIMARY,
         NO_PRIMARY, "only a Primary's growth is told by its generation; run: replctl primary {r}"),
)


def refused(facts: Facts) -> Refused | None:
    """The first refusal that applies."""
    found = next((rule for rule in REFUSALS if rule.when(facts)), None)
    return Refused(found.name, found.number, found.advice) if found is not None else None


def misfit(own_sectors: int, current_sectors: int, wanted_sectors: int) -> Refused | None:
    """Can this node's disk give the size? `own`: the most it offers; `wanted`: as ordered, 0 for all there is."""
    if own_sectors < current_sectors:
        return Refused("disk-shrank", SHRINK,
                       f"the device has {current_sectors // 2} KiB, the disk offers {own_sectors // 2} KiB: "
                       "give it its old size back")
    if 0 < wanted_sectors < current_sectors:
        return Refused("shrinking", SHRINK,
                       f"the device has {current_sectors // 2} KiB, {wanted_sectors // 2} KiB are wanted: replblock "
                       "does not shrink a device; make a new one and copy the data")
    if wanted_sectors > own_sectors:
        return Refused("wanted-too-large", TOO_SMALL,
                       f"{wanted_sectors // 2} KiB are wanted, the disk offers {own_sectors // 2} KiB: grow it first")
    return None


def agreed(own_sectors: int, peers_sectors: int, wanted_sectors: int) -> int:
    """The device's size from now on: what both disks offer, and not more than was ordered."""
    return min(own_sectors, peers_sectors, wanted_sectors or own_sectors)


def here_is_source(role: Role, peer: Role, resolves_conflicts: bool) -> bool:
    """Whose blocks fill the new area: the Primary's; between equals one is chosen, by both alike."""
    return role == Role.PRIMARY if role != peer else resolves_conflicts
