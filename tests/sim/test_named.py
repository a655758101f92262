# SPDX-License-Identifier: GPL-2.0-or-later
"""Every rule of the handshake is reached in the simulator by a history that says how it must end."""

from __future__ import annotations

from collections import Counter

import pytest

from replblock.state.names import Conn
from tests.sim.named import Named, Teller, every_rule
from tests.sim.named_never import NEVER
from tests.sim.named_policies import POLICIES
from tests.sim.named_safety import SAFETY
from tests.sim.named_uuids import UUIDS

NAMED = UUIDS + POLICIES + SAFETY


@pytest.mark.parametrize("named", NAMED, ids=lambda named: named.id)
def test_history_reaches_its_rules(named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real cores come to these rules, part or become equal as the table says, and keep every promise after."""
    for k in range(named.most_tries):
        with monkeypatch.context() as patch:
            if Teller(named, k).tell(patch):
                return
    pytest.fail(f"{named.most_tries} tries of “{named.events}” never reached {', '.join(named.reaches)}")


def test_every_rule_has_its_history() -> None:
    """Both tables together are all rules: nothing is missing, nothing stands there twice."""
    told = Counter([*(rule for named in NAMED for rule in named.reaches), *NEVER])
    assert told == Counter(every_rule())


def test_prepared_disks_are_explained() -> None:
    """A history that does not begin with two equal disks says why."""
    assert all(named.prepared for named in NAMED if named.disks)


def test_both_nodes_say_why_they_part() -> None:
    """The node that decides first closes the connection; its own states reach the other one before that.

    Not always: TCP may lose what was sent last, and then the other one only waits for its peer.
    """
    named = next(named for named in NAMED if "both-moved-on" in named.reaches)
    both = 0
    for k in range(20):
        teller = Teller(named._replace(tries=20), k)
        teller.begin()
        for number, event in enumerate(teller.history.events):
            teller.event(number, event)
        rules = {node.resource.reasons[-1]["rule"] for node in teller.sim.nodes}
        parted = all(node.state.conn == Conn.STANDALONE for node in teller.sim.nodes)
        both += parted and rules == {"split-brain-unresolved"}
    assert both >= 15
