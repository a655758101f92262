# SPDX-License-Identifier: GPL-2.0-or-later
"""c-min-rate: a resync steps aside for the application, down to this rate and no further."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.core.aside import LATELY_MS, NO_LIMIT, Pace
from replblock.core.rate import STEP_MS
from replblock.core.requests import Op
from replblock.state.names import Conn, Disk, Role
from tests.core.simhost import SimHost
from tests.core.test_net_options import adjust
from tests.core.world import MIB, World

FULL_KIB, MIN_KIB = 4000, 250
SIZE = 24 * MIB


# --- the decision


def test_not_limited() -> None:
    pace = Pace()
    pace.took(10**9)
    assert pace.look(100, 0, True) == NO_LIMIT, "0: never"
    assert pace.look(200, 250, False) == NO_LIMIT, "an idle application"


@pytest.mark.parametrize(("rate_kib", "sectors"), [(250, 50), (1, 1), (33, 7), (4194304, 838861)])
def test_beside_a_busy_application(rate_kib: int, sectors: int) -> None:
    """A tenth of a second's worth, and nothing more before that is paid."""
    pace = Pace()
    pace.look(0, rate_kib, True)
    assert pace.look(100, rate_kib, True) == sectors
    pace.took(3 * sectors)
    assert pace.look(200, rate_kib, True) == 0
    assert pace.look(1600, rate_kib, True) > 0


def test_full_speed_is_forgotten_after_six_seconds() -> None:
    pace = Pace()
    pace.look(0, 250, False)
    pace.took(10**9)
    waits = [at_ms for at_ms in range(STEP_MS, 10_000, STEP_MS) if not pace.look(at_ms, 250, True)]
    assert waits[-1] == LATELY_MS - STEP_MS


def test_another_rate_begins_anew() -> None:
    pace = Pace()
    pace.look(0, 250, True)
    pace.took(10**9)
    assert not pace.look(100, 250, True)
    assert pace.look(200, 1, True)


@given(st.integers(1, 100_000), st.integers(1, 4096), st.lists(st.integers(1, 2048), min_size=1, max_size=9))
def test_kept_neither_starved_nor_exceeded(rate_kib: int, wanted: int, sizes: list[int]) -> None:
    """Requests of any size, begun if there is any room: over any time as much as the rate says, if that is wanted."""
    pace, done, count = Pace(), [0], 0
    wanted = max(wanted, rate_kib)
    for step in range(400):
        room, taken = pace.look(step * STEP_MS, rate_kib, True), 0
        while taken < min(room, wanted):
            taken += sizes[count % len(sizes)]
            count += 1
        pace.took(taken)
        done.append(done[-1] + taken)
    share, most = rate_kib / 5, max(sizes)
    for first in range(0, 400, 13):
        for last in range(first + 1, 401, 29):
            assert (last - first - 1) * share - most <= done[last] - done[first] <= (last - first) * share + most + 1


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 5000))
def test_an_application_that_comes_and_goes(pattern: list[bool], rate_kib: int) -> None:
    """In no time that is longer than what is remembered nothing is done."""
    pace, waited = Pace(), 0
    for step in range(300):
        room = pace.look(step * STEP_MS, rate_kib, pattern[step % len(pattern)])
        pace.took(min(room, 100_000))
        waited = 0 if room else waited + 1
        assert waited <= LATELY_MS // STEP_MS


# --- two nodes


class Application:
    """On `a`: something every few ms, in a corner of the disk."""

    def __init__(self, world: World, op: Op, every_ms: int = 4) -> None:
        self.world, self.op, self.every_ms = world, op, every_ms
        self.count = 0
        self.on = True
        self._next()

    def _next(self) -> None:
        if self.on and self.world.a.powered and self.world.a.resource.doors_open:
            self.count += 1
            data = bytes([self.count % 256]) * 4096 if self.op == Op.WRITE else b""
            self.world.submit(self.world.a, self.op, self.count % 4 * 4096, 4096, data)
            self.world.after(self.every_ms, self._next)


