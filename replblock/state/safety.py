# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules on top of DRBD's tables: where following them could lose data, we do not.

    the stale side is never the source while the other is UpToDate
    nobody forgets a set bit: what is still marked is resynced where the direction is beyond doubt, else kept and told
    two nodes that would both be target (or both source) do not guess
    what a Primary's users work on is not replaced while they do

A kernel peer follows DRBD's table, so towards it the only safe answers are DRBD's own and "no connection". A peer
that runs these rules (`peer_obeys_safety`) reaches the mirror image of our answer from the same facts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.handshake import Course, Handshake, disks_override, rr_conflict, target_while_primary
from replblock.state.names import Disk, Role
from replblock.state.splitbrain import CHANGED_NOTHING

STALE = (Disk.INCONSISTENT, Disk.OUTDATED)


class SafetyRule(NamedTuple):
    """Where it applies, it replaces DRBD's course. All rows are tried, in order, while nothing is refused.

    past_conflict: also where nothing but rr-conflict refused: in the direction it decides there is no conflict.
    """

    name: str
    when: Callable[[Handshake, Course], bool]
    then: Callable[[Handshake, Course], Course]
    explain: str
    past_conflict: bool = False


def _one_discards(h: Handshake) -> bool:
    return h.peer_obeys_safety and h.discard_mine != h.discard_peers


def _contradiction(h: Handshake, c: Course) -> bool:
    return not h.verdict.mirrored


def _resolve_contradiction(h: Handshake, c: Course) -> Course:
    if disks_override(h):
        return c.because("contradiction-full-sync")._replace(result=2 if c.result > 0 else -2)
    if _one_discards(h):
        return c.because("contradiction-resolved-by-order")._replace(
            result=-2 if h.discard_mine else 2, split_brain=True, solved=True)
    return c.refuse("contradictory-generations", "split-brain")._replace(split_brain=True)


# By these the target holds an ancestor of the source's data and nothing of its own.
_ANCESTOR_RULES = frozenset({
    "peer-moved-on", "i-lost-the-start", "peer-moved-on-far", "i-moved-on", "peer-lost-the-start", "i-moved-on-far",
})


def _target_has_own_changes(h: Handshake, c: Course) -> bool:
    """A target whose bitmap is in use and not empty wrote on top of the generation the source descends from.

    It was the source of a resync whose end it missed (it thinks the peer Inconsistent) and went on writing; the peer
    was promoted meanwhile. DRBD does not notice and discards what the target wrote.
    Between two replblock nodes a flag says whether it really went on alone, also where the bitmap's generation was
    retired since, to send once more what is marked, and the target never began to get it.
    """
    if h.verdict.rule not in _ANCESTOR_RULES or disks_override(h) or not h.verdict.mirrored:
        return False
    i_am_target = c.result < 0
    generations, bits = (h.verdict.mine, h.my_bits) if i_am_target else (h.verdict.peers, h.peer_bits)
    went_on = h.i_went_on if i_am_target else h.peer_went_on
    return (went_on or (not h.peer_obeys_safety and generations.bitmap != 0)) and bits > 0


def _resolve_own_changes(h: Handshake, c: Course) -> Course:
    target_discards, source_discards = (
        (h.discard_mine, h.discard_peers) if c.result < 0 else (h.discard_peers, h.discard_mine)
    )
    solved = c._replace(split_brain=True, solved=True)
    if target_discards and not source_discards:
        return solved.because("target-gives-up-own-changes")
    if source_discards and not target_discards and h.peer_obeys_safety:
        return solved.because("source-gives-up-its-changes")._replace(result=-c.result)
    return c.refuse("target-has-own-changes", "split-brain")._replace(split_brain=True)


# By these both hold the same generation, and only a crash names the source.
_CRASH_RULES = frozenset({
    "i-crashed", "peer-crashed", "both-crashed", "crash-i-am-primary", "crash-peer-is-primary",
})  # fmt: skip


def _alone_in_the_same_generation(h: Handshake) -> tuple[bool, bool]:
    """(this node, the peer): written to alone while its bitmap was in use, so that no new generation was begun.

    A kernel peer does not tell.
    """
    return h.i_went_on and h.my_bits > 0, h.peer_obeys_safety and h.peer_went_on and h.peer_bits > 0


def _went_on_unnoticed(h: Handshake, c: Course) -> bool:
    """The node that should be overwritten (or left as it is) went on alone, and the generations do not say so."""
    if h.verdict.rule not in _CRASH_RULES | {"same-generation"} or disks_override(h):
        return False
    me, peer = _alone_in_the_same_generation(h)
    return (me and c.result <= 0) or (peer and c.result >= 0)


