# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a run: everybody up, rounds in turn, everybody down."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from bench.contestants import Contestant
from bench.jobs import Job, Round, run_fio
from bench.processes import BenchError
from bench.report import Copy, Row, Section
from bench.resync import Syncer

SPARE_BYTES = 1 << 30       # of the file system, left to everybody else

C = TypeVar("C", bound=Contestant)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check_room(base: Path, contestants: Sequence[Contestant]) -> None:
    needed = sum(c.size_bytes * len(c.files()) for c in contestants if not c.sparse) + SPARE_BYTES
    free = shutil.disk_usage(base).free
    if free < needed:
        raise BenchError(f"{base}: {free >> 20} MiB free, {needed >> 20} MiB needed; try --size or --dir")


def bring_up(contestants: Sequence[C], stack: ExitStack) -> list[tuple[C, str]]:
    """Those that come up, with their URIs; the others are named and left out. All end with the stack."""
    running = []
    for contestant in contestants:
        contestant.directory.mkdir(parents=True)
        stack.callback(contestant.stop)
        begin = time.monotonic()
        try:
            uri = contestant.start()
        except BenchError as error:
            say(f"left out: {error}")
            contestant.stop()
            continue
        contestant.settle()
        say(f"up in {time.monotonic() - begin:.1f} s: {contestant.label}")
        running.append((contestant, uri))
    return running


def one_round(contestant: Contestant, uri: str, job: Job, span_bytes: int, seconds: float) -> Round:
    """Measure, then make sure that it still replicated, then write back what it left dirty."""
    before = contestant.cpu_seconds()
    result = run_fio(job, uri, span_bytes, seconds)
    cpu_us = (contestant.cpu_seconds() - before) * 1e6 / result.operations
    contestant.check()
    contestant.settle()
    return result._replace(cpu_us_per_operation=cpu_us)


def measure(title: str, contestants: Sequence[Contestant], jobs: Sequence[Job], *,
            rounds: int, seconds: float, span_bytes: int) -> Section:
    """Rounds of every job by every contestant in turn; who fails one takes no further part."""
    with ExitStack() as stack:
        running = bring_up(contestants, stack)
        rows = [Row(c.label, c.legs, c.yardstick, {job.name: [] for job in jobs}) for c, _ in running]
        lost: set[str] = set()
        for turn in range(rounds):
            for job in jobs:
                for step in range(len(running)):
                    index = (step + turn) % len(running)     # nobody is always first
                    contestant, uri = running[index]
                    if contestant.label in lost:
                        continue
                    try:
                        result = one_round(contestant, uri, job, span_bytes, seconds)
                    except BenchError as error:
                        say(f"lost in round {turn + 1}, {job.name}: {error}")
                        lost.add(contestant.label)
                        continue
                    rows[index].rounds[job.name].append(result)
            say(f"round {turn + 1} of {rounds} done")
    return Section(title, jobs, rows)


def measure_copies(syncers: Sequence[Syncer], *, rounds: int) -> list[Copy]:
    """Full copies by each in turn."""
    with ExitStack() as stack:
        running = [syncer for syncer, _ in bring_up(syncers, stack)]
        copies = [Copy(syncer.label, syncer.size_bytes, []) for syncer in running]
        for _ in range(rounds):
            for syncer, copy in zip(running, copies, strict=True):
                try:
                    copy.seconds.append(syncer.copy())
                except BenchError as error:
                    say(f"lost: {error}")
                syncer.settle()
    return [copy for copy in copies if copy.seconds]