def resync(target: str, **changes: Any) -> tuple[World, SimHost]:
    """`a` Primary; everything is to be copied to this node, at most with 4000 KiB/s: 6 s if nothing is in the way."""
    settings = {"resync_rate_kib": FULL_KIB, "c_min_rate_kib": MIN_KIB, **changes}
    world = World(5, size_bytes=SIZE, offer_features=0b1101, **settings).pair(sync=False)
    host = {"a": world.a, "b": world.b}[target]
    if target == "a":
        adjust(world, world.b, resync_rate_kib=4 << 20)
    world.ok(world.a, "primary", force=True)
    if target == "a":
        world.settle()
        world.ok(host, "invalidate")
    world.run_until(lambda: host.resource.state.conn == Conn.SYNC_TARGET)
    return world, host


def got_kib(host: SimHost) -> int:
    """Of the resync alone, not of the application's writes."""
    return host.resource.sync.target.received_sectors // 2


def seconds(world: World, host: SimHost, count: int) -> list[int]:
    """KiB that come in each of the next seconds."""
    marks = [got_kib(host)]
    for _ in range(count):
        world.run(1000)
        marks.append(got_kib(host))
    return [after - before for before, after in pairwise(marks)]


BOTH_WAYS = [("b", Op.WRITE), ("b", Op.READ), ("a", Op.WRITE), ("a", Op.READ)]


@pytest.mark.parametrize("changes", [{}, {"offer_ordered": False}, {"c_plan_ahead": 20}])
@pytest.mark.parametrize(("target", "op"), BOTH_WAYS)
def test_slow_beside_the_application_and_at_full_speed_afterwards(
    target: str, op: Op, changes: dict[str, Any]
) -> None:
    """The Primary is the source, or the target. Reads are seen by the node where they are, and there alone."""
    world, host = resync(target, **changes)
    application = Application(world, op)
    there = seconds(world, host, 20)
    assert MIN_KIB * 20 * 0.8 <= sum(there) <= MIN_KIB * 20 * 1.1 + FULL_KIB / 5, there
    assert all(sum(there[at : at + 3]) >= MIN_KIB * 3 * 0.75 for at in range(18)), there
    lines = [line for line in world.lines if "[resync-steps-aside]" in line]
    told = "while the application is at work the resync goes on at c-min-rate, 250 KiB/s"
    assert lines and all(told in line for line in lines)
    assert len(lines) <= 2, "each node says so once"
    application.on = False
    world.run(200)
    left_kib = host.resource.meta.bitmap.count * 4  # type: ignore[union-attr]
    assert left_kib > 8000
    began_ms = world.now
    world.settle()
    if "c_plan_ahead" not in changes:  # the controller sees to that itself
        assert world.now - began_ms <= left_kib * 1000 // FULL_KIB + 1000
    assert world.same_data()


def test_full_speed_until_the_application_begins() -> None:
    """What was copied before it came counts for 6 s; afterwards it goes on at the rate."""
    world, host = resync("b")
    before = sum(seconds(world, host, 2))
    assert before > FULL_KIB * 2 * 0.9
    Application(world, Op.WRITE)
    there = seconds(world, host, 12)
    assert sum(there[1:5]) == 0 and all(MIN_KIB * 0.8 <= each <= MIN_KIB * 1.2 for each in there[8:]), there


