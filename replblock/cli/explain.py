# SPDX-License-Identifier: GPL-2.0-or-later
"""explain: which rule decides between two data sets, who would be the source, and what each side would lose.

Of a running resource from its status; of two metadata sets with --images. The rules are asked, nothing is changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replblock.cli.control import status_of
from replblock.cli.errors import USAGE, Stop
from replblock.cli.run import Run, Target

LONGEST_NAME = 24
LOG_ENDINGS = (".log", ".log.1")
NOTHING: dict[str, Any] = {
    "here": None, "there": None, "blocks": 0, "version": None, "peer-is-replblock": None, "rule-41-feature": None,
    "options": None,
}  # fmt: skip
OPTIONS = ("after-sb-0pri", "after-sb-1pri", "after-sb-2pri", "always-asbp", "rr-conflict", "allow-two-primaries")


def explain(run: Run) -> int:
    """Of every resource that is named, or of two metadata sets."""
    made: list[dict[str, Any]] = []
    if "--images" in run.options:
        made.append(_images(run))
        code = 0
    else:
        code = run.each(lambda target: _live(run, target, made))
    if "--json" in run.options:
        import json

        print(json.dumps(made, indent=2))
    else:
        from replblock.status.explain_text import render

        print("\n".join(render(one) for one in made), end="")
    return code


def _live(run: Run, target: Target, made: list[dict[str, Any]]) -> int:
    from replblock.status.explain import explain as build
    from replblock.status.words import cstates

    name = target.resource
    try:
        status = status_of(run, name)
    except Stop as stop:
        if run.is_up(name):
            raise
        raise Stop(stop.exit_code, *stop.lines, f"or of its metadata: replctl explain --images {name} OTHER {name}"
                   " (see: replctl help explain)") from None
    facts = facts_of(run, status)
    state = {"connection": cstates(status)[0], "decisions": status["replblock-why"]}
    made.append(build(facts, name, "live", state))
    return 0


def facts_of(run: Run, status: dict[str, Any]) -> dict[str, Any]:
    """What the engine knows of both data sets; its log may know since when ours has gone its own way."""
    facts = {**NOTHING, **(status.get("replblock-generations") or {}), "notes": []}
    here = facts["here"]
    if here is not None and here["marked-blocks"] and not here["since-ms"]:
        facts["here"] = {**here, "since-ms": since_from_log(run.run_dir, status["name"], here["uuids"])}
    if here is not None and facts["there"] is None:
        name = status["name"]
        facts["notes"].append(
            f"To compare anyway, run there: replctl explain --json {name} > there.txt (if it is down there: replctl "
            f"dump-md {name} > there.txt), copy the file, and run here: replctl explain --images {name} there.txt "
            f"{name}")
    return facts


def since_from_log(run_dir: str, resource: str, uuids: list[str]) -> int | None:
    """When the engine made the first generation on top of the bitmap's; its log tells, if it reaches back so far."""
    base = int(uuids[1], 16) & ~1
    if not base:
        return None
    wanted = re.compile(r"^(\S+) .*new current UUID [0-9A-F]{16}:([0-9A-F]{16}):")
    for ending in reversed(LOG_ENDINGS):
        for line in _lines(Path(run_dir) / f"{resource}{ending}"):
            match = wanted.match(line)
            if match and int(match[2], 16) & ~1 == base:
                return _unix_ms(match[1])
    return None


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(errors="replace") as file:
            yield from file
    except OSError:
        return


def _unix_ms(stamp: str) -> int | None:
    try:
        return int(time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))) * 1000
    except (ValueError, OverflowError):
        return None


# ---- two metadata sets


def _images(run: Run) -> dict[str, Any]:
    from replblock.cli.explain_images import read_source
    from replblock.status.explain import explain as build

    if len(run.names) not in (2, 3):
        raise Stop(
            USAGE,
            f"explain --images wants two metadata sets and perhaps a resource, not {len(run.names)} words",
            "see: replctl help explain",
        )
    first, second, *rest = run.names
    if first == second:
        raise Stop(USAGE, f"explain --images: '{first}' is named twice; it cannot differ from itself",
                   "see: replctl help explain")
    resource = rest[0] if rest else ""
    view = run.view(resource) if resource else None
    fencing = str(view.disk(min(view.volumes))["fencing"]) if view else "dont-care"
    here, there = (read_source(run, word, fencing) for word in (first, second))
    names = [str(one.node["name"]) for one in (here, there)]
    if names[0] == names[1]:
        names = [first, second] if max(len(first), len(second)) <= LONGEST_NAME else ["first", "second"]
        for one, name in zip((here, there), names):
            one.node["name"] = name
    notes = [note for one in (here, there) for note in one.notes]
    if here.blocks and there.blocks and here.blocks != there.blocks:
        notes.append(f"The two are of different size: {here.blocks} and {there.blocks} blocks of 4 KiB. Nodes with "
                     "UpToDate data of different size may refuse each other for that alone.")
    facts = {
        **NOTHING,
        "here": here.node,
        "there": there.node,
        "blocks": max(here.blocks, there.blocks),
        "options": {name: view.net[name] for name in OPTIONS} if view else None,
        "notes": notes,
    }
    return build(facts, resource, "images")