def _resolve_went_on(h: Handshake, c: Course) -> Course:
    me, peer = _alone_in_the_same_generation(h)
    if h.discard_mine != h.discard_peers and (h.peer_obeys_safety or (h.discard_mine and c.result < 0)):
        solved = c._replace(result=-1 if h.discard_mine else 1, split_brain=True, solved=True)
        return solved.because("who-went-on-gives-way")
    if me != peer and h.peer_obeys_safety:
        left_over = c.result == 0
        return c.because("who-went-on-is-the-source")._replace(result=1 if me else -1, resync_left_over=left_over)
    return c.refuse("went-on-in-the-same-generation", "split-brain")._replace(split_brain=True)


# By these the target holds all that the source had when the resync ended, and the source did not hear of that; to the
# right, whether the source is this node.
_MISSED_THE_END = {"source-missed-the-end": True, "target-peer-missed-the-end": False}


class _SinceTheEnd(NamedTuple):
    """The target of a resync whose source did not hear of the end, as both nodes see it."""

    crashed: bool
    primary: bool
    disk: Disk


def _target_since_the_end(h: Handshake) -> _SinceTheEnd | None:
    """None where the source has been in use since: a promotion of it without the target begins a generation."""
    here_is_source = _MISSED_THE_END.get(h.verdict.rule)
    if here_is_source is None or not h.peer_obeys_safety or disks_override(h):
        return None
    mine, theirs = h.my_role == Role.PRIMARY, h.peer_role == Role.PRIMARY
    if here_is_source:
        return None if mine or h.i_went_on else _SinceTheEnd(h.peer_crashed, theirs, h.peer_disk)
    return None if theirs or h.peer_went_on else _SinceTheEnd(h.i_crashed, mine, h.disk)


def _target_serves_since(h: Handshake, c: Course) -> bool:
    """The target is Primary: everything of the resync is on its disk, and what its users wrote since besides."""
    target = _target_since_the_end(h)
    return target is not None and target.primary and target.disk == Disk.UP_TO_DATE and not h.under_users


def _target_crashed_since(h: Handshake, c: Course) -> bool:
    """The target was Primary after the end of its resync, and died.

    Its crash counts as in rule 40: what it answered is on its disk, and unflushed maybe nowhere else. That its flag is
    younger than the end is certain: the end clears it. Where it was called Outdated since, by a word that discards
    nothing, there is no source (`_stale_source`).
    """
    target = _target_since_the_end(h)
    return target is not None and target.crashed and not _target_serves_since(h, c)


def _turned(rule: str) -> Callable[[Handshake, Course], Course]:
    def turn(h: Handshake, c: Course) -> Course:
        rules = c.rules[:-1] if c.refused else c.rules  # there is no conflict of roles that way
        return c._replace(result=-c.result, rules=(*rules, rule), refused=False, handlers=())

    return turn


def _source_lost_writes(h: Handshake, c: Course) -> bool:
    """A source on whose disk a write or flush failed, when nobody knew whether the peer had everything.

    What it acknowledged may be on the target only. Where the target moved on from the source's data it is no target.
    That the target changed nothing settles nothing: what the source lost is no change of the target's.
    """
    lost = (h.i_lost and c.result >= 0) or (h.peer_lost and c.result <= 0)
    solved = c.solved and not CHANGED_NOTHING.intersection(c.rules)
    return lost and not solved and min(h.disk, h.peer_disk) > Disk.INCONSISTENT


def _resolve_lost_writes(h: Handshake, c: Course) -> Course:
    if h.discard_mine != h.discard_peers:
        direction = -1 if h.discard_mine else 1
        solved = c._replace(split_brain=True, solved=True)
        if direction * c.result > 0:
            return solved.because("target-gives-up-what-source-lost")
        if h.peer_obeys_safety:
            return solved.because("who-lost-writes-gives-way")._replace(result=2 * direction)
    return c.refuse("source-lost-writes", "split-brain")._replace(split_brain=True)


def _enough(h: Handshake, c: Course) -> Disk:
    """From what on a target's disk is too good for a source that is Outdated."""
    if h.verdict.rule not in _CRASH_RULES and "target-crashed-since-the-end" not in c.rules:
        return Disk.UP_TO_DATE
    named = c.solved or "who-went-on-is-the-source" in c.rules  # not by the crash alone
    return Disk.CONSISTENT if named else Disk.OUTDATED


