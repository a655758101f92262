# SPDX-License-Identifier: GPL-2.0-or-later
"""`detach` by an operator: the peer must have everything for good before this disk stops to count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblock.core.answers import Answer, Reply
from replblock.state.names import Conn, Disk, Role

if TYPE_CHECKING:
    from replblock.core.admin import Admin
    from replblock.core.resource import Resource

FREEZE = "detaching"


class Detaching:
    """One detach.

    A Primary gives up the copy its acknowledgements were made for. Until the peer has flushed what it was sent, and
    has agreed, nothing new begins: else a peer that loses power meanwhile would come back with less than was
    acknowledged, and as the only copy. By force the peer is not asked, but its flush is waited for all the same.
    """

    def __init__(self, resource: Resource, admin: Admin, force: bool, reply: Reply) -> None:
        self._r = resource
        self._admin = admin
        self._force = force
        self._answer = reply
        self._frozen = False

    def begin(self) -> None:
        r = self._r
        if r.meta is None:
            self._answer(Answer())
            return
        if self._refused():
            return
        if r.state.conn < Conn.CONNECTED:
            self._go()
        elif FREEZE in r.primary.frozen or (self._admin.pending is not None and not self._force):
            self._answer(self._admin.busy())  # another detach waits for the peer's flush
        elif r.state.role == Role.PRIMARY:
            self._frozen = True
            r.primary.freeze(FREEZE)
            if self._force:
                r.primary.drain_log(self._ask)  # this disk may hang
            else:
                # what has begun here ends here: a good disk has not failed because it goes
                r.primary.when_written(lambda: r.primary.drain_log(self._ask))
        else:
            self._ask()

    def _refused(self) -> bool:
        refusal = self._r.would(disk=Disk.FAILED)
        if refusal is not None and not self._force:
            self._reply(self._admin.refused(refusal))
            return True
        return False

    def _ask(self) -> None:
        """The peer has everything for good, or is gone."""
        r = self._r
        if r.meta is None:
            self._reply(Answer())
        elif self._refused():
            return
        elif r.state.conn < Conn.CONNECTED or self._force:
            self._go()
        elif self._admin.pending is not None:
            self._reply(self._admin.busy())
        else:
            self._admin.ask_peer(self._answered, disk=Disk.FAILED)

    def _answered(self, retcode: int | None) -> None:
        if retcode is not None and retcode < 1:
            self._reply(self._admin.peer_refused(retcode))
        elif retcode is not None or not self._refused():
            self._go()

    def _go(self) -> None:
        attachment = self._r.attachment
        attachment.detach(lambda: self._answer(Answer(lines=attachment.trouble)))
        self._thaw()

    def _thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self._r.primary.thaw(FREEZE)

    def _reply(self, answer: Answer) -> None:
        self._thaw()
        self._answer(answer)
