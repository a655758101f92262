# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs DRBD does not have: watch, explain, metrics, restart."""

from __future__ import annotations

from typing import NoReturn

from replblock.cli.errors import CANNOT, Stop
from replblock.cli.run import Run


def _not_yet(run: Run, instead: str) -> NoReturn:
    raise Stop(CANNOT, f"{run.program}: '{run.verb.name}' is not supported yet", f"meanwhile: {instead}")


def watch(run: Run) -> int:
    """A live view."""
    _not_yet(run, "watch -n 1 replctl status --verbose")


def explain(run: Run) -> int:
    """Which rule decided."""
    _not_yet(run, "replctl status --verbose")


def metrics(run: Run) -> int:
    """Prometheus' text format."""
    _not_yet(run, "replctl status --json")


def restart(run: Run) -> int:
    """A new engine under a mounted file system."""
    _not_yet(run, "replctl down RES && replctl up RES (nothing may be mounted)")
