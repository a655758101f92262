# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulator by hand: one seed with its trace, or a campaign.

    python -m tests.sim --seed N            replay one history, print a readable trace
    python -m tests.sim --seeds N [--first M] [--jobs J] [--keep-going]
    python -m tests.sim --exhaustive 3|5 [--share K] [--protocol A|B|C]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from tests.sim.exhaustive import SETS, count, schedules
from tests.sim.seeds import history_of
from tests.sim.shrink import Failure, play, shrink

BATCH = 10


def one(seed: int) -> int:
    """Replay one seed, with its trace."""
    history = history_of(seed)
    failure = play(history, trace=True)
    if failure is None:
        print(f"seed {seed}: {len(history.events)} events, all promises kept")
        return 0
    print("\n".join(failure.lines))
    print(f"\nseed {seed} fails after event {failure.played}: {failure.text}")
    report(history, failure)
    return 1


def report(history: object, failure: Failure) -> None:
    """The shrunk schedule and its trace."""
    small, why = shrink(history, failure)  # type: ignore[arg-type]
    again = play(small, trace=True) or why
    print(f"\nshrunk to {len(small.events)} events:\n{small}\n\nits trace:")
    print("\n".join(again.lines[-150:]))
    print(f"\n{why.text}")


def batch(seeds: range) -> list[tuple[int, str]]:
    """The failures among these seeds."""
    found = []
    for seed in seeds:
        failure = play(history_of(seed))
        if failure is not None:
            found.append((seed, failure.text))
    return found


def exhaustive_part(name: str, first: int, step: int, protocol: str) -> tuple[int, list[tuple[str, str]]]:
    """Every `step`-th short schedule: how many, and the failures (at most ten)."""
    done, found = 0, []
    for history in schedules(name, first, step, protocol):
        done += 1
        failure = play(history)
        if failure is not None:
            found.append(("; ".join(map(str, history.events)), failure.text))
            if len(found) >= 10:
                break
    return done, found


def exhaustive(name: str, jobs: int, share: int, protocol: str) -> int:
    """All short schedules of one alphabet, or every `share`-th."""
    started = time.monotonic()
    parts = jobs * 16
    done, bad = 0, 0
    total = count(name) // share
    with ProcessPoolExecutor(jobs) as pool:
        under_way = [pool.submit(exhaustive_part, name, n * share, parts * share, protocol) for n in range(parts)]
        for future in under_way:
            played, found = future.result()
            done, bad = done + played, bad + len(found)
            for events, text in found:
                print(f"\n{events}\n  {text}", flush=True)
            rate = done / (time.monotonic() - started)
            print(f"\r{done} of {total} schedules, {bad} bad, {rate:.0f}/s ", end="", flush=True)
    print()
    return 1 if bad else 0


def campaign(first: int, count: int, jobs: int, keep_going: bool) -> int:
    """Many seeds on all cores; stops at the first failure, shrunk."""
    started = time.monotonic()
    ranges = iter([range(n, min(n + BATCH, first + count)) for n in range(first, first + count, BATCH)])
    done, bad = 0, []
    shown = 0.0
    with ProcessPoolExecutor(jobs) as pool:
        under_way: dict[Future[list[tuple[int, str]]], int] = {}

        def fill(more: Iterable[range]) -> None:
            for seeds in more:
                under_way[pool.submit(batch, seeds)] = len(seeds)
                if len(under_way) >= 2 * jobs:
                    return

        fill(ranges)
        while under_way:
            ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                done += under_way.pop(future)
                for seed, text in future.result():
                    bad.append(seed)
                    print(f"\nseed {seed}: {text}", flush=True)
            if not bad or keep_going:
                fill(ranges)
            passed = time.monotonic() - started
            if passed - shown > 1 or not under_way:
                shown = passed
                rate = done / max(passed, 0.01)
                print(f"\r{done} of {count} histories, {len(bad)} bad, {rate:.1f}/s ", end="", flush=True)
    print(f"\nseeds {first}..{first + done - 1}: {len(bad)} bad {sorted(bad)[:20] if bad else ''}")
    if bad and not keep_going:
        seed = min(bad)
        print(f"shrinking seed {seed}; replay it with: make sim SEED={seed}")
        history = history_of(seed)
        failure = play(history)
        if failure is not None:
            report(history, failure)
    return 1 if bad else 0


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make sim", description="two simulated nodes, one seed a history")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--exhaustive", choices=sorted(SETS), help="3: all of length up to 3; 5: a dozen, up to 5")
    parser.add_argument("--share", type=int, default=1, help="only every so many-th short schedule")
    parser.add_argument("--protocol", choices="ABC", default="C", help="of the short schedules")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep-going", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.exhaustive:
        return exhaustive(chosen.exhaustive, chosen.jobs, chosen.share, chosen.protocol)
    if chosen.seed is not None:
        return one(chosen.seed)
    return campaign(chosen.first, chosen.seeds or 200, chosen.jobs, chosen.keep_going)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
