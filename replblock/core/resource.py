# SPDX-License-Identifier: GPL-2.0-or-later
"""One replicated resource: its state, and who handles which event. All rules live in the parts it is made of."""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable, Sequence
from typing import Any

from replblock.core.admin import Admin
from replblock.core.aftermath import Aftermath
from replblock.core.answers import Answer
from replblock.core.attachment import UNFLUSHED, Attachment
from replblock.core.consent import Consent
from replblock.core.fencing import Fencing
from replblock.core.handshake import Handshake
from replblock.core.host import Disk as DiskPort
from replblock.core.host import Host
from replblock.core.link import LinkKeeper
from replblock.core.metastore import MetaStore
from replblock.core.parting import Served
from replblock.core.primary import PrimaryPath
from replblock.core.remembered import Remembered
from replblock.core.report import report
from replblock.core.requests import Op, Request
from replblock.core.resizing import Resizing
from replblock.core.secondary import SecondaryPath
from replblock.core.settings import Settings
from replblock.core.sync import Resync
from replblock.core.tables import data_table, meta_table
from replblock.state.generations import plain
from replblock.state.losses import settle_pending
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.state.sanitizing import primary_without_data
from replblock.state.text import state_change
from replblock.state.transitions import Refusal, Rules, check, check_connection, sanitize
from replblock.wire.commands import Cmd, packet_name
from replblock.wire.digests import known
from replblock.wire.errors import ProtocolError
from replblock.wire.packets import StateWord

SECTOR_BYTES = 512
WHY_KEPT = 8

__all__ = ["Answer", "Resource"]


