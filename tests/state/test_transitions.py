# SPDX-License-Identifier: GPL-2.0-or-later
"""Transitions: every refusal by name with DRBD's code, and properties over all states."""

from __future__ import annotations

import itertools

import pytest

from replblock.state import transitions as t
from replblock.state.codes import Code
from replblock.state.names import NETWORK_ERRORS, Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.sanitizing import CLIPS
from replblock.state.transitions import Rules, check, check_connection, check_state, check_step, needs_consent, sanitize

P, S, U = Role.PRIMARY, Role.SECONDARY, Role.UNKNOWN
GOOD = State(S, S, Conn.CONNECTED, Disk.UP_TO_DATE, Disk.UP_TO_DATE)
ALONE = State(S, U, Conn.WF_CONNECTION, Disk.UP_TO_DATE, Disk.DUNKNOWN)
OFF = State(S, U, Conn.STANDALONE, Disk.UP_TO_DATE, Disk.DUNKNOWN)
FENCE = Rules(fencing="resource-only")
STONITH = Rules(fencing="resource-and-stonith")


def st(base: State = GOOD, **fields: object) -> State:
    return base._replace(**fields)


STATES = [  # rule, code, state, rules
    ("one-primary", -1, st(role=P, peer=P), Rules()),
    ("one-primary-per-resource", -20, st(role=P), Rules(other_volume_peer_primary=True)),
    ("device-is-open", -12, GOOD, Rules(device_open=True)),
    ("alone-needs-good-data", -2, st(ALONE, role=P, disk=Disk.OUTDATED), Rules()),
    ("fence-before-primary", -7, st(ALONE, role=P), FENCE),
    ("primary-needs-consistent-data", -2, st(role=P, disk=Disk.INCONSISTENT, pdsk=Disk.INCONSISTENT), Rules()),
    ("resync-needs-own-disk", -4, st(conn=Conn.WF_BITMAP_S, disk=Disk.DISKLESS), Rules()),
    ("resync-needs-peers-disk", -5, st(conn=Conn.WF_BITMAP_S, pdsk=Disk.DISKLESS), Rules()),
    ("resync-needs-good-data", -2, st(conn=Conn.SYNC_TARGET, disk=Disk.INCONSISTENT, pdsk=Disk.OUTDATED), Rules()),
    ("outdated-cannot-serve", -6, st(disk=Disk.OUTDATED), Rules()),
    ("verify-needs-algorithm", -14, st(conn=Conn.VERIFY_S), Rules(verify_alg=False)),
    ("verify-needs-protocol-88", -17, st(conn=Conn.VERIFY_T), Rules(agreed_version=87)),
    ("primary-needs-good-data", -2, st(role=P, disk=Disk.CONSISTENT, pdsk=Disk.INCONSISTENT), Rules()),
    ("resync-needs-known-peer", -15, st(conn=Conn.STARTING_SYNC_S, pdsk=Disk.DUNKNOWN), Rules()),
    ("connected-peer-is-known", -6, st(pdsk=Disk.DUNKNOWN), Rules()),
]
STEPS = [  # rule, code, old, new, rules
    ("resync-already-runs", -8, st(conn=Conn.SYNC_SOURCE), st(conn=Conn.STARTING_SYNC_S), Rules()),
    ("already-standalone", -9, OFF, st(OFF, conn=Conn.DISCONNECTING), Rules()),
    ("attach-comes-first", -11, st(ALONE, disk=Disk.DISKLESS), ALONE, Rules()),
    ("no-network-configured", -13, OFF, ALONE, Rules()),
    ("too-bad-to-be-outdated", -16, st(ALONE, disk=Disk.INCONSISTENT), st(ALONE, disk=Disk.OUTDATED), Rules()),
    ("not-connected-yet", -18, st(OFF, conn=Conn.UNCONNECTED), st(OFF, conn=Conn.DISCONNECTING), Rules()),
    ("handshake-under-way", -18, st(OFF, conn=Conn.WF_REPORT_PARAMS), st(OFF, conn=Conn.WF_REPORT_PARAMS, role=P),
     Rules(handshaking=True)),
    ("no-promotion-during-handshake", -18, st(conn=Conn.WF_BITMAP_T, disk=Disk.OUTDATED),
     st(conn=Conn.WF_BITMAP_T, disk=Disk.OUTDATED, role=P), Rules()),
    ("verify-needs-connection", -15, ALONE, st(ALONE, conn=Conn.VERIFY_S), Rules()),
    ("verify-must-wait", -8, st(conn=Conn.SYNC_SOURCE), st(conn=Conn.VERIFY_S), Rules()),
    ("resync-needs-connection", -15, ALONE, st(ALONE, conn=Conn.STARTING_SYNC_T), Rules()),
    ("no-resync-out-of-nowhere", -15, st(ALONE, conn=Conn.NETWORK_FAILURE), st(ALONE, conn=Conn.SYNC_TARGET), Rules()),
    ("outdating-needs-connection", -21, ALONE, st(ALONE, conn=Conn.DISCONNECTING, pdsk=Disk.OUTDATED), Rules()),
]
CONNECTIONS = [
    ("nothing-to-disconnect", -9, OFF, st(OFF, conn=Conn.DISCONNECTING)),
    ("standalone-starts-unconnected", -15, OFF, ALONE),
    ("handshake-comes-first", -15, ALONE, GOOD),
    ("clean-up-comes-first", -18, st(ALONE, conn=Conn.TIMEOUT), ALONE),
    ("disconnecting-ends-standalone", -18, st(ALONE, conn=Conn.DISCONNECTING), st(ALONE, conn=Conn.UNCONNECTED)),
    ("no-disk-to-fail", -11, st(ALONE, disk=Disk.DISKLESS), st(ALONE, disk=Disk.FAILED)),
]


