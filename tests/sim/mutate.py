# SPDX-License-Identifier: GPL-2.0-or-later
"""Is the simulator any good? Break the product in every way of `mutations` and count the seeds until it is noticed.

    python -m tests.sim.mutate [--first SEED] [--limit SEEDS] [--jobs N] [NAME …]

Each mutation runs in a process of its own, on a copy of the package with one bug in it. Long histories, some near what
once failed and aimed ones are played in turn, unless the first seed is one of the latter two. A seed that fails with
the unchanged package, too, does not count. Exit code 1 if a mutation survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.sim.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
WORKER_PATIENCE_S = 1800
CRASHES = ("TypeError", "NameError", "AttributeError", "UnboundLocalError", "ImportError", "ModuleNotFoundError")
"""A mutation that ends like this is no bug of the product, only a bad mutation."""


class Result(NamedTuple):
    """What became of one mutation."""

    mutation: Mutation
    seeds: int
    caught: bool
    how: str
    seconds: float


def apply(mutation: Mutation, directory: Path) -> None:
    """A copy of the package in `directory`, with the bug in it. Raises ValueError if a line is not there."""
    package = directory / "replblock"
    shutil.copytree(ROOT / "replblock", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, before, after in mutation.edits:
        file = package / name
        text = file.read_text()
        if text.count(before) != 1:
            raise ValueError(f"{mutation.name}: stands {text.count(before)} times in {name}, not once")
        file.write_text(text.replace(before, after))


def try_one(mutation: Mutation, first: int, limit: int) -> Result:
    """Fresh seeds until one of them notices what is broken, and not what is wrong with the product as it is."""
    from tests.sim.seeds import COMPARED_SEEDS

    begun = time.monotonic()
    if mutation.compared and first < COMPARED_SEEDS:
        first += COMPARED_SEEDS
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        apply(mutation, Path(name))
        tried = 0
        while tried < limit:
            seeds, caught, how = run(name, first + tried, limit - tried)
            tried += seeds
            if how.startswith(CRASHES):
                raise RuntimeError(f"{mutation.name} does not run: {how}")
            if caught and not run(str(ROOT), first + tried - 1, 1)[1]:
                return Result(mutation, tried, True, how, time.monotonic() - begun)
    return Result(mutation, tried, False, "", time.monotonic() - begun)


def run(tree: str, first: int, limit: int) -> tuple[int, bool, str]:
    """A worker with the package of `tree`: the seeds it played, whether the last one failed, and how."""
    seeds, caught, how = _told_by(tree, "--worker", str(first), str(limit)).split("\t", 2)
    return int(seeds), caught == "caught", how


def noticing(tree: str, schedule: str, limit: int) -> str:
    """How a schedule of the newest in `once_failed…` fails with the package of `tree`; "" if it does not.

    As it stands, or with other seeds of chance, so many at most.
    """
    how = _told_by(tree, "--schedule", schedule, str(limit)).split("\t", 1)[1]
    if how.startswith(CRASHES):
        raise RuntimeError(f"{schedule} does not run: {how}")
    return how


def _told_by(tree: str, *arguments: str) -> str:
    """The last line of a worker with the package of `tree`."""
    # -P: a mutated copy must be found before the checkout
    command = [sys.executable, "-P", "-m", "tests.sim.mutate", arguments[0], tree, *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=WORKER_PATIENCE_S, check=False
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"the worker in {tree} ended with {done.returncode}: {done.stderr[-2000:]}")
    return lines[-1]


def worker(tree: str, first: int, limit: int) -> None:
    """In the process with the package of `tree`."""
    import replblock
    from tests.sim.seeds import history_of, of_each_kind
    from tests.sim.shrink import play

    assert Path(replblock.__file__).resolve().parent.parent == Path(tree).resolve(), f"not the package of {tree}"
    for number in range(limit):
        failure = play(history_of(of_each_kind(first + number)))
        if failure is not None:
            print(f"{number + 1}\tcaught\t{' '.join(failure.text.split())[:160]}")
            return
    print(f"{limit}\tsurvived\t")


def schedule_worker(tree: str, name: str, limit: int) -> None:
    """The same for a schedule."""
    import replblock
    from tests.sim import once_failed_lately, once_failed_since
    from tests.sim.history import Event, History
    from tests.sim.shrink import play

    assert Path(replblock.__file__).resolve().parent.parent == Path(tree).resolve(), f"not the package of {tree}"
    found = next(each for each in once_failed_since.FOUND + once_failed_lately.FOUND if each.name == name)
    for salt in range(limit):
        events = [Event(*event) for event in found.events]
        if salt:
            events = [event._replace(salt=salt * 1000 + number) for number, event in enumerate(events)]
        failure = play(History(found.setup, tuple(events)))
        if failure is not None:
            print(f"{salt}\t{' '.join(failure.text.split())[:160]}")
            return
    print(f"{limit}\t")


def results(mutations: list[Mutation], first: int, limit: int, jobs: int) -> Iterator[Result]:
    """In the order of the list."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda mutation: try_one(mutation, first, limit), mutations)


def main() -> int:
    """Try them all, print a table and the median."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    if sys.argv[1:2] == ["--schedule"]:
        schedule_worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutate", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these mutations")
    parser.add_argument("--first", type=int, default=int.from_bytes(os.urandom(4), "big"), help="first seed")
    parser.add_argument("--limit", type=int, default=2000, help="seeds for each mutation at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.names or m.name in options.names]
    unknown = set(options.names) - {m.name for m in MUTATIONS}
    if unknown:
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    print(f"{len(chosen)} mutations, fresh seeds from {options.first}, at most {options.limit} each", flush=True)
    needed, survived = [], []
    for result in results(chosen, options.first, options.limit, options.jobs):
        word = f"{result.seeds:6d} seeds" if result.caught else "SURVIVED    "
        print(f"{word} {result.seconds:6.1f} s  {result.mutation.name}: {result.how}", flush=True)
        (needed if result.caught else survived).append(result)
    counts = [result.seeds for result in needed]
    if counts:
        print(f"{len(needed)} of {len(chosen)} caught; seeds needed: median {statistics.median(counts):g}, "
              f"most {max(counts)}")  # fmt: skip
    for result in survived:
        print(f"SURVIVED: {result.mutation.name} ({result.mutation.breaks})")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