def _stale_source(h: Handshake, c: Course) -> bool:
    """What crashed while it was Outdated had been told that the other one's data, of this very generation, counts.

    What was called Outdated after its crash looks the same; and that the other one is Outdated by now, too, by another
    such word, does not make it the older one.
    """
    source, target = (h.disk, h.peer_disk) if c.result > 0 else (h.peer_disk, h.disk)
    return c.result != 0 and source in STALE and target >= _enough(h, c)


def _resolve_stale_source(h: Handshake, c: Course) -> Course:
    if _one_discards(h):
        source_gives_up = h.discard_mine if c.result > 0 else h.discard_peers
        if source_gives_up:
            return c.because("stale-side-gives-up")._replace(result=-c.result, solved=True)
        if h.disk == h.peer_disk:
            return c.because("stale-side-gives-up")._replace(solved=True)
    return c.refuse("stale-side-never-source")


def _source_inconsistent(h: Handshake, c: Course) -> bool:
    return (c.result < 0 and h.peer_disk <= Disk.INCONSISTENT) or (c.result > 0 and h.disk <= Disk.INCONSISTENT)


def left_over_bits(h: Handshake) -> tuple[int, int]:
    """(ours, the peer's): blocks still marked as different."""
    return (h.my_bits if h.my_bits_now is None else h.my_bits_now), h.peer_bits


def _bits_left(h: Handshake, c: Course) -> bool:
    has_data = h.disk > Disk.INCONSISTENT and h.peer_disk > Disk.INCONSISTENT
    return c.result == 0 and has_data and any(left_over_bits(h))


class Direction(NamedTuple):
    """Who is the source of left-over bits; first match decides, no match: beyond doubt is nobody."""

    name: str
    when: Callable[[Handshake], bool]
    result: int
    explain: str


# Outdated is worse than Consistent, too: no generation says otherwise, and to be Outdated it was told of better data
DIRECTIONS: tuple[Direction, ...] = (
    Direction("left-over-from-me-peer-stale",
              lambda h: h.disk >= Disk.CONSISTENT and h.peer_disk in STALE, 1,
              "Same generation, blocks still marked, the peer is Outdated: they are sent over."),
    Direction("left-over-from-peer-i-am-stale",
              lambda h: h.peer_disk >= Disk.CONSISTENT and h.disk in STALE, -1,
              "Same generation, blocks still marked, this node is Outdated: they come here."),
    Direction("left-over-from-me-primary",
              lambda h: h.primaries == 1 and h.my_role == Role.PRIMARY, 1,
              "Same generation, blocks still marked, this node is Primary: they are sent over."),
    Direction("left-over-from-peer-primary",
              lambda h: h.primaries == 1 and h.peer_role == Role.PRIMARY, -1,
              "Same generation, blocks still marked, the peer is Primary: they come here."),
    Direction("left-over-from-me-only-mine",
              lambda h: h.primaries == 0 and h.my_bits > 0 and h.peer_bits == 0, 1,
              "Same generation, only this node has blocks marked: they are sent over."),
    Direction("left-over-from-peer-only-its",
              lambda h: h.primaries == 0 and h.peer_bits > 0 and h.my_bits == 0, -1,
              "Same generation, only the peer has blocks marked: they come here."),
)


def _settle_left_over(h: Handshake, c: Course) -> Course:
    if not h.my_bits and not h.peer_bits:       # set since P_UUIDS was sent: the peer decides without knowing
        return c.because("bits-left-kept")
    row = next((row for row in DIRECTIONS if row.when(h)), None)
    if row is not None and h.peer_obeys_safety:
        return c.because(row.name)._replace(result=row.result, resync_left_over=True)
    if h.disk in STALE or h.peer_disk in STALE:
        return c.refuse("outdated-with-bits-left")
    return c.because("bits-left-kept")


def _served_data_goes(h: Handshake, c: Course) -> bool:
    """A disk that comes to a Primary whose users work on the peer's good data is never the source."""
    return h.under_users and (c.result > 0 if h.my_disk == Disk.NEGOTIATING else c.result < 0)


