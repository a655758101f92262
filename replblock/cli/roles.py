# SPDX-License-Identifier: GPL-2.0-or-later
"""primary, secondary."""

from __future__ import annotations

import sys

from replblock.cli.control import act, ask, finish
from replblock.cli.run import Run, Target


def primary(run: Run) -> int:
    """Promote; with --force also data that is not known to be good. On a terminal a started sync is shown."""
    force = "--force" in run.options and run.options["--force"] != "no"

    def promote(target: Target) -> int:
        code = finish(run, target, ask(run, target, "primary", {"force": force}))
        if code == 0 and force and sys.stdout.isatty():
            from replblock.cli.progress import follow

            follow(run, target.resource)
        return code

    return run.each(promote)


def secondary(run: Run) -> int:
    """Demote; refused while something holds the device open (exit 11)."""
    return act(run, "secondary")
