# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a restarted engine may take back its device: each rule, and that newer data is never in danger."""

from __future__ import annotations

import itertools

import pytest

from replblock.core.attachment import UNFLUSHED
from replblock.state.generations import Generations
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.resumption import RULES, Resume, Scene, judge

A, B, C, OLD, JUST_CREATED = 0xA0, 0xB0, 0xC0, 0xD0, 4


def scene(**fields: object) -> Scene:
    state = State(Role.SECONDARY, Role.UNKNOWN, Conn.WF_CONNECTION, Disk.UP_TO_DATE, Disk.DUNKNOWN)
    parts = {name: fields.pop(name) for name in list(fields) if name in State._fields}
    usual = Scene(state._replace(**parts), Generations(A), A, None, Role.UNKNOWN, False, False, False)
    return usual._replace(**fields)


@pytest.mark.parametrize(("rule", "found"), [
    ("resume-peer-is-primary", scene(conn=Conn.CONNECTED, peer=Role.PRIMARY)),
    ("resume-peer-is-primary", scene(peer_role=Role.PRIMARY)),
    ("resume-no-disk-yet", scene(mine=None, disk=Disk.DISKLESS)),
    ("resume-no-disk-yet", scene(disk=Disk.NEGOTIATING, conn=Conn.CONNECTED)),
    ("resume-handshake-first", scene(conn=Conn.WF_REPORT_PARAMS, handshaking=True)),
    ("resume-other-data", scene(mine=Generations(B))),
    ("resume-other-data", scene(mine=Generations(B, 0, A), conn=Conn.CONNECTED)),   # it was resynced from elsewhere
    ("resume-data-is-not-good", scene(disk=Disk.OUTDATED)),
    ("resume-data-is-not-good", scene(conn=Conn.SYNC_TARGET, disk=Disk.INCONSISTENT)),
    ("resume-data-is-not-good", scene(conn=Conn.CONNECTED, was_inconsistent=True)),   # a resync in its own generation
    ("resume-other-data", scene(seen=UNFLUSHED)),
    ("resume-with-the-peer", scene(conn=Conn.CONNECTED, peer=Role.SECONDARY)),
    ("resume-with-the-peer", scene(conn=Conn.SYNC_SOURCE, peer=Role.SECONDARY, peers=Generations(OLD))),
    ("resume-refused-by-the-handshake", scene(conn=Conn.STANDALONE, peers=Generations(B, A))),
    ("resume-peer-moved-on", scene(peers=Generations(B, A))),
    ("resume-waits-for-the-peer", scene(patience=True)),
    ("resume-waits-for-the-peer", scene(conn=Conn.STANDALONE, patience=True)),      # it never said a word
    ("resume-alone", scene()),
    ("resume-alone", scene(mine=Generations(B, A), peers=Generations(A))),          # we wrote alone before
    ("resume-alone", scene(mine=Generations(A | 1), peers=Generations(A))),
    ("resume-alone", scene(peers=Generations(JUST_CREATED))),
    ("resume-alone", scene(disk=Disk.CONSISTENT)),                                  # promotion will fence
])  # fmt: skip
def test_rule(rule: str, found: Scene) -> None:
    assert judge(found).name == rule


def test_every_rule_has_a_test() -> None:
    tested = {mark.args[1][number][0] for mark in test_rule.pytestmark  # type: ignore[attr-defined]
              for number in range(len(mark.args[1]))}
    assert tested == {rule.name for rule in RULES}


def test_nothing_newer_elsewhere_is_ever_overwritten() -> None:
    """All small scenes: it is never taken back beside a Primary, on bad data, or knowing that the peer moved on."""
    states = itertools.product((Role.UNKNOWN, Role.SECONDARY, Role.PRIMARY), Conn, Disk)
    generations = [None, Generations(A), Generations(B, A), Generations(B, 0, A), Generations(C, A)]
    taken = 0
    for peer, conn, disk in states:
        for mine, peers in itertools.product(generations, generations):
            for role, handshaking, patience in itertools.product((Role.UNKNOWN, Role.PRIMARY), (0, 1), (0, 1)):
                found = scene(peer=peer, conn=conn, disk=disk, mine=mine, peers=peers, peer_role=role,
                              handshaking=bool(handshaking), patience=bool(patience))  # fmt: skip
                if judge(found).then is not Resume.TAKE:
                    continue
                taken += 1
                assert Role.PRIMARY not in (peer, role)
                assert disk >= Disk.CONSISTENT
                assert mine is not None and A in (mine.current, mine.bitmap)
                if conn < Conn.CONNECTED:
                    assert peers is None or peers.current in mine
                    assert conn != Conn.STANDALONE or peers is None
    assert taken