@pytest.mark.parametrize(("target", "op"), BOTH_WAYS)
def test_not_with_0(target: str, op: Op) -> None:
    world, _host = resync(target, c_min_rate_kib=0)
    Application(world, op)
    world.run(SIZE // 1024 * 1000 // FULL_KIB + 1000)
    assert world.in_sync()


@pytest.mark.parametrize(("target", "op"), BOTH_WAYS)
def test_not_beside_an_idle_application(target: str, op: Op) -> None:
    """What it did before counts for nothing, nor does a request now and then."""
    world, _host = resync(target)
    Application(world, op, every_ms=2500)
    world.run(SIZE // 1024 * 1000 // FULL_KIB + 1000)
    assert world.in_sync()


def test_slower_than_the_limit_anyway() -> None:
    world, host = resync("b", resync_rate_kib=100)
    Application(world, Op.WRITE)
    there = seconds(world, host, 10)
    assert min(there[1:]) >= 80


@pytest.mark.parametrize(("target", "op"), BOTH_WAYS)
def test_the_least_rate_comes_to_an_end(target: str, op: Op) -> None:
    """1 KiB/s, as the manual says for whom nothing may slow down the application."""
    world, host = resync(target, c_min_rate_kib=1, resync_rate_kib=40)  # a block at a time: a larger one has its price
    application = Application(world, op)
    world.run(8000)  # whatever began at full speed is as long ago as it has to be
    before = got_kib(host)
    world.run(60_000)
    assert 50 <= got_kib(host) - before <= 70
    application.on = False
    adjust(world, host, resync_rate_kib=FULL_KIB)
    world.settle()
    assert world.same_data()


def test_it_can_be_changed_meanwhile() -> None:
    world, host = resync("b")
    Application(world, Op.READ)
    world.run(3000)
    assert waiting(world.a)
    adjust(world, world.a, c_min_rate_kib=0)
    world.run(200)
    assert not waiting(world.a)
    before = got_kib(host)
    world.run(1000)
    assert got_kib(host) - before > FULL_KIB * 0.8


# --- what waits on the source


def waiting(host: SimHost) -> int:
    return len(host.resource.sync.aside._waiting)


def reading_source(**changes: Any) -> tuple[World, Application]:
    """`a` is the source and reads; the target does not know, and asks."""
    world, _host = resync("b", **changes)
    application = Application(world, Op.READ)
    world.run_until(lambda: waiting(world.a) > 3)
    return world, application


def test_what_waits_is_gone_with_the_connection() -> None:
    world, application = reading_source()
    world.ok(world.b, "disconnect")
    world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION)
    assert not waiting(world.a) and "aside" not in world.a.timers
    application.on = False
    world.ok(world.b, "connect")
    world.settle()
    assert world.same_data()


def test_not_for_a_primary_that_became_a_secondary() -> None:
    world, application = reading_source()
    application.on = False
    world.ok(world.a, "secondary")
    world.run(200)
    assert not waiting(world.a)
    world.settle()


def test_a_peer_that_becomes_primary_meanwhile_waits_no_longer() -> None:
    """Its writes wait for what it has asked for: it sees to itself what it asks for."""
    world, application = reading_source()
    application.on = False
    world.ok(world.a, "secondary")
    world.run_until(lambda: world.a.resource.state.role == Role.SECONDARY)
    world.ok(world.b, "primary")
    for number in range(40):
        world.write(world.b, number * 4096, bytes([number]) * 4096)
    assert not waiting(world.a)
    world.settle()
    assert world.same_data()


def test_a_disk_that_fails_refuses_what_waits() -> None:
    world, application = reading_source(on_io_error="pass_on")
    application.on = False
    world.a.disk.fail_reads = True
    world.run_until(lambda: not waiting(world.a))
    world.a.disk.fail_reads = False
    world.run_until(lambda: world.b.resource.state.conn == Conn.CONNECTED)
    assert world.b.resource.state.disk == Disk.INCONSISTENT


def test_the_connection_is_not_held_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target may ask for more than may wait: then it is served, and what it says besides is heard."""
    monkeypatch.setattr("replblock.core.peer_reads.MAX_ASKED_BYTES", 1 << 20)
    world, _host = resync("b", max_buffers=4096)
    Application(world, Op.READ)
    world.run(2000)
    world.ok(world.b, "pause_sync")
    world.run(500)
    assert world.a.resource.state.conn == Conn.PAUSED_SYNC_S


# --- online verify


@pytest.mark.parametrize(("who", "op"), [("a", Op.WRITE), ("b", Op.WRITE), ("a", Op.READ), ("b", Op.READ)])
def test_verify_too(who: str, op: Op) -> None:
    world = World(5, SIZE, resync_rate_kib=FULL_KIB, c_min_rate_kib=MIN_KIB, verify_alg="crc32c").pair()
    host = {"a": world.a, "b": world.b}[who]
    world.ok(host, "verify")
    application = Application(world, op)

    def position_kib() -> int:
        return host.resource.sync.verify.source._position * 4

    world.run(8000)
    before = position_kib()
    world.run(10_000)
    assert MIN_KIB * 8 <= position_kib() - before <= MIN_KIB * 12.5
    application.on = False
    left_kib = SIZE // 1024 - position_kib()
    world.run(left_kib * 1000 // FULL_KIB + 1500)
    assert all(h.resource.state.conn == Conn.CONNECTED for h in (world.a, world.b))
    assert not world.a.resource.meta.bitmap.count  # type: ignore[union-attr]

