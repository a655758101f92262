# SPDX-License-Identifier: GPL-2.0-or-later
"""The shortest schedules of what the simulator found, and of its false alarms: they must stay mended."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from replblock.state.names import Conn, Disk
from tests.sim import once_failed, once_failed_lately, once_failed_since, once_failed_too
from tests.sim.false_alarms import FALSE_ALARMS, Found
from tests.sim.history import Event, History
from tests.sim.play import Player
from tests.sim.shrink import play
from tests.sim.watch import Broken

FOUND = once_failed.FOUND + once_failed_too.FOUND + once_failed_since.FOUND + once_failed_lately.FOUND


@pytest.mark.parametrize("found", FOUND + FALSE_ALARMS, ids=lambda f: f.name)
def test_stays_mended(found: Found) -> None:
    """The schedule that once failed keeps every promise."""
    failure = play(History(found.setup, tuple(Event(*event) for event in found.events)))
    assert failure is None, f"{found.what}\n{failure.text}"


def test_sync_uuid_may_overtake_the_answer() -> None:
    """The two come on different connections; nobody broke the protocol (`invalidate`, seed 5204)."""
    found = next(found for found in FOUND if found.name == "metadata-failed-at-promotion")
    player = Player(History(found.setup, tuple(Event(*event) for event in found.events[:8])))
    player.begin()
    for number, event in enumerate(player.history.events):
        player.event(number, event)
    player.finish()
    assert "resync-started" in player.oracle.rules
    assert "protocol-error" not in player.oracle.rules


def test_a_refused_request_is_not_tried_in_every_wake_up() -> None:
    """Without a peer the last copy is asked again after connect-int, whatever else happens; then it is answered."""
    events = [("power", "b", None, 60_000), ("fail", "a", "write"), ("write", "a", (0, 8, False), 100)]
    events += [("read", "a", (16, 8, False), 100), ("power", "b", None, 100)] * 50
    setup = {"blocks": 16, "on_io_error": "pass_on", "on_no_data_accessible": "suspend-io", "connect_int_ms": 3000}
    player = Player(History(setup, tuple(Event(*event) for event in events)))
    player.begin()
    for number, event in enumerate(player.history.events):
        player.event(number, event)
    a = player.sim.a
    assert 2 <= a.said["io-error-on-last-copy"] <= 5
    assert player.oracle.pending
    player.event(0, Event("repair", "a", None, 3000))
    assert not player.oracle.pending
    player.finish()


@pytest.mark.parametrize("heard", [True, False])
def test_only_an_order_that_a_target_cannot_know_of_excuses_its_source(heard: bool) -> None:
    """What the source gave up before the connection began is nothing to be synchronized from (the oracle)."""
    player = Player(History({"blocks": 40}, ()))
    player.begin()
    oracle, a, b = player.oracle, player.sim.a, player.sim.b
    for event in (Event("disconnect", "b", None, 40), Event("write", "a", (0, 8, False), 40)):
        player.event(0, event)
    if heard:
        oracle.metadata_created(a)
    else:
        b.watchers.append(lambda old, new: new.conn == Conn.WF_BITMAP_T and oracle.metadata_created(a) is None)
    with pytest.raises(Broken, match="invariant 7") if heard else nullcontext():
        player.event(1, Event("connect", "b", None, 3000))
    assert oracle.ledgers["a"].void
    assert b.state.disk == (Disk.INCONSISTENT if heard else Disk.UP_TO_DATE)
    assert bool(oracle.ledgers["b"].acked) != heard


def test_a_peer_that_cannot_be_told_of_lost_writes_stays_up_to_date() -> None:
    """A disk that it would take for the source is refused before it begins to be the target."""
    events = [("write", "a", (104, 2, False), 15), ("kill", "a"), ("fail", "a", "flush"), ("up", "a", None, 20)]
    events += [("repair", "a", None, 100), ("attach", "a", None, 100), ("attach", "a", None, 100)]
    player = Player(History({"blocks": 40, "offer_ordered": False}, tuple(Event(*event) for event in events)))
    player.begin()
    a, b = player.sim.a, player.sim.b
    for number, event in enumerate(player.history.events):
        player.event(number, event)
        assert b.state.disk == Disk.UP_TO_DATE
    assert a.resource.reasons[-1]["rule"] == "own-attach-aborted"
    assert a.state.conn == Conn.CONNECTED
    assert "refused-when-heard" not in player.oracle.rules
