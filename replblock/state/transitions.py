# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a wanted state, and which wishes are refused: DRBD 8.4's transition rules as tables.

    sanitize()          adjusts a wanted state to what it implies (never refuses)
    check_connection()  refusals that hold even for forced changes
    check()             those, the rules on the resulting state, the rules on the step to it
    needs_consent()     changes both nodes must agree on first (P_STATE_CHG_REQ)

The order of the rows is DRBD's; the codes are those a kernel node gives for the same wish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.codes import Code
from replblock.state.names import NETWORK_ERRORS, STARTING_SYNC, VERIFYING, Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.sanitizing import ADJUSTMENTS, Adjustment, Rules, primary_without_data, sanitize

__all__ = [
    "ADJUSTMENTS", "CONNECTION_RULES", "CONSENT_RULES", "STATE_RULES", "STEP_RULES",
    "Adjustment", "ConsentRule", "Refusal", "Rules", "StateRule", "StepRule",
    "check", "check_connection", "check_state", "check_step", "needs_consent", "primary_without_data", "sanitize",
]

VERIFY_SINCE_VERSION = 88


class Refusal(NamedTuple):
    """Why a wish was refused: DRBD's code and the name of our rule."""

    code: Code
    rule: str


class StateRule(NamedTuple):
    """Forbids a resulting state."""

    name: str
    code: Code
    forbids: Callable[[State, Rules], bool]
    explain: str


class StepRule(NamedTuple):
    """Forbids a step from one state to another."""

    name: str
    code: Code
    forbids: Callable[[State, State, Rules], bool]
    explain: str


# Hold for forced changes too.
CONNECTION_RULES: tuple[StepRule, ...] = (
    StepRule("nothing-to-disconnect", Code.ALREADY_STANDALONE,
             lambda old, new, _: old.conn == Conn.STANDALONE and new.conn == Conn.DISCONNECTING,
             "A StandAlone node has no connection to end."),
    StepRule("standalone-starts-unconnected", Code.NEED_CONNECTION,
             lambda old, new, _: old.conn == Conn.STANDALONE and new.conn not in (Conn.STANDALONE, Conn.UNCONNECTED),
             "A StandAlone node must be told to connect before anything else can happen to the connection."),
    StepRule("handshake-comes-first", Code.NEED_CONNECTION,
             lambda old, new, _: old.conn < Conn.WF_REPORT_PARAMS and new.conn >= Conn.CONNECTED,
             "No state beyond Connected without the handshake before it."),
    StepRule("clean-up-comes-first", Code.IN_TRANSIENT_STATE,
             lambda old, new, _: old.conn in NETWORK_ERRORS
             and new.conn not in (old.conn, Conn.UNCONNECTED, Conn.DISCONNECTING),
             "After a network error the connection is cleaned up before anything else."),
    StepRule("disconnecting-ends-standalone", Code.IN_TRANSIENT_STATE,
             lambda old, new, _: old.conn == Conn.DISCONNECTING and new.conn not in (old.conn, Conn.STANDALONE),
             "A disconnect under way ends StandAlone."),
    StepRule("no-disk-to-fail", Code.IS_DISKLESS,
             lambda old, new, _: old.disk == Disk.DISKLESS and new.disk == Disk.FAILED,
             "A diskless node has no disk that could fail or be detached."),
)

_OFFERS_DATA = (Conn.CONNECTED, Conn.WF_BITMAP_S, Conn.SYNC_SOURCE, Conn.PAUSED_SYNC_S)

