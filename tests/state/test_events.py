# SPDX-License-Identifier: GPL-2.0-or-later
"""Peer reports, requests, attach, losses, promotion, handlers: every rule by name."""

from __future__ import annotations

import itertools

import pytest

from replblock.state import attach as at
from replblock.state import describe, handlers, losses, peer, promotion
from replblock.state.attach import attach, metadata_flags, wait_seconds, which_wait
from replblock.state.codes import Code
from replblock.state.generations import Generations
from replblock.state.handlers import handlers_for
from replblock.state.losses import fenced, io_error, may_mint_lazily, mints_new_uuid, settle_pending
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State, state_mask
from replblock.state.peer import Action, peer_state, real_peer_disk, take_over
from replblock.state.promotion import Attempt, Remedy, promotion_request, remedy
from replblock.state.requests import reply_to_request
from replblock.state.transitions import Rules, sanitize

P, S, U = Role.PRIMARY, Role.SECONDARY, Role.UNKNOWN
UP, INC, OUT, UNK, CON = Disk.UP_TO_DATE, Disk.INCONSISTENT, Disk.OUTDATED, Disk.DUNKNOWN, Disk.CONSISTENT
GOOD = State(S, S, Conn.CONNECTED, UP, UP)
NEW = State(S, U, Conn.WF_REPORT_PARAMS, UP, UNK)
SOURCE = State(P, S, Conn.SYNC_SOURCE, UP, INC)


REPORTS = [
    ("connection-going-down", GOOD._replace(conn=Conn.TEAR_DOWN), GOOD, Action.IGNORE, UP),
    ("both-would-be-source", GOOD._replace(conn=Conn.WF_BITMAP_S), GOOD._replace(conn=Conn.WF_BITMAP_S),
     Action.DISAGREE, UP),
    ("both-would-be-target", GOOD._replace(conn=Conn.WF_BITMAP_T, disk=OUT), GOOD._replace(conn=Conn.WF_BITMAP_T),
     Action.DISAGREE, UP),
    ("target-not-started", SOURCE._replace(conn=Conn.WF_BITMAP_S), GOOD._replace(conn=Conn.WF_BITMAP_T),
     Action.TAKE_OVER, INC),
    ("target-finished", SOURCE, GOOD, Action.FINISH_RESYNC, UP),
    ("target-gave-up", SOURCE, State(S, P, Conn.CONNECTED, INC, UP), Action.END_INCOMPLETE, INC),
    ("verify-finished", GOOD._replace(conn=Conn.VERIFY_T), GOOD, Action.FINISH_VERIFY, UP),
    ("late-inconsistent", GOOD, State(S, P, Conn.SYNC_TARGET, INC, UP), Action.TAKE_OVER, UP),
    ("peer-reports", GOOD, GOOD._replace(role=P), Action.TAKE_OVER, UP),
]


@pytest.mark.parametrize(("rule", "own", "report", "action", "disk"), REPORTS)
def test_report_rule(rule, own, report, action, disk):
    reaction = peer_state(own, report, uuid_flags=0)
    assert (reaction.rule, reaction.action, reaction.peer_disk) == (rule, action, disk)


def test_every_report_rule_has_its_test():
    assert [r.name for r in peer.REPORT_RULES] == [c[0] for c in REPORTS]


@pytest.mark.parametrize(("why", "own", "report", "consider"), [
    ("new-connection", NEW, GOOD._replace(conn=Conn.WF_CONNECTION), False),
    ("disk-newly-attached", GOOD, GOOD._replace(disk=Disk.NEGOTIATING), False),
    ("disk-newly-attached", GOOD._replace(disk=Disk.NEGOTIATING), GOOD, False),
    ("peer-was-forced", State(S, P, Conn.CONNECTED, INC, UP), State(P, S, Conn.CONNECTED, UP, INC), True),
    ("resync-requested", GOOD, GOOD._replace(conn=Conn.WF_BITMAP_S), False),
    ("", GOOD, GOOD._replace(role=P), False),
    ("", NEW._replace(disk=Disk.DISKLESS), GOOD, False),
    ("", NEW, GOOD._replace(disk=Disk.DISKLESS), False),
])
def test_when_a_report_starts_the_handshake(why, own, report, consider):
    reaction = peer_state(own, report, uuid_flags=0, consider_resync=consider)
    assert (reaction.handshake_rule, reaction.handshake) == (why, bool(why))
    assert not peer_state(own, report, uuid_flags=None, consider_resync=consider).handshake, "no P_UUIDS, no handshake"


