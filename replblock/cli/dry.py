# SPDX-License-Identifier: GPL-2.0-or-later
"""--dry-run: the commands that would be carried out, one a line, ready to be executed one by one.

Init scripts of DRBD 8 do exactly that with `-d -n res adjust all`: a line `res=NAME`, then that resource's commands,
each split into words by the shell. So there is no quoting in them unless a path forces it.
"""

from __future__ import annotations

import shlex

from replblock.cli.run import Run, Target
from replblock.cli.verbs import RESOURCE


def print_commands(run: Run) -> int:
    """Print what the command line would do; returns 0."""
    prefix = [run.program_path()]
    if "--config-file" in run.general:
        prefix += ["-c", run.config_path]
    if run.general.get("--host"):
        prefix += ["--host", run.general["--host"]]
    for target in run.targets():
        lines = [shlex.join(prefix + words) for words in steps(run, target)]
        if lines and run.variable:
            print(f"{run.variable}={target.resource}")
        for line in lines:
            print(line)
    return 0


def steps(run: Run, target: Target) -> list[list[str]]:
    """The verbs with their arguments that this command line means for one target."""
    name = run.verb.alias_of or run.verb.name
    if name in ("up", "adjust", "adjust-with-progress"):
        from replblock.cli.lifecycle import missing_steps

        return missing_steps(run, target)
    if name == "wait-con-int":
        return [["wait-connect", *_options(run), target.resource]]
    if name == "sh-b-pri":
        from replblock.cli.shell import becomes_primary

        return [["primary", str(target)]] if becomes_primary(run, target) else []
    if run.verb.needs == RESOURCE or target.volume is not None:
        return [[name, *_options(run), str(target)]]
    return [[name, *_options(run), target.resource]]


def _options(run: Run) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in run.options.items()]
