# SPDX-License-Identifier: GPL-2.0-or-later
"""make torture: lives of a pair, one after the other, for a given time.

    python -m tests.torture.main [--minutes N] [--seed N] [--steps N] [--protocol A|B|C] [--keep]

Each life has a seed: the first is the one given (or a random one), the next is one more. A life has its own settings
and about ten scenarios. The first broken promise ends the run: seed, timeline, the block's history and the ends of both
logs are printed, and the directory with disks, logs and acknowledgements stays.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from tests.torture.files import FileLife
from tests.torture.filtered import FilteredLife
from tests.torture.life import Life
from tests.torture.nodes import make

STEPS = 10
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def kind_of(seed: int) -> type[Life]:
    """Of six lives two have a file system, and one has disks that fail from below, where FUSE is to be had."""
    can = os.geteuid() == 0 and os.path.exists("/dev/fuse")
    return {2: FileLife, 3: FilteredLife, 5: FileLife}.get(seed % 6, Life) if can else Life


def live(seed: int, steps: int, until: float, protocol: str | None = None, keep_it: bool = False,
         kind: type[Life] | None = None) -> str:
    """One life; a line about it. Raises what broke, after a report."""
    keep: list[Path] = []
    kind = kind or kind_of(seed)
    with ExitStack() as stack:
        pair = make(stack, os.geteuid() == 0 and kind.wants_cable, keep, kind.pair_class)
        if keep_it:
            keep.append(pair.directory)
        log = stack.enter_context((pair.directory / "acknowledged").open("w"))
        life = None
        try:
            life = kind(pair, protocol, seed, log)
            done = 0
            life.start()
            while done < steps and time.monotonic() < until:
                life.step()
                done += 1
            life.finish()
        except Exception:
            keep.append(pair.directory)
            if life is not None:
                print(life.report(), flush=True)
            raise
        finally:
            if life is not None:
                life.abandon()
        return (f"seed {seed}: {life.what}, protocol {pair.protocol}, {done} scenarios, {life.lost_power} power "
                f"losses, {life.summary()}: all accounted for")


def interrupted(number: int, frame: object) -> NoReturn:
    for each in STOPPING:       # once is enough: what follows is cleaning up
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--protocol", choices=["A", "B", "C"])
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    for number in STOPPING:
        signal.signal(number, interrupted)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    until = time.monotonic() + options.minutes * 60
    lives = 0
    try:
        while time.monotonic() < until or not lives:
            print(f"SEED={seed}", flush=True)
            print(live(seed, options.steps, until, options.protocol, options.keep), flush=True)
            seed, lives = seed + 1, lives + 1
    except KeyboardInterrupt:
        print(f"interrupted in SEED={seed}; cleaned up", flush=True)
        return 130
    except Exception as error:
        again = f"make torture SEED={seed} MINUTES={options.minutes:g}"
        print(f"FAILED: {again}: {type(error).__name__}: {error}", flush=True)
        return 1
    print(f"{lives} lives, nothing lost, no pair differed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
