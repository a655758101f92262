# SPDX-License-Identifier: GPL-2.0-or-later
"""What two data sets mean to each other, as one table: who decides, who would be the source, what would be lost.

Works from facts: the table `replblock-generations` of a running node's status, or what `replctl explain --images`
read from two metadata sets. Keys of a fact table: here, there (a node each, or none), blocks, version,
peer-is-replblock, rule-41-feature, options. The keys of the result are described in docs/explain.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from replblock.state.attach import MDF_CONSISTENT, MDF_LOST_WRITES, MDF_WAS_UP_TO_DATE, MDF_WENT_ON_ALONE, attach
from replblock.state.describe import describe
from replblock.state.forecast import (
    OPTIONS,
    ROLES,
    Forecast,
    Loss,
    Outcome,
    Party,
    Row,
    Terms,
    by_policy,
    forecast,
    if_peer_wrote,
    losses,
)
from replblock.state.generations import Generations
from replblock.state.handshake import Policies
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.uuids import FEATURE_WSAME, NEWEST_VERSION
from replblock.status import remedies

SCHEMA = "replblock-explain/1"
BLOCK_BYTES = 4096
HERE, THERE = "here", "there"
SIDES = (HERE, THERE)

Facts = Mapping[str, Any]
Explanation = dict[str, Any]


def party_of(node: Mapping[str, Any]) -> Party:
    """A node of a fact table as the rules want it."""
    role = Role.from_label(node["role"]) if node["role"] else Role.SECONDARY
    return Party(
        Generations(*(int(uuid, 16) for uuid in node["uuids"])),
        node["marked-blocks"],
        Disk.from_label(node["disk"]),
        Role.SECONDARY if role == Role.UNKNOWN else role,
        node["crashed-primary"],
        bool(node.get("discard-my-data")),
        bool(node.get("in-use")),
        bool(node.get("went-on-alone")),
        bool(node.get("lost-writes")),
    )


def terms_of(facts: Facts) -> Terms:
    """What both nodes agreed upon, or what two present nodes of ours would."""
    options = facts["options"] or {}
    policies = Policies(
        options.get(OPTIONS[0], "disconnect"), options.get(OPTIONS[1], "disconnect"),
        options.get(OPTIONS[2], "disconnect"), bool(options.get("always-asbp")),
        options.get("rr-conflict", "disconnect"),
    )
    return Terms(
        policies,
        bool(options.get("allow-two-primaries")),
        facts["version"] or NEWEST_VERSION,
        0 if facts["rule-41-feature"] is False else FEATURE_WSAME,
        facts["peer-is-replblock"] is not False,
    )


def explain(facts: Facts, resource: str, origin: str, state: Mapping[str, Any] | None = None) -> Explanation:
    """The whole explanation. `origin`: live or images; `state`: connection and decisions of a running node."""
    state = state or {}
    made: Explanation = {
        "schema": SCHEMA,
        "resource": resource,
        "from": origin,
        "connection": state.get("connection", ""),
        "decisions": list(state.get("decisions", ())),
        "blocks": facts["blocks"],
        HERE: _node(facts[HERE]),
        THERE: _node(facts[THERE]),
        "options": facts["options"],
        "forecast": None,
        "policies": [],
        "ways-out": [],
        "notes": list(facts.get("notes", ())),
    }
    unknown = _cannot_tell(facts)
    if unknown:
        made["notes"].insert(0, unknown)
        return made
    mine, peers, terms = party_of(facts[HERE]), party_of(facts[THERE]), terms_of(facts)
    there = facts[THERE]
    lost_primary = (origin == "live" and _from_memory(there) and peers.role == Role.PRIMARY
                    and there["heard-ms"] <= there["not-before-ms"])    # else a handshake has told more since
    if lost_primary and mine.role == Role.PRIMARY and not terms.two_primaries:
        peers = peers._replace(role=Role.SECONDARY)
        made["notes"].append("The peer was Primary when the nodes parted, and this node is now: taken as if the peer "
                             "comes back as Secondary. If it is still Primary, the connection is refused.")
    found = forecast(mine, peers, terms)
    made["forecast"] = _forecast(found, mine, peers, facts)
    if lost_primary:
        made["forecast"]["if-peer-wrote"] = _if_peer_wrote(mine, peers, terms)
    for side, loss in zip(SIDES, losses(mine, peers, found.verdict)):
        made[side]["loses"] = _loss(loss, facts["blocks"])
    if found.outcome.mine.split_brain:
        roles = ROLES if origin == "images" else ((mine.role, peers.role),)
        made["policies"] = [_row(row) for one in roles for row in by_policy(mine, peers, terms, one)]
    made["ways-out"] = remedies.ways_out(mine, peers, terms, found, made)
    made["notes"] += _notes(facts, found)
    return made


def _cannot_tell(facts: Facts) -> str:
    here, there = facts[HERE], facts[THERE]
    if here is None:
        return "This node has no disk attached: there are no generations to compare."
    if there is None:
        return "The peer's generations are not known: it was not connected since this engine started."
    if Disk.from_label(there["disk"]) < Disk.INCONSISTENT:
        return f"The peer has no disk to compare with (it is {there['disk']})."
    if Disk.from_label(here["disk"]) < Disk.INCONSISTENT:
        return f"The disk here is not in use yet (it is {here['disk']})."
    return ""


def _from_memory(there: Mapping[str, Any]) -> bool:
    """Is this what was heard of the peer before the nodes parted, and not the peer itself?"""
    return bool(there.get("heard-ms") and there.get("not-before-ms"))


def _node(node: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if node is None:
        return None
    blank = {"heard-ms": None, "since-ms": None, "not-before-ms": None, "flags-known": True, "loses": None}
    return {**blank, **node, "marked-bytes": node["marked-blocks"] * BLOCK_BYTES}


def _forecast(found: Forecast, mine: Party, peers: Party, facts: Facts) -> dict[str, Any]:
    verdict = found.verdict
    primaries = (mine.role, peers.role).count(Role.PRIMARY)
    options = facts["options"]
    return {
        "rule": verdict.rule,
        "drbd-rule": verdict.number,
        "drbd-result": verdict.drbd_result,
        "meaning": describe(verdict.rule),
        "peers-rule": verdict.peers_rule,
        "split-brain": found.outcome.mine.split_brain,
        "primaries": primaries,
        "policy": {"option": OPTIONS[primaries], "value": options[OPTIONS[primaries]] if options else None},
        "outcome": _outcome(found.outcome),
        "otherwise": _outcome(found.otherwise) if found.otherwise is not None else None,
        "if-peer-wrote": None,
    }


def _if_peer_wrote(mine: Party, peers: Party, terms: Terms) -> dict[str, Any]:
    """Two outcomes where it would depend on how much it wrote (or on chance)."""
    little, much = if_peer_wrote(mine, peers, terms)
    others = [one for one in (little.otherwise, much.outcome, much.otherwise) if one and not one.like(little.outcome)]
    return {
        "rule": little.verdict.rule,
        "outcome": _outcome(little.outcome),
        "otherwise": _outcome(others[0]) if others else None,
    }


WHAT = {None: "no-connection", 0: "connected", 1: "sync-from-here", -1: "sync-to-here"}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    """`refused-by`: who ends the connection; `discards`: whose changes a solved split brain gives up."""
    steps = outcome.mine.rules if outcome.refused_here or not outcome.refused_there else outcome.peers.rules
    kept = (outcome.mine.left_over_kib * 1024 // BLOCK_BYTES) if outcome.mine.keep_bits else 0
    return {
        "what": WHAT[outcome.direction],
        "rule": outcome.rule,
        "meaning": describe(outcome.rule),
        "rules": list(dict.fromkeys([*steps, outcome.rule])),
        "full-sync": outcome.full_sync,
        "discards": {-1: HERE, 1: THERE}.get(outcome.loser),
        "refused-by": [side for side, no in zip(SIDES, (outcome.refused_here, outcome.refused_there)) if no],
        "gives-up-primary": [s for s, d in zip(SIDES, (outcome.mine, outcome.peers)) if d.demote],
        "stays-marked-blocks": kept,
    }


def _loss(loss: Loss, blocks: int) -> dict[str, Any]:
    """bound none, at-most, at-least or everything; `blocks` beside everything is the size of the device."""
    count = blocks if loss.blocks is None else loss.blocks
    return {"bound": loss.bound, "blocks": count, "bytes": count * BLOCK_BYTES}


def _row(row: Row) -> dict[str, Any]:
    primary = [side for side, role in zip(SIDES, row.roles) if role == Role.PRIMARY]
    return {
        "primary": primary,
        "option": OPTIONS[row.primaries],
        "value": row.value,
        "after-sb-0pri": row.zero or None,
        "outcome": _outcome(row.forecast.outcome),
        "otherwise": _outcome(row.forecast.otherwise) if row.forecast.otherwise is not None else None,
    }


def _notes(facts: Facts, found: Forecast) -> Iterator[str]:
    if found.otherwise is not None:
        yield ("Chance decides between the two outcomes: which of the nodes opens the second of the two TCP "
               "connections.")
    decision = found.outcome.mine
    if decision.drbd_conn != decision.conn and facts["peer-is-replblock"] is not False:
        end = _drbd(decision.drbd_result, decision.drbd_conn)
        yield f"Between two DRBD 8.4 kernels it would go differently: {end} (rule {decision.drbd_rule})."
    there = facts[THERE]
    if _from_memory(there):
        yield "The peer is taken as it was last heard of; what it did since then is not known here."


def _drbd(result: int, conn: int) -> str:
    if conn < Conn.CONNECTED:
        return "no connection"
    return {0: "connected without resync"}.get(result, "resync from here" if result > 0 else "resync to here")


def node_of_metadata(
    name: str, uuids: tuple[int, ...], flags: int, marked: int, blocks: int, fencing: str, flags_known: bool = True
) -> dict[str, Any]:
    """A node of a fact table from metadata of a node that is down: as an attach would take it."""
    if not flags_known:
        flags = MDF_CONSISTENT | MDF_WAS_UP_TO_DATE
    down = State(Role.SECONDARY, Role.UNKNOWN, Conn.STANDALONE, Disk.DISKLESS, Disk.DUNKNOWN)
    found = attach(flags, down, fencing=fencing)
    return {
        "name": name,
        "uuids": [f"{uuid:016X}" for uuid in uuids],
        "marked-blocks": blocks if found.set_all_bits else marked,
        "disk": found.disk.label,
        "role": Role.SECONDARY.label,
        "crashed-primary": found.crashed_primary,
        "went-on-alone": bool(flags & MDF_WENT_ON_ALONE),
        "lost-writes": bool(flags & MDF_LOST_WRITES),
        "flags-known": flags_known,
    }
