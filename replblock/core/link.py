# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of the connection to the peer: found, kept alive, lost, found again."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from replblock.core.compressing import Compression
from replblock.core.host import Buffer
from replblock.core.rendezvous import Rendezvous
from replblock.state.names import Conn
from replblock.wire.commands import Cmd, Stream
from replblock.wire.errors import NotAgreed, ProtocolError
from replblock.wire.headers import pack_packet
from replblock.wire.stream import ACK_PACKET_BYTES, StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replblock.core.resource import Resource

WATCH_MS = 500
"""How often stalls are looked for; the limits themselves are `timeout` and `ko-count`."""

MAX_UNTAKEN_ACKS_BYTES = 32 << 20
"""No honest peer has so many writes under way: it is not worth the memory."""


class Link:
    """The two established TCP streams of one connection."""

    __slots__ = (
        "data",
        "data_in",
        "features",
        "last_received_ms",
        "meta",
        "meta_in",
        "next_ping_waiters",
        "ping_sent_ms",
        "ping_waiters",
        "resolve_conflicts",
        "stall_since_ms",
        "stalled_bytes",
        "version",
    )  # fmt: skip

    def __init__(self, data: int, meta: int, data_in: StreamDecoder, meta_in: StreamDecoder, resolve: bool) -> None:
        self.data = data
        self.meta = meta
        self.data_in = data_in
        self.meta_in = meta_in
        self.resolve_conflicts = resolve
        self.version = 0
        self.features = 0
        self.last_received_ms = 0
        self.ping_sent_ms: int | None = None
        self.ping_waiters: list[object] = []
        self.next_ping_waiters: list[object] = []
        """Came while a ping was on its way: its ack may have left the peer before what they wait for."""
        self.stall_since_ms = 0
        self.stalled_bytes = 0


