# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions that one side of a bundle asks once and several volumes answer, and the other way round."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from replblock.state.codes import Code
from replblock.wire.packets import StateChangeReply


class Pings:
    """An ack says that what came before was handled: the peer's ping is answered when every volume has answered it."""

    def __init__(self) -> None:
        self._mine: deque[int] = deque()
        self._theirs: deque[set[int]] = deque()

    def asked_by(self, volume: int) -> None:
        """This volume's ping goes to the peer."""
        self._mine.append(volume)

    def answered(self) -> int | None:
        """The peer's ack: whose ping it was for. Acks come in the order of the pings; None for one too many."""
        return self._mine.popleft() if self._mine else None

    def asked_by_peer(self, volumes: Iterable[int]) -> None:
        """The peer's ping goes to all of these."""
        self._theirs.append(set(volumes))

    def answered_by(self, volume: int) -> int:
        """One volume's ack: how many of the peer's pings are answered with it."""
        waiting = next((left for left in self._theirs if volume in left), None)
        if waiting is not None:
            waiting.discard(volume)
        done = 0
        while self._theirs and not self._theirs[0]:
            self._theirs.popleft()
            done += 1
        return done


class Answers:
    """P_CONN_ST_CHG_REQ, which is about the connection, and so about every volume."""

    def __init__(self) -> None:
        self._groups: deque[tuple[bytes, list[int]]] = deque()
        self._theirs: deque[_Question] = deque()
        self.left = False
        """A volume has left with its answer."""

    def asked_by(self, volume: int, body: bytes) -> bool:
        """Must the peer be asked? Not if it has been, for another volume, the same."""
        for asked, askers in self._groups:
            if asked == body:
                askers.append(volume)
                return False
        self._groups.append((body, [volume]))
        return True

    def answered(self) -> list[int]:
        """The peer's answers come in the order of the questions: who has asked."""
        return self._groups.popleft()[1] if self._groups else []

    def asked_by_peer(self, volumes: Iterable[int]) -> None:
        """The peer's question goes to all of these."""
        self._theirs.append(_Question(set(volumes)))

    def answered_by(self, volume: int, body: memoryview) -> list[bytes]:
        """Answers to the peer that are complete with this one: what any volume refuses is refused."""
        question = next((one for one in self._theirs if volume in one.left), None)
        if question is not None:
            question.left.discard(volume)
            code = StateChangeReply.unpack(body).retcode
            if question.worst >= int(Code.SUCCESS):
                question.worst = code
        answers = []
        while self._theirs and not self._theirs[0].left:
            answers.append(StateChangeReply(self._theirs.popleft().worst).pack())
        return answers

    def leaves(self, volume: int) -> bool:
        """It has closed its connection; true if others are still to be heard."""
        self.left = True
        for question in self._theirs:
            question.left.discard(volume)
        return any(question.left for question in self._theirs)


class _Question:
    """One of the peer's, on its way to the volumes."""

    __slots__ = ("left", "worst")

    def __init__(self, left: set[int]) -> None:
        self.left = left
        self.worst = int(Code.SUCCESS)
