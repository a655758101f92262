# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for things to come true, with a limit that only a broken product reaches."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE_S = 30.0
POLL_S = 0.01

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], what: str | Callable[[], str], patience_s: float = PATIENCE_S) -> Found:
    """Poll until the condition is true and return what it returned."""
    end = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"did not come true within {patience_s:g} s: {said}")
        time.sleep(POLL_S)


def wait_for_end(pid: int, patience_s: float = PATIENCE_S) -> bool:
    """Wait for a process that is not our child; False if it outlives our patience."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = select.select([descriptor], [], [], patience_s)
    finally:
        os.close(descriptor)
    return bool(ready)


def all_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread; until then the process may still answer."""
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}
