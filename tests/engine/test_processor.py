# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the threads that serve clients sit: the rule, what the kernel says of a real engine, the mask."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nbd
import pytest

from replblock.engine.boot import mask_number
from replblock.engine.handlers import Handlers
from replblock.engine.pool import Batcher, Pool
from replblock.engine.processor import Seats, busy_shares, choose, sample
from tests.engine.conftest import wait_for
from tests.engine.nodes import FAKE_PLUGIN, nodes

SEVERAL = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


@pytest.mark.parametrize(
    ("current", "busy", "own", "chosen"),
    [
        (0, {0: 0.9, 1: 0.1}, 0.9, 0),     # all of it is ours
        (0, {0: 1.0, 1: 0.1}, 0.3, 1),     # somebody else's
        (0, {0: 0.6, 1: 0.3}, 0.2, 0),     # not worth a move
        (1, {0: 0.0, 1: 1.0, 2: 0.0}, 0.5, 0),
        (0, {}, 0.0, 0),                   # the kernel does not say
        (3, {0: 0.5, 1: 0.9}, 0.0, 3),     # nothing known of ours
    ],
)  # fmt: skip
def test_the_seats_move_only_for_a_clearly_better_processor(
    current: int, busy: dict[int, float], own: float, chosen: int
) -> None:
    assert choose(current, busy, own) == chosen


def test_shares_come_from_two_samples() -> None:
    assert busy_shares({0: (10, 100), 1: (0, 50)}, {0: (60, 200), 1: (0, 50), 2: (5, 10)}) == {0: 0.5}


def test_the_kernels_statistics_are_read(tmp_path: Path) -> None:
    """Every processor of this machine has ticks, and a machine without the file has none."""
    found = sample()
    assert set(os.sched_getaffinity(0)) <= set(found)
    assert all(0 <= busy <= total for busy, total in found.values())
    assert sample(tmp_path / "missing") == {}


@pytest.mark.parametrize(("mask", "number"), [("", 0), ("0x6", 6), ("ff", 255), ("1,00000002", (1 << 32) + 2)])
def test_masks_are_read_as_the_kernel_writes_them(mask: str, number: int) -> None:
    assert mask_number(mask) == number


def placed(pid: int) -> dict[int, tuple[set[int], int]]:
    """Thread → processors it may use and its policy; threads that end meanwhile are left out."""
    found = {}
    for task in map(int, os.listdir(f"/proc/{pid}/task")):
        with suppress(ProcessLookupError):
            found[task] = os.sched_getaffinity(task), os.sched_getscheduler(task)
    return found


@SEVERAL
def test_a_clients_worker_and_the_loop_sit_together_and_part_afterwards(
    tmp_path: Path, port: Callable[[], int]
) -> None:
    """A client that only reads counts, too: its threads keep their Python state and their seat."""
    everywhere = (os.sched_getaffinity(0), os.SCHED_OTHER)
    with nodes(tmp_path, port, plugin=FAKE_PLUGIN) as (alpha, _):
        alpha.start()
        alpha.do("attach")
        alpha.do("primary")
        assert all(place == everywhere for place in placed(alpha.pid).values())
        handle = nbd.NBD()
        handle.connect_unix(f"{alpha.run}/r0.nbd")
        handle.pread(4096, 0)
        seated = [processors for processors, policy in placed(alpha.pid).values() if policy == os.SCHED_BATCH]
        assert len(seated) == 2, "the loop, and the worker that served the read"
        assert seated[0] == seated[1]
        assert len(seated[0]) == 1
        handle.shutdown()
        wait_for(lambda: all(place == everywhere for place in placed(alpha.pid).values()), "the loop to be free again")


@SEVERAL
def test_what_a_seated_thread_begins_is_free(tmp_path: Path) -> None:
    """A pool's threads and a handler's process, begun from a thread that sits: they inherit nothing."""
    found: list[object] = []
    told = tmp_path / "told"
    ended = threading.Event()

    def sit() -> None:
        seats = Seats()
        seats.take(threading.get_native_id())
        found.append(len(os.sched_getaffinity(0)))
        pool, batcher = Pool("test", 1), Batcher("test", lambda jobs: place())
        pool.put(place)
        batcher.put(None)
        for worker in (pool, batcher):
            worker.stop()
            worker.join(10)
        command = f"grep Cpus_allowed_list /proc/self/status >{told}; chrt -p $$ >>{told}"
        Handlers({"pri-lost": command}, {}, lambda call, *args: call(*args), lambda *line: None).run(
            "pri-lost", {}, lambda code: ended.set()
        )
        assert ended.wait(10)

    def place() -> None:
        found.append((os.sched_getaffinity(0), os.sched_getscheduler(0)))

    thread = threading.Thread(target=sit)
    thread.start()
    thread.join(30)
    everywhere = (os.sched_getaffinity(0), os.SCHED_OTHER)
    assert found == [1, everywhere, everywhere]
    mine = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert told.read_text().splitlines()[0] == f"Cpus_allowed_list:\t{mine['Cpus_allowed_list']}"
    assert "SCHED_OTHER" in told.read_text()


@SEVERAL
def test_seats_survive_threads_that_ended_and_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three threads live; told that the processor is taken and another idle, both move there."""
    calls: list[int | None] = []
    seats = Seats(lambda delay_ms, call: calls.append(delay_ms))
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(2)]
    ended = threading.Thread(target=lambda: None)
    for thread in [*threads, ended]:
        thread.start()
    ended.join()
    try:
        numbers = [thread.native_id or 0 for thread in threads]
        seats.take(*numbers, ended.native_id or 0)
        first = seats.processor
        assert first is not None
        assert [os.sched_getaffinity(number) for number in numbers] == [{first}] * 2
        ticks = {n: (0, 1000) for n in os.sched_getaffinity(0)}
        seats._before = {n: (0, 0) for n in ticks}
        monkeypatch.setattr("replblock.engine.processor.sample", lambda: {**ticks, first: (1000, 1000)})
        seats.look()
        assert seats.processor is not None
        assert seats.processor != first
        assert [os.sched_getaffinity(number) for number in numbers] == [{seats.processor}] * 2
        seats.clear()
        assert seats.processor is None
        assert all(len(os.sched_getaffinity(number)) > 1 for number in numbers)
        assert calls[0] == calls[1]
        assert calls[-1] is None
    finally:
        stop.set()
