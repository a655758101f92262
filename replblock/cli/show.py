# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs: status, role, cstate, dstate, proc. Texts come from replblock.status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from replblock.cli.control import not_up, status_of
from replblock.cli.errors import USAGE, Stop
from replblock.cli.run import Run, Target


def status(run: Run) -> int:
    """All resources, or the named ones. With none named and none up there is nothing to say, but exit 10."""
    targets = run.targets()
    found: list[dict[str, Any]] = []
    worst = 0
    said: dict[str, None] = {}
    for target in targets:
        try:
            found.append(status_of(run, target.resource))
        except Stop as stop:
            worst = max(worst, stop.exit_code)
            said.update(dict.fromkeys(stop.lines))  # of several volumes that are down, once
    for line in said:
        print(line, file=sys.stderr)
    found = together(found)
    if "--json" in run.options:
        from replblock.status import json_out

        print(json_out.render(found))
    elif found:
        from replblock.status import text

        print(text.render(found, verbose=run.verbose, statistics="--statistics" in run.options), end="")
    return worst


def together(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Volumes that have an engine each are one resource to whoever looks."""
    whole: dict[str, dict[str, Any]] = {}
    for one in found:
        known = whole.setdefault(one["name"], one)
        if known is one:
            continue
        known["devices"] = [*known["devices"], *one["devices"]]
        for mine, more in zip(known["connections"], one["connections"], strict=False):
            mine["peer_devices"] = [*mine["peer_devices"], *more["peer_devices"]]
        known["replblock-why"] = [*known["replblock-why"], *one["replblock-why"]]
    return list(whole.values())


def _words(run: Run, words: Callable[[Any], list[str]]) -> int:
    """One line per volume that is meant."""

    def show(target: Target) -> int:
        found = status_of(run, target.resource)
        lines = [
            line
            for device, line in zip(found["devices"], words(found))
            if target.volume in (None, device["volume"])
        ]
        if not lines:
            raise not_up(run, target)
        print("\n".join(lines))
        return 0

    return run.each(show)


def role(run: Run) -> int:
    """Primary/Secondary."""
    from replblock.status.words import roles

    return _words(run, roles)


def cstate(run: Run) -> int:
    """Connected."""
    from replblock.status.words import cstates

    return _words(run, cstates)


def dstate(run: Run) -> int:
    """UpToDate/UpToDate; of a resource that is down: what its metadata says, e.g. Consistent."""
    from replblock.status.words import dstates

    def show(target: Target) -> int:
        if run.is_up(target.resource):
            run_one = Run(run.program, run.verb, [str(target)], run.general, run.options)
            return _words(run_one, dstates)
        from replblock.cli import metadata

        return metadata.offline(run, target, "dstate")

    return run.each(show)


def proc(run: Run) -> int:
    """The text of /proc/drbd for everything that is up on this node."""
    if run.names:
        raise Stop(USAGE, f"{run.program} proc takes no resource", f"run: replctl status {run.names[0]}")
    from replblock.engine.client import resources_up
    from replblock.status.proc import render

    print(render([status_of(run, name) for name in resources_up(run.run_dir)]), end="")
    return 0