class Resource:
    """The machine: events in through `on_…`, `submit`, `command`, `end_wakeup`; actions out through the host."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        self.host = host
        self.state = State(Role.SECONDARY, Role.UNKNOWN, Conn.STANDALONE, Disk.DISKLESS, Disk.DUNKNOWN)
        self.disk: DiskPort | None = None
        self.meta: MetaStore | None = None
        self.size_sectors = 0
        self.disk_after_negotiation: Disk = Disk.DISKLESS
        self.exposed_uuid = 0
        """Current UUID of the data last worked on; a diskless node remembers it."""
        self.served = Served()
        self.peer_integrity_alg = ""
        self.last_sent_bits = 0
        self.device_open = False
        self.in_use: Callable[[], bool] = lambda: False
        """Whether somebody holds the device; the engine, which has the doors, replaces it."""
        self.read_beside: Callable[[], int] = lambda: 0
        """Sectors that a door has read from the local disk by itself; the engine, which has the doors, replaces it."""
        self.mint_postponed = False
        self.reasons: list[dict[str, Any]] = []
        self.aftermath = Aftermath(self)
        self.fencing = Fencing(self)
        self.links = LinkKeeper(self)
        self.handshake = Handshake(self)
        self.remembered = Remembered(self)
        self.attachment = Attachment(self)
        self.primary = PrimaryPath(self)
        self.secondary = SecondaryPath(self)
        self.sync = Resync(self)
        self.resizing = Resizing(self)
        self.resized: Callable[[], None] = lambda: None
        """Called when the device became larger; the engine, which has what is attached to it, replaces it."""
        self.admin = Admin(self)
        self.consent = Consent(self, self.admin)
        self._when_idle: list[Callable[[], None]] = []
        self._data_handlers: dict[int, Callable[[memoryview], None]] = data_table(self)
        self._meta_handlers: dict[int, Callable[[memoryview], None]] = meta_table(self)

    # --- what doors and status look at ---

    @property
    def size_bytes(self) -> int:
        """Size of the device, as agreed with the peer."""
        return self.size_sectors * SECTOR_BYTES

    @property
    def doors_open(self) -> bool:
        """Doors take requests only of a Primary."""
        return self.state.role == Role.PRIMARY and self.primary.ready

    @property
    def local_reads_ok(self) -> bool:
        """A door may read straight from the local disk."""
        state = self.state
        return state.disk == Disk.UP_TO_DATE and state.role == Role.PRIMARY and not self.primary.frozen

    def is_idle(self) -> bool:
        """Nothing under way."""
        return self.primary.idle and self.secondary.idle and not self.sync.running and not self.sync.verify.running

    @property
    def disk_idle(self) -> bool:
        """No read or write of the local disk is under way, nor of the metadata of one that is gone."""
        idle = self.attachment.idle and self.primary.disk_idle and self.secondary.idle and self.sync.disk_idle
        return idle and self.resizing.idle

    def flush_disk(self, done: Callable[[int], None]) -> None:
        """fdatasync of the local disk, which is there."""
        meta = self.meta
        assert meta is not None
        meta.flush(done)

    def when_disk_idle(self, callback: Callable[[], None]) -> None:
        """Call back at the end of the first wake-up in which no call to the local disk is under way."""
        self._when_idle.append(callback)

    def status(self) -> dict[str, Any]:
        """The status of this resource, JSON-able."""
        return report(self)

    # --- events ---

    def command(self, verb: str, args: dict[str, Any], reply: Callable[[Answer], None]) -> None:
        """An operator's command; `reply` is called exactly once, now or later."""
        self.admin.command(verb, args, reply)

    def submit(self, requests: list[Request]) -> None:
        """Requests of a door, in order."""
        if not self.primary.ready:
            # the doors close when a demotion begins: nothing that came in after them may slip in behind its flush
            late = [request for request in requests if request.op not in (Op.READ, Op.FLUSH)]
            for request in late:
                request.errno = errnos.EROFS
                request.done(request)
            if late:
                requests = [request for request in requests if request.op in (Op.READ, Op.FLUSH)]
        self.primary.hand_in(requests)
        self.primary.submit_new(requests)

    def end_wakeup(self) -> None:
        """All events of this wake-up are in: whatever was gathered leaves now."""
        primary = self.primary
        self.handshake.end_wakeup()
        if primary.frozen and self.state.suspended:
            self._thaw_what_may()
        if primary.resending:
            primary.send_again()
        primary.end_wakeup()
        primary.go()
        activity = self.attachment.activity
        if activity is not None and activity.busy:
            activity.commit()
        primary.go()  # what was written just now may have failed, and left something to be said
        self.secondary.end_wakeup()
        if self._when_idle and self.disk_idle:
            waiting, self._when_idle = self._when_idle, []
            for callback in waiting:
                callback()

    def on_dialed(self, sock: int, errno: int) -> None:
        """A dial of `host.dial` ended."""
        self.links.on_dialed(sock, errno)

    def on_accepted(self, sock: int, peer_address: str) -> None:
        """Somebody at the peer's address dialed us."""
        self.links.on_accepted(sock)

    def on_bytes(self, sock: int, data: bytes) -> None:
        """Bytes arrived."""
        self.links.on_bytes(sock, data)

    def room(self, sock: int) -> memoryview | None:
        """Where the rest of a large packet is to be received, if one is under way; told to on_filled."""
        return self.links.room(sock)

    def on_filled(self, sock: int, count_bytes: int) -> None:
        """Bytes arrived there."""
        self.links.on_filled(sock, count_bytes)

    def on_closed(self, sock: int, errno: int) -> None:
        """A socket was closed by the other side or broke."""
        self.links.on_closed(sock, errno)

    def on_sent(self, sock: int) -> bool:
        """Everything queued for `sock` is with TCP now. True if somebody had waited for that, and went on."""
        link = self.links.link
        if link is None or sock != link.data or not (self.primary.waits_for_tcp or self.secondary.reads.waits_for_room):
            return False
        if not self.host.unsent_bytes(sock):
            self.primary.on_sent()
        self.secondary.reads.on_sent(link)
        return True

    def on_timer(self, name: str) -> None:
        """A timer of `host.timer` ran out."""
        if name == "handshake":
            self.handshake.on_timer()
        elif name in ("resync", "verify", "aside"):
            self.sync.on_timer(name)
        elif name == "epoch":
            self.primary.on_epoch_timer()
        elif name == "refused":
            self.primary.on_refused_timer()
        elif name.startswith("admin"):
            self.admin.on_timer(name)
        else:
            self.links.on_timer(name)

    # --- packets ---

    def on_data_packets(self, packets: Sequence[tuple[int, int, memoryview]]) -> None:
        """Packets of the data connection, in order."""
        link = self.links.link
        secondary = self.secondary
        handlers = self._data_handlers
        accepted = self.state.conn >= Conn.CONNECTED
        for index, (cmd, _volume, body) in enumerate(packets):
            if secondary.holding:
                secondary.hold(packets[index:])
                return
            if cmd == Cmd.DATA and accepted:
                secondary.on_data(body)
            else:
                handler = handlers.get(cmd)
                if not self.handshake.greeting.authenticated and cmd not in _BEFORE_AUTHENTICATION:
                    self.handshake.greeting.not_authenticated(cmd)
                    return
                if not accepted and cmd not in _BEFORE_ACCEPTANCE:
                    raise ProtocolError(f"{packet_name(cmd)} came before the handshake was done", cmd)
                if handler is None:
                    raise ProtocolError(f"{packet_name(cmd)} is not expected here", cmd)
                handler(body)
                accepted = self.state.conn >= Conn.CONNECTED
            if self.links.link is not link:
                return

    def on_write_acks(self, block_ids: list[bytes]) -> None:
        """P_RECV_ACK and P_WRITE_ACK of the meta connection, a run of them."""
        if self.state.conn < Conn.CONNECTED:
            raise ProtocolError("P_WRITE_ACK came before the handshake was done", Cmd.WRITE_ACK)
        self.primary.on_write_acks(block_ids)

    def on_meta_packets(self, packets: Sequence[tuple[int, int, memoryview]]) -> None:
        """Packets of the meta connection, in order."""
        link = self.links.link
        handlers = self._meta_handlers
        for cmd, _volume, body in packets:
            handler = handlers.get(cmd)
            if cmd not in _BEFORE_ACCEPTANCE and self.state.conn < Conn.CONNECTED:
                raise ProtocolError(f"{packet_name(cmd)} came before the handshake was done", cmd)
            if handler is None:
                raise ProtocolError(f"{packet_name(cmd)} is not expected on the meta connection", cmd)
            handler(body)
            if self.links.link is not link:
                return

    # --- state ---

    def rules(self) -> Rules:
        """What configuration and moment allow."""
        s = self.settings
        link = self.links.link
        return Rules(
            two_primaries=s.allow_two_primaries,
            fencing=s.fencing if self.meta is not None else "dont-care",
            device_open=self.device_open,
            verify_alg=known(s.verify_alg),
            agreed_version=link.version if link is not None and link.version else 101,
            handshaking=False,
            suspend_no_data=s.on_no_data_accessible == "suspend-io",
            negotiated=(self.disk_after_negotiation, Disk.DUNKNOWN),
            data_is_what_we_exposed=self._data_is_what_we_exposed(),
            given_up=self.sync.by_order,
        )

    @property
    def users_generation(self) -> int:
        """The data that the users of a Primary work on: another engine may serve them with no other."""
        return UNFLUSHED if self.attachment.lost_unflushed or self.primary.loss_untold else self.exposed_uuid

    def _data_is_what_we_exposed(self) -> bool:
        meta = self.meta
        if meta is None or self.state.role != Role.PRIMARY or not self.exposed_uuid:
            return True
        if self.attachment.lost_unflushed:
            return False
        return plain(meta.uuids.current) == plain(self.exposed_uuid)

    def change(
        self, why: str, *, forced: bool = False, promotion_forced: bool = False, **fields: Any
    ) -> Refusal | None:
        """Wish for a new state; returns why it is refused, or None when it (or nothing) happened."""
        old = self.state
        rules = self.rules()
        new = sanitize(old, old._replace(**fields), rules)
        if new == old:
            return None
        refusal = check_connection(old, new) if forced else check(old, new, rules)
        if refusal is not None:
            return refusal
        self.state = new
        self.host.log("info", why, state_change(old, new))
        self.remembered.state_changed(old, new)
        self.served.state_changed(self, old, new)
        self._after(old, new, promotion_forced=promotion_forced)
        return None

    def would(self, **fields: Any) -> Refusal | None:
        """Would `change` be refused?"""
        old = self.state
        rules = self.rules()
        return check(old, sanitize(old, old._replace(**fields), rules), rules)

    def _after(self, old: State, new: State, *, promotion_forced: bool = False) -> None:
        """What every change of state brings with it: flags on disk, a new generation, handlers, the write path."""
        meta = self.meta
        if meta is not None:
            self.aftermath.note_on_disk(meta, old, new, promotion_forced)
        elif settle_pending(old, new) is not None:
            self.mint_postponed = False  # the disk it was for is gone: by its older generation it becomes a target
        self.primary.reroute(old, new)
        self.sync.state_changed(old, new)
        if old.pdsk != new.pdsk == Disk.UP_TO_DATE:
            self.handshake.expose_peers_data()
        self.fencing.call_handlers(old, new)
        self.admin.state_changed(old, new)
        self.host.state_changed(old, new)

    def _thaw_what_may(self) -> None:
        """What was frozen for lack of data, or until the peer is fenced, goes on when data or peer are back."""
        state = self.state
        if state.susp_nod and not primary_without_data(state):
            self.change("data-is-back", forced=True, susp_nod=False)
        # not while bitmaps are exchanged: until it is Inconsistent the peer could be promoted without these writes
        if state.susp_fen and state.conn >= Conn.CONNECTED and state.conn not in _NOT_YET_BACK:
            self.change("peer-is-back", forced=True, susp_fen=False)
        if self.fencing.gave_up:
            self.fencing.gave_up = False
            self.change("nothing-to-fence-for", forced=True, susp_fen=False)

    def state_word(self) -> bytes:
        """P_STATE as of now. A disk that only comes is none: a kernel peer answers to one that leaves Diskless."""
        state = self.state
        if state.disk == Disk.ATTACHING:
            state = state._replace(disk=Disk.DISKLESS)
        return StateWord(state.pack()).pack()

    def send_state(self) -> None:
        """P_STATE as of now."""
        self.links.send(Cmd.STATE, self.state_word())

    def connection_lost(self, cause: Conn, **known: Any) -> None:
        """The link is gone: everything that relied on it is told, then the state follows."""
        self.handshake.finished()
        self.secondary.connection_lost()
        self.sync.connection_lost()
        lost = self.primary.connection_lost()
        self.change("connection-lost", forced=True, conn=cause, **known)
        if self.state.disk == Disk.DISKLESS and self.meta is not None:
            self.attachment.cut_short()
        if cause == Conn.DISCONNECTING:
            self.change("disconnected", forced=True, conn=Conn.STANDALONE)
        else:
            self.change("reconnecting", forced=True, conn=Conn.UNCONNECTED)
            if self.links.wanted:
                self.change("reconnecting", forced=True, conn=Conn.WF_CONNECTION)
        self.primary.resolve(lost)
        self.admin.connection_lost()
        self.resizing.connection_lost()
        if self.meta is not None:
            self.meta.save_bitmap()

    # --- disk failures, words ---

    def disk_failed(self, errno: int, what: str) -> None:
        """A local I/O error, handled as on-io-error says."""
        self.attachment.failed(errno, what)

    def write_failed(self, errno: int, size_bytes: int, at_bytes: int, whose: str = "", *, fua: bool) -> None:
        """Together with its FUA it is a failed flush: it may have taken what was answered before, and is told once."""
        what = "flushing" if fua and self.settings.disk_flushes else "writing"
        self.disk_failed(errno, f"{what} {size_bytes} bytes at {at_bytes}{whose}")

    def why(self, level: str, rule: str, text: str) -> None:
        """Log a sentence and keep it for status."""
        self.host.log(level, rule, text)
        self.reasons.append({"rule": rule, "text": text, "time": self.host.wall_s()})
        del self.reasons[:-WHY_KEPT]


_NOT_YET_BACK = frozenset({Conn.STARTING_SYNC_S, Conn.WF_BITMAP_S})
_BEFORE_AUTHENTICATION = frozenset({Cmd.CONNECTION_FEATURES, Cmd.AUTH_CHALLENGE, Cmd.AUTH_RESPONSE})
_BEFORE_ACCEPTANCE = _BEFORE_AUTHENTICATION | {
    Cmd.PROTOCOL, Cmd.PROTOCOL_UPDATE, Cmd.SYNC_PARAM, Cmd.SYNC_PARAM89, Cmd.SIZES, Cmd.UUIDS, Cmd.STATE,
    Cmd.STATE_CHG_REQ, Cmd.CONN_ST_CHG_REQ, Cmd.STATE_CHG_REPLY, Cmd.CONN_ST_CHG_REPLY, Cmd.PING, Cmd.PING_ACK,
    Cmd.UNPLUG_REMOTE, Cmd.DELAY_PROBE,
}
"""What a peer may say before generations and states were compared: nothing that reads or changes data or bitmap."""

