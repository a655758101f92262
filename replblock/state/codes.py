# SPDX-License-Identifier: GPL-2.0-or-later
"""What a state change or a configuration command answers: DRBD 8.4's numbers, texts and exit codes.

The texts are what scripts grep for; the tests compare them with the strings in drbd-utils' drbdsetup-84.
"""

from __future__ import annotations

from enum import IntEnum

EXIT_OK = 0
EXIT_LOWER_THAN_OUTDATED = 5
EXIT_CONFIG_ERROR = 10
EXIT_REFUSED = 11
EXIT_NO_LOCAL_DISK = 16
EXIT_NO_UP_TO_DATE_DISK = 17
EXIT_UNKNOWN_CODE = 20


class Code(IntEnum):
    """Result of a state change (SS_*), as in P_STATE_CHG_REPLY: >= 1 done or accepted, < 0 refused."""

    UNKNOWN_ERROR = 0
    SUCCESS = 1
    NOTHING_TO_DO = 2
    CW_SUCCESS = 3
    CW_NO_NEED = 4
    TWO_PRIMARIES = -1
    NO_UP_TO_DATE_DISK = -2
    NO_LOCAL_DISK = -4
    NO_REMOTE_DISK = -5
    CONNECTED_OUTDATES = -6
    PRIMARY_NOP = -7
    RESYNC_RUNNING = -8
    ALREADY_STANDALONE = -9
    CW_FAILED_BY_PEER = -10
    IS_DISKLESS = -11
    DEVICE_IN_USE = -12
    NO_NET_CONFIG = -13
    NO_VERIFY_ALG = -14
    NEED_CONNECTION = -15
    LOWER_THAN_OUTDATED = -16
    NOT_SUPPORTED = -17
    IN_TRANSIENT_STATE = -18
    CONCURRENT_ST_CHG = -19
    O_VOL_PEER_PRI = -20
    OUTDATE_WO_CONN = -21

    @property
    def text(self) -> str:
        """What follows "State change failed: (N) "; empty for success."""
        return TEXTS[self][0]

    @property
    def exit_code(self) -> int:
        """Exit code of the command that asked for the change."""
        return TEXTS[self][1]

    @property
    def accepted(self) -> bool:
        """Did the change happen (or was there nothing to change)?"""
        return self >= Code.SUCCESS


TEXTS: dict[Code, tuple[str, int]] = {
    Code.UNKNOWN_ERROR: ("unknown error.", EXIT_REFUSED),
    Code.SUCCESS: ("", EXIT_OK),
    Code.NOTHING_TO_DO: ("", EXIT_OK),
    Code.CW_SUCCESS: ("", EXIT_OK),
    Code.CW_NO_NEED: ("", EXIT_OK),
    Code.TWO_PRIMARIES: ("Multiple primaries not allowed by config", EXIT_REFUSED),
    Code.NO_UP_TO_DATE_DISK: ("Need access to UpToDate data", EXIT_NO_UP_TO_DATE_DISK),
    Code.NO_LOCAL_DISK: ("Can not resync without local disk", EXIT_NO_LOCAL_DISK),
    Code.NO_REMOTE_DISK: ("Can not resync without remote disk", EXIT_REFUSED),
    Code.CONNECTED_OUTDATES: ("Refusing to be Outdated while Connected", EXIT_REFUSED),
    Code.PRIMARY_NOP: ("Refusing to be Primary while peer is not outdated", EXIT_REFUSED),
    Code.RESYNC_RUNNING: ("Can not start OV/resync since it is already active", EXIT_REFUSED),
    Code.ALREADY_STANDALONE: ("Can not disconnect a StandAlone device", EXIT_REFUSED),
    Code.CW_FAILED_BY_PEER: ("State change was refused by peer node", EXIT_REFUSED),
    Code.IS_DISKLESS: ("Device is diskless, the requested operation requires a disk", EXIT_REFUSED),
    Code.DEVICE_IN_USE: ("Device is held open by someone", EXIT_REFUSED),
    Code.NO_NET_CONFIG: ("Have no net/connection configuration", EXIT_REFUSED),
    Code.NO_VERIFY_ALG: ("Need a verify algorithm to start online verify", EXIT_REFUSED),
    Code.NEED_CONNECTION: ("Need a connection to start verify or resync", EXIT_REFUSED),
    Code.LOWER_THAN_OUTDATED: ("Disk state is lower than outdated", EXIT_LOWER_THAN_OUTDATED),
    Code.NOT_SUPPORTED: ("Peer does not support protocol", EXIT_REFUSED),
    Code.IN_TRANSIENT_STATE: ("In transient state, retry after next state change", EXIT_REFUSED),
    Code.CONCURRENT_ST_CHG: ("Concurrent state changes detected and aborted", EXIT_REFUSED),
    Code.O_VOL_PEER_PRI: ("Other vol primary on peer not allowed by config", EXIT_REFUSED),
    Code.OUTDATE_WO_CONN: ("Need a connection for a graceful disconnect/outdate peer", EXIT_REFUSED),
}


