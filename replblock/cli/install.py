# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl install-scripts`: resource script, links, completion, manual pages, units, to their places and out again."""

from __future__ import annotations

import os
import sys

from replblock.cli import completion, manual
from replblock.cli.errors import CANNOT, REFUSED, USAGE, Stop
from replblock.cli.run import Run


def install_scripts(run: Run) -> int:
    """Nothing is done if something is in the way; -d prints the commands instead."""
    if run.names:
        raise Stop(USAGE, f"{run.program} install-scripts takes no names", "see: replctl help install-scripts")
    from replblock.cluster import install, layout

    root = os.path.abspath(run.options.get("--prefix") or "/")
    force = "--force" in run.options
    if "--remove" in run.options:
        plan = install.plan_remove(root, force)
    else:
        program = _program(run)
        wanted, sources = layout.links(program), {}
        if os.path.dirname(program) != layout.PACKAGE.sbin:
            wanted, sources = layout.items(layout.LOCAL, program, made())
        plan = install.plan_install(root, wanted, sources, force)
    for note in plan.notes:
        print(note, file=sys.stderr)
    if plan.refusals:
        see = "replctl -d install-scripts --force"
        raise Stop(REFUSED, *plan.refusals, f"nothing was changed; to see what would be, run: {see}")
    if run.dry_run:
        for step in plan.steps:
            print(step.shell())
        return 0
    try:
        install.carry_out(root, plan)
    except OSError as error:
        raise Stop(CANNOT, f"{error.filename or root}: {error.strerror or error}",
                   "run it as root, or below a directory of your own: --prefix=DIR") from None
    for step in plan.steps:
        if step.verb in ("write", "link", "unlink", "move") and (run.verbose or step.verb == "move"):
            print(step.shell())
    changed = sum(step.verb in ("write", "link", "unlink") for step in plan.steps)
    what = "taken out" if "--remove" in run.options else "put in place"
    print(f"{changed} files {what}" if changed else "nothing to do")
    if root == "/" and any(step.path.endswith(".service") for step in plan.steps):
        print("where systemd runs: systemctl daemon-reload")
    return 0


def made() -> dict[str, bytes]:
    """What is made from tables: command that prints it → the text."""
    pages = {f"manual {name}": manual.page(name).encode() for name in manual.PAGES}
    return {"completion bash": completion.bash().encode(), **pages}


def _program(run: Run) -> str:
    """The program itself, not a link to it that an earlier run has put somewhere."""
    found = run.program_path()
    if "/" not in found:
        raise Stop(CANNOT, "replctl was not found in PATH", "call it by its whole path: /…/replctl install-scripts")
    return os.path.realpath(found)
