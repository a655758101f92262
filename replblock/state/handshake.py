# SPDX-License-Identifier: GPL-2.0-or-later
"""From the comparison of generations to what the connection becomes: DRBD 8.4's sync handshake as a table of steps.

Nothing but DRBD's own rules stands here: a kernel peer follows them. The safety rules come on top in `safety`, the
whole decision is `policies.decide()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.names import Conn, Disk, Role
from replblock.state.splitbrain import MIRRORED_POLICY, Split, after_sb
from replblock.state.uuids import SPLIT_BRAIN, SPLIT_BRAIN_AMBIGUOUS, UNRELATED, Verdict


class Policies(NamedTuple):
    """net options. The after-sb ones are equal on both nodes (P_PROTOCOL compares them); the others are local."""

    after_sb_0pri: str = "disconnect"
    after_sb_1pri: str = "disconnect"
    after_sb_2pri: str = "disconnect"
    always_asbp: bool = False
    rr_conflict: str = "disconnect"

    def mirrored(self) -> Policies:
        """The same policies as the peer writes them: local and remote swapped."""
        return self._replace(after_sb_0pri=MIRRORED_POLICY.get(self.after_sb_0pri, self.after_sb_0pri))


class Handshake(NamedTuple):
    """Everything the decision looks at, as this node knows it when the peer's P_STATE arrives.

    my_disk is the state's; while it is NEGOTIATING, my_disk_from_metadata says what the attach would make of it.
    peer_disk: never NEGOTIATING (see peer.real_peer_disk). Bits: counts as sent and received in P_UUIDS;
    my_bits_now: at this moment, where it may have grown. peer_obeys_safety: the peer runs these very rules.
    …_went_on: written to alone since the bitmap's generation began; …_lost: a write or flush failed there under a
    Primary, and the other node may have what is missing. Known between nodes that obey the safety rules.
    under_users: see peer.comes_under_users; the disk is ours if it is NEGOTIATING, else the peer's.
    …_crashed: as in uuids.Side.
    """

    verdict: Verdict
    my_role: Role
    peer_role: Role
    my_disk: Disk
    peer_disk: Disk
    my_disk_from_metadata: Disk | None = None
    my_bits: int = 0
    peer_bits: int = 0
    my_bits_now: int | None = None
    discard_mine: bool = False
    discard_peers: bool = False
    policies: Policies = Policies()
    resolve_conflicts: bool = False
    dry_run: bool = False
    can_demote: bool = True
    peer_obeys_safety: bool = False
    i_went_on: bool = False
    peer_went_on: bool = False
    i_lost: bool = False
    peer_lost: bool = False
    under_users: bool = False
    i_crashed: bool = False
    peer_crashed: bool = False

    @property
    def disk(self) -> Disk:
        """What our data is worth in this handshake."""
        if self.my_disk == Disk.NEGOTIATING and self.my_disk_from_metadata is not None:
            return self.my_disk_from_metadata
        return self.my_disk

    @property
    def primaries(self) -> int:
        """How many of both nodes are Primary at this moment."""
        return (self.my_role == Role.PRIMARY) + (self.peer_role == Role.PRIMARY)


class Course(NamedTuple):
    """The decision as it grows from step to step."""

    result: int
    rules: tuple[str, ...]
    refused: bool = False
    handlers: tuple[str, ...] = ()
    demote: bool = False
    split_brain: bool = False
    solved: bool = False            # a split brain that somebody's policy or order resolved
    resync_left_over: bool = False

    @property
    def full_sync(self) -> bool:
        """Must all bits be set first?"""
        return not self.refused and abs(self.result) == 2

    @property
    def conn(self) -> Conn:
        """What the connection becomes."""
        if self.refused:
            return Conn.DISCONNECTING
        if self.result == 0:
            return Conn.CONNECTED
        return Conn.WF_BITMAP_S if self.result > 0 else Conn.WF_BITMAP_T

    def because(self, rule: str) -> Course:
        """The same course with one more rule on its way."""
        return self._replace(rules=self.rules + (rule,))

    def refuse(self, rule: str, *handlers: str) -> Course:
        """No connection, for this reason."""
        return self.because(rule)._replace(refused=True, handlers=self.handlers + handlers)


class Step(NamedTuple):
    """One step of DRBD's sync handshake: where it applies, it replaces the course."""

    name: str
    when: Callable[[Handshake, Course], bool]
    then: Callable[[Handshake, Course], Course]
    explain: str


def disks_override(h: Handshake) -> bool:
    """Is exactly one disk Inconsistent and the other better?"""
    return (h.disk == Disk.INCONSISTENT < h.peer_disk) or (h.peer_disk == Disk.INCONSISTENT < h.disk)


def _by_disks(h: Handshake, c: Course) -> Course:
    full = c.result == SPLIT_BRAIN_AMBIGUOUS or abs(c.result) == 2
    direction = 1 if h.disk > Disk.INCONSISTENT else -1
    return c.because("disk-states-decide")._replace(result=direction * (2 if full else 1))


