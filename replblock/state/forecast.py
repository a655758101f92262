# SPDX-License-Identifier: GPL-2.0-or-later
"""What would happen if two nodes connected now: the handshake's own functions, asked before it takes place.

`compare`, `decide`, `peer_state` and `take_over` are what the core calls; nothing is decided here a second time.
Both nodes' handshakes are run, because a connection exists only if neither refuses.
"""

from __future__ import annotations

from typing import NamedTuple

from replblock.state.generations import Generations
from replblock.state.handshake import Handshake, Policies
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.peer import peer_state, take_over
from replblock.state.policies import Decision, decide
from replblock.state.splitbrain import AFTER_SB_0PRI, AFTER_SB_1PRI, AFTER_SB_2PRI
from replblock.state.transitions import Rules
from replblock.state.uuids import FEATURE_WSAME, NEWEST_VERSION, Side, Verdict, compare

OPTIONS = ("after-sb-0pri", "after-sb-1pri", "after-sb-2pri")
VALUES: tuple[tuple[str, ...], ...] = (tuple(AFTER_SB_0PRI), tuple(AFTER_SB_1PRI), tuple(AFTER_SB_2PRI))
ROLES: tuple[tuple[Role, Role], ...] = (
    (Role.SECONDARY, Role.SECONDARY), (Role.PRIMARY, Role.SECONDARY), (Role.SECONDARY, Role.PRIMARY),
    (Role.PRIMARY, Role.PRIMARY),
)


class Party(NamedTuple):
    """One node, as the other one would see it. `bits`: blocks marked as different; `in_use`: its device is open."""

    generations: Generations
    bits: int = 0
    disk: Disk = Disk.UP_TO_DATE
    role: Role = Role.SECONDARY
    crashed_primary: bool = False
    discard: bool = False           # told to connect with --discard-my-data
    in_use: bool = False
    went_on: bool = False           # written to alone since the bitmap's generation began
    lost: bool = False              # a write or flush failed under a Primary


class Terms(NamedTuple):
    """What both would agree upon. `obeys_safety`: the peer is a replblock node, no kernel."""

    policies: Policies = Policies()
    two_primaries: bool = False
    version: int = NEWEST_VERSION
    features: int = FEATURE_WSAME
    obeys_safety: bool = True

    def mirrored(self) -> Terms:
        """As the peer has them."""
        return self._replace(policies=self.policies.mirrored())


class Outcome(NamedTuple):
    """What becomes of the connection, seen from this node: +1 source, -1 target, 0 connected; None: no connection."""

    direction: int | None
    rule: str
    refused_here: bool
    refused_there: bool
    mine: Decision
    peers: Decision

    @property
    def loser(self) -> int:
        """Whose changes a solved split brain discards: -1 this node's, +1 the peer's, 0 nobody's."""
        solved = self.direction and (self.mine.split_brain or self.peers.split_brain)
        return self.direction or 0 if solved else 0

    @property
    def full_sync(self) -> bool:
        return bool(self.direction) and self.mine.full_sync

    def like(self, other: Outcome) -> bool:
        """The same end, whatever the way."""
        return (self.direction, self.loser, self.full_sync) == (other.direction, other.loser, other.full_sync)


class Forecast(NamedTuple):
    """The outcome, and the other one where only chance decides: who of the two opens the meta connection."""

    verdict: Verdict
    outcome: Outcome
    otherwise: Outcome | None = None


def forecast(mine: Party, peers: Party, terms: Terms) -> Forecast:
    """What these two would do if they connected now. Total: every pair gets a forecast."""
    one, other = (_outcome(mine, peers, terms, tie) for tie in (False, True))
    verdict = _handshake(mine, peers, terms, False).verdict
    return Forecast(verdict, one, None if one.like(other) else other)


def _handshake(mine: Party, peers: Party, terms: Terms, tie: bool) -> Handshake:
    return Handshake(
        verdict=compare(
            Side(mine.generations, mine.crashed_primary, mine.role),
            Side(peers.generations, peers.crashed_primary, peers.role),
            version=terms.version, features=terms.features, resolve_conflicts=tie,
        ),
        my_role=mine.role, peer_role=peers.role, my_disk=mine.disk, peer_disk=peers.disk,
        my_bits=mine.bits, peer_bits=peers.bits, discard_mine=mine.discard, discard_peers=peers.discard,
        policies=terms.policies, resolve_conflicts=tie, can_demote=not mine.in_use,
        peer_obeys_safety=terms.obeys_safety, i_went_on=mine.went_on, peer_went_on=peers.went_on,
        i_lost=mine.lost, peer_lost=peers.lost and terms.obeys_safety,
        i_crashed=mine.crashed_primary, peer_crashed=peers.crashed_primary,
    )


def _outcome(mine: Party, peers: Party, terms: Terms, tie: bool) -> Outcome:
    here = decide(_handshake(mine, peers, terms, tie))
    there = decide(_handshake(peers, mine, terms.mirrored(), not tie))
    no_here, no_there = _refusal(here, mine, peers, terms), _refusal(there, peers, mine, terms)
    if not (no_here or no_there) and here.result * there.result > 0:
        no_here = no_there = "both-would-be-source" if here.result > 0 else "both-would-be-target"
    direction = None if no_here or no_there else (here.result > 0) - (here.result < 0)
    return Outcome(direction, no_here or no_there or here.rule, bool(no_here), bool(no_there), here, there)


