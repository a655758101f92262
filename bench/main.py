# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock beside nbdkit without replication, qemu's quorum and qemu's mirror, in one run on one machine.

Rounds of about a second alternate between the contestants, so that what else the machine does hits all of them; medians
are reported. What a round left dirty is written back before the next one begins, outside the measured time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contestants import PEERS, Contestant
from bench.files import file_system_of
from bench.jobs import FLUSH_JOB, JOBS, Job
from bench.plot import NoPlotError, copies_png, section_png
from bench.processes import BenchError
from bench.replblock_pair import VARIANTS, ReplblockPair
from bench.report import Copy, Section, copies_markdown, section_markdown
from bench.resync import SYNCERS, ReplblockResync, Syncer
from bench.rounds import check_room, measure, measure_copies, say

RESULTS = Path(__file__).resolve().parent / "results"
TMPFS = Path("/dev/shm")
MIB = 1 << 20


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, 256 MiB: whether it works, not how fast")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one round")
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of each backing file")
    parser.add_argument("--sparse", action="store_true", help="do not allocate the backing files")
    parser.add_argument("--al-extents", type=int, default=1237, help="replblock's activity log, in units of 4 MiB")
    parser.add_argument("--cpu-mask", default="0", help="replblock's cpu-mask, hexadecimal; 0: all processors")
    parser.add_argument("--dir", type=Path, default=RESULTS, help="where the backing files live (a real disk)")
    parser.add_argument("--tmpfs", action="store_true", help=f"a second run on {TMPFS}: the ceiling of the software")
    parser.add_argument("--only", default="", metavar="TEXT,…", help="contestants whose label contains one of these")
    parser.add_argument("--jobs", default="", metavar="TEXT,…", help="jobs whose name contains one of these")
    parser.add_argument("--flushes", action="store_true", help="also a job with a client flush every 32 writes")
    parser.add_argument("--no-resync", action="store_true", help="leave the comparison of full copies out")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seconds, options.size = 1, 1.0, 256
    return options


def picked(texts: str, label: str) -> bool:
    return any(text.strip().lower() in label.lower() for text in texts.split(","))


def chosen_jobs(options: argparse.Namespace) -> list[Job]:
    return [job for job in (*JOBS, *([FLUSH_JOB] if options.flushes else [])) if picked(options.jobs, job.name)]


def chosen_contestants(options: argparse.Namespace, base: Path) -> list[Contestant]:
    size, sparse = options.size * MIB, options.sparse
    peers: list[Contestant] = [peer(base / f"peer{n}", size, sparse=sparse) for n, peer in enumerate(PEERS)]
    pairs = [ReplblockPair(base / f"pair{n}", size, sparse=sparse, variant=variant, al_extents=options.al_extents,
                           cpu_mask=options.cpu_mask)
             for n, variant in enumerate(VARIANTS)]
    return [contestant for contestant in (*peers, *pairs) if picked(options.only, contestant.label)]


def chosen_syncers(options: argparse.Namespace, base: Path) -> list[Syncer]:
    syncers = [kind(base / f"copy{n}", options.size * MIB) for n, kind in enumerate(SYNCERS)]
    return [s for s in syncers if not isinstance(s, ReplblockResync) or picked(options.only, s.label)]


def machine() -> dict[str, Any]:
    """What the numbers depend on."""

    def first_line(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout.splitlines() or ["?"])[0]

    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return {
        "cpu": model, "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(), "python": platform.python_version(),
        "nbdkit": first_line("nbdkit", "--version"), "fio": first_line("fio", "--version"),
        "qemu": first_line("qemu-storage-daemon", "--version"),
    }


def run_on(base: Path, options: argparse.Namespace) -> tuple[Section, list[Copy]]:
    """Everything on one medium, in a directory of its own that is gone afterwards."""
    base.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=base))
    try:
        layout = "sparse" if options.sparse else "allocated"
        title = f"{file_system_of(scratch)}, {options.size} MiB {layout}, al-extents {options.al_extents}"
        title += f", cpu-mask {options.cpu_mask}"
        contestants = chosen_contestants(options, scratch)
        check_room(scratch, contestants)
        section = measure(title, contestants, chosen_jobs(options), rounds=options.rounds, seconds=options.seconds,
                          span_bytes=options.size * MIB)
        for contestant in contestants:
            shutil.rmtree(contestant.directory, ignore_errors=True)
        copies = [] if options.no_resync else measure_copies(chosen_syncers(options, scratch), rounds=options.rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return section, copies


def as_json(section: Section, copies: Sequence[Copy]) -> dict[str, Any]:
    return {
        "title": section.title,
        "jobs": [job._asdict() for job in section.jobs],
        "contestants": [
            {"label": row.label, "rounds": {name: [r._asdict() for r in rounds] for name, rounds in row.rounds.items()}}
            for row in section.rows
        ],
        "copies": [copy._asdict() for copy in copies],
    }


def plot(results: Sequence[tuple[Section, list[Copy]]], base: Path) -> None:
    """One picture for each table."""
    try:
        for number, (section, copies) in enumerate(results):
            path = base.with_name(f"{base.name}-{number}.png")
            section_png(section, path)
            say(f"written: {path}")
            if copies:
                path = base.with_name(f"{base.name}-{number}-copy.png")
                copies_png(f"Full copy, {section.title}", copies, path)
                say(f"written: {path}")
    except NoPlotError as error:
        say(str(error))


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # so that everything started is stopped
    stamp = time.strftime("%Y%m%d-%H%M%S")
    about = machine()
    load_before = os.getloadavg()[0]
    media = [options.dir, *([TMPFS] if options.tmpfs else [])]
    try:
        results = [run_on(base, options) for base in media]
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    parts = [
        f"{about['cores']} × {about['cpu']}, Linux {about['kernel']}; "
        f"{about['nbdkit']}, {about['qemu']}, {about['fio']}.",
        f"Medians of {options.rounds} round(s) of {options.seconds:g} s; load {load_before:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after. All legs on this machine.",
    ]
    for section, copies in results:
        parts.append(section_markdown(section))
        if copies:
            parts.append(copies_markdown(f"Full copy, {section.title}", copies))
    text = "\n\n".join(parts)
    document = {"machine": about, "options": {k: str(v) for k, v in vars(options).items()},
                "sections": [as_json(*result) for result in results]}
    (RESULTS / f"{stamp}.json").write_text(json.dumps(document, indent=1))
    (RESULTS / f"{stamp}.md").write_text(text + "\n")
    print(text)
    say(f"written: {RESULTS}/{stamp}.json, .md")
    plot(results, RESULTS / stamp)
    return 0