def _notice_split_brain(h: Handshake, c: Course) -> Course:
    return c._replace(split_brain=True, handlers=c.handlers + ("initial-split-brain",))


def _policies_apply(h: Handshake, c: Course) -> bool:
    return c.result == SPLIT_BRAIN or (c.result == SPLIT_BRAIN_AMBIGUOUS and h.policies.always_asbp)


def _by_policy(h: Handshake, c: Course) -> Course:
    ambiguous = c.result == SPLIT_BRAIN_AMBIGUOUS
    split = Split(
        i_was_primary=h.verdict.mine.was_primary_when_parted,
        peer_was_primary=h.verdict.peers.was_primary_when_parted,
        my_bits=h.my_bits,
        peer_bits=h.peer_bits,
        resolve_conflicts=h.resolve_conflicts,
        my_role=h.my_role,
        can_demote=h.can_demote,
    )
    ruling = after_sb(h.primaries, h.policies[:3], split)
    c = c._replace(rules=c.rules + ruling.rules, handlers=c.handlers + ruling.handlers, demote=ruling.demote)
    if abs(ruling.result) >= SPLIT_BRAIN:
        return c._replace(result=SPLIT_BRAIN_AMBIGUOUS)
    return c._replace(result=ruling.result * (2 if ambiguous else 1), solved=True)


def _by_order(h: Handshake, c: Course) -> Course:
    return c.because("discard-my-data")._replace(result=-1 if h.discard_mine else 1, solved=True)


RR_CONFLICT: dict[str, str] = {
    "disconnect": "rr-conflict disconnect: a Primary does not become a resync target; the connection ends.",
    "call-pri-lost": "rr-conflict call-pri-lost: a Primary does not become a resync target; the handler pri-lost is "
                     "called, the connection ends.",
    "violently": "rr-conflict violently: the Primary becomes a resync target under its users' feet.",
}


def target_while_primary(h: Handshake, c: Course) -> bool:
    """Should a Primary with data in use become a target? The real disk state counts here, not a negotiated one.

    A loser that gives up its role first (call-pri-lost-after-sb) is no Primary any more.
    """
    return c.result < 0 and h.my_role == Role.PRIMARY and not c.demote and h.my_disk >= Disk.CONSISTENT


def rr_conflict(h: Handshake, c: Course) -> Course:
    """Apply rr-conflict; unknown words count as disconnect."""
    policy = h.policies.rr_conflict
    if policy == "violently":
        return c.because("rr-conflict-violently")
    if policy == "call-pri-lost":
        return c.refuse("rr-conflict-call-pri-lost", "pri-lost")
    return c.refuse("rr-conflict-disconnect")


# In DRBD's order. A refused course passes the remaining steps untouched.
STEPS: tuple[Step, ...] = (
    Step("unrelated-data-refused", lambda h, c: c.result == UNRELATED,
         lambda h, c: c.refuse("unrelated-data-refused"),
         "Unrelated data (or a peer too old to decide) is never synchronized by itself."),
    Step("disk-states-decide", lambda h, c: disks_override(h), _by_disks,
         "Exactly one disk is Inconsistent: the other one is the source, whatever the generations say."),
    Step("split-brain-found", lambda h, c: abs(c.result) == SPLIT_BRAIN, _notice_split_brain,
         "Both data sets moved on: the handler initial-split-brain is called before anything is decided."),
    Step("after-split-brain-policy", _policies_apply, _by_policy,
         "The after-sb policy for the present number of Primaries is asked."),
    Step("discard-my-data",
         lambda h, c: c.result == SPLIT_BRAIN_AMBIGUOUS and h.discard_mine != h.discard_peers, _by_order,
         "One node was told to connect with --discard-my-data: its changes are discarded."),
    Step("split-brain-unresolved", lambda h, c: c.result == SPLIT_BRAIN_AMBIGUOUS,
         lambda h, c: c.refuse("split-brain-unresolved", "split-brain"),
         "Nobody may decide whose changes to discard: nothing is discarded, the connection ends."),
    Step("inconsistent-cannot-be-source", lambda h, c: c.result > 0 and h.disk <= Disk.INCONSISTENT,
         lambda h, c: c.refuse("inconsistent-cannot-be-source"),
         "This node should be the source, but its own disk is Inconsistent."),
    Step("role-resync-conflict", target_while_primary, rr_conflict,
         "This node is Primary and should become a resync target: rr-conflict decides."),
)


def drbd_course(h: Handshake) -> Course:
    """DRBD 8.4's own decision, up to but not including the dry run."""
    course = Course(h.verdict.result, (h.verdict.rule,))
    for step in STEPS:
        if not course.refused and step.when(h, course):
            course = step.then(h, course)
    return course
