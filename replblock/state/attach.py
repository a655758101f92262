# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk's metadata flags say when it is attached, and which flags a state leaves in the metadata.

Flags are plain integers, DRBD's MDF_* of v08 metadata, so that this room needs no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State

MDF_CONSISTENT = 0x001
MDF_PRIMARY_IND = 0x002
MDF_CONNECTED_IND = 0x004
MDF_FULL_SYNC = 0x008
MDF_WAS_UP_TO_DATE = 0x010
MDF_PEER_OUT_DATED = 0x020
MDF_CRASHED_PRIMARY = 0x040
MDF_AL_CLEAN = 0x080
MDF_AL_DISABLED = 0x100
MDF_WENT_ON_ALONE = 1 << 24      # ours
MDF_LOST_WRITES = 1 << 25        # ours


class DiskRule(NamedTuple):
    """What the flags make of the disk; first match decides."""

    name: str
    when: Callable[[int, str], bool]        # flags, fencing
    disk: Disk
    explain: str


DISK_RULES: tuple[DiskRule, ...] = (
    DiskRule("was-inconsistent", lambda flags, fencing: not flags & MDF_CONSISTENT, Disk.INCONSISTENT,
             "The disk was Inconsistent when it was last in use."),
    DiskRule("was-outdated", lambda flags, fencing: not flags & MDF_WAS_UP_TO_DATE, Disk.OUTDATED,
             "The disk was Outdated when it was last in use."),
    DiskRule("peer-was-outdated", lambda flags, fencing: bool(flags & MDF_PEER_OUT_DATED), Disk.UP_TO_DATE,
             "The peer was known to be worse than this disk, so this disk is UpToDate."),
    DiskRule("no-fencing-trusts-itself", lambda flags, fencing: fencing == "dont-care", Disk.UP_TO_DATE,
             "Without fencing a consistent disk is taken for UpToDate."),
    DiskRule("peer-may-be-newer", lambda flags, fencing: True, Disk.CONSISTENT,
             "With fencing the peer may have gone on alone: this disk is only Consistent until it is connected or the "
             "peer is fenced."),
)


class Attach(NamedTuple):
    """How an attach turns out. disk and pdsk take effect at once, or after the handshake if `negotiate`."""

    disk: Disk
    pdsk: Disk
    rule: str
    crashed_primary: bool
    set_all_bits: bool
    set_all_bits_because: str       # "" or the name of a reason
    negotiate: bool                 # connected: the state says Negotiating, the peer's answer decides
    degraded: bool                  # degr-wfc-timeout applies: was Primary without a peer


SET_ALL_BITS: dict[str, str] = {
    "full-sync-was-pending": "A full resync had been ordered and was not done: every block counts as different.",
    "crashed-without-activity-log": "This node crashed as Primary with al-updates no: nobody knows which blocks it "
                                    "was writing, so every block counts as different.",
}


def attach(flags: int, state: State, *, fencing: str = "dont-care") -> Attach:
    """What to make of a disk with these metadata flags (after apply-al). `state`: before the attach."""
    frozen_primary = state.role == Role.PRIMARY and state.susp_nod
    crashed = bool(flags & MDF_CRASHED_PRIMARY) or (bool(flags & MDF_PRIMARY_IND) and not frozen_primary)
    why_all = ""
    if flags & MDF_FULL_SYNC:
        why_all = "full-sync-was-pending"
    elif (crashed or flags & MDF_PRIMARY_IND) and flags & MDF_AL_DISABLED:
        # a frozen Primary's own disk did not crash, but the peer may lack what was on its way when the disk was lost
        why_all = "crashed-without-activity-log"
    row = next(r for r in DISK_RULES if r.when(flags, fencing))
    return Attach(
        disk=row.disk,
        pdsk=Disk.OUTDATED if flags & MDF_PEER_OUT_DATED else state.pdsk,
        rule=row.name,
        crashed_primary=crashed,
        set_all_bits=bool(why_all),
        set_all_bits_because=why_all,
        negotiate=state.conn == Conn.CONNECTED,
        degraded=state.role != Role.PRIMARY and bool(flags & MDF_PRIMARY_IND) and not flags & MDF_CONNECTED_IND,
    )


class FlagRule(NamedTuple):
    """A flag that is recomputed from every state."""

    flag: int
    when: Callable[[State], bool]
    meaning: str


FLAG_RULES: tuple[FlagRule, ...] = (
    FlagRule(MDF_CONSISTENT, lambda s: s.disk > Disk.INCONSISTENT, "the disk is better than Inconsistent"),
    FlagRule(MDF_PRIMARY_IND,
             lambda s: s.role == Role.PRIMARY or (s.pdsk < Disk.INCONSISTENT and s.peer == Role.PRIMARY),
             "Primary, or a diskless Primary works on this disk"),
    FlagRule(MDF_CONNECTED_IND, lambda s: s.conn > Conn.WF_REPORT_PARAMS, "connected"),
    FlagRule(MDF_WAS_UP_TO_DATE, lambda s: s.disk > Disk.OUTDATED, "the disk is better than Outdated"),
    FlagRule(MDF_PEER_OUT_DATED, lambda s: Disk.INCONSISTENT <= s.pdsk <= Disk.OUTDATED,
             "the peer's disk is known to be Inconsistent or Outdated"),
)


def metadata_flags(state: State, before: int, *, crashed_primary: bool) -> int:
    """The flags this state leaves in the metadata. FULL_SYNC and AL_DISABLED stay, AL_CLEAN goes.

    A disk below Inconsistent (failing, negotiating, gone) keeps what was written last: its metadata is not ours to
    judge by then, and a crash must never make a disk look better or worse than it was.
    """
    if state.disk < Disk.INCONSISTENT:
        return before
    flags = before & ~(MDF_CRASHED_PRIMARY | MDF_AL_CLEAN)
    for row in FLAG_RULES:
        flags = flags | row.flag if row.when(state) else flags & ~row.flag
    return flags | (MDF_CRASHED_PRIMARY if crashed_primary else 0)


def clears_crashed_primary(old: State, new: State) -> bool:
    """Did both disks just become UpToDate? Then a crash before that is history."""
    def both_good(s: State) -> bool:
        return s.disk == Disk.UP_TO_DATE and s.pdsk == Disk.UP_TO_DATE

    return both_good(new) and not both_good(old)


WAITS: dict[str, str] = {
    "outdated-wfc-timeout": "The peer is known to be Outdated: there is little reason to wait for it long.",
    "degr-wfc-timeout": "This node was Primary without a peer when it went down: the peer may well stay away.",
    "wfc-timeout": "The peer was there when this node was last in use: wait for it.",
}


def which_wait(pdsk: Disk, *, degraded: bool) -> str:
    """Name of the startup option that bounds the wait for the peer."""
    if pdsk == Disk.OUTDATED:
        return "outdated-wfc-timeout"
    return "degr-wfc-timeout" if degraded else "wfc-timeout"


def wait_seconds(name: str, *, wfc: int, degr: int, outdated: int) -> int:
    """Seconds that option stands for, 0 = for ever; neither shorter wait outlasts wfc-timeout."""
    value = {"wfc-timeout": wfc, "degr-wfc-timeout": degr, "outdated-wfc-timeout": outdated}[name]
    return wfc if wfc and (value == 0 or value > wfc) else value
