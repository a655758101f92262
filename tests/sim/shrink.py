# SPDX-License-Identifier: GPL-2.0-or-later
"""Playing a history for a verdict, and finding the shortest one that still fails the same way."""

from __future__ import annotations

import re
import signal
import time
import traceback
from typing import NamedTuple

from tests.sim.history import Event, History
from tests.sim.play import Player

PATIENCE_S = 10
"""A history takes a tenth of a second; one that takes this long goes round in circles."""


class Failure(NamedTuple):
    """How a history ended, if not well."""

    kind: str
    """The same for failures that are probably the same."""
    text: str
    played: int
    """Events that were played."""
    lines: tuple[str, ...]


def play(history: History, trace: bool = False) -> Failure | None:
    """Play it; None if all is well."""
    player = Player(history, trace)

    def too_long(signum: int, frame: object) -> None:
        raise TimeoutError(f"no end within {PATIENCE_S} s of processor time")

    old = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_S)
    try:
        player.play()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[::-1]
        text = f"{type(error).__name__}: {error}"
        kind = re.sub(r"\b[abAB]\b|[wt]?\d+(\.\.\d+)?|@.|0x\w+", "", text)[:60]
        trail = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in where[:6])
        return Failure(kind, f"{text[:2000]}\n    at {trail}", player.played, tuple(player.sim.lines))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
    return None


def shrink(history: History, failure: Failure, most_s: float = 60.0) -> tuple[History, Failure]:
    """Leave out events, then settings and waits, as long as it fails the same way."""
    end = time.monotonic() + most_s
    best, why = history._replace(events=history.events[: failure.played + 1]), failure

    def tried(candidate: History) -> bool:
        nonlocal best, why
        if time.monotonic() > end:
            return False
        found = play(candidate)
        if found is None or found.kind != failure.kind:
            return False
        best, why = candidate._replace(events=candidate.events[: found.played + 1]), found
        return True

    tried(best)
    chunk = max(1, len(best.events) // 2)
    while True:
        at, any_gone = 0, False
        while at < len(best.events) and time.monotonic() < end:
            events = best.events
            if tried(best._replace(events=events[:at] + events[at + chunk :])):
                any_gone = True
            else:
                at += chunk
        if chunk == 1 and not any_gone:
            break
        if not any_gone:
            chunk = max(1, chunk // 2)
        if time.monotonic() > end:
            break
    for name in sorted(best.setup.keys() - {"blocks"}):
        tried(best._replace(setup={k: v for k, v in best.setup.items() if k != name}))
    for number in range(len(best.events)):
        for change in ({"salt": 0}, {"wait_ms": 0}):
            if number < len(best.events) and any(getattr(best.events[number], k) != v for k, v in change.items()):
                events = list(best.events)
                events[number] = Event(*events[number])._replace(**change)
                tried(best._replace(events=tuple(events)))
    return best, why
