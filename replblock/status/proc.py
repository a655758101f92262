# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/drbd as the 8.4 module writes it, for the scripts and monitors that read that file."""

from __future__ import annotations

from collections.abc import Iterable

from replblock.status.model import Status
from replblock.status.progress import proc_lines
from replblock.status.words import View, views

VERSION_LINE = "version: 8.4.11 (api:1/proto:86-101)"
#: Scripts skip the second line, or show it. As long as a module's 23 digits, and it spells "replblock" in ASCII.
SOURCE_LINE = "srcversion: 7265706C626C6F636B00001 "

_COUNTERS_BEFORE = ("ns", "nr", "dw", "dr", "al", "bm", "lo", "pe", "ua", "ap", "ep")
_ORDERING_LETTERS = {"none": "n", "drain": "d", "flush": "f", "barrier": "b"}


def render(statuses: Iterable[Status]) -> str:
    """The whole file, every minor of every resource, in the order of the minors."""
    lines = [VERSION_LINE, SOURCE_LINE]
    previous = -1
    for view in sorted((view for status in statuses for view in views(status)), key=lambda v: v.device["minor"]):
        minor = view.device["minor"]
        if previous >= 0 and minor != previous + 1:
            lines.append("")
        previous = minor
        lines += minor_lines(view)
    return "\n".join(lines) + "\n"


def minor_lines(view: View) -> list[str]:
    """The lines of one minor."""
    minor = f"{view.device['minor']:2d}"
    if not view.configured:
        return [f"{minor}: cs:Unconfigured"]
    protocol = view.resource["replblock-protocol"] if view.resource["connections"] else " "
    numbers = view.device["replblock-counters"]
    first = " ".join(f"{name}:{numbers[name]}" for name in _COUNTERS_BEFORE)
    ordering = _ORDERING_LETTERS[view.resource["write-ordering"]]
    lines = [
        f"{minor}: cs:{view.cstate} ro:{view.role}/{view.peer_role} ds:{view.disk}/{view.peer_disk} {protocol}"
        f" {flags(view)}",
        f"    {first} wo:{ordering} oos:{numbers['oos']}",
    ]
    return lines + ([] if view.sync is None else proc_lines(view.cstate, view.sync))


def flags(view: View) -> str:
    """Six letters: I/O running, resync paused by a dependency, the peer, the user, congestion, log suspended."""
    return "".join((
        "s" if view.resource["suspended"] else "r",
        "a" if "dependency" in view.pauses else "-",
        "p" if "peer" in view.pauses else "-",
        "u" if "user" in view.pauses else "-",
        view.device["replblock-congestion"],
        "s" if view.device["replblock-al-suspended"] else "-",
    ))