def test_peer_state_is_total():
    for own_conn, conn, disk, pdsk, own_disk in itertools.product(Conn, Conn, Disk, Disk, (INC, UP, Disk.DISKLESS)):
        own = State(S, S, own_conn, own_disk, pdsk)
        reaction = peer_state(own, State(S, S, conn, disk, UP), uuid_flags=0)
        assert describe.describe(reaction.rule)
        if reaction.action == Action.TAKE_OVER and own_conn >= Conn.WF_REPORT_PARAMS:
            assert describe.describe(take_over(own, GOOD._replace(conn=conn, disk=disk), reaction, Rules()).rule)


def test_real_peer_disk():
    assert real_peer_disk(Disk.NEGOTIATING, peer.UUIDS_INCONSISTENT) == INC
    assert real_peer_disk(Disk.NEGOTIATING, 0) == CON
    assert real_peer_disk(Disk.NEGOTIATING, peer.UUIDS_OUTDATED) == OUT
    assert real_peer_disk(OUT, peer.UUIDS_INCONSISTENT) == OUT


def test_when_a_disk_comes_under_the_users_of_a_primary():
    """Both ends see it alike, whatever the peer's own decision made of its disk; a new connection is another matter."""
    primary = GOOD._replace(role=P, disk=Disk.NEGOTIATING)
    target = GOOD._replace(disk=OUT, conn=Conn.WF_BITMAP_T)
    for report in (GOOD, target):
        assert peer.comes_under_users(primary, report, report.disk)
        assert not peer.comes_under_users(primary._replace(role=S), report, report.disk)
        assert not peer.comes_under_users(primary._replace(conn=Conn.WF_REPORT_PARAMS), report, report.disk)
    assert not peer.comes_under_users(primary._replace(pdsk=OUT), GOOD._replace(disk=OUT), OUT), "frozen, not served"
    assert peer.comes_under_users(GOOD, primary, CON)
    assert not peer.comes_under_users(GOOD._replace(disk=CON), primary, CON)
    assert not peer.comes_under_users(GOOD, primary._replace(role=S), CON)
    assert not peer.comes_under_users(GOOD, primary._replace(disk=UP), UP)


def over(own, report, handshake=None, rules=None, **kw):
    reaction = peer_state(own, report, uuid_flags=0)
    return take_over(own, report, reaction, rules or Rules(), handshake, **kw)


def test_take_over_of_a_new_connection():
    result = over(NEW, State(P, U, Conn.WF_CONNECTION, UP, UNK), Conn.CONNECTED)
    assert result.state == State(S, P, Conn.CONNECTED, UP, UP) and not result.announce
    result = over(NEW, State(P, U, Conn.WF_CONNECTION, UP, UNK), Conn.WF_BITMAP_T)
    assert result.state == State(S, P, Conn.WF_BITMAP_T, OUT, UP)
    result = over(NEW, State(S, U, Conn.WF_CONNECTION, OUT, UNK, user_isp=True), Conn.WF_BITMAP_S)
    assert result.state == State(S, S, Conn.WF_BITMAP_S, UP, CON, peer_isp=True), "as DRBD shows it in this state"


def test_take_over_refusals():
    assert over(NEW, GOOD, Conn.DISCONNECTING) == ("handshake-refused", None, False)
    both = over(NEW._replace(role=P), State(P, U, Conn.WF_CONNECTION, UP, UNK), Conn.CONNECTED)
    assert both.rule == "state-not-allowed" and both.state is None
    attaching = GOOD._replace(disk=Disk.NEGOTIATING)
    result = over(attaching, GOOD, Conn.DISCONNECTING)
    assert result.rule == "own-attach-aborted" and result.state is not None and result.state.disk == Disk.FAILED
    result = over(GOOD, GOOD._replace(disk=Disk.NEGOTIATING), Conn.DISCONNECTING)
    assert result.rule == "peers-attach-aborted" and result.state == GOOD._replace(pdsk=Disk.DISKLESS)
    frozen = NEW._replace(role=P, susp_fen=True)
    reboot = State(S, U, Conn.WF_CONNECTION, CON, UNK)
    assert over(frozen, reboot, Conn.CONNECTED, new_uuid_pending=True).rule == "rebooted-peer-while-frozen"
    assert over(frozen, reboot, Conn.CONNECTED, new_uuid_pending=False).rule == "taken-over"


