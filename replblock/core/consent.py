# SPDX-License-Identifier: GPL-2.0-or-later
"""What the peer's operator asks of us: changes of state that need this node's consent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.state.codes import Code
from replblock.state.names import STARTING_SYNC, Conn, Disk, Role
from replblock.state.packed import state_mask
from replblock.state.requests import Reply as Verdict
from replblock.state.requests import reply_to_request
from replblock.wire.commands import Cmd
from replblock.wire.packets import StateChangeReply, StateChangeRequest

if TYPE_CHECKING:
    from replblock.core.admin import Admin
    from replblock.core.resource import Resource


class Consent:
    """Answers what the peer asks, and carries it out."""

    def __init__(self, resource: Resource, admin: Admin) -> None:
        self._r = resource
        self._admin = admin

    def on_state_request(self, body: memoryview) -> None:
        """P_STATE_CHG_REQ: answered when the metadata says what this node is, and what a Primary builds on is for good.

        A Primary that was demoted and dies before that would come back as one that crashed. If the peer was promoted
        meanwhile and dies, too, nobody can tell whose writes count. And where the peer is to work on this disk alone,
        the generation that this begins is durable first: its users may have read what is here, and this disk may fail
        before anything was written.
        """
        r = self._r
        meta, link, request = r.meta, r.links.link, StateChangeRequest.unpack(body)
        built_on = self._built_on(request)
        if meta is None or r.secondary.link is None or not (meta.writing or built_on):
            self._answer(request, Cmd.STATE_CHG_REPLY)
            return

        def begin(go_on: Callable[[], None]) -> None:
            def saved(error: int) -> None:
                if r.links.link is link:
                    self._answer(request, Cmd.STATE_CHG_REPLY)
                go_on()

            def flushed(error: int) -> None:
                if error and r.meta is meta:
                    r.disk_failed(error, "flushing for the promotion of the peer")
                if r.meta is not meta:
                    saved(0)
                elif r.links.link is link and self._built_on(request):
                    self._agree_for_good(request, go_on)
                else:
                    meta.save(saved)

            def written() -> None:
                if r.meta is meta:
                    meta.flush(flushed)
                else:
                    flushed(0)

            if built_on:
                r.secondary.when_written(written)
            else:
                flushed(0)

        r.secondary.hold_until(begin)

    def _built_on(self, request: StateChangeRequest) -> bool:
        """Would the peer be Primary, without a good disk of its own, on what is here?

        Its last life may have been answered with our copy and have died before the barrier: no later one speaks of it.
        """
        new = self._verdict(request, Cmd.STATE_CHG_REPLY).state
        promoted = new is not None and new.peer == Role.PRIMARY != self._r.state.peer and new.pdsk < Disk.UP_TO_DATE
        return promoted and self._r.settings.disk_flushes

    def _agree_for_good(self, request: StateChangeRequest, go_on: Callable[[], None]) -> None:
        """Carry it out, and answer when the metadata says so."""
        r = self._r
        link, meta, verdict = r.links.link, r.meta, self._verdict(request, Cmd.STATE_CHG_REPLY)
        assert link is not None and meta is not None
        self._carry_out(verdict)

        def saved(error: int) -> None:
            if r.links.link is link and not error:  # else this disk is gone, and the connection with it
                self._reply(verdict, Cmd.STATE_CHG_REPLY)
            go_on()

        meta.save(saved)

    def on_connection_request(self, body: memoryview) -> None:
        """P_CONN_ST_CHG_REQ."""
        self._answer(StateChangeRequest.unpack(body), Cmd.CONN_ST_CHG_REPLY)

    def _verdict(self, request: StateChangeRequest, answer: Cmd) -> Verdict:
        r = self._r
        link = r.links.link
        assert link is not None
        rules = r.rules()
        undecided = r.handshake.running or r.state.disk in (Disk.ATTACHING, Disk.NEGOTIATING)
        if undecided and answer != Cmd.CONN_ST_CHG_REPLY:
            rules = rules._replace(handshaking=True)  # what our disk is worth is not known yet
        verdict = reply_to_request(
            r.state, request.mask, request.val, rules,
            own_change_in_flight=self._admin.pending is not None, resolve_conflicts=link.resolve_conflicts,
        )  # fmt: skip
        if verdict.code >= Code.SUCCESS and self._wants_verify(request) and r.sync.verify.needs_disks() is not None:
            verdict = Verdict(Code.NO_UP_TO_DATE_DISK, "verify-needs-good-disks")
        if verdict.state is not None and self._admin.lifts_a_bad_source(verdict.state.conn):
            verdict = Verdict(Code.NO_UP_TO_DATE_DISK, "source-not-up-to-date")
        if undecided and verdict.state is not None and verdict.state.disk == Disk.OUTDATED:
            verdict = Verdict(Code.IN_TRANSIENT_STATE, "disk-comes-or-goes")
        return verdict

    @staticmethod
    def _wants_verify(request: StateChangeRequest) -> bool:
        mask, verify = state_mask(conn=Conn.VERIFY_S)
        return request.mask & mask == mask and request.val & mask == verify

    def _answer(self, request: StateChangeRequest, answer: Cmd) -> None:
        verdict = self._verdict(request, answer)
        self._reply(verdict, answer)
        self._carry_out(verdict)

    def _reply(self, verdict: Verdict, answer: Cmd) -> None:
        self._r.links.send_meta(answer, StateChangeReply(int(verdict.code)).pack())
        if verdict.state is None and verdict.code < Code.SUCCESS:
            text = f"refused the peer's state change: ({int(verdict.code)}) {verdict.code.text}"
            self._r.host.log("info", verdict.rule, text)

    def _carry_out(self, verdict: Verdict) -> None:
        r, new = self._r, verdict.state
        link = r.links.link
        assert link is not None
        if new is None:
            return
        if new.conn == Conn.TEAR_DOWN:
            r.host.push(link.meta)
            text = "the peer disconnects by order of its operator"
            known = {}
            for field, whom in (("disk", "this node"), ("pdsk", "the peer")):
                if getattr(new, field) == Disk.OUTDATED < getattr(r.state, field):  # it never lifts a disk
                    known[field] = Disk.OUTDATED
                    text += f"; {whom} is outdated from now on (fencing)"
            r.links.drop(Conn.TEAR_DOWN, "peer-disconnects", text, "notice", **known)
            return
        r.change("peer-requests", forced=True, **new._asdict())
        if r.state.conn in STARTING_SYNC:
            r.sync.starting(r.state.conn, "peer-requests")
