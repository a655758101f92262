# SPDX-License-Identifier: GPL-2.0-or-later
"""May a restarted engine take back the device of the engine before it, whose users are still there?

What waits in the kernel for the device are old writes, and its users remember what they read. Both are good only as
long as the data here is theirs: if the peer was promoted meanwhile or its data moved on, taking the device back would
write over a second Primary. As long as nothing speaks against it and the peer may still come, the device waits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from replblock.state.generations import NONE, Generations, plain
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State


class Resume(Enum):
    """What to do about the device."""

    WAIT = "its users wait on"
    TAKE = "become Primary and take it back"
    FAIL = "its users get I/O errors"


class Scene(NamedTuple):
    """What is known at this moment."""

    state: State
    mine: Generations | None        # of the attached disk
    seen: int                       # current generation of the data that the device's users saw last; 0: not known
    peers: Generations | None       # as last heard in this life of the engine
    peer_role: Role                 # likewise
    handshaking: bool               # the peer is there, what to make of it is being found out
    patience: bool                  # the peer may still be on its way
    was_inconsistent: bool          # in this life of the engine: the data is the peer's, or was half of that

    @property
    def other_data(self) -> bool:
        """Is the disk's data neither what the users saw nor what this node itself made of that?"""
        mine = self.mine
        return mine is not None and plain(self.seen) not in (plain(mine.current), plain(mine.bitmap))

    @property
    def peer_is_ahead(self) -> bool:
        """Has the peer a generation that this node does not know?"""
        mine, peers = self.mine, self.peers
        if mine is None or peers is None or peers.just_created or plain(peers.current) == NONE:
            return False
        return plain(peers.current) not in {plain(uuid) for uuid in mine}


class ResumeRule(NamedTuple):
    """First match decides; the last row matches everything."""

    name: str
    when: Callable[[Scene], bool]
    then: Resume
    explain: str


RULES: tuple[ResumeRule, ...] = (
    ResumeRule("resume-peer-is-primary", lambda s: Role.PRIMARY in (s.state.peer, s.peer_role), Resume.FAIL,
               "the peer was promoted meanwhile"),
    ResumeRule("resume-no-disk-yet", lambda s: s.mine is None or s.state.disk in (Disk.ATTACHING, Disk.NEGOTIATING),
               Resume.WAIT, "the disk is not attached yet"),
    ResumeRule("resume-handshake-first", lambda s: s.handshaking, Resume.WAIT,
               "the handshake with the peer is under way"),
    ResumeRule("resume-other-data", lambda s: s.other_data, Resume.FAIL,
               "the data here is not what the device's users saw last"),
    ResumeRule("resume-data-is-not-good", lambda s: s.state.disk < Disk.CONSISTENT or s.was_inconsistent,
               Resume.FAIL, "the disk here was no longer UpToDate"),
    ResumeRule("resume-with-the-peer", lambda s: s.state.conn >= Conn.CONNECTED, Resume.TAKE,
               "the peer is there, is Secondary and has nothing newer"),
    ResumeRule("resume-refused-by-the-handshake",
               lambda s: s.state.conn == Conn.STANDALONE and s.peers is not None, Resume.FAIL,
               "the peer was there, and the handshake refused to connect the two data sets"),
    ResumeRule("resume-peer-moved-on", lambda s: s.peer_is_ahead, Resume.FAIL,
               "the peer's data moved on meanwhile"),
    ResumeRule("resume-waits-for-the-peer", lambda s: s.patience, Resume.WAIT,
               "the peer may have been promoted: it is waited for, and then done without"),
    ResumeRule("resume-alone", lambda s: True, Resume.TAKE,
               "the peer does not come; this node goes on alone, as it would have without the restart"),
)


def judge(scene: Scene) -> ResumeRule:
    """What to do now."""
    return next(rule for rule in RULES if rule.when(scene))
