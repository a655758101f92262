# SPDX-License-Identifier: GPL-2.0-or-later
"""From bytes as they come off a socket to packets: the busiest code of the product.

One decoder per TCP connection. Before a version is agreed only the packets that open a connection are taken; what the
peer already sends after them is held back until agreed() says in which protocol it must be read.
"""

from __future__ import annotations

import struct
from typing import Final, NoReturn

from replblock.wire.commands import (
    COMMANDS,
    CONNECTION_WIDE,
    OPENING,
    Cmd,
    Stream,
    allowed_lengths,
    packet_name,
    refusal,
)
from replblock.wire.errors import NotAgreed, Packet, ProtocolError
from replblock.wire.headers import H80, H95, H100, MAGIC_80, MAGIC_95, MAGIC_100, header_bytes, pack_header
from replblock.wire.limits import MAX_HELD_BYTES, VERSION_MAX, VERSION_MIN
from replblock.wire.strangers import looks_like

_MAGICS_OPENING: Final = (MAGIC_80.to_bytes(4, "big"),)
_MAGICS_EARLY: Final = (*_MAGICS_OPENING, MAGIC_95.to_bytes(2, "big"), MAGIC_100.to_bytes(4, "big"))
_MAGICS_8: Final = (MAGIC_80.to_bytes(4, "big"), MAGIC_95.to_bytes(2, "big"))
_MAGICS_16: Final = (MAGIC_100.to_bytes(4, "big"),)

_ACK: Final = struct.Struct(">IHHII8x8s8x")
ACK_PACKET_BYTES: Final = _ACK.size
_WRITE_ACKS: Final = (int(Cmd.WRITE_ACK), int(Cmd.RECV_ACK))

# Pieces shorter than this are gathered in one buffer, so that a peer that drips cannot make us keep a million objects.
_SMALL_BYTES: Final = 4096
ROOM_FROM_BYTES: Final = 64 << 10
"""If less than this of a body is missing it comes with the next read; else that goes straight into its place."""


