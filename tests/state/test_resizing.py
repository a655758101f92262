# SPDX-License-Identifier: GPL-2.0-or-later
"""The decisions of `resize`: each refusal, sizes, and that both nodes find the same source."""

from __future__ import annotations

import itertools

import pytest

from replblock.state.codes import CONFIG_ERRORS, Code
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.resizing import REFUSALS, Facts, agreed, here_is_source, misfit, refused

GOOD = State(Role.PRIMARY, Role.SECONDARY, Conn.CONNECTED, Disk.UP_TO_DATE, Disk.UP_TO_DATE)
ALONE = GOOD._replace(conn=Conn.WF_CONNECTION, peer=Role.UNKNOWN, pdsk=Disk.DUNKNOWN)


def facts(state: State = GOOD, **fields: object) -> Facts:
    return Facts(state, 101 if state.conn == Conn.CONNECTED else 0, False, False, False)._replace(**fields)


@pytest.mark.parametrize(("rule", "number", "found"), [
    ("no-disk", 138, facts(GOOD._replace(disk=Disk.DISKLESS))),
    ("no-disk", 138, facts(GOOD._replace(disk=Disk.FAILED, conn=Conn.STANDALONE))),
    ("resync-running", 130, facts(GOOD._replace(conn=Conn.SYNC_SOURCE, pdsk=Disk.INCONSISTENT))),
    ("resync-running", 130, facts(GOOD._replace(conn=Conn.VERIFY_T))),
    ("busy", Code.IN_TRANSIENT_STATE, facts(busy=True)),
    ("busy", Code.IN_TRANSIENT_STATE, facts(ALONE._replace(conn=Conn.WF_REPORT_PARAMS))),
    ("no-primary", 131, facts(GOOD._replace(role=Role.SECONDARY))),
    ("peer-without-disk", Code.NO_REMOTE_DISK, facts(GOOD._replace(pdsk=Disk.DISKLESS))),
    ("disks-not-up-to-date", Code.NO_UP_TO_DATE_DISK, facts(GOOD._replace(pdsk=Disk.INCONSISTENT))),
    ("disks-not-up-to-date", Code.NO_UP_TO_DATE_DISK, facts(GOOD._replace(disk=Disk.INCONSISTENT))),
    ("peer-too-old-for-assume-clean", 153, facts(assume_clean=True, version=92)),
    ("alone-and-no-primary", 131, facts(ALONE._replace(role=Role.SECONDARY), assume_peer_has_space=True)),
])  # fmt: skip
def test_refusals(rule: str, number: int, found: Facts) -> None:
    no = refused(found)
    assert no is not None and (no.rule, no.number) == (rule, number)
    assert isinstance(no.number, Code) or no.number in CONFIG_ERRORS


@pytest.mark.parametrize("found", [
    facts(), facts(assume_clean=True), facts(GOOD._replace(role=Role.SECONDARY, peer=Role.PRIMARY)), facts(ALONE),
    facts(ALONE, assume_peer_has_space=True), facts(ALONE, assume_clean=True),
    facts(ALONE._replace(role=Role.SECONDARY)),
])  # fmt: skip
def test_not_refused(found: Facts) -> None:
    assert refused(found) is None


def test_every_rule_is_tried() -> None:
    names = [rule.name for rule in REFUSALS]
    assert len(set(names)) == len(names) == 8


def test_sizes() -> None:
    assert misfit(100, 80, 0) is misfit(100, 80, 80) is misfit(100, 80, 100) is misfit(80, 80, 0) is None
    wrong = {(79, 80, 0): "disk-shrank", (100, 80, 79): "shrinking", (100, 80, 101): "wanted-too-large"}
    for numbers, rule in wrong.items():
        no = misfit(*numbers)
        assert no is not None and no.rule == rule and no.number in CONFIG_ERRORS
    assert (agreed(100, 90, 0), agreed(90, 100, 0), agreed(100, 90, 85), agreed(100, 90, 95)) == (90, 90, 85, 90)


def test_both_nodes_find_the_same_source() -> None:
    for role, peer, chosen in itertools.product((Role.PRIMARY, Role.SECONDARY), (Role.PRIMARY, Role.SECONDARY), (0, 1)):
        assert here_is_source(role, peer, bool(chosen)) != here_is_source(peer, role, not chosen)