def exit_code_of(number: int) -> int:
    """Exit code for any number a peer may reply, also one we do not know."""
    try:
        return Code(number).exit_code
    except ValueError:
        return EXIT_UNKNOWN_CODE


def refusal_line(name: str, code: Code) -> str:
    """The line drbdsetup prints on stderr, name = what the command was called with (minor number or resource)."""
    separator = "" if code is Code.UNKNOWN_ERROR else " "
    return f"{name}: State change failed: ({int(code)}){separator}{code.text}"


def config_error_line(name: str, number: int) -> str:
    """The line drbdsetup prints when the configuration, not the state, is in the way (exit code 10)."""
    return f"{name}: Failure: ({number}) {CONFIG_ERRORS.get(number, 'unknown error')}"


CONFIG_ERRORS: dict[int, str] = {
    102: "Local address(port) already in use.",
    103: "Remote address(port) already in use.",
    104: "Can not open backing device.",
    105: "Can not open meta device.",
    107: "Lower device is not a block device.",
    108: "Meta device is not a block device.",
    111: "Low.dev. smaller than requested DRBD-dev. size.",
    112: "Meta device too small.",
    114: "Lower device is already claimed. This usually means it is mounted.",
    115: "Meta device is already claimed. This usually means it is mounted.",
    116: "Lower device / meta device / index combination invalid.",
    118: "IO error(s) occurred during initial access to meta-data.",
    119: "No valid meta-data signature found.",
    120: "The 'cram-hmac-alg' you specified is not known in the kernel.",
    123: "--discard-my-data not allowed when primary.",
    124: "Device is attached to a disk (use detach first)",
    125: "Device has a net-config (use disconnect first)",
    127: "Device minor not allocated",
    130: "Resize not allowed during resync.",
    131: "Need one Primary node to resize.",
    132: "The resync-after minor number is invalid",
    133: "This would cause a resync-after dependency cycle",
    134: "Sync-pause flag is already set",
    135: "Sync-pause flag is already cleared",
    138: "Device does not have a disk-config",
    139: "Protocol C required",
    150: "Can only attach to the data we lost last (see kernel log).",
    151: "Need to be StandAlone",
    153: "Protocol version 93 required to use --assume-clean",
    154: "Fencing policy resource-and-stonith only with prot B or C allowed",
    155: "on-congestion policy pull-ahead only with prot A allowed",
    156: "Sync-pause flag is already cleared.\nNote: Resync pause caused by a local resync-after dependency.",
    157: "Sync-pause flag is already cleared.\nNote: Resync pause caused by the peer node.",
    158: "Unknown resource",
    159: "Resource still in use (delete all minors first)",
    160: "Minor still configured (down it first)",
    161: "Minor or volume exists already (delete it first)",
    162: "Invalid configuration request",
    163: "Prot version 100 required in order to change\nthese network options while connected",
    164: "Can not clear allow_two_primaries as long as\nthere a primaries on both sides",
    165: "Unclean meta-data found.",
    166: "DRBD need to be connected for online MD layout change",
    167: "Resulting AL area too big",
    168: "Resulting AL are too small",
    169: "Resulting AL does not fit into available meta data space",
    170: "Implicit device shrinking not allowed. See kernel log.",
}