def test_a_frozen_primary_does_not_go_on_beside_marks_that_nobody_resyncs():
    frozen, back = NEW._replace(role=P, susp_fen=True), State(S, U, Conn.WF_CONNECTION, UP, UNK)
    marked = {"new_uuid_pending": True, "marks_stay": True}
    assert over(frozen, back, Conn.CONNECTED, **marked).rule == "marked-while-frozen"
    assert over(frozen, back, Conn.CONNECTED, new_uuid_pending=True).rule == "taken-over", "nothing is marked"
    assert over(frozen, back, Conn.CONNECTED, marks_stay=True).rule == "taken-over", "it has moved on already"
    assert over(frozen._replace(susp_fen=False), back, Conn.CONNECTED, **marked).rule == "taken-over"
    assert over(frozen, back, Conn.WF_BITMAP_S, **marked).rule == "taken-over", "they are resynced"
    both = over(frozen, back._replace(role=P), Conn.CONNECTED, Rules(two_primaries=True), **marked)
    assert both.rule == "taken-over", "the other one may do the same, and then nobody is the source"


def test_take_over_of_an_attach():
    rules = Rules(negotiated=(OUT, UNK))
    result = over(GOOD._replace(disk=Disk.NEGOTIATING), GOOD, Conn.CONNECTED, rules)
    assert result.state == GOOD
    result = over(GOOD._replace(disk=Disk.NEGOTIATING), GOOD, Conn.WF_BITMAP_T, rules)
    assert result.state is not None and result.state.disk == OUT, "whole until the resync begins"
    result = over(GOOD._replace(disk=Disk.NEGOTIATING), GOOD, Conn.WF_BITMAP_T, rules._replace(negotiated=(INC, UNK)))
    assert result.state is not None and result.state.disk == INC


@pytest.mark.parametrize("role", [P, S])
@pytest.mark.parametrize("heard", [INC, UP])
@pytest.mark.parametrize("unheard", [Disk.DISKLESS, Disk.ATTACHING, Disk.FAILED])
def test_what_a_peer_without_a_disk_said_before_it_heard_of_ours_decides_nothing(role, heard, unheard):
    """A Primary may refuse the disk that is being attached: until then this is no data to begin a generation on."""
    attaching, rules = GOOD._replace(disk=Disk.NEGOTIATING, pdsk=Disk.DISKLESS), Rules(negotiated=(UP, UNK))
    word = State(role, S, Conn.CONNECTED, Disk.DISKLESS, unheard, user_isp=True)
    early = over(attaching, word, rules=rules)
    assert early == ("attach-unheard-of", attaching._replace(peer=role, peer_isp=True), False)
    answer = over(early.state, word._replace(pdsk=heard), rules=rules)
    assert answer == ("taken-over", early.state._replace(disk=UP), False)


def test_a_primary_does_not_go_back_to_older_data_because_the_peer_has_no_disk():
    attaching, bare = GOOD._replace(role=P, disk=Disk.NEGOTIATING, pdsk=Disk.FAILED), GOOD._replace(disk=Disk.DISKLESS)
    rules = Rules(negotiated=(UP, UNK))
    assert over(attaching, bare, rules=rules).state == GOOD._replace(role=P, pdsk=Disk.DISKLESS)
    older = over(attaching, bare, rules=rules._replace(data_is_what_we_exposed=False))
    assert older.rule == "own-attach-older-than-exposed" and older.state.disk == Disk.FAILED
    decided = over(attaching, GOOD, Conn.WF_BITMAP_T, rules._replace(data_is_what_we_exposed=False))
    assert decided.rule == "taken-over", "the peer brings it up to date"


def test_forced_peer_makes_us_announce_and_ahead_makes_us_behind():
    forced = State(S, P, Conn.CONNECTED, INC, UP)
    assert peer.considers_resync(State(S, S, Conn.CONNECTED, INC, INC), forced)
    result = over(forced, State(P, S, Conn.CONNECTED, UP, INC), Conn.WF_BITMAP_T)
    assert result.announce and result.state is not None and result.state.conn == Conn.WF_BITMAP_T
    result = over(GOOD, State(P, S, Conn.AHEAD, UP, CON))
    assert result.state is not None and result.state.conn == Conn.BEHIND


