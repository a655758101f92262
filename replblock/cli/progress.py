# SPDX-License-Identifier: GPL-2.0-or-later
"""A line with a bar, rate and time left while a resynchronisation runs; only on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from replblock.cli.control import status_of
from replblock.cli.errors import Stop
from replblock.cli.run import Run

REDRAW_S = 0.5
SETTLE_S = 3.0
"""How long a sync may take to begin after the command that causes it."""


def line(found: dict[str, Any]) -> str:
    """The progress of the first volume that is being synchronised or verified, or nothing."""
    from replblock.status.progress import terminal_line
    from replblock.status.words import views

    for view in views(found):
        if view.sync is not None:
            name = f"{found['name']}/{view.device['volume']}" if len(found["devices"]) > 1 else found["name"]
            return terminal_line(name, view.cstate, view.sync, shutil.get_terminal_size().columns - 1)
    return ""


def draw(text: str) -> None:
    """Put the line in place of the one before."""
    sys.stdout.write("\r\x1b[K" + text)
    sys.stdout.flush()


def follow(run: Run, resource: str) -> None:
    """Show the sync until it ends; Ctrl-C ends the showing, not the sync."""
    began = time.monotonic()
    shown = False
    try:
        while True:
            text = line(status_of(run, resource))
            if text:
                draw(text)
                shown = True
            elif shown or time.monotonic() - began > SETTLE_S:
                break
            time.sleep(REDRAW_S)
        if shown:
            draw(f"{resource}: in sync\n")
    except KeyboardInterrupt:
        print(f"\nit goes on; see: replctl wait-sync {resource}")
    except Stop:  # went down meanwhile: the command itself was done
        if shown:
            print()
