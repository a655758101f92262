# SPDX-License-Identifier: GPL-2.0-or-later
"""Our answer to the peer's P_STATE_CHG_REQ and P_CONN_ST_CHG_REQ."""

from __future__ import annotations

from typing import NamedTuple

from replblock.state.codes import Code
from replblock.state.packed import State, apply_mask, mirror_request
from replblock.state.transitions import Rules, check, sanitize


class Reply(NamedTuple):
    """What to send back, why, and the state to take on (None: nothing changes)."""

    code: Code
    rule: str
    state: State | None = None


OUTCOMES: dict[str, str] = {
    "own-change-first": "This node has a change of its own in flight and is the tie-breaker: the peer tries again.",
    "not-while-handshaking": "The handshake is under way: the peer tries again.",
    "request-makes-no-sense": "The peer asked for a state that cannot be asked for.",
    "already-so": "There is nothing to change.",
    "request-accepted": "The change is allowed by this node's rules.",
}


def reply_to_request(
    own: State,
    mask: int,
    val: int,
    rules: Rules,
    *,
    own_change_in_flight: bool = False,
    resolve_conflicts: bool = False,
) -> Reply:
    """Answer a request given in the peer's view. A refusal changes nothing; `rule` names what stood against it."""
    if own_change_in_flight and resolve_conflicts:
        return Reply(Code.CONCURRENT_ST_CHG, "own-change-first")
    if rules.handshaking:
        return Reply(Code.IN_TRANSIENT_STATE, "not-while-handshaking")
    try:
        wanted = apply_mask(own, *mirror_request(mask, val))
    except ValueError:
        return Reply(Code.NOT_SUPPORTED, "request-makes-no-sense")
    new = sanitize(own, wanted, rules)
    if new == own:
        return Reply(Code.NOTHING_TO_DO, "already-so")
    refusal = check(own, new, rules)
    if refusal is not None:
        return Reply(refusal.code, refusal.rule)
    return Reply(Code.SUCCESS, "request-accepted", new)
