# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs DRBD does not have: watch, metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from replblock.cli.control import status_of
from replblock.cli.errors import Stop
from replblock.cli.run import Run

REFRESH_S = 1.0
CLEAR = "\x1b[H\x1b[2J"


def _running(run: Run) -> list[dict[str, Any]]:
    """Statuses of what is up, of the named resources or of all."""
    from replblock.engine.client import resources_up

    named = [name for name in run.names if name != "all"]
    found = []
    for name in named or resources_up(run.run_dir):
        try:
            found.append(status_of(run, name))
        except Stop:
            if named:
                raise
    return found


def watch(run: Run) -> int:
    """A live view until Ctrl-C; into a pipe one picture only."""
    try:
        while True:
            picture = "\n".join(_picture(run))
            if not sys.stdout.isatty():
                print(picture)
                return 0
            print(f"{CLEAR}{picture}", flush=True)
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return 0


def _picture(run: Run) -> Iterator[str]:
    from replblock.cli.progress import line
    from replblock.status import text

    found = _running(run)
    yield f"{run.host}  {time.strftime('%H:%M:%S')}  {len(found)} up\n"
    for status in found:
        yield text.render([status], statistics=True).rstrip("\n")
        bar = line(status)
        if bar:
            yield f"  {bar}"
        if status["replblock-last-error"]:
            yield f"  last error: {status['replblock-last-error']}"
        yield ""


def metrics(run: Run) -> int:
    """Prometheus' text format; for the textfile collector or a small HTTP wrapper."""
    from replblock.status.metrics import render

    print(render(_running(run)), end="")
    return 0
