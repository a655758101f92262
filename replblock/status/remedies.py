# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways out of a refused connection, each with its commands. A way is only named if the rules say that it works.

Every row changes one node as its commands would, asks for the forecast, and is left out where that is refused too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from replblock.state.forecast import Forecast, Party, Terms, forecast, order
from replblock.state.generations import Generations
from replblock.state.names import Disk, Role

SIDES = ("here", "there")
Pair = tuple[Party, Party]
Steps = tuple[tuple[str, str], ...]


class Way(NamedTuple):
    """`then(parties, side)`: both nodes after the commands on `side`; `wanted`: the direction that solves it."""

    name: str
    text: str
    when: Callable[[Forecast, Pair, int], bool]
    then: Callable[[Pair, Terms, int], Forecast]
    commands: Steps                 # on that side: (command, only if)
    connects: bool = True           # afterwards both must connect


def _changed(pair: Pair, side: int, **changes: Any) -> Pair:
    one = pair[side]._replace(**changes)
    return (one, pair[1]) if side == 0 else (pair[0], one)


def _demoted(pair: Pair, terms: Terms, side: int) -> Forecast:
    return forecast(*_changed(pair, side, role=Role.SECONDARY, in_use=False), terms)


def _invalidated(pair: Pair, terms: Terms, side: int) -> Forecast:
    return forecast(*_changed(pair, side, disk=Disk.INCONSISTENT, role=Role.SECONDARY, crashed_primary=False), terms)


def _recreated(pair: Pair, terms: Terms, side: int) -> Forecast:
    fresh = Party(Generations(), bits=pair[side].bits, disk=Disk.INCONSISTENT)
    return forecast(*((fresh, pair[1]) if side == 0 else (pair[0], fresh)), terms)


def _is_primary(found: Forecast, pair: Pair, side: int) -> bool:
    return pair[side].role == Role.PRIMARY and not found.outcome.mine.split_brain


def _refused_for_staleness(found: Forecast, pair: Pair, side: int) -> bool:
    rules = {found.outcome.mine.rule, found.outcome.peers.rule}
    return bool(rules & {"stale-side-never-source", "outdated-with-bits-left"}) and pair[side].disk < Disk.UP_TO_DATE


DOWN: Steps = (("replctl down {r}", ""),)
WAYS: tuple[Way, ...] = (
    Way("give-up-changes", "give up what {loser} changed", lambda f, pair, side: f.outcome.mine.split_brain,
        lambda pair, terms, side: order(*pair, terms, side),
        (("replctl secondary {r}", "it is Primary; unmount first"), ("replctl disconnect {r}", "it is not StandAlone"),
         ("replctl connect --discard-my-data {r}", ""))),
    Way("give-up-role", "let {loser} be Secondary", _is_primary, _demoted,
        (("replctl secondary {r}", "it is Primary; unmount first"), ("replctl disconnect {r}", "it is not StandAlone"),
         ("replctl connect {r}", ""))),
    Way("invalidate", "copy everything to {loser}, whose data is stale", _refused_for_staleness, _invalidated,
        (*DOWN, ("replctl invalidate {r}", ""), ("replctl up {r}", ""))),
    Way("overwrite", "overwrite all data of {loser}", lambda f, pair, side: f.verdict.rule == "unrelated", _recreated,
        (*DOWN, ("replctl create-md --force {r}", ""), ("replctl up {r}", ""))),
)
CONNECT: Steps = (("replctl disconnect {r}", "it is not StandAlone"), ("replctl connect {r}", ""))


def ways_out(
    mine: Party, peers: Party, terms: Terms, found: Forecast, made: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What an operator can do; empty where nothing has to be done. `made`: the explanation so far."""
    if found.outcome.direction is None or (found.otherwise and found.otherwise.direction is None):
        return list(_refused(mine, peers, terms, found, made))
    if mine.disk == peers.disk == Disk.INCONSISTENT and found.outcome.direction == 0:
        return [_way("first-primary", f"make the data of {_name(made, side)} the good one", side, made,
                     {side: (("replctl primary --force {r}", ""),)}) for side in (0, 1)]
    if found.outcome.mine.keep_bits:
        return [_way("settle-left-over", f"copy everything to {_name(made, side)}", side, made,
                     {side: (("replctl invalidate {r}", "connected, and the other side is the right one"),)})
                for side in (0, 1)]
    if made["from"] == "live" and made["connection"] == "StandAlone":
        return [_way("connect", "connect", None, made, {0: (("replctl connect {r}", ""),), 1: CONNECT})]
    return []


def _refused(
    mine: Party, peers: Party, terms: Terms, found: Forecast, made: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    pair = (mine, peers)
    for way in WAYS:
        for side in (1, 0):
            if not way.when(found, pair, side):
                continue
            after = way.then(pair, terms, side)
            ends = {one.direction for one in (after.outcome, after.otherwise or after.outcome)}
            solved = ends == {-1 if side == 0 else 1} or (way.name == "give-up-role" and None not in ends)
            if solved:
                steps = {side: way.commands, 1 - side: CONNECT}
                yield _way(way.name, way.text.format(loser=_name(made, side)), side, made, steps)


def _name(made: Mapping[str, Any], side: int) -> str:
    return str(made[SIDES[side]]["name"])


def _way(name: str, text: str, loser: int | None, made: Mapping[str, Any], steps: dict[int, Steps]) -> dict[str, Any]:
    resource = made["resource"] or "RES"
    found = [
        {"on": SIDES[side], "node": _name(made, side), "command": command.format(r=resource), "only-if": condition}
        for side, commands in steps.items()
        for command, condition in commands
        if _makes_sense(made, side, command)
    ]
    if made["from"] == "images":
        ups = [{"on": s, "node": made[s]["name"], "command": f"replctl up {resource}", "only-if": "it is down"}
               for s in SIDES]
        found = ups + found
    gives_up = SIDES[loser] if loser is not None and name != "first-primary" else None
    return {"way": name, "text": text, "gives-up": gives_up, "steps": found}


def _makes_sense(made: Mapping[str, Any], side: int, command: str) -> bool:
    """What is known of this node's own state needs no `only if`."""
    if side == 0 and made["from"] == "live":
        if command.startswith("replctl disconnect"):
            return bool(made["connection"] != "StandAlone")
        if command.startswith("replctl secondary"):
            return bool(made[SIDES[0]]["role"] == Role.PRIMARY.label)
    return True
