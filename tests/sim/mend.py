# SPDX-License-Identifier: GPL-2.0-or-later
"""The patient operator: heals what is broken and brings both nodes together again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblock.state.names import Conn, Disk, Role
from tests.sim.disk import fresh_metadata

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.play import Player

ROUND_MS = 4000


class Mender:
    """Looks, does the next sensible thing, waits, looks again."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.sim = player.sim

    def together(self) -> bool:
        """Connected, UpToDate, nothing under way."""
        for node in self.sim.nodes:
            if not node.on or node.busy_until > self.sim.now:
                return False
            state = node.state
            if state.conn != Conn.CONNECTED or not state.disk == state.pdsk == Disk.UP_TO_DATE:
                return False
        if self.player.oracle.pending:
            return False
        for node in self.sim.nodes:
            r = node.resource
            if not r.is_idle() or not r.primary.log.empty or r.meta is None or r.meta.bitmap.count:
                return False
            if node.port is not None and node.port.meta_queue:
                return False
        return True

    def heal(self) -> None:
        """Network and machines work as they should."""
        sim = self.sim
        sim.network.cut = set()
        sim.network.delay_ms = self.player.history.setup.get("delay_ms", 2)
        sim.network.kick()
        for node in sim.nodes:
            node.fuse = None
            node.watchers = []
            if node.busy_until > sim.now + 100:
                node.busy_until = sim.now + 100
                sim.at(node.busy_until, node.resume, node.life)
            self.player.do_repair(node, None)

    def mend(self, solve: bool, most_rounds: int, must: bool = True) -> None:
        """Until both are together; `solve` says that split brains are decided."""
        self.heal()
        for number in range(most_rounds):
            if number > 12:
                self.heal()
            for node in self.sim.nodes:
                self._node(node, number)
            if solve:
                self._split_brain(number)
            if number >= 3:
                self._stuck(number, solve)
            if self.sim.run_until(self.together, ROUND_MS):
                return
        if must:
            raise AssertionError("they never came together again: " + "; ".join(map(inside, self.sim.nodes)))

    def _node(self, node: Node, number: int) -> None:
        player = self.player
        if not node.on:
            player.do_up(node, None)
            return
        state = node.state
        if state.user_isp:
            player.command(node, "resume_sync", {})
        if node.resource.meta is None:
            why = node.resource.reasons
            if why and why[-1]["rule"].startswith("own-attach-") and state.conn == Conn.CONNECTED and number % 4 == 3:
                for verb in ("secondary", "disconnect"):  # its disk was refused: only a new connection lets it give up
                    player.command(node, verb, {})
                    self.sim.run(500)
            if number < 20 or node is self.sim.nodes[number % 2]:  # two disks that refuse each other: one at a time
                player.command(node, "attach", {})
        if state.conn == Conn.STANDALONE and number % 3 == 0:
            player.command(node, "connect", {})

    def _split_brain(self, number: int) -> None:
        """Both stay StandAlone: one gives up its data."""
        if number % 3 != 2:
            return
        nodes = [n for n in self.sim.nodes if n.on and n.state.conn == Conn.STANDALONE]
        if not nodes:
            return
        if len(nodes) == 1:
            self.player.command(nodes[0].peer, "disconnect", {})
            self.sim.run(500)
        a, b = self.sim.nodes
        for node in (a, b):
            if not node.on or node.state.conn != Conn.STANDALONE:
                return
        worth = lambda n: (n.state.disk, n.state.role == Role.PRIMARY)  # noqa: E731
        victim = a if worth(a) < worth(b) else b
        if number % 2:  # towards a peer that does not know our safety rules only one order of the two is obeyed
            victim = victim.peer
        if victim.state.disk == Disk.OUTDATED and number % 4 > 1:
            self.player.command(victim, "invalidate", {})
            self.sim.run(100)
            self.player.command(victim, "connect", {})
            self.player.command(victim.peer, "connect", {})
            return
        rules = [n.resource.reasons[-1]["rule"] for n in nodes if n.resource.reasons]
        if "unrelated-data-refused" in rules and number > 3:
            self._create_metadata(victim)
            return
        if victim.state.role == Role.PRIMARY:
            self.player.command(victim, "secondary", {})
            if self.sim.run_until(lambda: not victim.on or victim.state.role != Role.PRIMARY, 500) and victim.on:
                pass
            else:
                victim.die(False)
                return
        self.player.command(victim, "connect", {"discard_my_data": True})
        self.player.command(victim.peer, "connect", {})

    def _create_metadata(self, victim: Node) -> None:
        """What the refusal of unrelated data names: down, create-md --force, up."""
        victim.die(False)
        victim.platter.meta = fresh_metadata(victim.platter.geometry, True)
        self.player.oracle.metadata_created(victim)
        self.player.do_up(victim, None)
        self.player.command(victim.peer, "connect", {})

    def _stuck(self, number: int, solve: bool) -> None:
        """States that only an order or a restart ends."""
        player = self.player
        a, b = self.sim.nodes
        if not (a.on and b.on):
            return
        for node in (a, b):
            state = node.state
            if state.conn != Conn.CONNECTED:
                if state.disk < Disk.INCONSISTENT and state.conn <= Conn.WF_CONNECTION and number % 4 == 3:
                    node.die(False)  # a diskless node that its peer does not want back as it is
                continue
            if state.disk == Disk.INCONSISTENT and state.pdsk == Disk.UP_TO_DATE:
                player.command(node, "invalidate", {})
            elif state.disk < Disk.UP_TO_DATE and state.pdsk < Disk.UP_TO_DATE and solve:
                first = b if b.state.role == Role.PRIMARY else a
                if state.disk > state.pdsk or (state.disk == state.pdsk and node is first):
                    player.command(node, "primary", {"force": True})
            elif state.disk == state.pdsk == Disk.UP_TO_DATE and node.resource.meta is not None:
                if node.resource.meta.bitmap.count and not player.oracle.pending and solve and number % 4 == 3:
                    loser = node if state.role == Role.SECONDARY else node.peer
                    player.command(loser, "invalidate", {})
                    return
            elif state.disk == Disk.OUTDATED and state.pdsk == Disk.UP_TO_DATE:
                player.command(node, "invalidate", {})
        if solve and number > 5:
            for node in (a, b):
                state = node.state
                if state.conn < Conn.CONNECTED and Disk.INCONSISTENT <= state.disk < Disk.UP_TO_DATE:
                    if not any(n.state.disk == Disk.UP_TO_DATE for n in (a, b)) and number % 5 == 1:
                        player.command(node, "primary", {"force": True})
                        return


def inside(node: Node) -> str:
    """What keeps a node busy."""
    if not node.on:
        return f"{node.name} is off"
    r = node.resource
    p = r.primary
    bits = r.meta.bitmap.count if r.meta else None
    return (
        f"{node.name} {r.state.role.label} {r.state.conn.label} {r.state.disk.label}/{r.state.pdsk.label} "
        f"frozen {p.frozen} idle {r.is_idle()} log {not p.log.empty} bits {bits} "
        f"why {r.reasons[-1]['rule'] if r.reasons else ''} "
        f"metadata {node.port is not None and len(node.port.meta_queue)} parked {len(p._parked)} held {len(p._held)}"
    )