class LinkKeeper:
    """Owns the sockets of a resource; everything else sends through it."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._host = resource.host
        self.rendezvous = Rendezvous(resource.host, resource.settings, self._met)
        self._decoders: dict[int, StreamDecoder] = {}
        self._early: dict[int, list[tuple[int, int, memoryview]]] = {}
        self.link: Link | None = None
        self.compression = Compression(resource)
        self.losses = 0
        self.failed_handshakes = 0
        self.wanted = False

    # --- begin and end ---

    def seek(self, soon: bool = True) -> None:
        """Look for the peer until it is found."""
        self.wanted = True
        if not self.rendezvous.active and self.link is None:
            self.rendezvous.start(soon)

    def stop(self) -> None:
        """Neither seek nor keep a connection."""
        self.wanted = False
        if self.rendezvous.active:
            self.rendezvous.stop()
        self._decoders.clear()

    def _met(self, data: int, meta: int, resolve_conflicts: bool) -> None:
        decoders = self._decoders
        data_in = decoders.pop(data, None) or StreamDecoder(Stream.DATA)
        meta_in = decoders.pop(meta, None) or StreamDecoder(Stream.META)
        decoders.clear()
        self.link = link = Link(data, meta, data_in, meta_in, resolve_conflicts)
        link.last_received_ms = link.stall_since_ms = self._host.now_ms()
        self._host.timer("watch", WATCH_MS)
        self._r.handshake.begin(link)
        early = self._early.pop(data, [])
        self._early.clear()
        self._dispatch(data, early)

    def drop(self, cause: Conn, rule: str, text: str, level: str = "warning", **known: Any) -> None:
        """Give the connection up and tell everybody who used it; seek the peer again if it is wanted.

        `cause` is the connection state DRBD would pass through (BrokenPipe, NetworkFailure, …); Disconnecting
        ends in StandAlone and does not seek. `known`: what is known about a disk (pdsk=Outdated) as the peer leaves.
        """
        link = self.link
        if text:
            self._r.why(level, rule, text)
        if link is None:
            return
        self.link = None
        self.losses += 1
        if cause == Conn.DISCONNECTING and self._r.handshake.running:
            # our states go first, by which the peer comes to the same refusal and can say why
            self._host.part(link.data, link.meta)
        else:
            for sock in (link.data, link.meta):
                self._host.close(sock)
        for name in ("watch", "ping", "ping-ack", "handshake", "linger"):
            self._host.timer(name, None)
        was_connected = self._r.state.conn >= Conn.CONNECTED
        self._r.connection_lost(cause, **known)
        if cause == Conn.DISCONNECTING:
            self.stop()
        elif self.wanted:
            self.failed_handshakes = 0 if was_connected else self.failed_handshakes + 1
            self.rendezvous.start(soon=was_connected)

    # --- sending ---

    def send(self, cmd: Cmd, body: bytes = b"") -> None:
        """Queue a packet on the data connection, behind what the path has gathered for it."""
        link = self.link
        if link is not None:
            self._r.primary.hand_over()
            self._host.send(link.data, [pack_packet(link.version, cmd, body, self._volume(link))])

    def send_connection(self, cmd: Cmd, body: bytes = b"") -> None:
        """Queue a connection-wide packet (volume 0) on the data connection, behind what the path has gathered."""
        link = self.link
        if link is not None:
            self._r.primary.hand_over()
            self._host.send(link.data, [pack_packet(link.version, cmd, body)])

    def send_meta(self, cmd: Cmd, body: bytes = b"") -> None:
        """Queue a packet on the meta connection."""
        link = self.link
        if link is not None:
            volume = 0 if cmd in (Cmd.PING, Cmd.PING_ACK, Cmd.BARRIER_ACK) else self._volume(link)
            self._host.send(link.meta, [pack_packet(link.version, cmd, body, volume)])

    def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Queue ready-made bytes on the data connection."""
        link = self.link
        if link is not None:
            self._host.send(link.data, parts)

    def _volume(self, link: Link) -> int:
        return self._r.settings.volume if link.version >= 100 else 0

    # --- receiving ---

    def on_accepted(self, sock: int) -> None:
        """The peer dialed us."""
        self._decoders[sock] = StreamDecoder(Stream.EITHER)
        self.rendezvous.on_accepted(sock)
        owns = self.rendezvous.owns
        for known in (self._decoders, self._early):
            for gone in [number for number in known if not owns(number)]:
                del known[gone]

    def on_dialed(self, sock: int, errno: int) -> None:
        """Our dial ended."""
        self.rendezvous.on_dialed(sock, errno)

    def on_bytes(self, sock: int, data: bytes) -> None:
        """Bytes of any socket of ours."""
        link = self.link
        if link is None or (sock != link.data and sock != link.meta):
            self._first_bytes(sock, data)
            return
        link.last_received_ms = self._host.now_ms()
        decoder = link.data_in if sock == link.data else link.meta_in
        try:
            if decoder is link.meta_in and (acks := decoder.write_acks(data)):
                self._r.on_write_acks(acks)
                if self.link is not link:
                    return
                data = data[len(acks) * ACK_PACKET_BYTES :]
            packets = decoder.feed(data) if data else ()
        except ProtocolError as error:
            self._dispatch(sock, error.packets)
            self.protocol_error(error)
            return
        self._dispatch(sock, packets)
        if self.link is link and self._host.unsent_bytes(link.meta) > MAX_UNTAKEN_ACKS_BYTES:
            text = f"the peer sends, but has not taken {MAX_UNTAKEN_ACKS_BYTES >> 20} MiB of acknowledgements"
            self.drop(Conn.NETWORK_FAILURE, "acks-not-taken", text)

    def room(self, sock: int) -> memoryview | None:
        """Where the rest of a large body from this socket belongs; what is received there is told to on_filled."""
        link = self.link
        return link.data_in.room() if link is not None and sock == link.data else None

    def on_filled(self, sock: int, count_bytes: int) -> None:
        """So many bytes arrived where room() said."""
        link = self.link
        if link is not None and sock == link.data:
            link.last_received_ms = self._host.now_ms()
            self._dispatch(sock, link.data_in.took(count_bytes))

    def protocol_error(self, error: ProtocolError) -> None:
        """The peer sent what cannot be right, or what it and we will never agree on: then nobody tries again."""
        if isinstance(error, NotAgreed):
            self.drop(Conn.DISCONNECTING, "not-agreed", str(error), "error")
            return
        self.drop(Conn.PROTOCOL_ERROR, "protocol-error", f"the peer broke the protocol: {error}")

    def _dispatch(self, sock: int, packets: Sequence[tuple[int, int, memoryview]]) -> None:
        link = self.link
        if link is None or not packets:
            return
        try:
            if sock == link.data:
                self._r.on_data_packets(packets)
            elif sock == link.meta:
                self._r.on_meta_packets(packets)
        except ProtocolError as error:
            self.protocol_error(error)
        except (ValueError, struct.error) as error:
            # a number that no honest peer sends: it costs the connection, not the engine
            self.protocol_error(ProtocolError(f"a value that makes no sense ({error})"))

    def resume(self, packets: Sequence[tuple[int, int, memoryview]]) -> None:
        """Packets of the data connection that were held back."""
        if self.link is not None:
            self._dispatch(self.link.data, packets)

    def resume_meta(self, packets: Sequence[tuple[int, int, memoryview]]) -> None:
        """The same of the meta connection."""
        if self.link is not None:
            self._dispatch(self.link.meta, packets)

    def agreed(self, version: int, features: int) -> None:
        """The features exchange ended: both streams switch format; packets that came early are handled now."""
        link = self.link
        assert link is not None
        link.version, link.features = version, features
        self._host.meta_ready(link.meta, version, link.meta_in.waiting)
        try:
            early = link.data_in.agreed(version, features)
            early_meta = link.meta_in.agreed(version, features)
        except ProtocolError as error:
            self.protocol_error(error)
            return
        self._dispatch(link.data, early)
        self._dispatch(link.meta, early_meta)

    def _first_bytes(self, sock: int, data: bytes) -> None:
        decoder = self._decoders.get(sock)
        if decoder is None:
            if not self.rendezvous.owns(sock):
                self._host.close(sock)
                return
            # the peer answers on a connection that we dialed before the pair is complete: held by a decoder
            decoder = self._decoders[sock] = StreamDecoder(Stream.DATA)
        try:
            packets = decoder.feed(data)
        except ProtocolError as error:
            self._r.why("warning", "not-a-peer", f"{self._r.settings.peer_address}: {error}")
            self._host.close(sock)
            self._decoders.pop(sock, None)
            self.rendezvous.on_closed(sock)
            return
        for index, (cmd, _, _) in enumerate(packets):
            if cmd in (Cmd.INITIAL_DATA, Cmd.INITIAL_META):
                self.rendezvous.on_first(sock, cmd)
            elif self.link is not None and sock in (self.link.data, self.link.meta):
                self._dispatch(sock, packets[index:])
                return
            else:
                self._early.setdefault(sock, []).extend(packets[index:])
                return

    def on_closed(self, sock: int, errno: int) -> None:
        """The peer or the network closed a socket."""
        link = self.link
        if link is None or sock not in (link.data, link.meta):
            self._decoders.pop(sock, None)
            self.rendezvous.on_closed(sock)
            return
        if sock == link.meta and self._r.handshake.running:
            # the peer may have said on the data connection why it leaves: hear it out
            self._host.timer("linger", self._r.settings.ping_timeout_ms)
            return
        half = (link.data_in if sock == link.data else link.meta_in).partial
        which = "data" if sock == link.data else "meta"
        text = f"the peer closed the {which} connection" + (f" in the middle of a packet ({half})" if half else "")
        self.drop(Conn.BROKEN_PIPE, "connection-closed", text + (f" (errno {errno})" if errno else ""))

    # --- alive or dead ---

    def start_pinging(self) -> None:
        """Called when the handshake is through."""
        self._host.timer("ping", self._r.settings.ping_int_ms)

    def ping(self, waiter: object = None) -> None:
        """Send a P_PING; `waiter()` runs at its ack: everything the peer sent on meta before is handled by then."""
        link = self.link
        if link is None:
            return
        if waiter is not None:
            (link.ping_waiters if link.ping_sent_ms is None else link.next_ping_waiters).append(waiter)
        if link.ping_sent_ms is None:
            link.ping_sent_ms = self._host.now_ms()
            self.send_meta(Cmd.PING)
            self._host.timer("ping-ack", self._r.settings.ping_timeout_ms)

    def on_ping(self) -> None:
        """Answer at once, unless the guard did while the loop was stuck in a disk call."""
        link = self.link
        if link is not None and not self._host.ping_was_answered(link.meta):
            self.send_meta(Cmd.PING_ACK)

    def on_ping_ack(self) -> None:
        """The peer lives."""
        link = self.link
        if link is None:
            return
        link.ping_sent_ms = None
        self._host.timer("ping-ack", None)
        self._host.timer("ping", self._r.settings.ping_int_ms)
        waiters, link.ping_waiters, link.next_ping_waiters = link.ping_waiters, link.next_ping_waiters, []
        for waiter in waiters:
            waiter()  # type: ignore[operator]
        if link.ping_waiters and link is self.link:
            self.ping()

    def on_timer(self, name: str) -> None:
        """Timers of this room: rendezvous, first-packet, ping, ping-ack, watch."""
        if name in ("rendezvous", "first-packet"):
            self.rendezvous.on_timer(name)
            return
        link = self.link
        if link is None:
            return
        now = self._host.now_ms()
        settings = self._r.settings
        if name == "ping":
            idle = now - link.last_received_ms
            if idle >= settings.ping_int_ms or link.ping_waiters:
                self.ping()
            else:
                self._host.timer("ping", settings.ping_int_ms - idle)
        elif name == "ping-ack":
            sent = link.ping_sent_ms
            if sent is not None and now - link.last_received_ms >= settings.ping_timeout_ms:
                text = f"no answer to a ping within {settings.ping_timeout_ms} ms: the peer or the network is gone"
                self.drop(Conn.NETWORK_FAILURE, "ping-timeout", text)
            elif sent is not None:
                # something else came meanwhile: it lives, its ack may still be behind other packets
                self._host.timer("ping-ack", settings.ping_timeout_ms)
        elif name == "linger":
            self.drop(Conn.BROKEN_PIPE, "connection-closed", "the peer closed the meta connection during the handshake")
        elif name == "watch":
            self._host.timer("watch", WATCH_MS)
            self._watch(link, now)

    def _watch(self, link: Link, now: int) -> None:
        """A peer that answers pings but takes or acknowledges nothing: `timeout` and `ko-count`."""
        settings = self._r.settings
        unsent = self._host.unsent_bytes(link.data)
        if unsent == 0 or unsent < link.stalled_bytes:
            link.stall_since_ms = now
        link.stalled_bytes = unsent
        oldest = self._r.primary.oldest_wait_ms(now)
        stalled = now - link.stall_since_ms if unsent else 0
        if settings.ko_count and max(oldest, stalled) > settings.ko_count * settings.timeout_ms:
            text = (
                f"the peer acknowledged nothing for {max(oldest, stalled)} ms "
                f"(ko-count {settings.ko_count} x timeout {settings.timeout_ms} ms): giving it up"
            )
            self.drop(Conn.TIMEOUT, "ko-count", text)
        elif max(oldest, stalled) > settings.timeout_ms:
            self.ping()
