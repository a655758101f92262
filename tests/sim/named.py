# SPDX-License-Identifier: GPL-2.0-or-later
"""Short histories written by hand, each for certain rules of the handshake: how they are told, played and judged."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

from replblock.core.judging import Judged
from replblock.core.sync import Resync
from replblock.meta.superblock import Flag, Superblock
from replblock.state.handshake import RR_CONFLICT, STEPS
from replblock.state.names import Conn, Disk, Role
from replblock.state.policies import Decision
from replblock.state.safety import DIRECTIONS, SAFETY_RULES
from replblock.state.safety import OUTCOMES as SAFETY_OUTCOMES
from replblock.state.splitbrain import AFTER_SB_0PRI, AFTER_SB_1PRI, AFTER_SB_2PRI, Split, after_sb
from replblock.state.splitbrain import OUTCOMES as POLICY_OUTCOMES
from replblock.state.uuids import RULES, TOO_OLD
from tests.sim.disk import fresh_metadata
from tests.sim.history import Event, History
from tests.sim.node import Node
from tests.sim.play import Player

SETUP: dict[str, Any] = {
    "blocks": 16, "ping_int_ms": 700, "connect_int_ms": 500, "delay_ms": 1, "slow_share": 0.0, "use_rle": False,
}  # fmt: skip
WAIT_MS = {
    "cut": 3000, "cut_one_way": 3000, "heal": 5000, "up": 5000, "connect": 4000, "discard": 4000, "tentative": 4000,
    "primary": 60, "force": 60, "attach": 500, "invalidate_remote": 500, "invalidate": 500,
}  # fmt: skip
SETTLE_MS = 10_000


class Named(NamedTuple):
    """A history, the rules it is told for, and how it must end.

    reaches: the rules it reaches, on one node or the other; the first decision by one of them is judged.
    events: "KIND NODE ARGUMENT @WAIT_MS, …"; {k} stands for the number of the try.
    end: "a" or "b": that node was the source, and its data is what both have now; "one": either was;
         "Connected": nothing was copied; "StandAlone": both parted, nobody's data changed; "StandAlone a": only a did;
         "undone a": a has no disk again, it is Connected still, and nobody's data changed.
    texts: what each parted node tells its operator, in part.
    tries: the history is played for k = 0, 1, … until it reaches the rules: the right moment is a matter of a packet.
    prepared: why no history leads there: then both disks begin with these generations and flags, not connected.
    """

    reaches: tuple[str, ...]
    events: str
    end: str
    setup: dict[str, Any] = {}
    texts: tuple[str, str] = ("", "")
    tries: int = 1
    prepared: str = ""
    disks: tuple[tuple[tuple[int, int, int, int], Flag], ...] = ()
    bits: tuple[int, int] = (0, 0)
    afterwards: str = ""
    """What the operator does next, where a patient one does not know."""

    @property
    def most_tries(self) -> int:
        """A node that parts may be gone before the other one heard why: then it only waits, and another try is due."""
        return self.tries * (40 if self.end == "StandAlone" else 1)

    @property
    def id(self) -> str:
        return self.reaches[0].replace(" ", "-")


class Seen(NamedTuple):
    """One decision of one node."""

    node: str
    keys: frozenset[str]
    decision: Decision
    content: bytes
    peers_content: bytes


def told(text: str, k: int, salt: int = 0) -> tuple[Event, ...]:
    """The events of a history as a table tells them."""
    made = []
    for number, part in enumerate(filter(None, (p.strip() for p in text.format(k=k).split(",")))):
        words = part.split()
        waits = [int(word[1:]) for word in words if word[0] == "@"]
        kind, node, *args = [word for word in words if word[0] != "@"]
        arg: Any = None
        if kind in ("write", "read"):
            first, _, count = args[0].partition("+")
            arg = (int(first) * 8, int(count or 1) * 8, False)
        elif kind == "fuse":
            arg = (int(args[0]), "power" in args)
        elif args:
            arg = int(args[0]) if args[0].isdigit() else args[0]
        wait_ms = waits[0] if waits else WAIT_MS.get(kind, 40)
        made.append(Event(kind, node, arg, wait_ms, 1000 * salt + 100 * k + number))
    return tuple(made)


# --- the rules ---

_OF_POLICIES = {row.name for rows in AFTER_SB_0PRI.values() for row in rows} | set(POLICY_OUTCOMES)
_LEFT_OVER = {row.name for row in DIRECTIONS} | {"bits-left-kept", "outdated-with-bits-left"}


def _rules_of(number: int) -> Iterable[str]:
    """What the policies for this many Primaries can say, by asking them about every small split brain."""
    values = (AFTER_SB_0PRI, AFTER_SB_1PRI, AFTER_SB_2PRI)[number]
    roles = {0: [Role.SECONDARY], 1: [Role.PRIMARY, Role.SECONDARY], 2: [Role.PRIMARY]}[number]
    yes_no, bits = (False, True), (0, 1, 2)
    splits = [Split(*row) for row in product(yes_no, yes_no, bits, bits, yes_no, roles, yes_no)]
    for value, without, split in product(values, AFTER_SB_0PRI, splits):
        policies = (value if number == 0 else without, value, value)
        yield f"after-sb-{number}pri {value}: {after_sb(number, policies, split).rules[-1]}"
    yield f"after-sb-{number}pri: policy-not-valid-here"


def every_rule() -> list[str]:
    """All names a history can be asked for; a policy's rules once for every policy that has them."""
    names = [row.name for row in RULES] + list(TOO_OLD) + [step.name for step in STEPS]
    names += [f"rr-conflict-{word}" for word in RR_CONFLICT] + ["always-asbp", "dry-run"]
    names += [rule.name for rule in SAFETY_RULES] + [row.name for row in DIRECTIONS] + list(SAFETY_OUTCOMES)
    names += [name for number in (0, 1, 2) for name in _rules_of(number)]
    return list(dict.fromkeys(names))


