# SPDX-License-Identifier: GPL-2.0-or-later
"""Every named rule of this room with its one-sentence explanation, for logs, `status --verbose` and `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from replblock.state import (
    attach,
    handlers,
    handshake,
    losses,
    peer,
    promotion,
    requests,
    safety,
    sanitizing,
    splitbrain,
    transitions,
    uuids,
)


class Explained(Protocol):
    """A row of any table."""

    @property
    def name(self) -> str: ...

    @property
    def explain(self) -> str: ...


class RuleText(NamedTuple):
    """A rule's name, the table it stands in, and what it means."""

    name: str
    table: str
    text: str
    number: int | None = None       # DRBD's own, where it has one


OTHER: dict[str, str] = {"dry-run": "Only rehearsed (connect --dry-run): the connection ends without any change."}


def _rows() -> Iterator[RuleText]:
    for row in uuids.RULES:
        yield RuleText(row.name, "uuid-comparison", row.explain, row.number)
    tables: tuple[tuple[str, Iterable[Explained]], ...] = (
        ("handshake", handshake.STEPS),
        ("after-sb-0pri", (row for rows in splitbrain.AFTER_SB_0PRI.values() for row in rows)),
        ("safety", safety.SAFETY_RULES),
        ("left-over-bits", safety.DIRECTIONS),
        ("implied", sanitizing.ADJUSTMENTS),
        ("connection-step", transitions.CONNECTION_RULES),
        ("state", transitions.STATE_RULES),
        ("step", transitions.STEP_RULES),
        ("consent", transitions.CONSENT_RULES),
        ("peers-report", peer.REPORT_RULES),
        ("handshake-start", peer.HANDSHAKE_RULES),
        ("attach", attach.DISK_RULES),
        ("new-generation", losses.MINT_RULES),
        ("fencing", (*losses.FENCE_EXITS.values(), losses.PEER_DOWN_UNSURE, losses.FENCE_BROKEN)),
        ("io-error", losses.IO_ERRORS),
        ("promotion", promotion.REMEDIES),
    )
    for table, rows in tables:
        for item in rows:
            yield RuleText(item.name, table, item.explain)
    rr_conflict = {f"rr-conflict-{word}": text for word, text in handshake.RR_CONFLICT.items()}
    texts: tuple[tuple[str, dict[str, str]], ...] = (
        ("uuid-comparison", uuids.TOO_OLD),
        ("split-brain", splitbrain.OUTCOMES),
        ("rr-conflict", rr_conflict),
        ("safety", safety.OUTCOMES),
        ("peers-report", peer.TAKE_OVER_OUTCOMES),
        ("request", requests.OUTCOMES),
        ("attach", attach.SET_ALL_BITS),
        ("wait", attach.WAITS),
        ("new-generation", losses.SETTLINGS),
        ("other", OTHER),
    )
    for table, words in texts:
        for name, text in words.items():
            yield RuleText(name, table, text)


RULES: dict[str, RuleText] = {row.name: row for row in _rows()}
HANDLERS: dict[str, str] = {row.name: row.explain for row in handlers.RULES}


def describe(name: str) -> str:
    """One sentence about a rule. KeyError for a name no table has: names in logs come from these tables only."""
    return RULES[name].text


def describe_all(names: Iterable[str]) -> list[str]:
    """`name: sentence` for each, in the order given; what a Decision's `rules` turn into under `explain`."""
    return [f"{name}: {describe(name)}" for name in names]
