# SPDX-License-Identifier: GPL-2.0-or-later
"""Our texts are those of kernel DRBD 8.4.11 with drbd-utils 9.22.0, letter by letter."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from replblock.status import events, proc, text, words
from tests.status import kernel_texts
from tests.status.kernel_texts import MOVING, SETTLED, section, statuses


def body(proc_text: str) -> str:
    """Without the second line, which names the source."""
    lines = proc_text.splitlines(keepends=True)
    return "".join(lines[:1] + lines[2:])


@pytest.mark.parametrize("moment", SETTLED)
def test_proc_drbd(moment: str) -> None:
    assert body(proc.render(statuses(moment))) == body(section(moment, "proc"))


@pytest.mark.parametrize("moment", [name for name in MOVING if not name.startswith("06")])
def test_proc_drbd_while_syncing(moment: str) -> None:
    """The bar, the percent, both rates and the remaining time of a resync and of a verify, both ends."""
    assert body(proc.render(statuses(moment))) == body(section(moment, "proc"))


def test_nothing_up() -> None:
    assert body(proc.render([])) == body(section("15-alldown-dados", "proc"))


@pytest.mark.parametrize("moment", SETTLED)
@pytest.mark.parametrize(("command", "options"), [
    ("status", {}), ("adm-status", {}), ("status-s", {"statistics": True}),
])
def test_status(moment: str, command: str, options: dict[str, Any]) -> None:
    assert text.render(statuses(moment), **options) == section(moment, command)


@pytest.mark.parametrize("moment", SETTLED)
@pytest.mark.parametrize("statistics", [False, True])
def test_verbose_status_begins_as_drbds(moment: str, statistics: bool) -> None:
    """Every resource begins with the lines of drbdsetup; ours follow."""
    ours = text.render(statuses(moment), verbose=True, statistics=statistics).split("\n\n")
    theirs = section(moment, "status-vs" if statistics else "status-verbose").split("\n\n")
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert mine.startswith(other)


@pytest.mark.parametrize("moment", MOVING)
def test_status_while_syncing(moment: str) -> None:
    """`done:` moved between two commands; everything else stands still."""
    blind = re.compile(r"done:[\d.]+")
    assert blind.sub("done", text.render(statuses(moment))) == blind.sub("done", section(moment, "adm-status"))


@pytest.mark.parametrize("moment", [*SETTLED, *MOVING])
def test_events2(moment: str) -> None:
    for statistics, name in ((False, "events2"), (True, "events2-s")):
        ours = "".join(event.text() + "\n" for event in events.dump(statuses(moment), statistics=statistics))
        theirs = section(moment, name)
        if statistics:      # drbdsetup keeps the counters of a peer that has no configuration any more
            ours, theirs = (re.sub(r"(peer-node-id:0 volume.*) sent:\d+", r"\1 sent:0", t) for t in (ours, theirs))
        assert ours == theirs


@pytest.mark.parametrize("moment", [*SETTLED, *MOVING])
def test_single_words(moment: str) -> None:
    expected = section(moment, "words")
    ours = ""
    for status in statuses(moment):
        for verb, render in (("role", words.roles), ("cstate", words.cstates), ("dstate", words.dstates)):
            ours += f"{status['name']} {verb}:\n" + "".join(line + "\n" for line in render(status)) + "rc=0\n"
    assert ours == expected


PLACES = [words.Place(name, "/etc/drbd.conf", line, volumes)
          for name, (line, volumes) in kernel_texts.PLACES.items()]


@pytest.mark.parametrize("moment", [*SETTLED, "15-alldown-dados", *MOVING])
def test_sh_status(moment: str) -> None:
    ours = words.sh_status(PLACES, [] if moment.startswith("15") else statuses(moment))
    assert steady(ours, moment) == steady(section(moment, "sh-status"), moment)


def steady(shell: str, moment: str) -> str:
    if moment.startswith("11"):     # /proc/drbd had `s` for all minors of r1, sh-status named only the first
        shell = shell.replace("_flags_susp=1", "_flags_susp=")
    return re.sub(r"(_resynced_percent=)[\d.]+", r"\1X", shell) if moment[:2] in ("04", "06") else shell


def test_events_of_a_life() -> None:
    """The recorded stream, replayed into statuses, comes out of `diff` again, in any order within one instant."""
    stream = (kernel_texts.RECORDED / "events2-stream-dados.txt").read_text().splitlines()
    start, end = (next(i for i, line in enumerate(stream) if pattern in line)
                  for pattern in ("connection:Connected", "destroy"))
    changes = [line for line in stream[start:end]
               if line.startswith("change") and re.search(r"(role|connection|disk|replication|suspended):", line)]
    state = statuses("01-wfc-dados")
    for line in changes:
        after = apply(state, line)
        assert [event.text() for event in events.diff(state, after)] == [line]
        state = after


def apply(state: list[dict[str, Any]], line: str) -> list[dict[str, Any]]:
    """The statuses after one recorded change."""
    _, kind, *pairs = line.split()
    fields = dict(pair.split(":", 1) for pair in pairs)
    after = copy.deepcopy(state)
    status = next(s for s in after if s["name"] == fields["name"])
    link = status["connections"][0]
    volume = int(fields.get("volume", 0))
    if kind == "resource":
        status["role"] = fields.get("role", status["role"])
        if "suspended" in fields:
            status["suspended-user"] = fields["suspended"] == "user"
    elif kind == "device":
        status["devices"][volume]["disk-state"] = fields["disk"]
    elif kind == "connection":
        link["connection-state"] = fields.get("connection", link["connection-state"])
        link["peer-role"] = fields.get("role", link["peer-role"])
    else:
        item = link["peer_devices"][volume]
        for name, key in (("replication", "replication-state"), ("peer-disk", "peer-disk-state"),
                          ("resync-suspended", "resync-suspended")):
            item[key] = fields.get(name, item[key])
    return after
