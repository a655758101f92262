# SPDX-License-Identifier: GPL-2.0-or-later
"""events2: what there is, then every change, one line each, until interrupted (or with --now: at once the end)."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from replblock.cli.control import status_of
from replblock.cli.errors import Stop
from replblock.cli.run import Run
from replblock.status.events import Event, diff, dump

POLL_S = 0.2
"""Changes are found by comparing statuses; a state shorter than this may be missed."""


def events2(run: Run) -> int:
    """Follow the named resources, or every one that is up or comes up."""
    statistics = "--statistics" in run.options
    old = _statuses(run)
    _print(run, dump(old, statistics=statistics))
    while "--now" not in run.options:
        time.sleep(POLL_S)
        new = _statuses(run)
        _print(run, diff(old, new, statistics=statistics))
        old = new
    return 0


def _statuses(run: Run) -> list[dict[str, Any]]:
    from replblock.engine.client import resources_up

    names = [name for name in run.names if name != "all"] or resources_up(run.run_dir)
    found = []
    for name in names:
        try:
            found.append(status_of(run, name))
        except Stop:  # down: simply not there
            pass
    return found


def _print(run: Run, events: list[Event]) -> None:
    moment = datetime.now().astimezone() if "--timestamps" in run.options else None
    for event in events:
        print(event.json(moment) if "--json" in run.options else event.text(moment))
    sys.stdout.flush()
