# SPDX-License-Identifier: GPL-2.0-or-later
"""`compression lz4`: which payloads travel compressed, on a connection whose two nodes both want it; and its figures.

Nothing else changes: a packet is compressed when it is gathered, taken out when its turn comes, and handled as if it
had come as it is. What a disk holds, an ack means and a counter counts is the payload, as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.core.host import Buffer
from replblock.wire.commands import Cmd, Stream, allowed_lengths
from replblock.wire.compression import CLEAR_BYTES, INSIDE, Worth, compress, pack, unpack
from replblock.wire.flags import FEATURE_LZ4

if TYPE_CHECKING:
    from replblock.core.link import Link
    from replblock.core.resource import Resource

# wanted here, and by the peer
_STATES = {(True, True): "lz4", (True, False): "only-here", (False, True): "only-peer", (False, False): "off"}


class Compression:
    """Of one resource. The figures are those since the engine began; what they taught is each connection's own."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._peer_wants = False
        self._worth: dict[Cmd, Worth] = {}
        self.sent_payload_bytes = 0
        """Payloads of all packets that might have been compressed, and what went out for them."""
        self.sent_bytes = 0
        self.received_payload_bytes = 0
        self.received_bytes = 0

    def begin(self, peers_features: int) -> None:
        """The peer has said what it speaks."""
        self._peer_wants = bool(peers_features & FEATURE_LZ4)
        self._worth = {cmd: Worth() for cmd in INSIDE}
        wanted = self._r.settings.compression != "none"
        if wanted and not self._peer_wants:
            text = "compression lz4 is configured here, not at the peer: data travels as it is"
            self._r.host.log("notice", "compression-only-here", text)

    def of(self, link: Link) -> Compression | None:
        """Whoever sends or takes payloads on this connection asks once, when it begins."""
        return self if link.features & FEATURE_LZ4 else None

    def packet(self, link: Link, cmd: Cmd, fixed: bytes, extra: bytes, data: Buffer) -> bytes | None:
        """A whole P_LZ4 instead of this packet (fixed part, digest, data); None: it goes as it is."""
        size = len(data)
        self.sent_payload_bytes += size
        worth = self._worth[cmd]
        if worth.tries(size):
            payload_bytes = len(extra) + size
            block = compress(b"".join((extra, data)) if extra else data)
            if worth.pays(payload_bytes, len(block)):
                self.sent_bytes += size - (len(fixed) + payload_bytes - CLEAR_BYTES - len(block))
                volume = self._r.settings.volume if link.version >= 100 else 0
                return pack(link.version, volume, cmd, fixed, payload_bytes, block)
        self.sent_bytes += size
        return None

    def heard(self, size_bytes: int) -> None:
        """A payload came, or was taken out of its envelope just now."""
        self.received_payload_bytes += size_bytes
        self.received_bytes += size_bytes

    def on_packet(self, body: memoryview) -> None:
        """P_LZ4. One at a time: a read from the socket may hold hundreds of MiB of them, taken out."""
        link = self._r.links.link
        if link is None:
            return
        cmd, inside = unpack(body, allowed_lengths(Stream.DATA, link.version, link.features))
        self._handler(cmd)(inside)
        self.received_bytes -= len(inside) - len(body)

    def _handler(self, cmd: int) -> Callable[[memoryview], None]:
        r = self._r
        if cmd == Cmd.DATA:
            return r.secondary.on_data
        return r.primary.on_data_reply if cmd == Cmd.DATA_REPLY else r.sync.target.on_reply

    def facts(self) -> dict[str, Any]:
        """For status; the keys are described in the status room's model."""
        link = self._r.links.link
        known = link is not None and link.version > 0
        wanted = self._r.settings.compression != "none", self._peer_wants
        return {
            "state": _STATES[wanted] if known else "off",
            "sent-payload-bytes": self.sent_payload_bytes,
            "sent-bytes": self.sent_bytes,
            "received-payload-bytes": self.received_payload_bytes,
            "received-bytes": self.received_bytes,
        }