# First hit wins.
STATE_RULES: tuple[StateRule, ...] = (
    StateRule("one-primary", Code.TWO_PRIMARIES,
              lambda s, r: not r.two_primaries and s.role == Role.PRIMARY and s.peer == Role.PRIMARY,
              "The peer is Primary and allow-two-primaries is not set."),
    StateRule("one-primary-per-resource", Code.O_VOL_PEER_PRI,
              lambda s, r: not r.two_primaries and s.role == Role.PRIMARY and r.other_volume_peer_primary,
              "The peer is Primary on another volume of this resource."),
    StateRule("device-is-open", Code.DEVICE_IN_USE,
              lambda s, r: s.role == Role.SECONDARY and r.device_open,
              "Somebody holds the device open: unmount it first."),
    StateRule("alone-needs-good-data", Code.NO_UP_TO_DATE_DISK,
              lambda s, r: s.role == Role.PRIMARY and s.conn < Conn.CONNECTED and s.disk < Disk.UP_TO_DATE,
              "Without a peer a Primary needs UpToDate data of its own."),
    StateRule("fence-before-primary", Code.PRIMARY_NOP,
              lambda s, r: r.fencing != "dont-care" and s.role == Role.PRIMARY and s.conn < Conn.CONNECTED
              and s.pdsk >= Disk.DUNKNOWN,
              "With fencing configured the peer must be known to be outdated before this node is Primary alone."),
    StateRule("primary-needs-consistent-data", Code.NO_UP_TO_DATE_DISK,
              lambda s, r: s.role == Role.PRIMARY and s.disk <= Disk.INCONSISTENT and s.pdsk <= Disk.INCONSISTENT,
              "A Primary needs consistent data here or on the peer."),
    StateRule("resync-needs-own-disk", Code.NO_LOCAL_DISK,
              lambda s, r: s.conn > Conn.CONNECTED and s.disk < Disk.INCONSISTENT,
              "No resync or verify without a local disk."),
    StateRule("resync-needs-peers-disk", Code.NO_REMOTE_DISK,
              lambda s, r: s.conn > Conn.CONNECTED and s.pdsk < Disk.INCONSISTENT,
              "No resync or verify without the peer's disk."),
    StateRule("resync-needs-good-data", Code.NO_UP_TO_DATE_DISK,
              lambda s, r: s.conn > Conn.CONNECTED and s.disk < Disk.UP_TO_DATE and s.pdsk < Disk.UP_TO_DATE,
              "A resync needs an UpToDate disk on one side."),
    StateRule("outdated-cannot-serve", Code.CONNECTED_OUTDATES,
              lambda s, r: s.conn in _OFFERS_DATA and s.disk == Disk.OUTDATED,
              "A connected node is not Outdated: the handshake decides what its data is worth."),
    StateRule("verify-needs-algorithm", Code.NO_VERIFY_ALG,
              lambda s, r: s.conn in VERIFYING and not r.verify_alg,
              "Online verify needs verify-alg in the configuration."),
    StateRule("verify-needs-protocol-88", Code.NOT_SUPPORTED,
              lambda s, r: s.conn in VERIFYING and r.agreed_version < VERIFY_SINCE_VERSION,
              "The peer's protocol is too old for online verify."),
    StateRule("primary-needs-good-data", Code.NO_UP_TO_DATE_DISK,
              lambda s, r: primary_without_data(s),
              "A Primary needs UpToDate data here or on the peer."),
    StateRule("resync-needs-known-peer", Code.NEED_CONNECTION,
              lambda s, r: s.conn in STARTING_SYNC and s.pdsk == Disk.DUNKNOWN,
              "No resync with a peer whose disk is unknown."),
    StateRule("connected-peer-is-known", Code.CONNECTED_OUTDATES,
              lambda s, r: s.conn >= Conn.CONNECTED and s.pdsk == Disk.DUNKNOWN,
              "A connected peer's disk is never unknown."),
)


def _part_of_handshake(old: State, new: State) -> bool:
    return (
        (old.conn == Conn.WF_CONNECTION and new.conn == Conn.WF_REPORT_PARAMS)
        or (old.conn == Conn.WF_REPORT_PARAMS and new.conn >= Conn.CONNECTED)
    )


def _promotes_in_handshake(old: State, new: State, rules: Rules) -> bool:
    return (
        old.role != Role.PRIMARY
        and new.role == Role.PRIMARY
        and new.pdsk == Disk.UP_TO_DATE
        and new.disk not in (Disk.UP_TO_DATE, Disk.DISKLESS)
        and (new.conn <= Conn.WF_SYNC_UUID or new.conn != old.conn)
    )


