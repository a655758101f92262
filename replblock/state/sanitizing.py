# SPDX-License-Identifier: GPL-2.0-or-later
"""What a wanted state implies: DRBD 8.4's adjustments, in DRBD's order, as named steps. They never refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.names import VERIFYING, Conn, Disk, Role
from replblock.state.packed import State


class Rules(NamedTuple):
    """What the configuration and the moment allow. `fencing` counts only where a local disk is configured."""

    two_primaries: bool = False
    fencing: str = "dont-care"                      # or resource-only, resource-and-stonith
    device_open: bool = False
    verify_alg: bool = True
    agreed_version: int = 101
    handshaking: bool = False                       # our P_STATE is sent, the handshake is not done
    suspend_no_data: bool = False                   # on-no-data-accessible suspend-io
    other_volume_peer_primary: bool = False         # the peer is Primary on another volume of the resource
    negotiated: tuple[Disk, Disk] | None = None     # disk and pdsk from the metadata while disk is Negotiating
    data_is_what_we_exposed: bool = True            # the current generation is the one last worked on
    given_up: bool = False                          # an order made this disk, Outdated since, the target of a resync


class Clip(NamedTuple):
    """The range a connection state allows both disks."""

    disk_min: Disk
    disk_max: Disk
    pdsk_min: Disk
    pdsk_max: Disk


_AS_TARGET = Clip(Disk.INCONSISTENT, Disk.OUTDATED, Disk.UP_TO_DATE, Disk.UP_TO_DATE)
_AS_SOURCE = Clip(Disk.UP_TO_DATE, Disk.UP_TO_DATE, Disk.INCONSISTENT, Disk.CONSISTENT)
_BOTH_GOOD = Clip(Disk.UP_TO_DATE, Disk.UP_TO_DATE, Disk.UP_TO_DATE, Disk.UP_TO_DATE)
_NO_PEER = Clip(Disk.DISKLESS, Disk.UP_TO_DATE, Disk.INCONSISTENT, Disk.DUNKNOWN)

CLIPS: dict[Conn, Clip] = {
    Conn.CONNECTED: Clip(Disk.DISKLESS, Disk.UP_TO_DATE, Disk.DISKLESS, Disk.UP_TO_DATE),
    Conn.STARTING_SYNC_S: _AS_SOURCE,
    Conn.STARTING_SYNC_T: _AS_TARGET,
    Conn.WF_BITMAP_S: _AS_SOURCE,
    Conn.WF_BITMAP_T: _AS_TARGET,
    Conn.WF_SYNC_UUID: _AS_TARGET,
    Conn.SYNC_SOURCE: Clip(Disk.UP_TO_DATE, Disk.UP_TO_DATE, Disk.INCONSISTENT, Disk.INCONSISTENT),
    Conn.SYNC_TARGET: Clip(Disk.INCONSISTENT, Disk.INCONSISTENT, Disk.UP_TO_DATE, Disk.UP_TO_DATE),
    Conn.VERIFY_S: _BOTH_GOOD,
    Conn.VERIFY_T: _BOTH_GOOD,
    Conn.PAUSED_SYNC_S: _AS_SOURCE,
    Conn.PAUSED_SYNC_T: _AS_TARGET,
    Conn.AHEAD: _AS_SOURCE,
    Conn.BEHIND: _AS_TARGET,
}


def sanitize(old: State, wanted: State, rules: Rules) -> State:
    """The state that `wanted` means, coming from `old`. Idempotent in one step for every state it returns."""
    for adjust in ADJUSTMENTS:
        wanted = adjust.then(old, wanted, rules)
    return wanted


class Adjustment(NamedTuple):
    """One implication of a wanted state; `then` returns the state unchanged where it does not apply."""

    name: str
    then: Callable[[State, State, Rules], State]
    explain: str


def _forget_the_peer(old: State, new: State, rules: Rules) -> State:
    if new.conn >= Conn.CONNECTED:
        return new
    known = Disk.INCONSISTENT <= new.pdsk <= Disk.DUNKNOWN
    return new._replace(peer=Role.UNKNOWN, peer_isp=False, pdsk=new.pdsk if known else Disk.DUNKNOWN)


def _forget_dependency(old: State, new: State, rules: Rules) -> State:
    unconfigured = new.conn == Conn.STANDALONE and new.disk == Disk.DISKLESS and new.role == Role.SECONDARY
    return new._replace(aftr_isp=False) if unconfigured else new


_DOUBTFUL = (Disk.CONSISTENT, Disk.OUTDATED)
_TARGET_TO_BE = frozenset(conn for conn, clip in CLIPS.items() if clip == _AS_TARGET)
_SOURCE_TO_BE = frozenset(conn for conn, clip in CLIPS.items() if clip == _AS_SOURCE)


def _abort_without_disks(old: State, new: State, rules: Rules) -> State:
    if new.conn <= Conn.CONNECTED or (new.disk > Disk.FAILED and new.pdsk > Disk.FAILED):
        return new
    disk, pdsk = new.disk, new.pdsk
    if new.conn in _TARGET_TO_BE and disk in _DOUBTFUL:
        disk = Disk.INCONSISTENT
    if new.conn in _SOURCE_TO_BE and pdsk in _DOUBTFUL:
        pdsk = Disk.INCONSISTENT
    return new._replace(conn=Conn.CONNECTED, disk=disk, pdsk=pdsk)


def _verify_needs_good_disks(old: State, new: State, rules: Rules) -> State:
    good = new.disk == new.pdsk == Disk.UP_TO_DATE
    return new if good or new.conn not in VERIFYING else new._replace(conn=Conn.CONNECTED)


def _end_negotiation(old: State, new: State, rules: Rules) -> State:
    if new.conn >= Conn.CONNECTED or new.disk != Disk.NEGOTIATING:
        return new
    if rules.negotiated is not None and rules.data_is_what_we_exposed:
        return new._replace(disk=rules.negotiated[0], pdsk=rules.negotiated[1])
    return new._replace(disk=Disk.DISKLESS, pdsk=Disk.DUNKNOWN)


def _agree_on_up_to_date(old: State, new: State, rules: Rules) -> State:
    if not Conn.CONNECTED <= new.conn < Conn.AHEAD:
        return new
    unsettled = new.conn == Conn.CONNECTED and new.pdsk < Disk.INCONSISTENT
    lacks = rules.given_up or not rules.data_is_what_we_exposed
    settled = Disk.INCONSISTENT if unsettled and lacks else Disk.UP_TO_DATE
    return new._replace(
        disk=settled if new.disk in _DOUBTFUL else new.disk,
        pdsk=Disk.UP_TO_DATE if new.pdsk in _DOUBTFUL else new.pdsk,
    )


def _clip_disks(old: State, new: State, rules: Rules) -> State:
    clip = CLIPS.get(new.conn, _NO_PEER)
    return new._replace(
        disk=max(clip.disk_min, min(new.disk, clip.disk_max)),
        pdsk=max(clip.pdsk_min, min(new.pdsk, clip.pdsk_max)),
    )


def _freeze_for_fencing(old: State, new: State, rules: Rules) -> State:
    def unfenced(s: State) -> bool:
        return s.role == Role.PRIMARY and s.conn < Conn.CONNECTED and s.pdsk > Disk.OUTDATED

    if rules.fencing == "resource-and-stonith" and unfenced(new) and not unfenced(old):
        return new._replace(susp_fen=True)
    return new


def primary_without_data(s: State) -> bool:
    """Is this a Primary that reaches no UpToDate data, neither here nor on the peer?"""
    return s.role == Role.PRIMARY and s.disk < Disk.UP_TO_DATE and s.pdsk < Disk.UP_TO_DATE


def _freeze_without_data(old: State, new: State, rules: Rules) -> State:
    if rules.suspend_no_data and primary_without_data(new) and not primary_without_data(old):
        return new._replace(susp_nod=True)
    return new


PAUSED: dict[Conn, Conn] = {Conn.SYNC_SOURCE: Conn.PAUSED_SYNC_S, Conn.SYNC_TARGET: Conn.PAUSED_SYNC_T}
RESUMED: dict[Conn, Conn] = {paused: running for running, paused in PAUSED.items()}


def _pause_or_resume(old: State, new: State, rules: Rules) -> State:
    turn = PAUSED if new.aftr_isp or new.peer_isp or new.user_isp else RESUMED
    if new.conn not in turn:
        return new
    return _clip_disks(old, new._replace(conn=turn[new.conn]), rules)   # a running resync bounds the disks tighter


ADJUSTMENTS: tuple[Adjustment, ...] = (
    Adjustment("forget-the-peer", _forget_the_peer,
               "Without a connection the peer's role and pause are unknown; of its disk only Inconsistent and "
               "Outdated are still worth remembering."),
    Adjustment("no-disk-no-resync", _abort_without_disks,
               "A resync or verify ends when either disk is gone. A target that was still preparing lacks what it was "
               "to get: it counts as Inconsistent, where DRBD would call it UpToDate."),
    Adjustment("negotiation-cut-short", _end_negotiation,
               "The link broke while an attach was negotiated: the disk is what its metadata says, or none if its "
               "data is not what we last worked on."),
    Adjustment("unconfigured-has-no-dependency", _forget_dependency,
               "A volume without disk, network and role waits for no other resync."),
    Adjustment("connected-disks-agree", _agree_on_up_to_date,
               "Once connected, Consistent and Outdated have been settled by the handshake; what remains is UpToDate "
               "unless the resync says otherwise. But where the peer has no disk nothing was settled: a Primary that "
               "knows that its disk lacks what its users were told is written counts it as Inconsistent, and so does a "
               "node that was ordered to take everything from that peer."),
    Adjustment("verify-needs-good-disks", _verify_needs_good_disks,
               "A verify ends, or does not begin, where a disk is not UpToDate. DRBD would call it UpToDate instead."),
    Adjustment("disks-fit-the-connection", _clip_disks,
               "Each connection state bounds both disks: a SyncTarget is Inconsistent, its source UpToDate."),
    Adjustment("freeze-until-fenced", _freeze_for_fencing,
               "fencing resource-and-stonith: a Primary that loses its peer completes nothing until it is fenced."),
    Adjustment("freeze-without-data", _freeze_without_data,
               "on-no-data-accessible suspend-io: a Primary that lost the last UpToDate disk freezes I/O."),
    Adjustment("pause-resync", _pause_or_resume,
               "A resync runs only while no one (user, peer, resync-after) pauses it."),
)
