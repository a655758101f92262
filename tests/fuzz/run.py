# SPDX-License-Identifier: GPL-2.0-or-later
"""The campaign: python -m tests.fuzz.run [TARGET…] [--runs N] [--seconds S] [--seed N] [--plain]

Coverage-guided where atheris is installed (make fuzz does that), else with damaged seeds. Inputs that find new code are
kept in build/fuzz/TARGET from one campaign to the next; the first defect ends a target, its input is written to
tests/fuzz/crashes/TARGET and from then on is a test.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutate import CORPUS, CRASHES, inputs_of, stream

ROOT = Path(__file__).resolve().parent.parent.parent
FOUND = ROOT / "build" / "fuzz"
MOST_BYTES = 4096
SAY_EVERY_S = 10.0
SLOW_S = 60
MOST_MB = 2048


def keep(target: str, data: bytes) -> Path:
    """A crashing input becomes a test."""
    folder = CRASHES / target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha1(data).hexdigest()[:12]
    path.write_bytes(data)
    return path


def plain(target: str, runs: int, seconds: float, seed: int) -> int:
    """Without guidance; exit code 1 at the first defect."""
    from tests.fuzz.targets import TARGETS

    run = TARGETS[target].run
    pool = [data for kind in (CORPUS, CRASHES) for _, data in inputs_of(kind, target)]
    begun = said = time.monotonic()
    number = 0
    for data in stream(seed, pool, MOST_BYTES):
        if number >= runs or (seconds and time.monotonic() - begun > seconds):
            break
        number += 1
        try:
            run(data)
        except Exception:
            traceback.print_exc()
            print(f"{target}: input {number} of seed {seed} is a defect, kept as {keep(target, data)}", flush=True)
            return 1
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            print(f"{target}: {number} inputs, {number / (said - begun):.0f}/s", flush=True)
    took = max(time.monotonic() - begun, 1e-9)
    print(f"{target}: {number} inputs in {took:.0f} s ({number / took:.0f}/s), seed {seed}, no defect", flush=True)
    return 0


def guided(target: str, runs: int, seconds: float, seed: int) -> None:
    """In a process of its own: libFuzzer ends it, with its own exit code."""
    import atheris

    import tests.fuzz.feed  # what is not the product is not instrumented
    import tests.fuzz.mutate  # noqa: F401

    with atheris.instrument_imports(include=["replblock"]):
        from tests.fuzz.targets import TARGETS

    run = TARGETS[target].run

    def one(data: bytes) -> None:
        try:
            run(data)
        except Exception:
            print(f"{target}: a defect, kept as {keep(target, data)}", flush=True)
            raise

    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    places = [str(place / target) for place in (CORPUS, CRASHES) if (place / target).is_dir()]
    arguments = [
        sys.argv[0], f"-runs={runs}", f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={MOST_BYTES}",
        f"-timeout={SLOW_S}", f"-rss_limit_mb={MOST_MB}", f"-artifact_prefix={found.parent}/{target}-",
        "-print_final_stats=1", "-verbosity=1", str(found), *places,
    ]  # fmt: skip
    atheris.Setup(arguments, one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="no coverage guidance even where atheris is installed")
    parser.add_argument("--guided-child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = given.seed or int.from_bytes(os.urandom(3), "big") + 1
    if given.guided_child:
        guided(given.targets[0], given.runs, given.seconds, seed)
        return 0
    from tests.fuzz.targets import TARGETS

    names = given.targets or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        print(f"no target {', '.join(unknown)}; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    with_guide = not given.plain and importlib.util.find_spec("atheris") is not None
    worst = 0
    for name in names:
        if with_guide:
            command = [sys.executable, "-m", "tests.fuzz.run", name, "--guided-child", "--runs", str(given.runs),
                       "--seconds", str(given.seconds), "--seed", str(seed)]  # fmt: skip
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
        else:
            code = plain(name, given.runs, given.seconds, seed)
        print(f"{name}: {'a defect' if code else 'fine'}", flush=True)
        worst = worst or int(bool(code))
    return worst


if __name__ == "__main__":
    sys.exit(main())
