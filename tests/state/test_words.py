# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, packed words, codes and texts: against DRBD's own tool and words seen on the wire."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from replblock.state import codes, text
from replblock.state.codes import CONFIG_ERRORS, Code
from replblock.state.generations import Generations
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import BITS, State, apply_mask, mirror_request, state_mask
from replblock.state.uuids import Side, compare

DRBDSETUP = Path("/lib/drbd/drbdsetup-84")


@pytest.fixture(scope="module")
def drbdsetup() -> bytes:
    """LINBIT's tool for the 8.4 module; its strings are what scripts grep for."""
    return DRBDSETUP.read_bytes()


@pytest.mark.parametrize("member", [m for enum in (Role, Disk, Conn) for m in enum], ids=lambda m: m.label)
def test_labels_are_drbds_spelling(drbdsetup, member):
    assert member.label.encode() + b"\0" in drbdsetup
    assert type(member).from_label(member.label) is member


def test_unknown_label_names_the_known_ones():
    with pytest.raises(ValueError, match="UpToDate"):
        Disk.from_label("Uptodate")


@pytest.mark.parametrize("code", [c for c in Code if c < 0], ids=lambda c: c.name)
def test_code_texts_are_drbdsetups(drbdsetup, code):
    assert code.text.encode() + b"\0" in drbdsetup
    assert code.exit_code == {-2: 17, -4: 16, -16: 5}.get(int(code), 11)


@pytest.mark.parametrize("number", CONFIG_ERRORS)
def test_config_error_texts_are_drbdsetups(drbdsetup, number):
    assert CONFIG_ERRORS[number].encode() in drbdsetup


def test_lines_and_exit_codes():
    assert codes.refusal_line("0", Code.NO_UP_TO_DATE_DISK) == \
        "0: State change failed: (-2) Need access to UpToDate data"
    assert codes.refusal_line("0", Code.UNKNOWN_ERROR) == "0: State change failed: (0)unknown error."
    assert codes.config_error_line("0", 127) == "0: Failure: (127) Device minor not allocated"
    assert [codes.exit_code_of(n) for n in (1, 2, 3, 4, 0, -3, -2)] == [0, 0, 0, 0, 11, 20, 17]


WIRE = [
    (0x0000C882, State(Role.SECONDARY, Role.UNKNOWN, Conn.WF_CONNECTION, Disk.INCONSISTENT, Disk.DUNKNOWN)),
    (0x000088AA, State(Role.SECONDARY, Role.SECONDARY, Conn.CONNECTED, Disk.INCONSISTENT, Disk.INCONSISTENT)),
]


@pytest.mark.parametrize(("word", "state"), WIRE)
def test_words_seen_on_the_wire(word, state):
    assert state.pack() == word and State.unpack(word) == state


def test_every_state_survives_packing():
    for role, peer, conn, disk, pdsk in itertools.product(Role, Role, Conn, Disk, Disk):
        state = State(role, peer, conn, disk, pdsk)
        assert State.unpack(state.pack()) == state
    for flags in itertools.product((False, True), repeat=6):
        state = State(Role.PRIMARY, Role.SECONDARY, Conn.AHEAD, Disk.UP_TO_DATE, Disk.CONSISTENT, *flags)
        assert State.unpack(state.pack()) == state
        assert State.unpack(state.pack() | 0xFF80_0000) == state, "unknown bits are ignored"
    assert [name for name, _, _ in BITS] == list(State._fields)


@pytest.mark.parametrize("word", [3, 31 << 4, 24 << 4, 15 << 9, 9 << 13])
def test_impossible_words_are_refused(word):
    with pytest.raises(ValueError):
        State.unpack(word)


# mask, val as seen in captures (and plain promotion, computed)
REQUESTS = [
    ({"role": Role.PRIMARY, "disk": Disk.UP_TO_DATE}, 0x1E03, 0x1001),
    ({"role": Role.PRIMARY}, 0x3, 0x1),
    ({"conn": Conn.DISCONNECTING}, 0x1F0, 0x10),
    ({"conn": Conn.VERIFY_S}, 0x1F0, 0x120),
    ({"conn": Conn.STARTING_SYNC_T}, 0x1F0, 0xC0),
    ({"disk": Disk.FAILED}, 0x1E00, 0x400),
]


@pytest.mark.parametrize(("fields", "mask", "val"), REQUESTS)
def test_requests_seen_on_the_wire(fields, mask, val):
    assert state_mask(**fields) == (mask, val)


def test_mirrored_requests():
    connected = State(Role.SECONDARY, Role.SECONDARY, Conn.CONNECTED, Disk.INCONSISTENT, Disk.INCONSISTENT)
    forced = apply_mask(connected, *mirror_request(0x1E03, 0x1001))
    assert (forced.peer, forced.pdsk, forced.role, forced.disk) == (
        Role.PRIMARY, Disk.UP_TO_DATE, Role.SECONDARY, Disk.INCONSISTENT)
    for asked, arrives in ((Conn.STARTING_SYNC_S, Conn.STARTING_SYNC_T), (Conn.VERIFY_S, Conn.VERIFY_T),
                           (Conn.STARTING_SYNC_T, Conn.STARTING_SYNC_S), (Conn.DISCONNECTING, Conn.TEAR_DOWN)):
        assert apply_mask(connected, *mirror_request(*state_mask(conn=asked))).conn == arrives
    assert apply_mask(connected, *mirror_request(*state_mask(user_isp=True))).peer_isp


@pytest.mark.parametrize("conn", set(Conn) - {9, 10, 11, 12, 18, 1})
def test_connection_states_nobody_may_request(conn):
    with pytest.raises(ValueError, match="cannot be requested"):
        mirror_request(*state_mask(conn=conn))


def test_partial_connection_mask_and_unknown_field_are_refused():
    with pytest.raises(ValueError, match="partial"):
        mirror_request(0x10, 0x10)
    with pytest.raises(ValueError, match="colour"):
        state_mask(colour=1)


def test_log_lines():
    old = State(Role.SECONDARY, Role.UNKNOWN, Conn.WF_REPORT_PARAMS, Disk.UP_TO_DATE, Disk.DUNKNOWN)
    new = State(Role.PRIMARY, Role.SECONDARY, Conn.CONNECTED, Disk.UP_TO_DATE, Disk.UP_TO_DATE, user_isp=True)
    assert text.state_change(old, new) == (
        "role( Secondary -> Primary ) peer( Unknown -> Secondary ) conn( WFReportParams -> Connected ) "
        "pdsk( DUnknown -> UpToDate ) user_isp( 0 -> 1 )")
    assert text.state_change(old, old) == ""
    assert text.state_change(old, old._replace(susp_fen=True)) == "susp( 0 -> 1 )"
    g = Generations(0x12C3D6A6021F3F8F, 0, 0, 0)
    assert text.generations_line("self", g, 15, 2) == (
        "self 12C3D6A6021F3F8F:0000000000000000:0000000000000000:0000000000000000 bits:15 flags:2")
    assert text.verdict_line(compare(Side(g), Side(Generations()))) == "uuid_compare()=2 by rule 30"
    assert text.pair(Role.PRIMARY.label, Role.UNKNOWN.label) == "Primary/Unknown"
