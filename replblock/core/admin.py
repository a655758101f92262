# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's commands. A refused command changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from replblock.core import netoptions
from replblock.core.answers import EXIT_CONFIG, EXIT_UNKNOWN, Answer, Reply
from replblock.core.connecting import Connecting
from replblock.core.detaching import Detaching
from replblock.core.resizing import TIMER as RESIZE_TIMER
from replblock.core.roles import Roles
from replblock.core.waits import Waits
from replblock.meta.errors import MetadataError
from replblock.meta.superblock import Superblock
from replblock.state.codes import Code
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State, state_mask
from replblock.state.sanitizing import RESUMED
from replblock.state.transitions import Refusal
from replblock.wire import flags
from replblock.wire.commands import Cmd
from replblock.wire.packets import StateChangeReply, StateChangeRequest

if TYPE_CHECKING:
    from replblock.core.resource import Resource

PATIENCE_TIMEOUTS = 7
"""With ko-count 0, so many `timeout`s pass before a peer that lives, and does not answer, is given up."""

ALREADY_PAUSED = (134, "Sync-pause flag is already set")
NOT_PAUSED = (135, "Sync-pause flag is already cleared")
PAUSED_BY_DEPENDENCY = (156, NOT_PAUSED[1], "Note: Resync pause caused by a local resync-after dependency.")
PAUSED_BY_PEER = (157, NOT_PAUSED[1], "Note: Resync pause caused by the peer node.")
"""resume-sync of what this node's user does not pause: who does."""


NOT_WHILE_GROWING = frozenset({"attach", "detach", "primary", "secondary", "invalidate", "invalidate_remote", "verify"})
"""The peer would be the target of a resync whose source goes, or does something else."""


class Pending(NamedTuple):
    """Our own cluster-wide change that waits for the peer's answer."""

    done: Callable[[int | None], None]
    conn: int | None
    """The connection state asked for, if it is one."""
    asked_ms: int