@pytest.mark.parametrize(("rule", "code", "state", "rules"), STATES)
def test_state_rule(rule, code, state, rules):
    assert check_state(state, rules) == (Code(code), rule)


@pytest.mark.parametrize(("rule", "code", "old", "new", "rules"), STEPS)
def test_step_rule(rule, code, old, new, rules):
    assert check_step(old, new, rules) == (Code(code), rule)


@pytest.mark.parametrize(("rule", "code", "old", "new"), CONNECTIONS)
def test_connection_rule_holds_for_forced_changes_too(rule, code, old, new):
    assert check_connection(old, new) == check(old, new, Rules()) == (Code(code), rule)


def test_every_refusal_has_its_test():
    assert [r.name for r in t.STATE_RULES] == [c[0] for c in STATES]
    assert [r.name for r in t.STEP_RULES] == [c[0] for c in STEPS]
    assert [r.name for r in t.CONNECTION_RULES] == [c[0] for c in CONNECTIONS]


def test_connection_matrix():
    """All pairs of connection states, against the rules written as sets."""
    for old, new in itertools.product(Conn, Conn):
        allowed = (
            old == new
            or (old == Conn.STANDALONE and new == Conn.UNCONNECTED)
            or (old == Conn.DISCONNECTING and new == Conn.STANDALONE)
            or (old in NETWORK_ERRORS and new in (Conn.UNCONNECTED, Conn.DISCONNECTING))
            or (old in (Conn.UNCONNECTED, Conn.WF_CONNECTION) and new < Conn.CONNECTED)
            or old >= Conn.WF_REPORT_PARAMS
        )
        assert (check_connection(st(ALONE, conn=old), st(ALONE, conn=new)) is None) == allowed, (old, new)


def all_states():
    for role, peer, conn, disk, pdsk in itertools.product((P, S), Role, Conn, Disk, Disk):
        if disk != Disk.DUNKNOWN:
            yield State(role, peer, conn, disk, pdsk)


def test_sanitize_properties_over_all_states():
    """A sanitized state stays as it is, fits its connection's bounds, and never gets better data without a peer."""
    pauses = [{}, {"user_isp": True}, {"peer_isp": True}, {"aftr_isp": True}]
    for wanted in all_states():
        for pause in pauses:
            w = wanted._replace(**pause)
            new = sanitize(w, w, STONITH)
            assert sanitize(new, new, STONITH) == new
            if new.conn in CLIPS:
                clip = CLIPS[new.conn]
                assert clip.disk_min <= new.disk <= clip.disk_max and clip.pdsk_min <= new.pdsk <= clip.pdsk_max
            if new.conn < Conn.CONNECTED:
                assert new.peer == U and new.pdsk in (Disk.INCONSISTENT, Disk.OUTDATED, Disk.DUNKNOWN)
                assert new.disk <= wanted.disk
            paused = new.aftr_isp or new.peer_isp or new.user_isp
            assert new.conn not in ((Conn.SYNC_SOURCE, Conn.SYNC_TARGET) if paused
                                    else (Conn.PAUSED_SYNC_S, Conn.PAUSED_SYNC_T))


def test_unforced_steps_keep_a_primary_with_data():
    """Invariant 3: no allowed unforced step makes a Primary without UpToDate data, or a second Primary."""
    olds = [s for s in all_states() if sanitize(s, s, Rules()) == s and check_state(s, Rules()) is None]
    assert len(olds) > 100
    for old in olds:
        for wanted in (old._replace(role=P), old._replace(disk=Disk.FAILED), old._replace(conn=Conn.DISCONNECTING),
                       old._replace(disk=Disk.OUTDATED), old._replace(pdsk=Disk.FAILED)):
            new = sanitize(old, wanted, Rules())
            if check(old, new, Rules()) is None:
                assert not t.primary_without_data(new) and (new.role, new.peer) != (P, P)