SAFETY_RULES: tuple[SafetyRule, ...] = (
    SafetyRule("contradictory-generations", _contradiction, _resolve_contradiction,
               "By DRBD's table both nodes would become target (or both source): these generations come from no "
               "common history. Treated as split brain; nothing is discarded."),
    SafetyRule("nobody-can-be-source", _source_inconsistent, lambda h, c: c.refuse("nobody-can-be-source"),
               "The node that should be the source is Inconsistent, and the other is no better: both refuse."),
    SafetyRule("target-has-own-changes", _target_has_own_changes, _resolve_own_changes,
               "By the generations one node only fell behind, but it has blocks marked on a bitmap of its own: it was "
               "the source of a resync whose end it missed, and may have written since. Treated as split brain."),
    SafetyRule("went-on-in-the-same-generation", _went_on_unnoticed, _resolve_went_on,
               "Both hold the same generation, and the node that would be overwritten wrote on alone while its bitmap "
               "was in use, which begins no new one: it is the source; if both did, it is a split brain."),
    SafetyRule("target-crashed-since-the-end", _target_crashed_since, _turned("target-crashed-since-the-end"),
               "The source of a resync did not hear of its end, and the target, Primary since, crashed: as in rule 40 "
               "what the crashed Primary was writing is sent over. A kernel peer would overwrite it instead."),
    SafetyRule("target-serves-since-the-end", _target_serves_since, _turned("target-serves-since-the-end"),
               "The source of a resync did not hear of its end, and the target is Primary: it has all of it, and what "
               "was written since. By DRBD's table it would be the target again, which rr-conflict refuses.", True),
    SafetyRule("source-lost-writes", _source_lost_writes, _resolve_lost_writes,
               "By the generations the source is a node on whose disk a write or flush failed under a Primary: the "
               "other one may have what is missing there. Treated as split brain; nothing is discarded, not even "
               "by a policy that finds the other one unchanged."),
    SafetyRule("order-against-policy", lambda h, c: "loser-stays-primary" in c.rules and c.solved,
               lambda h, c: c.refuse("order-against-policy", "split-brain"),
               "By policy this Primary loses but cannot give up its role; --discard-my-data would turn it into the "
               "source, while the peer, who cannot know, is the source too."),
    SafetyRule("stale-side-never-source", _stale_source, _resolve_stale_source,
               "By the generations the Outdated or Inconsistent side would be the source while the other is UpToDate "
               "(or no worse, where both hold the same data and only a crash speaks for the Outdated side). "
               "Refused on both sides; invalidate the side whose data is to go, then connect."),
    SafetyRule("bits-left", _bits_left, _settle_left_over,
               "The generations say nothing is to be copied, yet blocks are marked as different."),
    SafetyRule("served-data-stays", _served_data_goes, lambda h, c: c.refuse("served-data-stays"),
               "A Primary whose users work on the peer's data attached a disk, and by generations or policy that disk "
               "would be the source: other data would come under its users, and what they wrote would go. The attach "
               "is undone; make the node Secondary first, then attach again."),
    SafetyRule("redirected-primary", lambda h, c: target_while_primary(h, c) and "rr-conflict-violently" not in c.rules,
               rr_conflict,
               "A rule above made this Primary the target: rr-conflict decides, as it does for DRBD's own verdicts."),
)

OUTCOMES: dict[str, str] = {
    "contradiction-full-sync": "The generations contradict each other, but one disk is Inconsistent: it gets "
                               "everything, because the bitmaps cannot be trusted to name all differences.",
    "contradiction-resolved-by-order": "The generations contradict each other; one node was told to connect with "
                                       "--discard-my-data and gets everything from the other.",
    "target-gives-up-own-changes": "The node that fell behind also has changes of its own, and was told to connect "
                                   "with --discard-my-data: they are discarded.",
    "source-gives-up-its-changes": "The node that is ahead was told to connect with --discard-my-data: the other "
                                   "one's changes stay.",
    "who-went-on-is-the-source": "Same generation, but only one node wrote on alone in it: it is the source.",
    "who-went-on-gives-way": "A node wrote on alone in the generation that both hold, and one was told to connect with "
                             "--discard-my-data: that one is the target.",
    "target-gives-up-what-source-lost": "A write or flush had failed on the source; the other node was told to connect "
                                        "with --discard-my-data: what only that one has is discarded.",
    "who-lost-writes-gives-way": "A write or flush had failed on a disk that would be the source; one node was told to "
                                 "connect with --discard-my-data: it gets everything from the other.",
    "stale-side-gives-up": "The stale side was told to connect with --discard-my-data: it becomes the target.",
    "outdated-with-bits-left": "Same generation, but one side is Outdated and blocks are still marked; this peer "
                               "would call both UpToDate without copying them. Invalidate the Outdated side first.",
    "bits-left-kept": "Blocks are still marked as different and it is not certain which side is right (or the peer "
                      "will not resync them): connected, no resync, no bit is cleared. Run verify, then invalidate "
                      "the side that is wrong.",
}


def review(h: Handshake, course: Course) -> Course:
    """DRBD's course after the safety rules; the same course where none applies."""
    conflict = course.refused and course.rules[-1].startswith("rr-conflict-")
    for rule in SAFETY_RULES:
        if (not course.refused or (conflict and rule.past_conflict)) and rule.when(h, course):
            course, conflict = rule.then(h, course), False
    return course