def test_uuid_receipt_predicates():
    assert peer.skips_initial_sync(GOOD, 4, 8, 90) and not peer.skips_initial_sync(GOOD, 4, 8, 89)
    assert not peer.skips_initial_sync(GOOD, 0x100, 8, 101) and not peer.skips_initial_sync(GOOD, 4, 0, 101)
    diskless = State(P, U, Conn.WF_REPORT_PARAMS, Disk.DISKLESS, UNK)
    assert peer.lost_data_refusal(diskless, 0x101, 0x200) and not peer.lost_data_refusal(diskless, 0x101, 0x100)
    assert not peer.lost_data_refusal(diskless._replace(role=S), 0x101, 0x200)


def test_replies_to_requests():
    promote = state_mask(role=P)
    reply = reply_to_request(GOOD, *promote, Rules())
    assert (reply.code, reply.state) == (Code.SUCCESS, GOOD._replace(peer=P))
    assert reply_to_request(GOOD._replace(peer=P), *promote, Rules()).code == Code.NOTHING_TO_DO
    assert reply_to_request(GOOD._replace(role=P), *promote, Rules())[:2] == (Code.TWO_PRIMARIES, "one-primary")
    assert reply_to_request(GOOD, *promote, Rules(handshaking=True)).code == Code.IN_TRANSIENT_STATE
    busy = {"own_change_in_flight": True, "resolve_conflicts": True}
    assert reply_to_request(GOOD, *promote, Rules(), **busy).code == Code.CONCURRENT_ST_CHG
    reply = reply_to_request(GOOD, *state_mask(conn=Conn.DISCONNECTING), Rules())
    assert reply.state is not None and reply.state.conn == Conn.TEAR_DOWN and reply.state.pdsk == UNK
    invalidate = reply_to_request(GOOD, *state_mask(conn=Conn.STARTING_SYNC_T), Rules())
    assert invalidate.state is not None and invalidate.state.conn == Conn.STARTING_SYNC_S
    only_copy = GOOD._replace(peer=P, pdsk=Disk.DISKLESS)
    assert reply_to_request(only_copy, *state_mask(conn=Conn.STARTING_SYNC_S), Rules()).code == Code.NOTHING_TO_DO
    detach = reply_to_request(GOOD._replace(role=P, disk=INC), *state_mask(disk=Disk.FAILED), Rules())
    assert (detach.code, detach.rule) == (Code.NO_UP_TO_DATE_DISK, "primary-needs-consistent-data")
    assert reply_to_request(GOOD, *state_mask(conn=Conn.SYNC_SOURCE), Rules()).rule == "request-makes-no-sense"
    assert reply_to_request(GOOD, 0xF << 9, 0xF << 9, Rules()).state is None


ALL_FLAGS = [0x001, 0x002, 0x004, 0x008, 0x010, 0x020, 0x040, 0x080, 0x100]


def test_attach_over_all_flags():
    """Every combination of the nine flags, as drbdmeta's dstate reads them."""
    for chosen in itertools.product((0, 1), repeat=9):
        flags = sum(f for f, on in zip(ALL_FLAGS, chosen) if on)
        for fencing in ("dont-care", "resource-only"):
            result = attach(flags, State(), fencing=fencing)
            if not flags & 1:
                assert result.disk == INC
            elif not flags & 0x10:
                assert result.disk == OUT
            else:
                assert result.disk == (UP if flags & 0x20 or fencing == "dont-care" else CON)
            assert result.crashed_primary == bool(flags & 0x42)
            assert result.set_all_bits == bool(flags & 8 or (flags & 0x42 and flags & 0x100))
            frozen = attach(flags, State(role=P, susp_nod=True), fencing=fencing)
            assert frozen.set_all_bits == result.set_all_bits, "what was on its way stands nowhere"
            assert frozen.crashed_primary == bool(flags & 0x40)
            assert result.degraded == (flags & 6 == 2)
            assert result.pdsk == (OUT if flags & 0x20 else UNK)
            assert describe.describe(result.rule)


def test_attach_special_cases():
    frozen = State(P, U, Conn.WF_CONNECTION, susp_nod=True)
    assert not attach(0x13, frozen).crashed_primary and attach(0x53, frozen).crashed_primary
    assert attach(0x11, State(S, P, Conn.CONNECTED)).negotiate and not attach(0x11, State()).negotiate


