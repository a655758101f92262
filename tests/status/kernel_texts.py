# SPDX-License-Identifier: GPL-2.0-or-later
"""What kernel DRBD 8.4.11 and drbd-utils 9.22.0 printed, and the status that must print the same.

Each file in `recorded/` is one moment of one of two nodes: /proc/drbd and the output of several commands, taken one
after the other. `statuses()` reads the model out of two of them (events2 with statistics, and /proc/drbd); the tests
render it and compare with all others. While a resync ran the numbers moved between two commands: `SETTLED` names the
moments when they did not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from replblock.status import model

RECORDED = Path(__file__).parent / "recorded"
MOMENTS = sorted(path.stem for path in RECORDED.glob("[0-9]*.txt"))
SETTLED = [name for name in MOMENTS if name.split("-")[0] not in ("04", "06", "15", "20")]
MOVING = [name for name in MOMENTS if name.split("-")[0] in ("04", "06", "20")]

#: The configuration of both nodes when this was recorded: file and line, (volume, minor).
PLACES = {"r0": (3, ((0, 0),)), "r1": (8, ((0, 2), (1, 3)))}


def section(moment: str, name: str) -> str:
    """The output of one command."""
    parts = re.split(r"^##### (.*)\n", (RECORDED / f"{moment}.txt").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))[name]


def _pairs(words: list[str]) -> dict[str, str]:
    return dict(word.split(":", 1) for word in words)


def _numbers(pairs: dict[str, str], names: tuple[str, ...]) -> dict[str, int]:
    return {name: int(pairs[name]) for name in names}


PROC = re.compile(r"^ ?(\d+): cs:(\S+)(?: ro:\S+ ds:\S+ ([ABC ]) (......)\n +(ns:.*)(?:\n\t(\[.*)\n\t(.*))?)?", re.M)


def statuses(moment: str) -> list[dict[str, Any]]:
    """The resources of that moment, in the order of the recording."""
    lines = [line.split() for line in section(moment, "events2-s").splitlines()]
    proc = {int(m[1]): m for m in PROC.finditer(section(moment, "proc"))}
    found: dict[str, dict[str, Any]] = {}
    for _, kind, *words in lines:
        pairs = _pairs(words) if kind != "-" else {}
        if kind == "resource":
            reasons = {} if pairs["suspended"] == "no" else {
                f"suspended-{reason}": True for reason in pairs["suspended"].split(",")}
            found[pairs["name"]] = model.resource(name=pairs["name"], role=pairs["role"],
                                                  write_ordering=pairs["write-ordering"], **reasons)
        elif kind == "connection" and "conn-name" in pairs:
            found[pairs["name"]]["connections"].append(model.connection(
                name=pairs["conn-name"], connection_state=pairs["connection"], peer_role=pairs["role"],
                congested=pairs["congested"] == "yes"))
        elif kind == "device":
            found[pairs["name"]]["devices"].append(_device(pairs, proc[int(pairs["minor"])]))
            protocol = proc[int(pairs["minor"])][3]
            if protocol and protocol != " ":
                found[pairs["name"]]["replblock-protocol"] = protocol
        elif kind == "peer-device" and "conn-name" in pairs:
            found[pairs["name"]]["connections"][0]["peer_devices"].append(model.peer_device(
                volume=int(pairs["volume"]), replication_state=pairs["replication"],
                peer_disk_state=pairs["peer-disk"], resync_suspended=pairs["resync-suspended"],
                **_numbers(pairs, ("received", "sent", "out-of-sync", "pending", "unacked"))))
    for status in found.values():
        _add_syncs(status, proc)
        assert model.validate(status) == []
    return list(found.values())


def _device(pairs: dict[str, str], shown: re.Match[str]) -> dict[str, Any]:
    numbers = {} if shown[5] is None else {
        name: int(value) for name, value in _pairs(shown[5].split()).items() if name != "wo"}
    return model.device(
        volume=int(pairs["volume"]), minor=int(pairs["minor"]), disk_state=pairs["disk"],
        replblock_al_suspended=pairs["al-suspended"] == "yes", replblock_blocked=pairs["blocked"],
        replblock_congestion=shown[4][4] if shown[4] else "-", replblock_counters=numbers,
        **_numbers(pairs, ("size", "read", "written", "al-writes", "bm-writes", "upper-pending", "lower-pending")))


def _add_syncs(status: dict[str, Any], proc: dict[int, re.Match[str]]) -> None:
    """A resync whose clock gives the rates of the recording: one mark, at the start."""
    for device in status["devices"]:
        shown = proc[device["minor"]]
        link = next(iter(status["connections"]), None)
        if link is None or not re.match("Sync|Verify|Paused", shown[2]):
            continue
        item = next(item for item in link["peer_devices"] if item["volume"] == device["volume"])
        bar, rate = shown[6], shown[7]
        left, total = map(int, re.search(r"\((\d+)/(\d+)\)K", bar).groups()) if bar else (  # type: ignore[union-attr]
            device["replblock-counters"]["oos"], device["size"])
        average = int(re.search(r"\(([\d,]+)\)", rate)[1].replace(",", "")) if rate else 1000  # type: ignore[index]
        want = re.search(r"want: ([\d,]+)", rate or "")
        seconds = max(1, round((total - left) / average))
        item["replblock-sync"] = model.sync(
            rs_total_blocks=total // 4, rs_left_blocks=left // 4, started_ms=5000, now_ms=5000 + 1000 * seconds,
            want_kib_s=int(want[1].replace(",", "")) if want else 0)
