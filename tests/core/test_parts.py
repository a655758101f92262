# SPDX-License-Identifier: GPL-2.0-or-later
"""Small parts of the core on their own: the transfer log, busy ranges, the rate controller."""

from __future__ import annotations

import pytest

from replblock.core.epochs import TransferLog, UnexpectedBarrierAck
from replblock.core.overlap import ON_DISK, Busy, BusyRanges
from replblock.core.rate import RateController
from replblock.core.requests import Op, Request


def write(block: int = 0) -> Request:
    return Request(Op.WRITE, block * 4096, 4096, lambda request: None, bytes(4096))


def filled(log: TransferLog, writes: int, extent: int = 0) -> None:
    log.current.requests += [write() for _ in range(writes)]
    log.current.extents.add(extent)


def test_epochs_are_acknowledged_in_order() -> None:
    """Oldest first, with the number of writes that were sent."""
    log = TransferLog()
    filled(log, 2, extent=3)
    first = log.close(10)
    filled(log, 1, extent=4)
    second = log.close(20)
    assert first.barrier != second.barrier and first.closed_ms == 10
    assert log.pinned(3) and log.pinned(4) and not log.pinned(5)
    with pytest.raises(UnexpectedBarrierAck, match="expected"):
        log.acknowledge(second.barrier, 1)
    assert log.acknowledge(first.barrier, 2) is first
    assert not log.pinned(3)
    with pytest.raises(UnexpectedBarrierAck, match="counts 7 writes, 1 were sent"):
        log.acknowledge(second.barrier, 7)
    assert log.acknowledge(second.barrier, 1) is second
    with pytest.raises(UnexpectedBarrierAck, match="no barrier is outstanding"):
        log.acknowledge(second.barrier, 1)
    assert log.empty


def test_reset_hands_out_everything() -> None:
    """Closed and open epochs, oldest first; numbers go on."""
    log = TransferLog()
    filled(log, 1)
    closed = log.close(0)
    filled(log, 3)
    epochs = log.reset()
    assert [len(epoch.requests) for epoch in epochs] == [1, 3]
    assert log.empty and log.current.number not in (closed.number, epochs[1].number)


def test_empty_epoch_is_never_closed() -> None:
    """Its barrier would not be acknowledged."""
    with pytest.raises(AssertionError):
        TransferLog().close(0)


def test_later_writes_stay_behind_those_that_wait() -> None:
    """A overlaps B, B overlaps C: C must not overtake B although it does not touch A."""
    busy = BusyRanges()
    begun: list[str] = []
    entries: dict[str, Busy] = {}

    def begin(name: str) -> object:
        def called(entry: Busy) -> None:
            begun.append(name)
            entries[name] = entry

        return called

    a = busy.add(0, 8, "local")
    assert busy.queue(4, 12, "waiting", begin("B"), ON_DISK)  # type: ignore[arg-type]
    assert busy.queue(8, 12, "waiting", begin("C"), ON_DISK)  # type: ignore[arg-type]
    assert not busy.queue(20, 24, "waiting", begin("D"), ON_DISK)  # type: ignore[arg-type]
    busy.free(a)
    assert begun == ["B"]
    busy.free(entries["B"])
    assert begun == ["B", "C"]
    busy.free(entries["C"])
    assert busy.count == 0


def test_a_range_waits_for_all_before_it() -> None:
    """Also across the regions of the index, and each blocker counts once."""
    busy = BusyRanges()
    first, second = busy.add(0, 6 << 20, "local"), busy.add(5 << 20, 7 << 20, "local")
    begun: list[Busy] = []
    assert busy.queue(0, 7 << 20, "local", begun.append)
    busy.free(first)
    assert not begun
    busy.free(second)
    assert len(begun) == 1


def test_kinds_that_do_not_matter_are_passed() -> None:
    """A write that is already under way on the wire does not wait for a resync request of its range."""
    busy = BusyRanges()
    busy.add(0, 4096, "resync")
    assert not busy.queue(0, 4096, "local", lambda entry: None, ON_DISK)
    assert busy.queue(0, 4096, "local", lambda entry: None)


def test_fixed_rate() -> None:
    """c-plan-ahead 0: resync-rate, no more and no less."""
    controller = RateController(1000, 0, 10, 100, 100_000)
    assert [controller.step(0, 0), controller.step(5000, 100)] == [200, 200]
    assert controller.want_kib == 1000


def test_slow_start_then_towards_the_fill_target() -> None:
    """It begins at resync-rate and then keeps about c-fill-target in flight."""
    controller = RateController(250, 20, 10, 100, 102_400)
    assert controller.step(0, 0) <= 2 * 250 * 2 // 10
    in_flight = arrived = 0
    history = []
    for _ in range(200):
        wanted = controller.step(in_flight, arrived)
        arrived = in_flight            # a fast peer answers everything within a step
        in_flight = wanted
        history.append(in_flight)
    assert 0 < history[-1] <= 110


def test_never_above_the_maximum() -> None:
    """c-max-rate bounds every step, whatever arrived."""
    controller = RateController(250, 20, 10, 1 << 20, 1000)
    assert max(controller.step(10, 1 << 20) for _ in range(50)) == 200
