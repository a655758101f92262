# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of one volume as a tuple and as DRBD's 32-bit word (P_STATE, mask and val of state change requests)."""

from __future__ import annotations

from typing import NamedTuple

from replblock.state.names import Conn, Disk, Role

# field, first bit, width in bits; the order of State's fields
BITS: tuple[tuple[str, int, int], ...] = (
    ("role", 0, 2),
    ("peer", 2, 2),
    ("conn", 4, 5),
    ("disk", 9, 4),
    ("pdsk", 13, 4),
    ("susp", 17, 1),
    ("aftr_isp", 18, 1),
    ("peer_isp", 19, 1),
    ("user_isp", 20, 1),
    ("susp_nod", 21, 1),
    ("susp_fen", 22, 1),
)
MASKS: dict[str, int] = {name: ((1 << width) - 1) << first for name, first, width in BITS}
KNOWN_BITS = (1 << 23) - 1

ROLE_MASK, PEER_MASK, CONN_MASK = MASKS["role"], MASKS["peer"], MASKS["conn"]
DISK_MASK, PDSK_MASK = MASKS["disk"], MASKS["pdsk"]


class State(NamedTuple):
    """One volume as one node sees it: itself, the peer, the link, both disks, and why anything is paused."""

    role: Role = Role.SECONDARY
    peer: Role = Role.UNKNOWN
    conn: Conn = Conn.STANDALONE
    disk: Disk = Disk.DISKLESS
    pdsk: Disk = Disk.DUNKNOWN
    susp: bool = False          # I/O suspended by the user
    aftr_isp: bool = False      # resync paused: another one goes first (resync-after)
    peer_isp: bool = False      # resync paused by the peer
    user_isp: bool = False      # resync paused by our user
    susp_nod: bool = False      # I/O frozen: no UpToDate data within reach
    susp_fen: bool = False      # I/O frozen until the peer is fenced

    @property
    def suspended(self) -> bool:
        """Is application I/O frozen, for whatever reason?"""
        return self.susp or self.susp_nod or self.susp_fen

    def pack(self) -> int:
        """The word P_STATE carries, from this node's point of view."""
        word = 0
        for (_, first, _), value in zip(BITS, self):
            word |= int(value) << first
        return word

    @classmethod
    def unpack(cls, word: int) -> State:
        """The state in a word. ValueError for numbers no state has; bits above 22 are ignored, as DRBD does."""
        role, peer, conn, disk, pdsk, *flags = ((word >> first) & ((1 << width) - 1) for _, first, width in BITS)
        return cls(Role(role), Role(peer), Conn(conn), Disk(disk), Disk(pdsk), *map(bool, flags))


def state_mask(**fields: int) -> tuple[int, int]:
    """(mask, val) that sets these fields: state_mask(role=Role.PRIMARY) is plain promotion, 0x3 / 0x1."""
    mask = val = 0
    for name, first, _ in BITS:
        if name in fields:
            mask |= MASKS[name]
            val |= (int(fields[name]) << first) & MASKS[name]
    unknown = fields.keys() - MASKS.keys()
    if unknown:
        raise ValueError(f"no such state field: {', '.join(sorted(unknown))}")
    return mask, val


def apply_mask(state: State, mask: int, val: int) -> State:
    """`state` with the bits of `mask` replaced by those of `val`. ValueError if that is no state."""
    return State.unpack((state.pack() & ~mask) | (val & mask & KNOWN_BITS))


# What a connection state asked for by one node means for the other. Anything else cannot be asked for.
MIRRORED_CONN: dict[Conn, Conn] = {
    Conn.WF_REPORT_PARAMS: Conn.WF_REPORT_PARAMS,
    Conn.CONNECTED: Conn.CONNECTED,
    Conn.STARTING_SYNC_S: Conn.STARTING_SYNC_T,
    Conn.STARTING_SYNC_T: Conn.STARTING_SYNC_S,
    Conn.VERIFY_S: Conn.VERIFY_T,
    Conn.DISCONNECTING: Conn.TEAR_DOWN,
}


def mirror_request(mask: int, val: int) -> tuple[int, int]:
    """A request in the requester's view, turned into the receiver's: roles and disks swap, the link is translated.

    A pause the requester imposes arrives as peer_isp. ValueError for a connection state that cannot be
    requested or that the mask covers only partly: a kernel would take it for StandAlone, we refuse it.
    """
    conn_mask = mask & CONN_MASK
    if conn_mask not in (0, CONN_MASK):
        raise ValueError(f"state change request with a partial connection mask {conn_mask >> 4:#x}")
    return _swap(mask, conn_mask), _swap(val, _mirrored_conn_bits(val) if conn_mask else 0)


def _mirrored_conn_bits(val: int) -> int:
    number = (val & CONN_MASK) >> 4
    try:
        return MIRRORED_CONN[Conn(number)] << 4
    except (ValueError, KeyError):
        raise ValueError(f"connection state {number} cannot be requested from the peer") from None


def _swap(word: int, conn_bits: int) -> int:
    paused = bool(word & (MASKS["aftr_isp"] | MASKS["user_isp"]))
    return (
        (word & ROLE_MASK) << 2
        | (word & PEER_MASK) >> 2
        | conn_bits
        | (word & DISK_MASK) << 4
        | (word & PDSK_MASK) >> 4
        | (MASKS["peer_isp"] if paused else 0)
        | (word & (MASKS["susp"] | MASKS["susp_nod"] | MASKS["susp_fen"]))
    )
