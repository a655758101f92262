# SPDX-License-Identifier: GPL-2.0-or-later
"""tshark's opinion of DRBD traffic: somebody else's dissector of the same protocol.

write_pcap() makes captures of streams that were never on a network; dissect() and assert_clean() also take captures of
real nodes (dumpcap -i lo -B 64 -f 'tcp port 7788' -w FILE; with its default buffer dumpcap often drops segments).

tshark 4.0 has DRBD 9 in mind: it shows block_id and barrier byte-swapped, and labels disk states one too high; the
numbers of the other fields are right.
"""

from __future__ import annotations

import re
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Iterable
from pathlib import Path
from typing import IO, NamedTuple

PORT = 7788
SEGMENT_BYTES = 16384

# (command, length) of packets that are right but older or shorter than the dissector knows: it reads every field that
# is there, then runs over the end and calls them malformed: P_SIZES without limits, P_PROTOCOL of 86, P_SYNC_PARAM.
TOO_SHORT_FOR_TSHARK = frozenset({(0x0D, 32), (0x0B, 24), *((0x0A, length) for length in (4, *range(5, 69)))})

LONG_VALUE = 20_000         # characters; longer values are not looked at
_LONG = re.compile(rb'"[0-9a-f:]{%d,}"' % LONG_VALUE)
_WRAPPER = "fake-field-wrapper"     # around the segments of a reassembled packet, or around bytes nobody recognised


class Packet(NamedTuple):
    """One DRBD packet as tshark saw it. fields: name without "drbd." → values as shown (decimal, or hex for bytes)."""

    frame: int
    stream: int                     # tshark's number of the TCP connection
    source_port: int
    command: int
    label: str
    volume: int
    length: int
    fields: dict[str, list[str]]
    raw: dict[str, list[str]]       # the same fields' bytes on the wire, in hex

    def number(self, field: str) -> int:
        """A field as an integer, whatever base tshark shows it in."""
        (value,) = self.fields[field]
        return int(value, 0)

    def bytes_of(self, field: str) -> bytes:
        """A field's bytes as they were on the wire."""
        (value,) = self.raw[field]
        return bytes.fromhex(value)


class Dissection(NamedTuple):
    packets: list[Packet]
    complaints: list[str]           # malformed packets, unknown commands, other protocols
    left_over: list[str]            # directions with bytes in no whole packet: a hole in the capture, or a cut


