# SPDX-License-Identifier: GPL-2.0-or-later
"""The oracle's memory: writes, and for each node which of them its disk may hold and which it must."""

from __future__ import annotations

DISCARDING = frozenset({
    "discard-younger-primary", "discard-older-primary", "discard-least-changes", "discard-local", "discard-remote",
    "consensus", "discard-secondary", "call-pri-lost-after-sb", "violently-as0p",
})  # fmt: skip
"""Policies by which a configuration allows acknowledged writes to be discarded; discard-zero-changes does not."""


class Mark:
    """One write, trim or zeroing. Its sectors carry `number` (0: zeroes)."""

    __slots__ = (
        "acked", "advice", "durable", "first", "link", "node", "number", "refused", "sectors", "submitted", "unsure",
        "weak",
    )  # fmt: skip

    def __init__(self, node: str, number: int, first: int, sectors: int, submitted: int) -> None:
        self.node = node
        self.number = number
        self.first = first
        self.sectors = sectors
        self.submitted = submitted
        self.acked: int | None = None
        self.advice = False
        """TRIM: what it reads back is nobody's promise."""
        self.weak = False
        """Acknowledged under A or B while connected: a peer that takes over may lack it."""
        self.link = -1
        """When the connection began in which it was acknowledged."""
        self.durable: set[str] = set()
        self.unsure: set[str] = set()
        """Nodes whose disk failed a flush with it."""
        self.refused: set[str] = set()
        """Nodes whose disk refused (some of) it before it was acknowledged."""

    def __repr__(self) -> str:
        weak = " weak" if self.weak else ""
        return f"w{self.number}@{self.node} sectors {self.first}+{self.sectors} t{self.submitted}..{self.acked}{weak}"


class Ledger:
    """What one node's disk may and must hold."""

    def __init__(self) -> None:
        self.at: dict[int, list[Mark]] = {}
        self.acked: set[Mark] = set()
        self.stood: set[Mark] = set()
        """Answered with the peer's copy, while the disk that had been given up held it too."""
        self.had: set[Mark] = set()
        """What it held before it lost its power, and nobody had counted on."""
        self.forgiven: set[Mark] = set()
        """Not held here, and whoever follows this node may lose them too."""
        self.dropped: set[Mark] = set()
        """Lost here by a power loss as Secondary: forgiven once this node is promoted alone."""
        self.received: dict[Mark, int] = {}
        """Protocol B: the process of this life has them."""
        self.void = False
        """Inconsistent: half of something else."""
        self.given_up = -1
        """When that was ordered, without the peer (`invalidate`, create-md)."""
        self.gave_up: set[Mark] = set()
        """What it had to hold until then."""
        self.whole: tuple[set[Mark], int] | None = None
        """A target on whose disk nothing of the resync was written yet: what it must hold if it comes back whole."""
        self.synced_since = 0
        self.promoted = -1
        """Alone."""
        self.agreed = -1
        """When it began a generation for a peer that wanted to be promoted on its copy."""
        self.judged_from: int | None = None
        """Promoted alone, and not yet answered: protocol A's prefix is judged from here on."""
        self.promoting: tuple[bool, object] | None = None
        """Promoted, and not yet answered: whether on its own disk, and that disk or the peer's."""
        self.forced = -1
        self.met = -1
        """When its present connection began, as it sees it."""
        self.peer_good = -1
        """When it last began to take the peer's disk for UpToDate."""
        self.died = -1
        self.lost_power = -1
        self.failed_apart = False
        self.lost_cache = -1
        """When its disk was opened again after a flush that had failed without the peer (`failed_apart`)."""
        self.dropped_cache: set[Mark] = set()
        """What was lost then."""
        self.failed_connected = -1
        """When its disk failed while it took itself for connected: the peer's copy served alone from then on."""
        self.flushes: list[tuple[int, int]] = []
        """When its flushes were handed in and answered."""
        self.refused_flushes: list[tuple[int, int]] = []
        """Those that were answered with an error."""
        self.untold: set[Mark] = set()
        """Lost with this disk and the connection, while the application goes on: a flush must tell it."""
        self.alone_at_failure = False
        """When its disk stopped to count last, by a failure or by order, it was its Primary's alone."""
        self.flush_failed = -1
        self.failed_ms = -1
        """When a flush of its disk failed last."""
        self.answered = -1
        """When something was last answered with yes."""
        self.became_good = -1
        """When it last became UpToDate by a resync."""
        self.only_in_memory = False
        """It called itself UpToDate when it died."""
        self.disk_failed = False
        self.only_a_read = False
        """That it failed, and nothing else did: whatever it had taken is still there."""
        self.metadata_failed = False
        self.untellable = False
        """Its metadata could not be written: what its disk lacks since then only the peer can know of."""
        self.unnoticed: set[Mark] = set()
        """Lost then; a policy that counts changes goes wrong, too."""

    def may(self, mark: Mark) -> None:
        for sector in range(mark.first, mark.first + mark.sectors):
            marks = self.at.setdefault(sector, [])
            if mark not in marks:
                marks.append(mark)

    def merge(self, other: Ledger) -> None:
        for sector, marks in other.at.items():
            mine = self.at.setdefault(sector, [])
            mine.extend(m for m in marks if m not in mine)

    def worthless(self) -> None:
        """Whatever stands on this disk, nobody is to build on it."""
        self.void = True
        self.given_up, self.gave_up = -1, set()
        self.acked = set()
        self.received.clear()

    def ordered_away(self, when: int) -> None:
        """The same, by order, and the peer is not there to hear of it."""
        held = self.acked
        if self.void:
            when, held = self.given_up, self.gave_up
        self.worthless()
        self.given_up, self.gave_up = when, held

    def offered(self, since: int) -> tuple[bool, set[Mark]]:
        """Is it worth nothing, and what must it hold, to a peer whose connection began then?

        What was ordered here since, while this node was out of that connection, the peer does not know: what still
        comes to it was sent before.
        """
        if self.void and self.given_up > since:
            return False, self.gave_up
        return self.void, self.acked

    def adopt(self, other: Ledger) -> None:
        self.at = {sector: list(marks) for sector, marks in other.at.items()}
        self.forgiven = set(other.forgiven)
        self.dropped, self.unnoticed, self.stood = set(), set(), set()
        self.void = self.disk_failed = self.metadata_failed = self.untellable = False
        self.whole = None


def sorted_marks(marks: set[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda m: m.submitted)[:4]
