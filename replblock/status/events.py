# SPDX-License-Identifier: GPL-2.0-or-later
"""events2: what there is, then what changed, one line each; as drbdsetup prints them, or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from replblock.status.model import PEER_NAME, Status
from replblock.status.text import suspended, yes_no

DEVICE_NUMBERS = ("size", "read", "written", "al-writes", "bm-writes", "upper-pending", "lower-pending")
PEER_DEVICE_NUMBERS = ("received", "sent", "out-of-sync", "pending", "unacked")


class Event(NamedTuple):
    """One line. `fields` are in the order in which they are printed."""

    action: str                     # exists, create, change, destroy, call, response
    object: str                     # resource, connection, device, peer-device, helper; "-" ends the first dump
    keys: dict[str, Any]
    fields: dict[str, Any]

    def text(self, moment: datetime | None = None) -> str:
        """The line of drbdsetup; with a moment (that knows its time zone) it stands in front."""
        stamp = [] if moment is None else [moment.isoformat(timespec="microseconds")]
        pairs = [f"{name}:{value}" for name, value in (self.keys | self.fields).items()]
        return " ".join([*stamp, self.action, self.object, *pairs])

    def json(self, moment: datetime | None = None) -> str:
        """The same as one line of JSON."""
        stamp = {} if moment is None else {"time": moment.isoformat(timespec="microseconds")}
        return json.dumps({**stamp, "action": self.action, "object": self.object, **self.keys, **self.fields})


END_OF_DUMP = Event("exists", "-", {}, {})


class _Entry(NamedTuple):
    """An object as the events see it: always shown, shown when changed, shown with every change."""

    object: str
    keys: dict[str, Any]
    states: dict[str, Any]
    rare: dict[str, Any]            # statistics shown when they changed
    numbers: dict[str, Any]         # statistics shown along with every change

    @property
    def everything(self) -> dict[str, Any]:
        # drbdsetup prints the numbers of a device before its two yes/no values
        return {**self.states, **self.numbers, **self.rare}


_Identity = tuple[str, ...]


def _entries(status: Status, statistics: bool) -> dict[_Identity, _Entry]:
    """Everything of one resource, in the order of a dump."""
    name = status["name"]
    found = [_Entry("resource", {"name": name}, {"role": status["role"], "suspended": suspended(status)},
                    {"write-ordering": status["write-ordering"]}, {})]
    devices = [_Entry("device", {"name": name, "volume": device["volume"], "minor": device["minor"]},
                      {"disk": device["disk-state"]},
                      {"al-suspended": yes_no(device["replblock-al-suspended"]),
                       "blocked": device["replblock-blocked"]},
                      {number: device[number] for number in DEVICE_NUMBERS}) for device in status["devices"]]
    peer_devices = []
    for link in status["connections"]:
        ends = {"name": name, "peer-node-id": link["peer-node-id"], "conn-name": link["name"]}
        found.append(_Entry("connection", ends,
                            {"connection": link["connection-state"], "role": link["peer-role"]},
                            {"congested": yes_no(link["congested"])}, {}))
        for item in link["peer_devices"]:
            peer_devices.append(_Entry(
                "peer-device", {**ends, "volume": item["volume"]},
                {"replication": item["replication-state"], "peer-disk": item["peer-disk-state"],
                 "resync-suspended": item["resync-suspended"]}, {},
                {number: item[number] for number in PEER_DEVICE_NUMBERS}))
    found += devices + peer_devices
    if not statistics:
        found = [entry._replace(rare={}, numbers={}) for entry in found]
    return {(entry.object, *(str(key) for key in entry.keys.values())): entry for entry in found}


def dump(statuses: Iterable[Status], *, statistics: bool = False) -> list[Event]:
    """What there is: `exists …` lines and the `exists -` that ends them."""
    events = []
    for status in statuses:
        shown = list(_entries(status, statistics).values())
        if not status["connections"]:
            shown += _without_network(status, statistics)
        shown.sort(key=lambda entry: ("resource", "connection", "device", "peer-device").index(entry.object))
        events += [Event("exists", entry.object, entry.keys, entry.everything) for entry in shown]
    return [*events, END_OF_DUMP]


def _without_network(status: Status, statistics: bool) -> list[_Entry]:
    """A resource without a network configuration is dumped with a peer that has no name."""
    ends = {"name": status["name"], "peer-node-id": 0}
    rare = {"congested": "no"} if statistics else {}
    found = [_Entry("connection", ends, {"connection": "StandAlone", "role": "Unknown"}, rare, {})]
    for device in status["devices"]:
        oos = device["replblock-counters"]["oos"]
        numbers = dict.fromkeys(PEER_DEVICE_NUMBERS, 0) | {"out-of-sync": oos} if statistics else {}
        found.append(_Entry("peer-device", {**ends, "volume": device["volume"]},
                            {"replication": "Off", "peer-disk": "DUnknown", "resync-suspended": "no"}, {}, numbers))
    return found


def diff(old: Iterable[Status], new: Iterable[Status], *, statistics: bool = False) -> list[Event]:
    """What changed between two statuses of the same resources.

    Numbers that move are no event by themselves; with `statistics` they are shown along with one.
    """
    before = {status["name"]: _entries(status, statistics) for status in old}
    after = {status["name"]: _entries(status, statistics) for status in new}
    events = []
    for name in dict.fromkeys([*before, *after]):
        events += _resource_diff(before.get(name, {}), after.get(name, {}))
    return events


_CREATION = ("resource", "device", "connection", "peer-device")
_CHANGE = ("resource", "connection", "device", "peer-device")
_DESTRUCTION = ("peer-device", "connection", "device", "resource")


def _resource_diff(before: Mapping[_Identity, _Entry], after: Mapping[_Identity, _Entry]) -> list[Event]:
    gone = sorted((entry for key, entry in before.items() if key not in after),
                  key=lambda entry: _DESTRUCTION.index(entry.object))
    made = sorted((entry for key, entry in after.items() if key not in before),
                  key=lambda entry: _CREATION.index(entry.object))
    changed = sorted(((before[key], entry) for key, entry in after.items() if key in before),
                     key=lambda pair: _CHANGE.index(pair[1].object))
    events = [Event("create", entry.object, entry.keys, entry.everything) for entry in made]
    for was, now in changed:
        states = {name: value for name, value in now.states.items() if was.states.get(name) != value}
        rare = {name: value for name, value in now.rare.items() if was.rare.get(name) != value}
        if states or rare:
            events.append(Event("change", now.object, now.keys, {**states, **now.numbers, **rare}))
    return events + [Event("destroy", entry.object, entry.keys, {}) for entry in gone]


def helper(action: str, resource: str, volume: int, minor: int, name: str, exit_code: int | None = None) -> Event:
    """`call` before a handler runs, `response` with its exit code after."""
    keys = {"name": resource, "peer-node-id": 0, "conn-name": PEER_NAME, "volume": volume, "minor": minor}
    return Event(action, "helper", keys, {"helper": name} | ({} if exit_code is None else {"status": exit_code}))