def keys_of(decision: Decision, primaries: int, policies: tuple[str, str, str]) -> Iterable[str]:
    """The rules this decision went by, as `every_rule` names them."""
    rules = decision.rules
    ruled = [rule for rule in rules if rule in _OF_POLICIES]
    yield from (rule for rule in rules if rule not in _OF_POLICIES)
    if ruled:
        yield "after-split-brain-policy"
        if ruled[-1] == "policy-not-valid-here":
            yield f"after-sb-{primaries}pri: policy-not-valid-here"
        else:
            yield f"after-sb-{primaries}pri {policies[primaries]}: {ruled[-1]}"
        if next((row.result for row in RULES if row.name == rules[0]), 0) == -100:
            yield "always-asbp"
    if "initial-split-brain" in decision.handlers:
        yield "split-brain-found"
    if rules[-1].startswith("rr-conflict"):
        yield "role-resync-conflict" if decision.drbd_rule == rules[-1] else "redirected-primary"
    if _LEFT_OVER & set(rules):
        yield "bits-left"
    if {"contradiction-full-sync", "contradiction-resolved-by-order"} & set(rules):
        yield "contradictory-generations"
    if decision.dry_run:
        yield "dry-run"


# --- playing ---


class Teller(Player):
    """Plays a named history and writes every decision down."""

    def __init__(self, named: Named, k: int, trace: bool = False) -> None:
        events = told(named.events, k % named.tries, k // named.tries)
        super().__init__(History({**SETUP, **named.setup}, events), trace)
        self.named = named
        self.seen: list[Seen] = []
        for node, (generations, flags), bits in zip(self.sim.nodes, named.disks, named.bits, strict=False):
            prepare(node, generations, flags, bits)
        if named.disks:
            self.sim.network.cut = {"a", "b"}

    def watch(self, resync: Any, decide: Any, report: Any, reaction: Any) -> Judged:
        """Instead of the handshake's decision: the same, and remembered."""
        r = resync._r
        node = self.sim.a if r.settings.node == "a" else self.sim.b
        primaries = (r.state.role == Role.PRIMARY) + (report.role == Role.PRIMARY)
        s = r.settings
        content = bytes(node.platter.content), bytes(node.peer.platter.content)
        judged: Judged = decide(resync, report, reaction)
        decision = judged.decision
        keys = frozenset(keys_of(decision, primaries, (s.after_sb_0pri, s.after_sb_1pri, s.after_sb_2pri)))
        self.seen.append(Seen(node.name, keys, decision, *content))
        return judged

    def tell(self, patch: Any) -> bool:
        """Play it, judge it; whether it reached its rules."""
        decide = Resync._decide
        patch.setattr(Resync, "_decide", lambda *args: self.watch(args[0], decide, *args[1:]))
        self.begin()
        for number, event in enumerate(self.history.events):
            self.event(number, event)
        wanted = set(self.named.reaches)
        if not wanted <= {key for seen in self.seen for key in seen.keys}:
            return False
        if self.named.end == "StandAlone" and any(n.state.conn != Conn.STANDALONE for n in self.sim.nodes):
            return False
        first = next(n for n, seen in enumerate(self.seen) if seen.keys & wanted)
        self._judge(self.seen[first])
        for number, event in enumerate(told(self.named.afterwards, 0)):
            self.event(number, event)
        self.finish()
        return True

    def _handler(self, node: Node, name: str) -> int:
        """`fence_exit`: what the handler fence-peer answers without doing anything."""
        code: int | None = self.history.setup.get("fence_exit")
        return super()._handler(node, name) if code is None else code

    def do_blank(self, node: Node, arg: Any) -> None:
        """create-md --force on a disk that is not in use."""
        assert not node.on
        node.platter.meta = fresh_metadata(node.platter.geometry, created=True)
        self.oracle.gives_up.add(node.name)
        ledger = self.oracle.ledger(node)
        ledger.void, ledger.acked = True, set()

    def _judge(self, seen: Seen) -> None:
        end, result = self.named.end, seen.decision.result
        a, b = self.sim.nodes
        if end.startswith("StandAlone"):
            parted = [n for n in (a, b) if end in ("StandAlone", f"StandAlone {n.name}")]
            for node in parted:
                assert node.state.conn == Conn.STANDALONE, f"{node.name} is {node.state.conn.label}"
                text = node.resource.reasons[-1]["text"]
                assert self.named.texts[node is b] in text and "replctl" in text, f"{node.name} says: {text}"
            if not seen.decision.dry_run and len(parted) == 2:
                here = a if seen.node == "a" else b
                assert bytes(here.platter.content) == seen.content, f"{seen.node}: its data changed"
                assert bytes(here.peer.platter.content) == seen.peers_content, f"{here.peer.name}: its data changed"
            return
        if end.startswith("undone"):
            node = a if end.endswith("a") else b
            text = node.resource.reasons[-1]["text"]
            assert seen.decision.refused and self.named.texts[node is b] in text, f"{node.name} says: {text}"
            assert node.state.disk == node.peer.state.pdsk == Disk.DISKLESS and node.state.pdsk == Disk.UP_TO_DATE
            assert all(n.state.conn == Conn.CONNECTED for n in (a, b))
            here = a if seen.node == "a" else b
            assert (bytes(here.platter.content), bytes(here.peer.platter.content)) == seen[3:]
            return
        assert not seen.decision.refused, seen
        if end == "Connected":
            assert result == 0, seen.decision
            assert all(n.state.conn == Conn.CONNECTED for n in (a, b))
            return
        assert result, seen.decision
        source = seen.node if result > 0 else "b" if seen.node == "a" else "a"
        assert end in ("one", source), f"the source is {source}: {seen.decision}"
        self.sim.run_until(self.mender.together, SETTLE_MS)
        kept = seen.content if source == seen.node else seen.peers_content
        for node in (a, b):
            assert bytes(node.platter.content) == kept, f"{node.name} does not hold what {source} had"
            if any(seen.node == node.name and seen.decision.demote for seen in self.seen):
                assert node.state.role == Role.SECONDARY, f"{node.name} lost, and is Primary still"
        here, there = (node.resource.meta.uuids.plain() for node in (a, b))  # type: ignore[union-attr]
        assert here == there, f"generations differ after the resync: {here} {there}"


def prepare(node: Node, generations: tuple[int, int, int, int], flags: Flag, bits: int) -> None:
    """Write these generations, flags, and that many marked blocks, to a disk nobody has opened yet."""
    platter = node.platter
    at = platter.geometry.superblock_offset_bytes
    names = ("uuid_current", "uuid_bitmap", "uuid_history0", "uuid_history1")
    block = Superblock.unpack(platter.meta[at])._replace(flags=flags, **dict(zip(names, generations, strict=True)))
    platter.meta[at] = block.pack()
    if bits:
        where = platter.geometry.bm_offset_bytes
        old = platter.meta.get(where, bytes(4096))
        platter.meta[where] = ((1 << bits) - 1).to_bytes(8, "little") + old[8:]
