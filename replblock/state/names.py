# SPDX-License-Identifier: GPL-2.0-or-later
"""Roles, disk states and connection states: DRBD 8.4's numbers (as in P_STATE) and spellings.

DRBD 9 numbers the disk states differently (it has one more); so does tshark. These are 8.4's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Labelled(IntEnum):
    """An enumeration whose members know how DRBD spells them."""

    @property
    def label(self) -> str:
        """DRBD's spelling."""
        return LABELS[type(self)][self]

    @classmethod
    def from_label(cls, label: str) -> Self:
        """The member DRBD spells so; ValueError names the spellings known."""
        for member in cls:
            if member.label == label:
                return member
        known = ", ".join(member.label for member in cls)
        raise ValueError(f"'{label}' is not a {cls.__name__} state; known: {known}")


class Role(Labelled):
    """Who may write. UNKNOWN is only ever the peer's."""

    UNKNOWN = 0
    PRIMARY = 1
    SECONDARY = 2


class Disk(Labelled):
    """What a disk's data is worth, in rising order. DUNKNOWN is only ever the peer's."""

    DISKLESS = 0
    ATTACHING = 1
    FAILED = 2
    NEGOTIATING = 3
    INCONSISTENT = 4
    OUTDATED = 5
    DUNKNOWN = 6
    CONSISTENT = 7
    UP_TO_DATE = 8


class Conn(Labelled):
    """The connection. Below CONNECTED there is no agreed peer; above it something more than mirroring goes on."""

    STANDALONE = 0
    DISCONNECTING = 1
    UNCONNECTED = 2
    TIMEOUT = 3
    BROKEN_PIPE = 4
    NETWORK_FAILURE = 5
    PROTOCOL_ERROR = 6
    TEAR_DOWN = 7
    WF_CONNECTION = 8
    WF_REPORT_PARAMS = 9
    CONNECTED = 10
    STARTING_SYNC_S = 11
    STARTING_SYNC_T = 12
    WF_BITMAP_S = 13
    WF_BITMAP_T = 14
    WF_SYNC_UUID = 15
    SYNC_SOURCE = 16
    SYNC_TARGET = 17
    VERIFY_S = 18
    VERIFY_T = 19
    PAUSED_SYNC_S = 20
    PAUSED_SYNC_T = 21
    AHEAD = 22
    BEHIND = 23


LABELS: dict[type[Labelled], dict[int, str]] = {
    Role: {
        Role.UNKNOWN: "Unknown",
        Role.PRIMARY: "Primary",
        Role.SECONDARY: "Secondary",
    },
    Disk: {
        Disk.DISKLESS: "Diskless",
        Disk.ATTACHING: "Attaching",
        Disk.FAILED: "Failed",
        Disk.NEGOTIATING: "Negotiating",
        Disk.INCONSISTENT: "Inconsistent",
        Disk.OUTDATED: "Outdated",
        Disk.DUNKNOWN: "DUnknown",
        Disk.CONSISTENT: "Consistent",
        Disk.UP_TO_DATE: "UpToDate",
    },
    Conn: {
        Conn.STANDALONE: "StandAlone",
        Conn.DISCONNECTING: "Disconnecting",
        Conn.UNCONNECTED: "Unconnected",
        Conn.TIMEOUT: "Timeout",
        Conn.BROKEN_PIPE: "BrokenPipe",
        Conn.NETWORK_FAILURE: "NetworkFailure",
        Conn.PROTOCOL_ERROR: "ProtocolError",
        Conn.TEAR_DOWN: "TearDown",
        Conn.WF_CONNECTION: "WFConnection",
        Conn.WF_REPORT_PARAMS: "WFReportParams",
        Conn.CONNECTED: "Connected",
        Conn.STARTING_SYNC_S: "StartingSyncS",
        Conn.STARTING_SYNC_T: "StartingSyncT",
        Conn.WF_BITMAP_S: "WFBitMapS",
        Conn.WF_BITMAP_T: "WFBitMapT",
        Conn.WF_SYNC_UUID: "WFSyncUUID",
        Conn.SYNC_SOURCE: "SyncSource",
        Conn.SYNC_TARGET: "SyncTarget",
        Conn.VERIFY_S: "VerifyS",
        Conn.VERIFY_T: "VerifyT",
        Conn.PAUSED_SYNC_S: "PausedSyncS",
        Conn.PAUSED_SYNC_T: "PausedSyncT",
        Conn.AHEAD: "Ahead",
        Conn.BEHIND: "Behind",
    },
}

NETWORK_ERRORS = frozenset(
    {Conn.TIMEOUT, Conn.BROKEN_PIPE, Conn.NETWORK_FAILURE, Conn.PROTOCOL_ERROR, Conn.TEAR_DOWN}
)
VERIFYING = frozenset({Conn.VERIFY_S, Conn.VERIFY_T})
STARTING_SYNC = frozenset({Conn.STARTING_SYNC_S, Conn.STARTING_SYNC_T})