class StreamDecoder:
    """Bytes in, in any pieces; (command, volume, body) out for every packet they complete.

    A body is a view of immutable bytes and may be kept; one that lies whole in the bytes fed is not copied, one that
    comes in several pieces is joined once. Waiting bytes never exceed MAX_BUFFERED_BYTES.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream                    # EITHER becomes DATA or META with the first packet
        self._version = 0
        self._features = 0
        self._allowed: dict[int, range] = {}
        self._elsewhere = self._allowed         # for another volume than ours
        self._volume_here: int | None = None
        self._magics: tuple[bytes, ...] = ()
        self._header_bytes = header_bytes(0)
        self._opened = False                    # the first packet of the connection was seen
        self._settled = False                   # nothing more can be read before agreed()
        self._held = bytearray()                # before the agreement: bytes not yet read
        self._head = b""                        # an incomplete header
        self._command = 0                       # of the packet whose body is incomplete:
        self._volume = 0
        self._missing_bytes = 0                 # … 0 if there is none
        self._body_bytes = 0
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._whole: bytearray | None = None    # in place of the pieces, once somebody asked for room
        self._broken: ProtocolError | None = None

    @property
    def version(self) -> int:
        """The agreed protocol, 0 before. Setting it keeps the agreed features; call feed() then, if only with b""."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        self._set(version, self._features)

    @property
    def features(self) -> int:
        """The agreed feature flags."""
        return self._features

    @features.setter
    def features(self, features: int) -> None:
        if self._version:
            self._set(self._version, features)
        self._features = features

    def only_volume(self, volume: int) -> None:
        """From the agreement on, NotAgreed for whatever is meant for another volume: it must not land on this one."""
        self._volume_here = volume
        if self._version:
            self._set(self._version, self._features)

    def agreed(self, version: int, features: int = 0) -> list[Packet]:
        """From here on the stream is in this protocol; returns the packets that were held back. Raises like feed()."""
        self._set(version, features)
        return self.feed(b"")

    def _set(self, version: int, features: int) -> None:
        if not VERSION_MIN <= version <= VERSION_MAX:
            raise ValueError(f"protocol {version} is none of {VERSION_MIN} to {VERSION_MAX}")
        if self.stream is Stream.EITHER:
            raise ValueError("a version cannot be agreed before the connection's first packet said which one it is")
        self._version, self._features = version, features
        self._allowed = self._elsewhere = allowed_lengths(self.stream, version, features)
        if self._volume_here is not None and version >= 100:
            self._elsewhere = {cmd: lengths for cmd, lengths in self._allowed.items() if cmd in CONNECTION_WIDE}
        self._header_bytes = header_bytes(version)
        self._magics = _MAGICS_16 if version >= 100 else _MAGICS_8

    def stalled_bytes(self) -> int:
        """How many bytes wait for more to come; 0 between packets."""
        return len(self._held) + len(self._head) + self._waiting_body_bytes()

    def _waiting_body_bytes(self) -> int:
        return self._header_bytes + self._body_bytes - self._missing_bytes if self._missing_bytes else 0

    def waiting(self) -> bytes:
        """The bytes of the incomplete packet as they came; for whoever must know what follows on the socket."""
        if not self._missing_bytes:
            return bytes(self._held) + self._head
        header = pack_header(self._version, self._command, self._body_bytes, self._volume)
        if self._whole is not None:
            return header + self._whole[: self._body_bytes - self._missing_bytes]
        return header + b"".join(self._pieces)

    @property
    def partial(self) -> str:
        """What the waiting bytes are, for a log line; empty between packets."""
        if self._missing_bytes:
            return f"{packet_name(self._command)} lacks {self._missing_bytes} of {self._body_bytes} bytes"
        if self._head:
            return f"a header lacks {self._header_bytes - len(self._head)} of {self._header_bytes} bytes"
        return f"{len(self._held)} bytes wait for an agreed protocol" if self._held else ""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets completed by data.

        Raises ProtocolError on the first byte that cannot be right, with the packets before it in .packets; the decoder
        is then dead and raises the same again.
        """
        if self._broken is not None:
            raise self._broken
        if type(data) is not bytes:
            data = bytes(data)                  # bodies may be kept, so nobody may write into them
        packets: list[Packet] = []
        if not self._version:
            return self._open(data, packets)
        if self._held:
            data = bytes(self._held) + data
            self._held.clear()
        at = 0
        if self._missing_bytes or self._head:
            at = self._resume(data, packets)
        if at == len(data):
            return packets
        at = self._whole_100(data, at, packets) if self._version >= 100 else self._whole_80(data, at, packets)
        if at < len(data):
            self._begin(data, at, packets)
        return packets

    def room(self) -> memoryview | None:
        """Where the rest of a large body belongs, if it is worth the trouble: receive there, then call took().

        feed() stays right as well; bytes that follow the body must go through it.
        """
        if self._missing_bytes < ROOM_FROM_BYTES:
            return None
        if self._whole is None:
            self._whole = whole = bytearray(self._body_bytes)
            at = 0
            for piece in self._pieces:
                whole[at : at + len(piece)] = piece
                at += len(piece)
            self._pieces.clear()
        return memoryview(self._whole)[self._body_bytes - self._missing_bytes :]

    def took(self, count_bytes: int) -> list[Packet]:
        """So many bytes were received into room(): at most one packet, the one that was incomplete."""
        self._missing_bytes -= count_bytes
        return [] if self._missing_bytes else [self._complete()]

    def write_acks(self, data: bytes) -> list[bytes]:
        """The block ids of the P_RECV_ACK and P_WRITE_ACK that data begins with, if no packet is half here.

        What a Primary hears all day, at a fraction of the price. Whatever is not right in every bit is left to feed().
        """
        found: list[bytes] = []
        if self._version < 100 or self._missing_bytes or self._head or self._held or self._broken is not None:
            return found
        here = self._volume_here
        whole = memoryview(data)[: len(data) // _ACK.size * _ACK.size]
        for magic, volume, cmd, length, pad, block_id in _ACK.iter_unpack(whole):
            if magic != MAGIC_100 or cmd not in _WRITE_ACKS or volume != here or length != 24 or pad:
                break
            found.append(block_id)
        return found

    def _whole_100(self, data: bytes, at: int, packets: list[Packet]) -> int:
        """Take the packets that lie whole in data from at; returns where the first other one starts."""
        view = memoryview(data)
        size = len(data)
        last = size - 16
        unpack_from, allowed, append = H100.unpack_from, self._allowed, packets.append
        here, elsewhere = self._volume_here, self._elsewhere
        try:
            while at <= last:
                magic, volume, cmd, length, pad = unpack_from(data, at)
                right = allowed[cmd] if volume == here else elsewhere[cmd]
                if magic != MAGIC_100 or length not in right or pad:
                    break
                body_at = at + 16
                end = body_at + length
                if end > size:
                    break
                append((cmd, volume, view[body_at:end]))
                at = end
        except KeyError:
            pass                                # an unknown command: _begin() says what is wrong with it
        return at

    def _whole_80(self, data: bytes, at: int, packets: list[Packet]) -> int:
        """The same for the headers of 86..99, which have no volume."""
        view = memoryview(data)
        size = len(data)
        last = size - 8
        unpack_80, unpack_95, allowed, append = H80.unpack_from, H95.unpack_from, self._allowed, packets.append
        try:
            while at <= last:
                magic, cmd, length = unpack_80(data, at)
                if magic != MAGIC_80:
                    magic, cmd, length = unpack_95(data, at)
                    if magic != MAGIC_95:
                        break
                if length not in allowed[cmd]:
                    break
                body_at = at + 8
                end = body_at + length
                if end > size:
                    break
                append((cmd, 0, view[body_at:end]))
                at = end
        except KeyError:
            pass
        return at

    def _begin(self, data: bytes, at: int, packets: list[Packet]) -> None:
        """What starts at at is not a whole right packet: keep it if it is the beginning of one, else raise."""
        header_end = at + self._header_bytes
        if header_end > len(data):
            self._head = data[at:]
            self._check_magic(self._head, self._magics, packets)
            return
        self._command, self._volume, length = self._read_header(data[at:header_end], packets)
        self._body_bytes = self._missing_bytes = length
        if header_end < len(data):
            self._keep(memoryview(data)[header_end:])

    def _resume(self, data: bytes, packets: list[Packet]) -> int:
        """Complete the packet that earlier data began; returns where the next one starts in data."""
        at = 0
        size = len(data)
        if self._head:
            at = self._header_bytes - len(self._head)
            header = self._head + data[:at]
            if len(header) < self._header_bytes:
                self._head = header
                self._check_magic(header, self._magics, packets)
                return size
            self._head = b""
            self._command, self._volume, length = self._read_header(header, packets)
            if at + length <= size:
                packets.append((self._command, self._volume, memoryview(data)[at : at + length]))
                return at + length
            self._body_bytes = self._missing_bytes = length
        end = at + self._missing_bytes
        if end > size:
            if at < size:
                self._keep(memoryview(data)[at:])
            return size
        self._keep(memoryview(data)[at:end], last=True)
        packets.append(self._complete())
        return end

    def _complete(self) -> Packet:
        """The packet of which nothing is missing any more."""
        body: bytes | bytearray | memoryview
        if self._whole is not None:
            body, self._whole = self._whole, None
        else:
            pieces = self._pieces
            body = b"".join(pieces) if len(pieces) > 1 else pieces[0]
            pieces.clear()
        self._body_bytes = 0
        return self._command, self._volume, memoryview(body).toreadonly()

    def _keep(self, piece: memoryview, last: bool = False) -> None:
        if self._whole is not None:
            at = self._body_bytes - self._missing_bytes
            self._whole[at : at + len(piece)] = piece
            self._missing_bytes -= len(piece)
            return
        self._missing_bytes -= len(piece)
        if last or len(piece) >= _SMALL_BYTES:
            self._pieces.append(piece)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))

    def _read_header(self, header: bytes, packets: list[Packet]) -> tuple[int, int, int]:
        """(command, volume, body length) of one whole header of the agreed protocol."""
        self._check_magic(header, self._magics, packets)
        volume = pad = 0
        if self._version >= 100:
            _, volume, cmd, length, pad = H100.unpack(header)
        elif header.startswith(_MAGICS_OPENING):
            _, cmd, length = H80.unpack(header)
        else:
            _, cmd, length = H95.unpack(header)
        if length not in self._allowed.get(cmd, ()):
            self._fail(refusal(self.stream, self._version, self._features, cmd, length), packets)
        if pad:
            self._fail(ProtocolError(f"{packet_name(cmd)}: the last 4 bytes of its header are not 0", cmd), packets)
        if volume != self._volume_here and cmd not in self._elsewhere:
            reason = f"the peer has a volume {volume}, of which this node serves none; give each a resource of its own"
            self._fail(NotAgreed(reason, cmd), packets)
        return cmd, volume, length

    def _check_magic(self, header: bytes, magics: tuple[bytes, ...], packets: list[Packet]) -> None:
        if not any(header[: len(magic)] == magic[: len(header)] for magic in magics):
            where = f"the {self.stream.label}"
            after = f" after {packet_name(packets[-1][0])}" if packets else ""
            self._fail(
                ProtocolError(
                    f"no DRBD packet header on {where}{after}: {header[:16].hex()} looks like {looks_like(header)}"
                ),
                packets,
            )

    def _fail(self, error: ProtocolError, packets: list[Packet]) -> NoReturn:
        self._broken = error
        error.packets = packets
        self._held.clear()
        self._pieces.clear()
        self._whole = None
        self._head, self._missing_bytes = b"", 0
        raise error

    def _open(self, data: bytes, packets: list[Packet]) -> list[Packet]:
        """Before the agreement: at most P_INITIAL_* and P_CONNECTION_FEATURES, both behind a header of protocol 80."""
        held = self._held
        held += data
        while held and not self._settled:
            header = bytes(held[:8])
            early = self.stream is Stream.META
            self._check_magic(header, _MAGICS_EARLY if early else _MAGICS_OPENING, packets)
            if early and (not header.startswith(_MAGICS_OPENING[0][: len(header)])):
                if len(header) < 4:
                    break                       # not yet certain: it must be refused alike in whatever pieces it comes
                self._settled = True            # the peer is a step ahead and speaks the agreed protocol already
            elif len(header) < 8:
                break
            else:
                _, cmd, length = H80.unpack(header)
                if early and (self._opened or cmd != Cmd.INITIAL_META):
                    self._settled = True
                    break
                self._check_opening(cmd, length, packets)
                if len(held) < 8 + length:
                    break
                packets.append((cmd, 0, memoryview(bytes(held[8 : 8 + length]))))
                del held[: 8 + length]
                self._opened = True
                if cmd == Cmd.CONNECTION_FEATURES:
                    self.stream, self._settled = Stream.DATA, True
                else:
                    self.stream = COMMANDS[cmd].stream
        if len(held) > MAX_HELD_BYTES:
            reason = f"{len(held)} bytes came on the {self.stream.label} before a protocol was agreed"
            self._fail(ProtocolError(reason), packets)
        return packets

    def _check_opening(self, cmd: int, length: int, packets: list[Packet]) -> None:
        name = packet_name(cmd)
        if cmd not in OPENING:
            reason = f"{name} came before a protocol was agreed"
        elif self._opened and cmd != Cmd.CONNECTION_FEATURES:
            reason = f"{name} came again or too late: only the first packet of a connection says which one it is"
        elif self.stream is Stream.EITHER and cmd == Cmd.CONNECTION_FEATURES:
            reason = f"{name} came first, where P_INITIAL_DATA or P_INITIAL_META must say which connection this is"
        elif not self.stream & COMMANDS[cmd].stream:
            reason = f"{name} came on the {self.stream.label}, where it does not belong"
        elif length != COMMANDS[cmd].fixed_bytes:
            reason = f"{name} has a body of {length} bytes; right is {COMMANDS[cmd].fixed_bytes}"
        else:
            return
        self._fail(ProtocolError(reason, cmd), packets)