def test_flags_say_what_attach_reads_back():
    """Invariant 3: whatever the state, a power cut and attach never give a better disk than there was."""
    for role, conn, disk, pdsk in itertools.product((P, S), Conn, Disk, Disk):
        if disk == UNK:
            continue
        if disk < INC:
            assert metadata_flags(State(role, S, conn, disk, pdsk), 0x1FF, crashed_primary=False) == 0x1FF
            continue
        flags = metadata_flags(State(role, S, conn, disk, pdsk), 0x188, crashed_primary=False)
        assert flags & 0x188 == 0x108, "FULL_SYNC and AL_DISABLED stay, AL_CLEAN goes"
        again = attach(flags, State(), fencing="resource-only")
        assert again.disk <= max(disk, CON) if pdsk not in (INC, OUT) else again.disk <= UP
        assert (again.disk == INC) == (disk == INC) and (again.disk == OUT) == (disk == OUT)
        assert bool(flags & at.MDF_CRASHED_PRIMARY) is False and again.crashed_primary == (role == P)


def test_crashed_primary_is_cleared_when_both_become_up_to_date():
    assert at.clears_crashed_primary(SOURCE, GOOD) and not at.clears_crashed_primary(GOOD, GOOD)


def test_waits():
    assert which_wait(OUT, degraded=True) == "outdated-wfc-timeout"
    assert which_wait(UNK, degraded=True) == "degr-wfc-timeout"
    assert which_wait(UNK, degraded=False) == "wfc-timeout"
    values = {"wfc": 30, "degr": 0, "outdated": 10}
    assert [wait_seconds(n, **values) for n in at.WAITS] == [10, 30, 30]
    assert wait_seconds("degr-wfc-timeout", wfc=0, degr=60, outdated=0) == 60


PRIMARY = GOOD._replace(role=P)
ORDERED = PRIMARY._replace(conn=Conn.STARTING_SYNC_S, pdsk=CON)


def cut(state: State, rules: Rules = Rules()) -> State:  # noqa: B008
    return sanitize(state, state._replace(conn=Conn.NETWORK_FAILURE), rules)


@pytest.mark.parametrize(("rule", "old", "new", "bitmap", "forced"), [
    ("lost-peers-data", PRIMARY, cut(PRIMARY), 0, False),
    (None, PRIMARY, cut(PRIMARY), 7, False),
    (None, GOOD, cut(GOOD), 0, False),
    (None, PRIMARY, GOOD, 0, False),
    ("lost-peers-data-frozen", PRIMARY, cut(PRIMARY, Rules(fencing="resource-and-stonith")), 0, False),
    ("lost-peers-data", PRIMARY, PRIMARY._replace(pdsk=Disk.FAILED), 0, False),
    ("lost-peers-data", GOOD._replace(peer=P), GOOD._replace(peer=P, pdsk=Disk.FAILED), 0, False),
    ("lost-peers-data", cut(PRIMARY), cut(PRIMARY)._replace(pdsk=OUT), 0, False),
    (None, SOURCE, cut(SOURCE), 0, False),
    ("promoted-alone", cut(GOOD), cut(GOOD)._replace(role=P), 0, False),
    (None, cut(GOOD), cut(GOOD)._replace(role=P), 7, False),
    (None, GOOD, PRIMARY, 0, False),
    ("promoted-alone", GOOD._replace(pdsk=Disk.DISKLESS), PRIMARY._replace(pdsk=Disk.DISKLESS), 0, False),
    ("promotion-forced", State(S, S, Conn.CONNECTED, INC, INC), State(P, S, Conn.CONNECTED, UP, INC), 7, True),
    ("diskless-peer-promoted", GOOD._replace(pdsk=Disk.DISKLESS), GOOD._replace(pdsk=Disk.DISKLESS, peer=P), 0, False),
    ("diskless-peer-promoted", State(S, P, Conn.CONNECTED, Disk.NEGOTIATING, Disk.DISKLESS),
     State(S, P, Conn.CONNECTED, UP, Disk.DISKLESS), 0, False),
    (None, State(S, P, Conn.CONNECTED, UP, Disk.DISKLESS), State(S, P, Conn.CONNECTED, UP, Disk.ATTACHING), 0, False),
    (None, PRIMARY._replace(disk=INC), cut(PRIMARY._replace(disk=INC)), 0, False),
    (None, GOOD, GOOD._replace(pdsk=Disk.FAILED), 0, False),
    ("ahead-by-order", PRIMARY, ORDERED, 0, False),
    ("ahead-by-order", PRIMARY, ORDERED, 7, False),
    ("ahead-by-order", ORDERED._replace(role=S), ORDERED, 0, False),
    (None, GOOD, ORDERED._replace(role=S), 0, False),
    (None, ORDERED, ORDERED._replace(pdsk=INC), 0, False),
    (None, ORDERED, SOURCE, 7, False),
])
def test_who_mints_when(rule, old, new, bitmap, forced):
    assert mints_new_uuid(old, new, bitmap, forced=forced) == rule


