# SPDX-License-Identifier: GPL-2.0-or-later
"""Several volumes of a resource on one connection to the peer.

Each volume has an engine of its own, which believes that it alone is connected. Towards each of them this part plays
the peer, on a local pair of streams; towards the peer it is the node. What names a volume is handed on as it is; what
concerns the whole connection (greeting, pings, barriers, a goodbye) is said once there and heard by all here. The
connection stands only while every volume takes part: if one leaves, all meet the peer anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from replblock.core.bundled_epochs import Ack, SentEpochs, TakenEpochs
from replblock.core.bundled_words import Answers, Pings
from replblock.core.greeting import Greeting
from replblock.core.host import Buffer, Host
from replblock.core.link import Link, LinkKeeper
from replblock.core.settings import Settings
from replblock.state.names import Conn
from replblock.wire.commands import CONNECTION_WIDE, Cmd, Stream
from replblock.wire.compression import LZ4_BODY
from replblock.wire.errors import NotAgreed, ProtocolError
from replblock.wire.handshake import Features
from replblock.wire.headers import pack_header, pack_packet
from replblock.wire.packets import Barrier
from replblock.wire.stream import StreamDecoder

FIRST_WITH_VOLUMES = 100
WRITES = frozenset({Cmd.DATA, Cmd.TRIM, Cmd.ZEROES, Cmd.WSAME})
"""What counts in an epoch."""
MOST_EARLY = 64
"""Packets of the meta connection that may come while the engines are being greeted."""
FULL_BYTES, ROOM_BYTES = 8 << 20, 2 << 20
"""So much may wait for one side before the other one is not read any more; and when it is again."""

Packet = tuple[int, int, memoryview]


class Locals(Protocol):
    """The streams to this node's own engines. Their numbers have nothing to do with those of the host's sockets."""

    def dial(self, volume: int) -> tuple[int, int] | None:
        """The data and meta stream to this volume's engine, which waits for its peer; None if it does not."""

    def send(self, sock: int, parts: Sequence[Buffer]) -> None: ...
    def unsent_bytes(self, sock: int) -> int: ...
    def hold(self, sock: int, held: bool) -> None: ...
    def close(self, sock: int) -> None:
        """After what is queued."""


class Member:
    """One volume's engine, while it is connected."""

    __slots__ = ("data", "data_in", "greeted", "meta", "meta_in", "volume")

    def __init__(self, volume: int, data: int, meta: int) -> None:
        self.volume = volume
        self.data = data
        self.meta = meta
        self.data_in = StreamDecoder(Stream.DATA)
        self.meta_in = StreamDecoder(Stream.META)
        self.greeted = False


class _Links(LinkKeeper):
    """Whether the peer lives and takes what it is sent, each volume's engine watches for itself."""

    def _watch(self, link: Link, now: int) -> None:
        pass


class _State(NamedTuple):
    conn: Conn


