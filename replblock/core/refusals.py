# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator reads when two nodes part again: one line, that ends with the commands which lead on."""

from __future__ import annotations

from replblock.state.names import Role
from replblock.state.packed import State
from replblock.state.policies import Decision

# Rule of the decision -> what to run; {r} is the resource.
WAYS_OUT: dict[str, str] = {
    "unrelated-data-refused": "to overwrite one of the disks, run there: replctl down {r}; replctl create-md --force "
                              "{r}; replctl up {r}; and on the other: replctl connect {r}",
    "rr-conflict-disconnect": "the Primary would lose its data to the peer; to let it, run there: replctl secondary "
                              "{r}; replctl connect {r}",
    "rr-conflict-call-pri-lost": "the Primary would lose its data to the peer; to let it, run there: replctl secondary "
                                 "{r}; replctl connect {r}",
    "stale-side-never-source": "to give up the data of one node, run there: replctl invalidate {r}; then on both: "
                               "replctl connect {r}",
    "outdated-with-bits-left": "run on the Outdated node: replctl invalidate {r}; then on both: replctl connect {r}",
    "inconsistent-cannot-be-source": "neither disk is good; run on the better one: replctl primary --force {r}; "
                                     "replctl connect {r}",
    "nobody-can-be-source": "neither disk is good; run on the better one: replctl primary --force {r}; "
                            "replctl connect {r}",
    "dry-run": "to do it, run on both nodes: replctl connect {r}",
}
SPLIT_BRAIN = (
    "see: replctl explain {r}; to give up the changes of one node, run there: replctl connect --discard-my-data {r}; "
    "and on the other: replctl connect {r}"
)
SPLIT_BRAIN_AS_PRIMARY = (
    "see: replctl explain {r}; to give up the changes of one node, run there: replctl secondary {r}; "
    "replctl connect --discard-my-data {r}; and on the other: replctl connect {r}"
)

LET_GENERATIONS_DECIDE = (
    "this node's users work on the peer's data, and this disk would overwrite it; to let it, run: replctl secondary "
    "{r}; replctl attach {r}"
)
GIVE_UP_DISK = (
    "to give up the disk's data, run: replctl secondary {r}; replctl disconnect {r}; replctl attach {r}; replctl "
    "connect --discard-my-data {r}"
)


def refusal_text(decision: Decision, name: str, role: Role = Role.SECONDARY) -> str:
    """Why this connection was refused, and what to run; `name` is the resource."""
    if decision.split_brain and not decision.dry_run and decision.rule not in WAYS_OUT:
        way = SPLIT_BRAIN_AS_PRIMARY if role == Role.PRIMARY else SPLIT_BRAIN
        return f"Split-Brain detected but unresolved, dropping connection! {decision.text}; {way.format(r=name)}"
    before = "Unrelated data, aborting! No generation in common; " if "unrelated" in decision.rule else ""
    way = WAYS_OUT.get(decision.rule, "run: replctl connect {r}")
    return f"{before}{decision.text}; {way.format(r=name)}"


def attach_refusal_text(decision: Decision, name: str) -> str:
    """Why the disk that came while connected does not stay, and what to run to give up its data."""
    way = GIVE_UP_DISK.format(r=name)
    if decision.rule == "served-data-stays":
        way = f"{LET_GENERATIONS_DECIDE.format(r=name)}; {way}"
    return f"the peer's data does not go with this disk: {decision.text}; the attach was undone; {way}"


def state_refusal_text(own: State, report: State, rule: str, name: str) -> str:
    """The generations would have fitted, the states do not."""
    if own.role == report.role == Role.PRIMARY:
        return f"both nodes are Primary, and only one may be (rule {rule}); {SPLIT_BRAIN_AS_PRIMARY.format(r=name)}"
    return (
        f"the peer's state does not fit ours (rule {rule}): here {own.role.label} {own.disk.label}, peer "
        f"{report.role.label} {report.disk.label}; see: replctl status {name}; then: replctl connect {name}"
    )