@pytest.mark.parametrize(("rule", "new", "bitmap"), [
    ("promoted-beside-its-user", cut(GOOD)._replace(role=P), 7),
    ("promoted-alone", cut(GOOD)._replace(role=P), 0),
    (None, GOOD._replace(role=P), 7),
    (None, cut(GOOD), 7),
])
def test_promoted_while_the_peers_users_may_still_wait_for_this_disk(rule, new, bitmap):
    assert mints_new_uuid(cut(GOOD), new, bitmap, peers_last_copy=True) == rule


def test_a_second_generation_of_its_own_keeps_the_bitmap():
    before = Generations(0x101, 0x200, 0x300, 0x400)
    assert before.moved_on_again(0x900, True) == (0x901, 0x200, 0x101, 0x300)
    with pytest.raises(ValueError, match="reserved"):
        before.moved_on_again(4, True)


@pytest.mark.parametrize(("rule", "new", "bitmap"), [
    ("source-failed-at-the-end", GOOD._replace(pdsk=Disk.FAILED), 0),
    (None, GOOD._replace(pdsk=Disk.FAILED), 7),
    (None, cut(GOOD), 0),
    (None, GOOD, 0),
])
def test_a_source_fails_before_it_confirmed_the_end(rule, new, bitmap):
    assert mints_new_uuid(GOOD, new, bitmap, end_unconfirmed=True) == rule


def test_lost_contact_matrix():
    lost = {(a, b) for a, b in itertools.product(Disk, Disk) if losses.lost_contact(a, b)}
    bad = {Disk.DISKLESS, Disk.ATTACHING, Disk.FAILED, Disk.NEGOTIATING, OUT, UNK}
    assert lost == {(a, b) for a in (INC, CON, UP) for b in bad} | {(UNK, b) for b in (Disk.DISKLESS, Disk.FAILED, OUT)}


def test_postponed_generation_is_settled():
    frozen = cut(PRIMARY, Rules(fencing="resource-and-stonith"))
    assert {"lost-peers-data-frozen"} == losses.POSTPONED
    assert settle_pending(frozen, frozen) is None
    assert settle_pending(frozen, frozen._replace(susp_fen=False, pdsk=OUT)) == ("thawed-alone", True)
    assert settle_pending(frozen, PRIMARY) == ("back-before-thaw", False)


def test_lazy_minting_only_with_nothing_in_flight_and_no_bits():
    assert may_mint_lazily("lost-peers-data", requests_in_flight=0, bits=0)
    assert not may_mint_lazily("lost-peers-data", requests_in_flight=1, bits=0)
    assert not may_mint_lazily("lost-peers-data", requests_in_flight=0, bits=1)
    assert not may_mint_lazily("promoted-alone", requests_in_flight=0, bits=0)


@pytest.mark.parametrize(("code", "disk", "pdsk", "own", "success"), [
    (3, UP, INC, None, True), (4, UP, OUT, None, True), (5, UP, OUT, None, True), (5, CON, None, None, False),
    (6, UP, None, OUT, False), (7, UP, OUT, None, True), (0, UP, None, None, False), (127, UP, None, None, False),
])
def test_fence_peer_exits(code, disk, pdsk, own, success):
    result = fenced(code, disk)
    assert (result.pdsk, result.disk, result.success) == (pdsk, own, success)


def test_io_errors():
    assert io_error("pass_on", UP)[:2] == ("io-error-passed-on", INC)
    assert io_error("pass_on", INC).disk is None
    assert io_error("pass_on", UP, metadata=True).disk == io_error("detach", UP).disk == Disk.FAILED
    assert io_error("call-local-io-error", UP).handler == "local-io-error"


