# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs DRBD does not have: watch, explain, metrics, restart."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from replblock.cli.control import status_of
from replblock.cli.errors import CANNOT, Stop
from replblock.cli.run import Run, Target

REFRESH_S = 1.0
CLEAR = "\x1b[H\x1b[2J"
UUID_NAMES = ("current", "bitmap", "history", "older")


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


def explain(run: Run) -> int:
    """The rules that led to the present connection, the generations they were applied to, and what differs."""

    def one(target: Target) -> int:
        status = status_of(run, target.resource)
        if "--json" in run.options:
            import json

            print(json.dumps(_explanation(status), indent=2))
        else:
            print("\n".join(_sentences(status)))
        return 0

    return run.each(one)


def _explanation(status: dict[str, Any]) -> dict[str, Any]:
    devices = [
        {
            "volume": device["volume"],
            "uuids": dict(zip(UUID_NAMES, device["replblock-uuids"])),
            "differs-kib": device["replblock-counters"]["oos"],
        }
        for device in status["devices"]
    ]
    return {"name": status["name"], "decisions": status["replblock-why"], "devices": devices}


def _sentences(status: dict[str, Any]) -> Iterator[str]:
    from replblock.status.progress import human_kib
    from replblock.status.words import cstates

    made = _explanation(status)
    yield f"{made['name']}: {', '.join(cstates(status))}"
    for device in made["devices"]:
        uuids = "  ".join(f"{name} {value}" for name, value in device["uuids"].items()) or "no disk"
        yield f"  volume {device['volume']}: {uuids}"
        yield f"  volume {device['volume']}: marked as different from the peer: {human_kib(device['differs-kib'])}"
    for decision in made["decisions"]:
        yield f"  {decision['rule']}: {decision['text']}"
    if not made["decisions"]:
        yield "  no decision was needed yet"


def metrics(run: Run) -> int:
    """Prometheus' text format; for the textfile collector or a small HTTP wrapper."""
    from replblock.status.metrics import render

    print(render(_running(run)), end="")
    return 0


def restart(run: Run) -> int:
    """Not there yet: a new engine that takes over the device of the old one."""
    raise Stop(
        CANNOT,
        f"{run.program}: 'restart' is not supported yet",
        "with nothing mounted: replctl down RES && replctl up RES",
    )
