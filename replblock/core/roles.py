# SPDX-License-Identifier: GPL-2.0-or-later
"""Promotion and demotion: what must be asked, fenced, flushed and written before the role really changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from replblock.core.answers import Answer, Reply
from replblock.core.requests import Op, Request
from replblock.state.codes import Code
from replblock.state.names import Conn, Disk, Role
from replblock.state.promotion import Attempt, Remedy, remedy

if TYPE_CHECKING:
    from replblock.core.admin import Admin
    from replblock.core.metastore import MetaStore
    from replblock.core.resource import Resource

UNFLUSHED = "warning: writes that were answered may be on no disk any more; no flush has failed for them yet"


class Roles:
    """One change of role at a time."""

    def __init__(self, resource: Resource, admin: Admin) -> None:
        self._r = resource
        self._admin = admin
        self._attempt: tuple[Attempt, Reply] | None = None
        self._promotion: list[Reply] | None = None
        """Who waits until what the new role stands on is durable."""
        self._demotion: Callable[[], None] | None = None
        """What goes on when the last request is done."""
        self._demoting: list[Reply] | None = None
        """Who waits for a demotion, from the closing of the doors until the role has changed."""

    # --- primary ---

    def primary(self, args: dict[str, Any], reply: Reply) -> None:
        """primary [--force]."""
        r = self._r
        nobody = Disk.INCONSISTENT <= r.state.disk < Disk.UP_TO_DATE and r.state.pdsk < Disk.UP_TO_DATE
        # --force at a Primary that lost its good data, and its peer's: nothing else would refuse, and lead to the disk
        asked = r.state.role == Role.PRIMARY and nobody and bool(args.get("force"))
        if self._demoting is not None and not asked:  # it was ordered before, and would overtake this promotion
            reply(self._admin.busy())
            return
        if r.state.role == Role.PRIMARY and not (args.get("force") and r.state.disk != Disk.UP_TO_DATE):
            if self._promotion is not None:
                self._promotion.append(reply)
            else:
                reply(Answer())
            return
        if self._attempt is not None or self._admin.pending is not None:
            reply(self._admin.busy())
            return
        self._try(Attempt(r.state.disk, bool(args.get("force")), disk_asked=asked), reply)

    def _wanted(self, attempt: Attempt) -> dict[str, Any]:
        wanted: dict[str, Any] = {"role": Role.PRIMARY}
        if attempt.disk_asked:
            wanted["disk"] = Disk.UP_TO_DATE
        if attempt.pdsk_asked:
            wanted["pdsk"] = Disk.OUTDATED
        return wanted

    def _try(self, attempt: Attempt, reply: Reply) -> None:
        r = self._r
        self._attempt = (attempt, reply)
        wanted = self._wanted(attempt)
        if r.handshake.undecided:
            self._refused(Code.IN_TRANSIENT_STATE, "handshake-under-way")
            return
        refusal = r.would(**wanted)
        if refusal is not None:
            self._refused(refusal.code, refusal.rule)
            return
        if r.state.conn >= Conn.CONNECTED:
            if self._admin.pending is not None:  # asked while this waited for a ping: one question at a time
                self._attempt = None
                reply(self._admin.busy())
                return
            self._admin.ask_peer(self._answered, connection=False, **{k: int(v) for k, v in wanted.items()})
        elif attempt.flushed == r.links.losses or r.meta is None:  # no peer was here since, who may have written
            self._promote()
        else:
            r.secondary.when_written(partial(self._flush_first, r.meta, attempt, reply))

    def _flush_first(self, meta: MetaStore, attempt: Attempt, reply: Reply) -> None:
        """Alone, this disk is flushed before it gets a generation of its own.

        If that fails it lacks what the peer may have, and by that generation it would overwrite the peer all the same.
        """
        r = self._r
        losses = r.links.losses

        def flushed(error: int) -> None:
            if error and r.meta is meta:
                r.disk_failed(error, "flushing at promotion")
            self._try(attempt._replace(flushed=losses, disk=r.state.disk), reply)

        if r.meta is meta:
            meta.flush(flushed)
        else:
            flushed(0)

    def _answered(self, retcode: int | None) -> None:
        if self._attempt is None:
            return
        if retcode is None:
            attempt, reply = self._attempt
            self._try(attempt._replace(tries=attempt.tries + 1, unanswered=True), reply)
        elif retcode < 1:
            self._refused(Code.CW_FAILED_BY_PEER, f"peer answered {retcode}")
        else:
            self._promote()

    def _refused(self, code: Code, rule: str) -> None:
        assert self._attempt is not None
        attempt, reply = self._attempt
        row = remedy(code, attempt)
        again = attempt._replace(tries=attempt.tries + 1, disk=self._r.state.disk)
        unfenced = row.remedy == Remedy.FENCE_FOR_DISK and self._r.settings.fencing == "dont-care"
        if row.remedy == Remedy.FORCE_DISK or unfenced:
            self._try(again._replace(disk_asked=True), reply)
        elif row.remedy in (Remedy.FENCE_FOR_DISK, Remedy.FENCE_FOR_PEER, Remedy.FORCE_SPLIT):
            self._r.fencing.fence_peer(lambda ok: self._fenced(ok, row.remedy, again, reply))
        elif row.remedy == Remedy.FORGET_FENCING:
            self._try(again._replace(pdsk_asked=False), reply)
        elif row.remedy == Remedy.WAIT_PING_TIMEOUT:
            self._attempt = (again._replace(waited=True), reply)
            self._r.links.ping()
            self._r.host.timer("admin-promote", self._r.settings.ping_timeout_ms)
        else:
            self._attempt = None
            answer = self._admin.refused_code(code, None, rule)
            if attempt.unanswered:
                text = "the connection broke before the peer agreed; try again when it is back"
                answer.lines.append(f"{text}: replctl wait-connect {self._r.settings.resource}")
            reply(answer)

    def _fenced(self, ok: bool, remedy: Remedy, attempt: Attempt, reply: Reply) -> None:
        """fence-peer ended: what it found stands in the state already."""
        r = self._r
        if ok:
            self._try(attempt._replace(disk_asked=attempt.disk_asked or remedy == Remedy.FENCE_FOR_DISK), reply)
        elif r.state.conn >= Conn.WF_REPORT_PARAMS:
            self._try(attempt, reply)  # the peer came back meanwhile: ask it
        elif remedy == Remedy.FORCE_SPLIT:
            text = "Forced into split brain situation! The peer could not be fenced"
            r.why("warning", "forced-into-split-brain", text)
            self._try(attempt._replace(pdsk_asked=True), reply)
        else:
            refusal = r.would(**self._wanted(attempt))
            self._attempt = None
            reply(self._admin.refused(refusal) if refusal is not None else self._admin.busy())

    def on_timer(self) -> None:
        """The peer was given one more ping to be dead."""
        if self._attempt is not None:
            attempt, reply = self._attempt
            self._try(attempt, reply)

    def _promote(self) -> None:
        assert self._attempt is not None
        if self._r.handshake.undecided:  # a disk was attached since the peer was asked
            self._refused(Code.IN_TRANSIENT_STATE, "handshake-under-way")
            return
        attempt, reply = self._attempt
        self._attempt = None
        r = self._r
        wanted = self._wanted(attempt)
        forced = attempt.disk_asked and r.state.disk < Disk.UP_TO_DATE
        again = r.state.role == Role.PRIMARY
        refusal = r.change("promoted", promotion_forced=forced, **wanted)
        if refusal is not None:
            if r.state.conn >= Conn.CONNECTED:
                r.send_state()  # the peer may take us for a Primary already
            reply(self._admin.refused(refusal))
            return
        r.handshake.discard_my_data = False
        if r.state.conn >= Conn.CONNECTED:
            if forced:
                r.handshake.send_uuids()
            r.send_state()
        meta = r.meta
        self._promotion = waiting = [reply]

        def ended(answer: Answer) -> None:
            if self._promotion is waiting:
                self._promotion = None
            for each in waiting:
                each(answer)

        def durable(error: int) -> None:
            if error and r.meta is meta:
                r.disk_failed(error, "writing metadata at promotion")
            if self._promotion is not waiting or r.state.role != Role.PRIMARY:
                ended(Answer() if again else self._admin.busy())  # demoted meanwhile
                return
            r.primary.ready = True
            r.host.state_changed(r.state, r.state)
            ended(Answer())

        def flushed(error: int) -> None:
            if error:
                if r.meta is meta:
                    r.disk_failed(error, "flushing at promotion")
                if r.state.disk < Disk.UP_TO_DATE and r.state.pdsk < Disk.UP_TO_DATE:
                    r.change("promotion-failed", forced=True, role=Role.SECONDARY)
                    ended(self._admin.refused_code(Code.NO_UP_TO_DATE_DISK, None, "flush-failed-at-promotion"))
                    return
            if r.meta is meta and meta is not None:
                meta.save(durable)
            else:
                durable(0)  # that disk is gone, or another attach went on with the new role

        def written() -> None:
            if r.meta is meta and meta is not None:
                meta.flush(flushed)
            else:
                durable(0)

        if attempt.flushed == r.links.losses and r.state.conn < Conn.CONNECTED:
            flushed(0)
        elif meta is not None:
            # what the peer sent before it vanished is written and on disk before anybody builds on it
            r.secondary.when_written(written)
        else:
            durable(0)

    # --- secondary ---

    def secondary(self, args: dict[str, Any], reply: Reply) -> None:
        """secondary; `device_open` says whether somebody holds the device."""
        r = self._r
        if r.state.role == Role.SECONDARY:
            reply(Answer())
            return
        if self._admin.pending is not None:
            reply(self._admin.busy())
            return
        r.device_open = bool(args.get("device_open"))
        refusal = r.would(role=Role.SECONDARY)
        r.device_open = False
        if refusal is not None:
            reply(self._admin.refused(refusal))
            return
        if self._demoting is not None:
            self._demoting.append(reply)
            return
        self._demoting = [reply]
        r.primary.ready = False
        self._promotion = None
        r.host.state_changed(r.state, r.state)

        def drained() -> None:
            self._demotion = None
            r.primary.submit([Request(Op.FLUSH, 0, 0, flushed, fua=True)])

        def flushed(request: Request) -> None:
            if not r.primary.idle:
                self._demotion = drained  # these had passed the doors before they were closed
                return
            # not refused: whoever wrote has gone, and there would be no more to flush the next time
            warnings = [UNFLUSHED] if request.errno or r.primary.loss_untold else []
            if request.errno and r.meta is not None:
                self._flush_without_data(r.meta, drained, lambda: self._demote(warnings))
            else:
                self._demote(warnings)

        self._demotion = drained
        if r.primary.idle:
            drained()

    def _flush_without_data(self, meta: MetaStore, again: Callable[[], None], then: Callable[[], None]) -> None:
        """No good data within reach; but of what this disk took, only the activity log tells until it is durable.

        A Secondary's log does not count, and the resync copies only what is marked: data before metadata, here too.
        """
        r = self._r

        def flushed(error: int) -> None:
            if error and r.meta is meta:
                r.disk_failed(error, "flushing at demotion")
            if r.primary.idle:
                then()
            else:
                self._demotion = again

        meta.flush(flushed)

    def drained(self) -> None:
        """The last request is done."""
        if self._demotion is not None and self._r.primary.idle:
            self._demotion()

    def _demote(self, warnings: list[str]) -> None:
        r = self._r
        if r.handshake.undecided:  # both must come to mirror images
            r.handshake.when_over(lambda: self._demote(warnings))
            return
        waiting, self._demoting = self._demoting or [], None

        def ended(answer: Answer) -> None:
            for reply in waiting:
                reply(answer)

        refusal = r.change("demoted", role=Role.SECONDARY)
        if refusal is not None:
            r.primary.ready = True
            answer = self._admin.refused(refusal)
            ended(answer._replace(lines=[*answer.lines, *warnings]))
            return
        meta = r.meta
        if r.state.conn >= Conn.CONNECTED:
            r.send_state()
        if meta is None:
            # who is answered may end the engine: what the disk that is gone lacks stands in its metadata first
            r.when_disk_idle(lambda: ended(Answer(lines=warnings)))
            return
        meta.save_bitmap()
        meta.save(lambda error: ended(Answer(lines=warnings)))