@pytest.mark.parametrize(("name", "code", "attempt", "what"), [
    ("enough-tried", Code.PRIMARY_NOP, Attempt(UP, tries=4), Remedy.GIVE_UP),
    ("peer-is-back", Code.CW_FAILED_BY_PEER, Attempt(UP, pdsk_asked=True), Remedy.FORGET_FENCING),
    ("force-own-disk", Code.NO_UP_TO_DATE_DISK, Attempt(INC, force=True), Remedy.FORCE_DISK),
    ("consistent-after-fencing", Code.NO_UP_TO_DATE_DISK, Attempt(CON), Remedy.FENCE_FOR_DISK),
    ("force-into-split-brain", Code.PRIMARY_NOP, Attempt(UP, force=True), Remedy.FORCE_SPLIT),
    ("fence-the-peer", Code.PRIMARY_NOP, Attempt(UP), Remedy.FENCE_FOR_PEER),
    ("peer-may-be-dead", Code.TWO_PRIMARIES, Attempt(UP), Remedy.WAIT_PING_TIMEOUT),
    ("no-remedy", Code.NO_UP_TO_DATE_DISK, Attempt(OUT), Remedy.GIVE_UP),
])
def test_promotion_remedies(name, code, attempt, what):
    rule = remedy(code, attempt)
    assert (rule.name, rule.remedy) == (name, what)


def test_promotion_remedies_are_total_and_never_force_without_order():
    for code, disk, disk_asked, pdsk_asked in itertools.product(Code, Disk, (False, True), (False, True)):
        rule = remedy(code, Attempt(disk, False, disk_asked, pdsk_asked))
        assert rule.remedy not in (Remedy.FORCE_DISK, Remedy.FORCE_SPLIT)
    assert remedy(Code.NO_UP_TO_DATE_DISK, Attempt(Disk.DISKLESS, force=True)).remedy == Remedy.GIVE_UP
    assert [r.name for r in promotion.REMEDIES][-1] == "no-remedy"
    assert promotion_request(disk=True) == (0x1E03, 0x1001)
    assert promotion_request(pdsk=True)[0] == 0x3 | 0xF << 13


@pytest.mark.parametrize(("names", "old", "new", "facts"), [
    (("pri-on-incon-degr",), PRIMARY._replace(disk=Disk.DISKLESS),
     State(P, U, Conn.WF_CONNECTION, Disk.DISKLESS, UNK), {}),
    (("fence-peer",), PRIMARY, cut(PRIMARY), {"fencing": "resource-only"}),
    ((), PRIMARY, cut(PRIMARY), {}),
    (("before-resync-target",), State(S, P, Conn.WF_SYNC_UUID, OUT, UP), State(S, P, Conn.SYNC_TARGET, INC, UP), {}),
    (("before-resync-source",), SOURCE._replace(conn=Conn.WF_BITMAP_S), SOURCE, {}),
    (("after-resync-target",), State(S, P, Conn.SYNC_TARGET, INC, UP), State(S, P, Conn.CONNECTED, UP, UP), {}),
    ((), SOURCE, SOURCE._replace(conn=Conn.PAUSED_SYNC_S), {}),
    (("unfence-peer",), SOURCE, PRIMARY, {"fencing": "resource-only"}),
    ((), SOURCE, PRIMARY, {"fencing": "resource-only", "all_up_to_date": False}),
    (("out-of-sync",), PRIMARY._replace(conn=Conn.VERIFY_S), PRIMARY, {"out_of_sync_bits": 2}),
    (("local-io-error",), PRIMARY, PRIMARY._replace(disk=Disk.FAILED),
     {"on_io_error": "call-local-io-error", "io_error": True}),
    ((), PRIMARY, PRIMARY._replace(disk=Disk.FAILED), {"on_io_error": "call-local-io-error"}),
])
def test_handlers(names, old, new, facts):
    assert handlers_for(old, new, **facts) == names


def test_every_handler_rule_is_known():
    assert {r.name for r in handlers.RULES} <= set(handlers.HANDLERS)
    assert set(handlers.BLOCKING) <= set(handlers.HANDLERS)


def test_every_rule_is_described_in_sentences():
    rows = list(describe._rows())
    texts = {}
    for row in rows:
        assert row.text.endswith(".") and len(row.text.split()) >= 4, row
        assert texts.setdefault(row.name, row.text) == row.text, f"two meanings of {row.name}"
        assert row.name == row.name.lower() and " " not in row.name
    with pytest.raises(KeyError):
        describe.describe("no-such-rule")
    assert describe.describe_all(["both-moved-on"])[0].startswith("both-moved-on: Both nodes")
    assert describe.RULES["both-moved-on"].number == 90