# Last hit wins.
STEP_RULES: tuple[StepRule, ...] = (
    StepRule("resync-already-runs", Code.RESYNC_RUNNING,
             lambda old, new, _: new.conn in STARTING_SYNC and old.conn > Conn.CONNECTED,
             "A resync or verify is running; a second one has to wait."),
    StepRule("already-standalone", Code.ALREADY_STANDALONE,
             lambda old, new, _: new.conn == Conn.DISCONNECTING and old.conn == Conn.STANDALONE,
             "A StandAlone node has no connection to end."),
    StepRule("attach-comes-first", Code.IS_DISKLESS,
             lambda old, new, _: new.disk > Disk.ATTACHING and old.disk == Disk.DISKLESS,
             "The node has no disk: attach one first."),
    StepRule("no-network-configured", Code.NO_NET_CONFIG,
             lambda old, new, _: new.conn == Conn.WF_CONNECTION and old.conn < Conn.UNCONNECTED,
             "There is no connection configured to wait for."),
    StepRule("too-bad-to-be-outdated", Code.LOWER_THAN_OUTDATED,
             lambda old, new, _: new.disk == Disk.OUTDATED and old.disk < Disk.OUTDATED and old.disk != Disk.ATTACHING,
             "Outdated would be better than what the disk is now."),
    StepRule("not-connected-yet", Code.IN_TRANSIENT_STATE,
             lambda old, new, _: new.conn == Conn.DISCONNECTING and old.conn == Conn.UNCONNECTED,
             "The connection is just being set up or cleaned up; try again."),
    StepRule("handshake-under-way", Code.IN_TRANSIENT_STATE,
             lambda old, new, rules: rules.handshaking and not _part_of_handshake(old, new),
             "The handshake is under way; nothing else may change until it is done."),
    StepRule("no-promotion-during-handshake", Code.IN_TRANSIENT_STATE, _promotes_in_handshake,
             "The resync with the UpToDate peer is being agreed; promotion waits for it."),
    StepRule("verify-needs-connection", Code.NEED_CONNECTION,
             lambda old, new, _: new.conn in VERIFYING and old.conn < Conn.CONNECTED,
             "Online verify needs a connected peer."),
    StepRule("verify-must-wait", Code.RESYNC_RUNNING,
             lambda old, new, _: new.conn in VERIFYING and new.conn != old.conn and old.conn > Conn.CONNECTED,
             "A resync or verify is running; a second one has to wait."),
    StepRule("resync-needs-connection", Code.NEED_CONNECTION,
             lambda old, new, _: new.conn in STARTING_SYNC and old.conn < Conn.CONNECTED,
             "A resync needs a connected peer."),
    StepRule("no-resync-out-of-nowhere", Code.NEED_CONNECTION,
             lambda old, new, _: new.conn in (Conn.SYNC_SOURCE, Conn.SYNC_TARGET) and old.conn < Conn.WF_REPORT_PARAMS,
             "No resync without a handshake before it."),
    StepRule("outdating-needs-connection", Code.OUTDATE_WO_CONN,
             lambda old, new, _: new.conn == Conn.DISCONNECTING and new.pdsk == Disk.OUTDATED
             and old.conn < Conn.CONNECTED and old.pdsk > Disk.OUTDATED,
             "A peer that is not connected cannot be asked to outdate itself."),
)


def check_connection(old: State, new: State) -> Refusal | None:
    """Refusals that hold for every change, forced ones too."""
    for rule in CONNECTION_RULES:
        if rule.forbids(old, new, _NO_RULES):
            return Refusal(rule.code, rule.name)
    return None


def check_state(state: State, rules: Rules) -> Refusal | None:
    """The first rule a state violates by itself."""
    for rule in STATE_RULES:
        if rule.forbids(state, rules):
            return Refusal(rule.code, rule.name)
    return None


def check_step(old: State, new: State, rules: Rules) -> Refusal | None:
    """The last rule a step violates."""
    for rule in reversed(STEP_RULES):
        if rule.forbids(old, new, rules):
            return Refusal(rule.code, rule.name)
    return None


def check(old: State, new: State, rules: Rules) -> Refusal | None:
    """Why an unforced change from `old` to `new` (already sanitized) is refused, or None.

    A violation the old state already had (same code) does not block the way on.
    """
    refusal = check_connection(old, new)
    if refusal:
        return refusal
    violation = check_state(new, rules)
    if violation:
        before = check_state(old, rules)
        if before is None or before.code != violation.code:
            return violation
    return check_step(old, new, rules)


class ConsentRule(NamedTuple):
    """A change that needs the peer's positive answer before it happens."""

    name: str
    applies: Callable[[State, State], bool]
    explain: str


def _both_connected(old: State, new: State) -> bool:
    return old.conn >= Conn.CONNECTED and new.conn >= Conn.CONNECTED


CONSENT_RULES: tuple[ConsentRule, ...] = (
    ConsentRule("consent-to-promote",
                lambda old, new: _both_connected(old, new) and old.role != Role.PRIMARY and new.role == Role.PRIMARY,
                "The connected peer must agree before this node becomes Primary."),
    ConsentRule("consent-to-resync",
                lambda old, new: _both_connected(old, new) and new.conn in STARTING_SYNC and old.conn != new.conn,
                "Both nodes agree on an ordered resync before it starts."),
    ConsentRule("consent-to-detach",
                lambda old, new: _both_connected(old, new) and old.disk != Disk.FAILED and new.disk == Disk.FAILED,
                "The peer may need this disk, so it is asked before the disk is detached."),
    ConsentRule("consent-to-disconnect",
                lambda old, new: old.conn >= Conn.CONNECTED and new.conn == Conn.DISCONNECTING,
                "The peer is told (and may be asked to outdate itself) before the connection ends."),
    ConsentRule("consent-to-verify",
                lambda old, new: old.conn == Conn.CONNECTED and new.conn == Conn.VERIFY_S,
                "Both nodes agree on an online verify before it starts."),
)


def needs_consent(old: State, new: State) -> str | None:
    """Name of the rule that makes this change cluster-wide, or None if it is ours alone (plus a P_STATE)."""
    for rule in CONSENT_RULES:
        if rule.applies(old, new):
            return rule.name
    return None


_NO_RULES = Rules()