class Bundle:
    """Events in through `on_…` (the peer's sockets) and `on_local_…` (the engines'); actions out through both hosts."""

    def __init__(self, settings: Settings, host: Host, volumes: Sequence[int], locals_: Locals) -> None:
        self.settings = settings
        self.host = host
        self.volumes = tuple(volumes)
        self._locals = locals_
        self.links = _Links(self)  # type: ignore[arg-type]
        self.greeting = Greeting(self, self._greeted)  # type: ignore[arg-type]
        self.handshake = self.primary = self  # what the link keeper asks of these it asks of us
        self.refused = ""
        """Why the peer and this node do not go together: nobody tries again before an operator has looked."""
        self.when_refused: Callable[[str], None] = lambda why: None
        """Called then; whoever has the engines tells them, and they stand alone, as with a volume that is alone."""
        self._members: dict[int, Member] = {}
        self._by_sock: dict[int, Member] = {}
        self._leaving, self._said = False, ""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._sent, self._taken = SentEpochs(), TakenEpochs()
        self._pings, self._orders = Pings(), Answers()
        self._waiting: list[Packet] = []
        self._waiting_meta: list[Packet] = []
        self._met = self._protocol_said = self._held = False

    # --- what the link keeper asks ---

    @property
    def state(self) -> _State:
        """Connected once all volumes have been greeted."""
        return _State(Conn.CONNECTED if self.open else Conn.WF_CONNECTION)

    def begin(self, link: Link) -> None:
        """The connections are there."""
        self.greeting.begin(link)

    @property
    def running(self) -> bool:
        """Whatever ends the connection, the peer is to hear the last words."""
        return True

    def hand_over(self) -> None:
        """Nothing is gathered here."""

    def oldest_wait_ms(self, now_ms: int) -> int:
        """Each volume watches its own requests."""
        return 0

    def why(self, level: str, rule: str, text: str) -> None:
        """For the log."""
        self.host.log(level, rule, text)
        self._said = text

    def connection_lost(self, cause: Conn, **known: Any) -> None:
        """The peer is gone: for every volume."""
        members, self._members = self._members, {}
        self._by_sock.clear()
        for member in members.values():
            for sock in (member.data, member.meta):
                self._locals.close(sock)
        self._begin_anew()
        if cause == Conn.DISCONNECTING and not self._leaving:
            self.refused = self._said
            self.when_refused(self.refused)

    # --- begin and end ---

    @property
    def open(self) -> bool:
        """Packets are handed on."""
        return len(self._members) == len(self.volumes) and all(member.greeted for member in self._members.values())

    def seek(self) -> None:
        """Every volume waits for the peer: look for it."""
        if not self.links.wanted and not self.refused:
            self.links.seek()

    def leave(self, rule: str, text: str) -> None:
        """A volume does not wait for the peer any more, or never did."""
        self._leaving = True
        if self.links.link is not None:
            self.links.drop(Conn.DISCONNECTING, rule, text, "info")
        self.links.stop()
        self._leaving, self.refused = False, ""

    def _greeted(self) -> None:
        """The peer is who it should be."""
        link = self.links.link
        assert link is not None
        if link.version < FIRST_WITH_VOLUMES:
            raise NotAgreed(f"the peer speaks protocol {link.version}, which knows of one volume; this resource has "
                            f"{len(self.volumes)}", Cmd.CONNECTION_FEATURES)  # fmt: skip
        self._met = True
        self.host.timer("handshake", None)

    def _meet_engines(self, link: Link) -> None:
        """Now the engines may meet the peer."""
        for volume in self.volumes:
            pair = self._locals.dial(volume)
            if pair is None:
                self.leave("volume-not-there", f"the engine of volume {volume} does not wait for its peer")
                return
            member = Member(volume, *pair)
            self._members[volume] = member
            self._by_sock.update(dict.fromkeys(pair, member))
            self._locals.send(member.meta, [pack_packet(0, Cmd.INITIAL_META, b"")])
            features = Features(link.version, link.features, link.version)
            self._locals.send(member.data, [
                pack_packet(0, Cmd.INITIAL_DATA, b""), pack_packet(0, Cmd.CONNECTION_FEATURES, features.pack()),
            ])  # fmt: skip

    # --- the peer's sockets ---

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
        """The other side closed it, or it broke."""
        self.links.on_closed(sock, errno)

    def on_timer(self, name: str) -> None:
        """A timer of `host.timer` ran out."""
        if name != "handshake":
            self.links.on_timer(name)
        elif not self._met:
            self.links.drop(Conn.NETWORK_FAILURE, "handshake-timeout", "the peer fell silent during the greeting")

    def end_wakeup(self) -> None:
        """Nothing is gathered."""

    # --- from the peer ---

    def on_data_packets(self, packets: Sequence[Packet]) -> None:
        """Of the data connection, in order."""
        link = self.links.link
        for index, packet in enumerate(packets):
            if not self._met:
                self._greet(packet[0], packet[2])
                if self._met and link is not None and self.links.link is link:
                    self._meet_engines(link)
            elif not self.open or self._taken.waiting:
                self._waiting.extend(packets[index:])
                self._hold(True)
                return
            else:
                self._hand_on(packet)
            if self.links.link is not link:
                return
        self._look_for_room()

    def _greet(self, cmd: int, body: memoryview) -> None:
        handlers = {
            Cmd.CONNECTION_FEATURES: self.greeting.on_features, Cmd.AUTH_CHALLENGE: self.greeting.on_challenge,
            Cmd.AUTH_RESPONSE: self.greeting.on_response,
        }  # fmt: skip
        if cmd in handlers:
            handlers[Cmd(cmd)](body)
        else:
            self.greeting.not_authenticated(cmd)

    def _hand_on(self, packet: Packet) -> None:
        cmd, volume, body = packet
        if cmd == Cmd.BARRIER:
            for hears in self._taken.close(body):
                self._to(hears, cmd, Barrier.unpack(body).pack())
        elif cmd in CONNECTION_WIDE:
            if cmd == Cmd.CONN_ST_CHG_REQ:
                self._orders.asked_by_peer(self.volumes)
            for hears in self.volumes:
                self._to(hears, cmd, body)
        else:
            self._to(volume, cmd, body)
            if counts(cmd, body):
                self._taken.wrote(volume)

    def on_meta_packets(self, packets: Sequence[Packet]) -> None:
        """Of the meta connection, in order."""
        link = self.links.link
        if not self.open:
            if not self._met or len(self._waiting_meta) > MOST_EARLY:
                raise ProtocolError("the peer speaks on the meta connection before the handshake was done")
            self._waiting_meta.extend(packets)
            return
        for cmd, volume, body in packets:
            if cmd == Cmd.PING:
                self._pings.asked_by_peer(self.volumes)
                for hears in self.volumes:
                    self._to(hears, cmd, body, meta=True)
            elif cmd == Cmd.PING_ACK:
                owner = self._pings.answered()
                if owner is not None:
                    self._to(owner, cmd, body, meta=True)
            elif cmd == Cmd.BARRIER_ACK:
                self._tell(self._sent.acknowledge(body))
            elif cmd == Cmd.CONN_ST_CHG_REPLY:
                for asked in self._orders.answered():
                    self._to(asked, cmd, body, meta=True)
            else:
                self._to(volume, cmd, body, meta=True)
            if self.links.link is not link:
                return

    def _to(self, volume: int, cmd: int, body: Buffer, meta: bool = False) -> None:
        link, member = self.links.link, self._members.get(volume)
        if link is None:
            return
        if member is None:
            raise NotAgreed(f"the peer has a volume {volume}, of which this node has none", cmd)
        sock = member.meta if meta else member.data
        number = 0 if cmd in CONNECTION_WIDE else volume
        self._locals.send(sock, [pack_header(link.version, cmd, len(body), number), body])

    def _tell(self, acks: Sequence[Ack]) -> None:
        for ack in acks:
            self._to(ack.volume, Cmd.BARRIER_ACK, ack.packet.pack(), meta=True)

    # --- from the engines ---

    def on_local_bytes(self, sock: int, data: bytes) -> None:
        """One of them says something."""
        member = self._by_sock.get(sock)
        if member is None:
            return
        decoder = member.data_in if sock == member.data else member.meta_in
        try:
            for packet in decoder.feed(data):
                self._from(member, sock == member.meta, packet)
        except ProtocolError as error:
            text = f"volume {member.volume}: {error}"
            self.links.drop(Conn.PROTOCOL_ERROR, "volume-broke-the-protocol", text, "error")
        self._look_for_room()

    def on_local_closed(self, sock: int) -> None:
        """One of them has left: so do all. The others are heard first, where the peer waits for their word."""
        member = self._by_sock.get(sock)
        if member is not None and not self._orders.leaves(member.volume):
            self.leave("volume-left", f"volume {member.volume} has ended its connection")

    def _from(self, member: Member, meta: bool, packet: Packet) -> None:
        cmd, _, body = packet
        volume, link = member.volume, self.links.link
        if link is None:
            return
        if cmd == Cmd.CONNECTION_FEATURES:
            self._member_greets(member, Features.unpack(body))
        elif meta and cmd == Cmd.PING:
            self._pings.asked_by(volume)
            self._say(cmd, body, meta=True)
        elif meta and cmd == Cmd.PING_ACK:
            for _ in range(self._pings.answered_by(volume)):
                self._say(cmd, body, meta=True)
        elif meta and cmd == Cmd.BARRIER_ACK:
            whole = self._taken.acknowledge(volume, body)
            if whole is not None:
                self._say(cmd, whole.pack(), meta=True)
                self._go_on()
        elif meta and cmd == Cmd.CONN_ST_CHG_REPLY:
            replies = self._orders.answered_by(volume, body)
            for reply in replies:
                self._say(cmd, reply, meta=True)
            if replies and self._orders.left:
                self.leave("volume-left", "a volume has ended its connection, as the peer wanted")
        elif cmd == Cmd.PROTOCOL:
            if not self._protocol_said:
                self._protocol_said = True
                self._say(cmd, body)
        elif cmd == Cmd.BARRIER:
            barrier, ack = self._sent.close(volume, Barrier.unpack(body).barrier)
            if barrier is not None:
                self._say(cmd, barrier.pack())
            if ack is not None:
                self._tell([ack])
        elif cmd == Cmd.CONN_ST_CHG_REQ:
            if self._orders.asked_by(volume, bytes(body)):
                self._say(cmd, body)
        else:
            if not meta and counts(cmd, body):
                self._sent.wrote(volume)
            self._say(cmd, body, volume, meta)

    def _member_greets(self, member: Member, features: Features) -> None:
        link = self.links.link
        assert link is not None
        if not features.protocol_min <= link.version <= features.protocol_max:
            raise ProtocolError(f"the engine does not speak protocol {link.version}", Cmd.CONNECTION_FEATURES)
        member.greeted = True
        if self.open:
            # what engines say from here on reaches the peer; before, none of them knows that it is greeted
            self.host.log("info", "volumes-connected", f"{len(self.volumes)} volumes share the connection")
            for each in self._members.values():
                for packet in each.meta_in.agreed(link.version, link.features):
                    self._from(each, True, packet)
                for packet in each.data_in.agreed(link.version, link.features):
                    self._from(each, False, packet)
            waiting, self._waiting_meta = self._waiting_meta, []
            self.links.resume_meta(waiting)
            self._go_on()

    def _say(self, cmd: int, body: Buffer, volume: int = 0, meta: bool = False) -> None:
        link = self.links.link
        if link is not None:
            header = pack_header(link.version, cmd, len(body), volume)
            self.host.send(link.meta if meta else link.data, [header, body])

    # --- room ---

    def _go_on(self) -> None:
        """What came behind a barrier."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.links.resume(waiting)
        self._look_for_room()

    def on_sent(self, sock: int) -> bool:
        """Somebody has taken something, on either side."""
        self._look_for_room()
        return True

    def _hold(self, held: bool) -> None:
        link = self.links.link
        if link is not None and held != self._held:
            self._held = held
            self.host.hold(link.data, held)

    def _look_for_room(self) -> None:
        """Who does not take what the other side says makes that one wait."""
        link = self.links.link
        if link is None:
            return
        here = max((self._locals.unsent_bytes(member.data) for member in self._members.values()), default=0)
        limit = ROOM_BYTES if self._held else FULL_BYTES
        self._hold(bool(self._waiting) or here > limit)
        there = self.host.unsent_bytes(link.data)
        for member in self._members.values():
            self._locals.hold(member.data, there > FULL_BYTES)


def counts(cmd: int, body: memoryview) -> bool:
    """Does it count in an epoch?"""
    return cmd in WRITES or (cmd == Cmd.LZ4 and LZ4_BODY.unpack_from(body)[0] == Cmd.DATA)