class Segment(NamedTuple):
    """Bytes of one stream in one direction, as one or more TCP segments."""

    stream: int                     # each number is a TCP connection of its own
    to_listener: bool
    data: bytes


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _frame(source: int, target: int, ports: tuple[int, int], seq: int, ack: int, flags: int, data: bytes) -> bytes:
    """Ethernet, IPv4 and TCP around data; addresses 10.0.0.x. The TCP checksum stays 0, which tshark does not mind."""
    addresses = bytes((10, 0, 0, source, 10, 0, 0, target))
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0x4000, 64, 6, 0) + addresses
    ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    tcp = struct.pack(">HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 0xFFFF, 0, 0)
    ethernet = bytes((2, 0, 0, 0, 0, target, 2, 0, 0, 0, 0, source)) + b"\x08\x00"
    return ethernet + ip + tcp + data


def write_pcap(path: Path, segments: Iterable[Segment], port: int = PORT, *, skip_frames: Container[int] = ()) -> None:
    """Write a capture in which the segments were sent in this order; connections are opened by a handshake first.

    skip_frames: frames, counted from 0, that were sent but are missing from the capture.
    """
    frames: list[bytes] = []
    sequence: dict[int, list[int]] = {}         # stream → next sequence number of [listener, connector]

    def send(stream: int, to_listener: bool, flags: int, data: bytes) -> None:
        mine, peers = sequence[stream][to_listener], sequence[stream][not to_listener]
        ends = (1, 2) if to_listener else (2, 1)
        ports = (40000 + stream, port) if to_listener else (port, 40000 + stream)
        frames.append(_frame(*ends, ports, mine, peers if flags & 0x10 else 0, flags, data))
        sequence[stream][to_listener] += len(data) + (flags & 0x02 != 0)

    for segment in segments:
        if segment.stream not in sequence:
            sequence[segment.stream] = [5000, 1000]
            for to_listener, flags in ((True, 0x02), (False, 0x12), (True, 0x10)):
                send(segment.stream, to_listener, flags, b"")
        for at in range(0, len(segment.data), SEGMENT_BYTES):
            send(segment.stream, segment.to_listener, 0x18, segment.data[at : at + SEGMENT_BYTES])

    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
        for number, frame in enumerate(frames):
            if number in skip_frames:
                continue
            seconds, microseconds = 1_700_000_000 + number // 1000, number % 1000 * 1000
            file.write(struct.pack("<IIII", seconds, microseconds, len(frame), len(frame)) + frame)


def _walk(element: ElementTree.Element, fields: dict[str, list[str]], raw: dict[str, list[str]]) -> None:
    for child in element.iter("field"):
        name = child.get("name", "")
        if name.startswith("drbd."):
            fields.setdefault(name[5:], []).append(child.get("show", ""))
            raw.setdefault(name[5:], []).append(child.get("unmaskedvalue") or child.get("value", ""))


def _show(element: ElementTree.Element, name: str) -> str:
    return next((field.get("show", "0") for field in element.iter("field") if field.get("name") == name), "0")


def _packet(proto: ElementTree.Element, frame: int, stream: int = 0, source_port: int = 0) -> Packet:
    fields: dict[str, list[str]] = {}
    raw: dict[str, list[str]] = {}
    _walk(proto, fields, raw)
    command = next((field for field in proto.iter("field") if field.get("name") == "drbd.command"), None)
    return Packet(
        frame,
        stream,
        source_port,
        int(fields["command"][0], 0) if command is not None else -1,
        (command.get("showname", "") if command is not None else proto.get("showname", "")),
        int(fields.get("volume", ["0"])[0], 0),
        int(fields.get("length", ["0"])[0], 0),
        fields,
        raw,
    )


def _complaints(packet: ElementTree.Element, frame: int) -> list[str]:
    """What is wrong in one frame, judging everything tshark found above TCP."""
    found = []
    above_tcp = False
    last: Packet | None = None
    for proto in packet.iterfind("proto"):
        name, title = proto.get("name", ""), proto.get("showname", "")
        if name == "drbd":
            last = _packet(proto, frame)
            if "Unknown" in title:
                found.append(f"frame {frame}: {title}")
        elif name == "_ws.malformed":
            if last is None or (last.command, last.length) not in TOO_SHORT_FOR_TSHARK:
                found.append(f"frame {frame}: {title} after {last.label if last else 'no packet'}")
        elif above_tcp and (name != _WRAPPER or proto.find("field[@name='data']") is not None):
            what = "bytes of no known protocol" if name == _WRAPPER else title or name
            found.append(f"frame {frame}: {what} where DRBD was expected")
        if name == "tcp":
            above_tcp = True
    return found


class _Sent:
    """How many bytes each direction of each connection carried, by sequence numbers and by what the other side acked.

    Neither resent segments nor frames recorded out of order matter, and a lost end is seen if it was acknowledged.
    tshark's own mark for lost segments is no help: it also comes up when frames merely changed places.
    """

    def __init__(self) -> None:
        self.ends: dict[tuple[int, int], int] = {}              # (connection, source port) → bytes
        self.finished: dict[tuple[int, int], int] = {}          # … → bytes before its FIN, which is acked as one more

    def look(self, element: ElementTree.Element) -> tuple[int, int]:
        """Take one frame into account; returns its direction. Relative sequence numbers start at 1 after the SYN."""
        stream, source, target = (int(_show(element, f"tcp.{name}")) for name in ("stream", "srcport", "dstport"))
        way, back = (stream, source), (stream, target)
        end = int(_show(element, "tcp.seq")) - 1 + int(_show(element, "tcp.len"))
        self.ends[way] = max(self.ends.get(way, 0), end)
        self.ends[back] = max(self.ends.get(back, 0), int(_show(element, "tcp.ack")) - 1)
        if _show(element, "tcp.flags.fin") in ("1", "True"):
            self.finished[way] = max(self.finished.get(way, 0), end)
        return way

    def total(self, way: tuple[int, int]) -> int:
        """Bytes the direction carried."""
        return min(self.ends[way], self.finished.get(way, self.ends[way]))


class _Shortened:
    """tshark's XML without the longest hex values: a payload stands in it several times, and parsing that is slow."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        lines = self._stream.readlines(1 << 16)
        return b"".join(_LONG.sub(b'""', line) if len(line) > LONG_VALUE else line for line in lines)


def read(pcap: Path, port: int = PORT, *, payloads: bool = True) -> Dissection:
    """Let tshark read a capture; everything it has to say about DRBD. Without `payloads` it is much quicker."""
    command = ["tshark", "-r", str(pcap), "-n", "--enable-heuristic", "drbd_tcp", "-o", "tcp.try_heuristic_first:TRUE",
               "-o", "tcp.reassemble_out_of_order:TRUE", "-Y", f"tcp.port == {port}", "-T", "pdml"]
    packets: list[Packet] = []
    complaints: list[str] = []
    sent = _Sent()
    understood: dict[tuple[int, int], int] = {}         # (connection, source port) → bytes of whole packets
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tshark:
        assert tshark.stdout is not None and tshark.stderr is not None
        for _, element in ElementTree.iterparse(tshark.stdout if payloads else _Shortened(tshark.stdout)):
            if element.tag == "packet":
                frame = int(_show(element, "frame.number"))
                way = sent.look(element)
                complaints += _complaints(element, frame)
                for proto in element.iterfind("proto[@name='drbd']"):
                    packets.append(_packet(proto, frame, *way))
                    understood[way] = understood.get(way, 0) + int(proto.get("size", "0"))
                element.clear()
        errors = tshark.stderr.read().decode()
    assert tshark.returncode == 0, f"tshark could not read {pcap}: {errors}"
    left_over = []
    for way in sent.ends:
        total, known = sent.total(way), understood.get(way, 0)
        if total != known:
            where = f"connection {way[0]} from port {way[1]}"
            left_over.append(f"{where}: {total - known} of {total} bytes are in no packet")
    return Dissection(packets, complaints, left_over)


def dissect(pcap: Path, port: int = PORT) -> list[Packet]:
    """Every DRBD packet of a capture, in the order in which it was complete."""
    return read(pcap, port).packets


def assert_clean(pcap: Path, port: int = PORT, *, whole: bool = True, payloads: bool = True) -> list[Packet]:
    """Fail if tshark finds a malformed packet, an unknown command, bytes that are no DRBD, or a hole in the capture.

    Every byte of every connection must belong to a packet. whole=False waives that, for connections cut in the middle
    of a packet as by a killed node; then only the drop count dumpcap prints tells of a hole. Returns the packets.
    """
    dissection = read(pcap, port, payloads=payloads)
    assert dissection.packets, f"{pcap}: no DRBD packet recognised on port {port}"
    assert not dissection.complaints, "\n".join(dissection.complaints)
    assert not whole or not dissection.left_over, "\n".join(dissection.left_over)
    return dissection.packets