class Admin:
    """Dispatches commands; `roles` does promotion and demotion."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.roles = Roles(resource, self)
        self.connecting = Connecting(resource, self)
        self.pending: Pending | None = None
        self._after_answer: Callable[[], None] | None = None
        self.waits = Waits(resource)
        self._outdating: Reply | None = None
        self._verbs: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "attach": self._attach, "detach": self._detach,
            "connect": self.connecting.connect, "disconnect": self.connecting.disconnect,
            "primary": self.roles.primary, "secondary": self.roles.secondary, "down": self._down,
            "invalidate": self._invalidate, "invalidate_remote": self._invalidate_remote, "outdate": self._outdate,
            "pause_sync": partial(self._pause, True), "resume_sync": partial(self._pause, False),
            "net_options": self._net_options, "new_current_uuid": self._new_current_uuid,
            "suspend_io": self._suspend_io, "resume_io": self._resume_io, "verify": resource.sync.verify.command,
            "wait_connect": self.waits.wait_connect, "wait_sync": self.waits.wait_sync,
            "resize": partial(resource.resizing.command, self),
        }  # fmt: skip

    def command(self, verb: str, args: dict[str, Any], reply: Reply) -> None:
        """Carry out a command."""
        action = self._verbs.get(verb)
        if action is None:
            reply(Answer(EXIT_UNKNOWN, [f"{self._r.settings.resource}: unknown command '{verb}'"]))
        elif verb in NOT_WHILE_GROWING and self._r.resizing.asking:
            reply(self.busy())
        else:
            action(args, reply)

    # --- answers ---

    @property
    def minor(self) -> str:
        """How DRBD names a volume in its messages."""
        return str(self._r.settings.minor)

    def refused(self, refusal: Refusal, name: str | None = None) -> Answer:
        """The answer to a refused change of state, in DRBD's words, with our rule behind it."""
        return self.refused_code(refusal.code, name, refusal.rule)

    def refused_code(self, code: Code, name: str | None = None, rule: str = "") -> Answer:
        """The same for a bare code."""
        line = f"{name or self.minor}: State change failed: ({int(code)}) {code.text}"
        return Answer(code.exit_code, [line + (f" [{rule}]" if rule else "")], {"code": int(code), "rule": rule})

    def failure(self, number: int, text: str, name: str | None = None) -> Answer:
        """A configuration error."""
        return Answer(EXIT_CONFIG, [f"{name or self.minor}: Failure: ({number}) {text}"], {"code": number})

    # --- asking the peer ---

    def ask_peer(self, done: Callable[[int | None], None], connection: bool = False, **fields: int) -> None:
        """P_STATE_CHG_REQ; `done(retcode)`, or done(None) when the connection broke before the answer."""
        r = self._r
        link = r.links.link
        assert link is not None
        self.pending = Pending(done, fields.get("conn"), r.host.now_ms())
        body = StateChangeRequest(*state_mask(**fields)).pack()
        if connection and link.version >= 100:
            r.links.send_connection(Cmd.CONN_ST_CHG_REQ, body)
        else:
            r.links.send(Cmd.STATE_CHG_REQ, body)
        self._await_answer()

    def _await_answer(self) -> None:
        settings = self._r.settings
        self._r.host.timer("admin-ask", max(settings.timeout_ms, 4 * settings.ping_timeout_ms))

    def on_state_reply(self, body: memoryview) -> None:
        """P_STATE_CHG_REPLY, P_CONN_ST_CHG_REPLY."""
        self._answered(StateChangeReply.unpack(body).retcode)

    def _answered(self, retcode: int | None) -> None:
        pending, self.pending = self.pending, None
        self._r.host.timer("admin-ask", None)
        if pending is not None:
            pending.done(retcode)
        go_on, self._after_answer = self._after_answer, None
        if go_on is not None:
            go_on()

    def on_sync_uuid(self, body: memoryview) -> None:
        """P_SYNC_UUID of a resync that we asked for may overtake the answer, which comes on the other connection."""
        r = self._r
        if self.pending is None or self.pending.conn != Conn.STARTING_SYNC_T or r.state.conn != Conn.CONNECTED:
            r.sync.on_sync_uuid(body)
            return

        def begin(go_on: Callable[[], None]) -> None:
            self._after_answer = go_on

        r.secondary.hold_until(begin)
        r.secondary.hold([(Cmd.SYNC_UUID, r.settings.volume, memoryview(bytes(body)))])

    def _unanswered(self) -> None:
        """The peer may still agree, and do it: a connection on which both believe different things must not go on.

        Before it answers, its disk may have to flush for long: while it answers pings it has as long as for a write.
        """
        pending = self.pending
        if pending is None:
            return
        r, waited_ms = self._r, self._r.host.now_ms() - pending.asked_ms
        most_ms = (r.settings.ko_count or PATIENCE_TIMEOUTS) * r.settings.timeout_ms
        if pending.conn != Conn.DISCONNECTING and waited_ms < most_ms:  # who leaves anyway need not be patient
            self._await_answer()
            r.links.ping()
            return
        text = f"the peer did not answer a change of state within {waited_ms} ms: connecting anew"
        r.links.drop(Conn.NETWORK_FAILURE, "change-not-answered", text)
        self._answered(None)

    def connection_lost(self) -> None:
        """No answer will come."""
        self._answered(None)

    def drained(self) -> None:
        """No request is under way."""
        self.roles.drained()

    def changed_meanwhile(self) -> None:
        """The peer did what we asked for, but here it does not fit any more: begin anew from what is on disk."""
        text = "the state changed while the peer was asked: connecting anew"
        self._r.links.drop(Conn.NETWORK_FAILURE, "changed-while-asking", text)

    def busy(self) -> Answer:
        """Another change of ours is under way."""
        return self.refused_code(Code.IN_TRANSIENT_STATE, None, "own-change-in-flight")

    def peer_refused(self, retcode: int | None) -> Answer:
        if retcode is None:
            answer = self.refused_code(Code.IN_TRANSIENT_STATE, None, "connection-lost-while-asking")
            answer.lines.append(
                f"the peer may have done it all the same; run on both nodes: replctl status {self._r.settings.resource}"
            )
            return answer
        return self.refused_code(Code.CW_FAILED_BY_PEER, None, f"peer answered {retcode}")

    # --- disk ---

    def _attach(self, args: dict[str, Any], reply: Reply) -> None:
        r = self._r
        if r.meta is not None:
            reply(self.failure(124, "Device is attached to a disk (use detach first)"))
            return
        if self.pending is not None:
            # a promotion on the peer's copy, say: it would be refused when the disk is here, and the peer has begun a
            # generation for it
            reply(self.busy())
            return
        if not r.disk_idle:  # what the metadata of a disk that failed must tell may still be on its way to it
            r.when_disk_idle(lambda: self._attach(args, reply))
            return
        disk, geometry = args["disk"], args["geometry"]
        try:
            superblock = Superblock.unpack(disk.meta_read(geometry.superblock_offset_bytes, 4096))
        except MetadataError as error:
            text = f"No valid meta-data signature found. {error}; run: replctl create-md {r.settings.resource}"
            reply(self.failure(119, text))
            return
        except OSError as error:
            reply(self.failure(118, f"IO error(s) occurred during initial access to meta-data. {error}"))
            return
        name = self.minor

        def done(problem: str) -> None:
            reply(Answer(EXIT_CONFIG, [f"{name}: Failure: {problem}"]) if problem else Answer())

        r.attachment.attach(disk, geometry, superblock, done)

    def _detach(self, args: dict[str, Any], reply: Reply) -> None:
        Detaching(self._r, self, bool(args.get("force")), reply).begin()

    # --- connection ---

    def _net_options(self, args: dict[str, Any], reply: Reply) -> None:
        """New settings while running."""
        netoptions.change(self._r, args["settings"])
        reply(Answer())

    def _down(self, args: dict[str, Any], reply: Reply) -> None:
        """secondary, disconnect, detach: the orderly end."""
        warnings: list[str] = []

        def demoted(answer: Answer) -> None:
            warnings.extend(answer.lines)
            if answer.exit_code:
                reply(answer)
            elif self._r.state.conn == Conn.STANDALONE:
                disconnected(Answer())
            else:
                self.connecting.disconnect({}, disconnected)

        def disconnected(answer: Answer) -> None:
            if self._r.state.conn != Conn.STANDALONE:
                self.connecting.go_standalone()
            attachment = self._r.attachment
            attachment.detach(lambda: reply(Answer(lines=warnings + attachment.trouble)))

        self.roles.secondary(args, demoted)

    # --- data ---

    def _full_sync(self, conn: Conn, reply: Reply) -> None:
        r = self._r
        for disk, code in ((r.state.disk, Code.NO_LOCAL_DISK), (r.state.pdsk, Code.NO_REMOTE_DISK)):
            if disk < Disk.INCONSISTENT and (r.state.conn >= Conn.CONNECTED or self._undecided()):
                code = Code.IN_TRANSIENT_STATE if disk in (Disk.ATTACHING, Disk.NEGOTIATING) else code
                reply(self.refused_code(code, None, "disk-not-ready-for-resync"))
                return
        if self.lifts_a_bad_source(conn):
            reply(self.refused_code(Code.NO_UP_TO_DATE_DISK, None, "source-not-up-to-date"))
            return
        refusal = r.would(conn=conn)
        if refusal is None and self.pending is not None:
            reply(self.busy())
            return
        if refusal is not None:
            reply(self.refused(refusal))
            return

        def answered(retcode: int | None) -> None:
            if retcode is None or retcode < 1:
                reply(self.peer_refused(retcode))
                return
            if r.would(conn=conn) is None and not self.lifts_a_bad_source(conn):
                r.change("invalidate", forced=True, conn=conn)
            if r.state.conn != conn:
                self.changed_meanwhile()
                reply(self.refused_code(Code.IN_TRANSIENT_STATE, None, "changed-while-asking"))
                return
            r.sync.starting(r.state.conn, "invalidate")
            reply(Answer())

        self.ask_peer(answered, conn=conn)

    def _undecided(self) -> bool:
        """The disk comes or goes: what it is called now is not what it will be called then."""
        return self._r.meta is not None and self._r.state.disk < Disk.INCONSISTENT

    def _alone_as(self, role: Role) -> bool:
        return self._r.state.conn == Conn.STANDALONE and self._r.state.role == role and not self._undecided()

    def lifts_a_bad_source(self, conn: int) -> bool:
        """DRBD's adjustment of a wanted state would declare the source UpToDate, whatever its disk is."""
        state = self._r.state
        if conn == Conn.STARTING_SYNC_S:
            return Disk.NEGOTIATING <= state.disk < Disk.UP_TO_DATE  # attached again while the peer was asked
        return conn == Conn.STARTING_SYNC_T and Disk.INCONSISTENT <= state.pdsk < Disk.UP_TO_DATE

    def _invalidate(self, args: dict[str, Any], reply: Reply) -> None:
        r = self._r
        if r.meta is not None and self._alone_as(Role.SECONDARY):
            r.sync.mark_everything()
            r.change("invalidate", forced=True, disk=Disk.INCONSISTENT)
            r.meta.save(lambda error: reply(Answer()))
            return
        self._full_sync(Conn.STARTING_SYNC_T, reply)

    def _invalidate_remote(self, args: dict[str, Any], reply: Reply) -> None:
        r = self._r
        if r.meta is not None and self._alone_as(Role.PRIMARY):
            r.sync.mark_everything()
            r.change("invalidate-remote", forced=True, pdsk=Disk.INCONSISTENT)
            r.meta.save(lambda error: reply(Answer()))
            return
        self._full_sync(Conn.STARTING_SYNC_S, reply)

    def _outdate(self, args: dict[str, Any], reply: Reply) -> None:
        """Never while connected: DRBD would lift even an Inconsistent disk to UpToDate there.

        Whoever fences this node has found that the connection is gone; here that may not be known yet. So a connected
        peer is asked whether it lives.
        """
        r = self._r
        if self._outdating is not None:
            reply(self.busy())
            return
        if r.state.conn >= Conn.CONNECTED and not args.get("peer_lives"):
            self._outdating = reply
            r.links.ping(self._outdate_now)
            r.host.timer("admin-outdate", r.settings.ping_timeout_ms)
            return
        if r.state.conn >= Conn.WF_REPORT_PARAMS:
            connected = r.state.conn >= Conn.CONNECTED
            code = Code.CONNECTED_OUTDATES if connected else Code.IN_TRANSIENT_STATE
            reply(self.refused_code(code, None, "outdate-while-connected" if connected else "handshake-under-way"))
            return
        if self._undecided():
            reply(self.refused_code(Code.IN_TRANSIENT_STATE, None, "disk-comes-or-goes"))
            return
        refusal = r.change("outdate", disk=Disk.OUTDATED)
        if refusal is not None:
            reply(self.refused(refusal))
        elif r.meta is not None:
            r.meta.save(lambda error: reply(Answer()))
        else:
            reply(Answer())

    def _outdate_now(self) -> None:
        """The peer has answered, or the connection is known to be gone, if it is."""
        if self._outdating is not None:
            reply, self._outdating = self._outdating, None
            self._r.host.timer("admin-outdate", None)
            self._outdate({"peer_lives": True}, reply)

    def _suspend_io(self, args: dict[str, Any], reply: Reply) -> None:
        """Requests wait until `resume_io`."""
        self._r.change("suspend-io", forced=True, susp=True)
        reply(Answer())

    def _resume_io(self, args: dict[str, Any], reply: Reply) -> None:
        """I/O goes on by order, without the peer in a new generation; but never without data within reach."""
        self._r.change("resume-io", forced=True, susp=False, susp_fen=False)
        reply(Answer())

    def _pause(self, wanted: bool, args: dict[str, Any], reply: Reply) -> None:
        r = self._r
        if r.state.user_isp == wanted:
            reply(self.failure(*ALREADY_PAUSED) if wanted else self._not_paused())
            return
        r.change("pause-sync" if wanted else "resume-sync", forced=True, user_isp=wanted)
        if r.state.conn >= Conn.CONNECTED:
            r.send_state()
        reply(Answer())

    def _not_paused(self) -> Answer:
        state = self._r.state
        if state.conn not in RESUMED or not (state.aftr_isp or state.peer_isp):
            return self.failure(*NOT_PAUSED)
        number, text, note = PAUSED_BY_DEPENDENCY if state.aftr_isp else PAUSED_BY_PEER
        answer = self.failure(number, text)
        answer.lines.append(note)
        return answer

    def _new_current_uuid(self, args: dict[str, Any], reply: Reply) -> None:
        """A new generation by order; with clear_bitmap on a fresh connected pair: both disks are declared equal."""
        r = self._r
        meta = r.meta
        if meta is None:
            reply(self.failure(138, "Device does not have a disk-config"))
            return
        theirs = r.handshake.peer_uuids
        fresh = meta.uuids.just_created and theirs is not None and theirs.current & ~1 == 4
        skip = r.state.conn == Conn.CONNECTED and fresh and args.get("clear_bitmap")
        if r.state.conn != Conn.STANDALONE and not skip:
            reply(self.failure(151, "Need to be StandAlone", None))
            return
        primary = r.state.role == Role.PRIMARY
        meta.put(meta.uuids.clear_for_new(r.host.random64(), primary))
        if args.get("clear_bitmap"):
            meta.bitmap.zero()
            meta.save_bitmap()
        if skip:
            meta.put(meta.uuids.skip_initial_sync(meta.uuids.current, primary))
            r.handshake.send_uuids(flags.UUID_SKIP_INITIAL_SYNC)
            r.sync.peer_is_like_us()  # it does not say so, and a later resync from it ends in its generation
            r.change("skip-initial-sync", forced=True, disk=Disk.UP_TO_DATE, pdsk=Disk.UP_TO_DATE)
        meta.save(lambda error: reply(Answer()))

    # --- time and state ---

    def state_changed(self, old: State, new: State) -> None:
        """Whoever waited for this is told."""
        self.waits.state_changed(new)

    def on_timer(self, name: str) -> None:
        """Timers whose name begins with `admin`."""
        if name == "admin-ask":
            self._unanswered()
        elif name == RESIZE_TIMER:
            self._r.resizing.on_timer()
        elif name == "admin-outdate":
            link = self._r.links.link
            if link is not None and link.ping_sent_ms is not None:
                self._r.host.timer(name, self._r.settings.ping_timeout_ms)
            else:
                self._outdate_now()
        elif name == "admin-promote":
            self.roles.on_timer()
        else:
            self.waits.on_timer(name)
