# SPDX-License-Identifier: GPL-2.0-or-later
"""What the simulator's oracle remembers, and whether a disk carries what its ledger says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.core.requests import Request
from replblock.state.names import Role
from tests.sim.ledger import Ledger, Mark

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.world import Sim

SECTOR = 512


class Broken(AssertionError):
    """A promise is broken."""


class Watch:
    """The ledgers, and disks held against them."""

    def __init__(self, sim: Sim, protocol: str) -> None:
        self.sim = sim
        self.protocol = protocol
        self.clock = 0
        self.numbers = 0
        self.ledgers: dict[str, Ledger] = {}
        self.pending: dict[int, tuple[Request, Any, Node, int, Any]] = {}
        self.rules: set[str] = set()
        self.sectors: set[int] = set()
        self.forcing: set[str] = set()
        self.gives_up: set[str] = set()
        """Nodes whose operator ordered their data away."""
        self.asked: set[tuple[str, int, int]] = set()
        """Orders to be Primary, node, life and number, that are not answered yet, or will never be."""
        self.decisions: dict[str, tuple[Any, Any]] = {}
        self.last_role: dict[str, Role] = {}
        self.seen: dict[str, Any] = {}
        self.met_life: dict[str, int] = {}
        """With which life of its peer a node is connected."""
        self.last_decision: dict[str, Any] = {}

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def ledger(self, node: Node) -> Ledger:
        return self.ledgers[node.name]

    def fail(self, invariant: int, text: str) -> None:
        raise Broken(f"invariant {invariant}: {text}")

    def fits(self, marks: list[Mark], found: int, floor: int) -> bool:
        """A write that was answered before a promised one was submitted is older than it."""
        return any(m.number == found and (m.acked is None or m.advice or m.acked > floor) for m in marks)

    def holds(self, node: Node, mark: Mark) -> bool:
        """Does the disk carry this write, or something that is not older?"""
        at = self.ledger(node).at
        sectors = range(mark.first, mark.first + mark.sectors)
        for sector, found in zip(sectors, node.platter.stamps(sectors), strict=True):
            if not self.fits(at.get(sector, []), found, mark.submitted):
                return False
        return True

    def shows(self, node: Node, mark: Mark) -> bool:
        """Does what the disk carries prove that this write arrived?

        Zeroes may be older than every write, even where a trim or zeroing would be newer; and so may a write of an
        earlier life that nobody was answered: it could have come later only while its application lived.
        """
        at = self.ledger(node).at
        sectors = range(mark.first, mark.first + mark.sectors)
        return all(
            found and any(m.number == found and m.submitted >= mark.submitted for m in at.get(sector, []))
            for sector, found in zip(sectors, node.platter.stamps(sectors), strict=True)
        )

    def marked(self, node: Node, mark: Mark) -> bool:
        """Is every block of it marked as different, on one of the nodes?"""
        bitmaps = [n.resource.meta.bitmap for n in (node, node.peer) if n.on and n.resource.meta is not None]
        blocks = range(mark.first // 8, (mark.first + mark.sectors + 7) // 8)
        return all(any(bitmap.count_range(b, b + 1) for bitmap in bitmaps) for b in blocks)

    def check(self, node: Node, what: str) -> None:
        """The disk holds what it must, and nothing it may not."""
        ledger = self.ledger(node)
        if ledger.void:
            return
        self.compare(ledger, self.sectors, node.platter.stamps(self.sectors), f"{node.name}: {what}")

    def compare(self, ledger: Ledger, sectors: Any, stamps: list[int], what: str, before: int | None = None) -> None:
        for sector, found in zip(sectors, stamps, strict=True):
            marks = ledger.at.get(sector, [])
            floor = max((m.submitted for m in marks if m in ledger.acked and not m.advice
                         and (before is None or (m.acked or 0) < before)), default=0)  # fmt: skip
            if not floor and not found:
                continue
            if not self.fits(marks, found, floor):
                known = any(m.number == found for m in marks)
                text = "an outdated write" if known else "a write that does not belong there"
                self.fail(1 if known else 6, f"{what}: sector {sector} carries {text}, {found}; ledger {marks}")