def test_old_violation_does_not_block():
    bad = st(role=P, peer=P)
    assert check(bad, bad._replace(user_isp=True), Rules()) is None
    assert check(bad, bad._replace(role=S), Rules()) is None


def test_peer_knowledge_that_survives_a_disconnect():
    for before, after in ((Disk.UP_TO_DATE, Disk.DUNKNOWN), (Disk.CONSISTENT, Disk.DUNKNOWN),
                          (Disk.DISKLESS, Disk.DUNKNOWN), (Disk.OUTDATED, Disk.OUTDATED),
                          (Disk.INCONSISTENT, Disk.INCONSISTENT)):
        old = st(peer_isp=True)
        new = sanitize(old, old._replace(conn=Conn.NETWORK_FAILURE, pdsk=before), Rules())
        assert (new.pdsk, new.peer, new.peer_isp) == (after, U, False)


def test_resync_aborts_without_a_disk():
    old = st(conn=Conn.SYNC_SOURCE, pdsk=Disk.INCONSISTENT)
    assert sanitize(old, old._replace(disk=Disk.FAILED), Rules()).conn == Conn.CONNECTED
    assert sanitize(old, old._replace(pdsk=Disk.DISKLESS), Rules()).conn == Conn.CONNECTED


@pytest.mark.parametrize(("exposed", "disk"), [(True, Disk.UP_TO_DATE), (False, Disk.INCONSISTENT)])
def test_a_peer_without_a_disk_settles_nothing(exposed: bool, disk: Disk):
    """A Primary whose disk lacks what its users were told is written does not call it UpToDate then."""
    old = st(ALONE, role=P, disk=Disk.OUTDATED)
    found = old._replace(conn=Conn.CONNECTED, peer=S, pdsk=Disk.DISKLESS)
    assert sanitize(old, found, Rules(data_is_what_we_exposed=exposed)).disk == disk


def test_a_disk_given_up_by_order_is_not_good_because_the_peer_has_none():
    old = st(ALONE, disk=Disk.OUTDATED)
    found = old._replace(conn=Conn.CONNECTED, peer=S, pdsk=Disk.DISKLESS)
    assert sanitize(old, found, Rules()).disk == Disk.UP_TO_DATE
    assert sanitize(old, found, Rules(given_up=True)).disk == Disk.INCONSISTENT


def test_negotiation_cut_short():
    old = st(disk=Disk.NEGOTIATING)
    cut = old._replace(conn=Conn.NETWORK_FAILURE)
    meta = (Disk.CONSISTENT, Disk.OUTDATED)
    assert sanitize(old, cut, Rules(negotiated=meta))[3:5] == meta
    other = Rules(negotiated=meta, data_is_what_we_exposed=False)
    assert sanitize(old, cut, other)[3:5] == (Disk.DISKLESS, Disk.DUNKNOWN)


def test_freezes_happen_on_the_step_not_on_the_state():
    old = st(role=P)
    cut = sanitize(old, old._replace(conn=Conn.BROKEN_PIPE), STONITH)
    assert cut.susp_fen and not sanitize(cut, cut._replace(susp_fen=False), STONITH).susp_fen
    assert not sanitize(old, old._replace(conn=Conn.BROKEN_PIPE), FENCE).susp_fen
    diskless = st(role=P, disk=Disk.DISKLESS)
    rules = Rules(suspend_no_data=True)
    cut = sanitize(diskless, diskless._replace(conn=Conn.BROKEN_PIPE), rules)
    assert cut.susp_nod and not sanitize(cut, cut._replace(susp_nod=False), rules).susp_nod


def test_outdate_while_connected_is_lifted_as_drbd_does():
    """DRBD: a no-op with exit 0 (and a trap on an Inconsistent disk: callers must not ask for it while connected)."""
    assert sanitize(GOOD, GOOD._replace(disk=Disk.OUTDATED), Rules()) == GOOD


@pytest.mark.parametrize(("old", "change", "rule"), [
    (GOOD, {"role": P}, "consent-to-promote"),
    (GOOD, {"conn": Conn.STARTING_SYNC_T}, "consent-to-resync"),
    (GOOD, {"disk": Disk.FAILED}, "consent-to-detach"),
    (GOOD, {"conn": Conn.DISCONNECTING}, "consent-to-disconnect"),
    (GOOD, {"conn": Conn.VERIFY_S}, "consent-to-verify"),
    (GOOD._replace(role=P), {"role": S}, None),
    (GOOD, {"user_isp": True}, None),
    (ALONE, {"role": P}, None),
    (ALONE, {"conn": Conn.DISCONNECTING}, None),
])
def test_which_changes_need_the_peers_consent(old, change, rule):
    assert needs_consent(old, old._replace(**change)) == rule