def _refusal(decision: Decision, mine: Party, peers: Party, terms: Terms) -> str:
    """The rule by which this node ends the connection, or ""."""
    if decision.refused:
        return decision.rule
    role = Role.SECONDARY if decision.demote else mine.role
    own = State(role, Role.UNKNOWN, Conn.WF_REPORT_PARAMS, mine.disk, Disk.DUNKNOWN)
    report = State(peers.role, Role.UNKNOWN, Conn.WF_REPORT_PARAMS, peers.disk, Disk.DUNKNOWN)
    reaction = peer_state(own, report, uuid_flags=0)
    rules = Rules(two_primaries=terms.two_primaries, agreed_version=terms.version)
    taken = take_over(own, report, reaction, rules, decision.conn)
    return "" if taken.state is not None else taken.rule


UNHEARD = 0xF0E1_D2C3_B4A5_9680      # stands for a generation that nobody here has heard of
MANY_BITS = 1 << 40


def if_peer_wrote(mine: Party, peers: Party, terms: Terms) -> tuple[Forecast, Forecast]:
    """The forecast if the peer, then Primary, went on alone from what is known of it: writing little, or much."""
    known = peers.generations.as_primary(True)
    moved = known if known.bitmap else known.new_current(UNHEARD, peers.role == Role.PRIMARY)
    little, much = (forecast(mine, peers._replace(generations=moved, bits=bits, went_on=True), terms)
                    for bits in (max(1, peers.bits), MANY_BITS))
    return little, much


class Row(NamedTuple):
    """What one policy would do. `zero`: the after-sb-0pri it goes with; "" where that makes no difference."""

    roles: tuple[Role, Role]
    value: str
    zero: str
    forecast: Forecast

    @property
    def primaries(self) -> int:
        return self.roles.count(Role.PRIMARY)


def by_policy(mine: Party, peers: Party, terms: Terms, roles: tuple[Role, Role]) -> tuple[Row, ...]:
    """Every value of the after-sb option for these roles, with every after-sb-0pri it leans on."""
    mine, peers = mine._replace(role=roles[0]), peers._replace(role=roles[1])
    primaries = roles.count(Role.PRIMARY)
    rows = []
    for value in VALUES[primaries]:
        found = {zero: forecast(mine, peers, _with(terms, primaries, value, zero)) for zero in VALUES[0]}
        if primaries == 0:
            rows.append(Row(roles, value, "", found[value]))
        elif all(_alike(one, found[VALUES[0][0]]) for one in found.values()):
            rows.append(Row(roles, value, "", found[VALUES[0][0]]))
        else:
            rows += [Row(roles, value, zero, one) for zero, one in found.items()]
    return tuple(rows)


def _with(terms: Terms, primaries: int, value: str, zero: str) -> Terms:
    policies = terms.policies._replace(after_sb_0pri=zero if primaries else value)
    if primaries == 1:
        policies = policies._replace(after_sb_1pri=value)
    elif primaries == 2:
        policies = policies._replace(after_sb_2pri=value)
    return terms._replace(policies=policies)


def _alike(one: Forecast, other: Forecast) -> bool:
    if (one.otherwise is None) != (other.otherwise is None):
        return False
    pairs = ((one.outcome, other.outcome), (one.otherwise or one.outcome, other.otherwise or other.outcome))
    return all(a.like(b) for a, b in pairs)


class Loss(NamedTuple):
    """What a node loses if its data gives way, blocks of 4 KiB. bound: none, at-most, at-least, everything."""

    bound: str
    blocks: int | None


FAR = {"i-moved-on-far": 0, "peer-moved-on-far": 1}     # the node that is ahead: its bitmap does not reach back so far
FRESH = {"i-just-created": (True, False), "peer-just-created": (False, True), "both-just-created": (True, True)}


def losses(mine: Party, peers: Party, verdict: Verdict) -> tuple[Loss, Loss]:
    """(ours, the peer's). A bit says that the block may have been written since the bitmap's generation."""
    found = [Loss("at-most" if one.bits else "none", one.bits) for one in (mine, peers)]
    if verdict.rule == "unrelated":
        found = [Loss("everything", None)] * 2
    elif verdict.rule in FRESH:
        found = [Loss("none", 0) if fresh else Loss("everything", None) for fresh in FRESH[verdict.rule]]
    elif verdict.rule == "common-ancestor" or not verdict.mirrored:
        found = [Loss("at-least", one.bits) for one in (mine, peers)]
    elif verdict.rule in FAR:
        ahead = FAR[verdict.rule]
        found[ahead] = Loss("at-least", (mine, peers)[ahead].bits)
    return found[0], found[1]


def order(mine: Party, peers: Party, terms: Terms, gives_up: int) -> Forecast:
    """The forecast if one node (0: this one, 1: the peer) becomes Secondary and connects with --discard-my-data."""
    told = [one._replace(discard=False) for one in (mine, peers)]
    told[gives_up] = told[gives_up]._replace(discard=True, role=Role.SECONDARY, in_use=False)
    return forecast(told[0], told[1], terms)

