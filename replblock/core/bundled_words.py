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

    def answered(self) -> int:
        """The peer's ack: whose ping it was for. Acks come in the order of the pings; -1 for one too many."""
        return self._mine.popleft() if self._mine else -1

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
        self._left_to_answer: set[int] = set()
        self._worst = int(Code.SUCCESS)
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
        self._left_to_answer = set(volumes)
        self._worst = int(Code.SUCCESS)

    def answered_by(self, volume: int, body: memoryview) -> bytes | None:
        """The answer of all, when this was the last one: what any of them refuses is refused."""
        code = StateChangeReply.unpack(body).retcode
        if self._worst >= int(Code.SUCCESS):
            self._worst = code
        self._left_to_answer.discard(volume)
        return None if self._left_to_answer else StateChangeReply(self._worst).pack()

    def leaves(self, volume: int) -> bool:
        """It has closed its connection; true if others are still to be heard."""
        self.left = True
        self._left_to_answer.discard(volume)
        return bool(self._left_to_answer)
