# SPDX-License-Identifier: GPL-2.0-or-later
"""How many packets a second the decoder takes apart: python -m bench.wire_decode [ROUNDS]."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from replblock.wire import packets as p
from replblock.wire.commands import Cmd, Stream
from replblock.wire.headers import pack_packet
from replblock.wire.limits import max_bio_bytes
from replblock.wire.stream import StreamDecoder

RECV_BYTES = 256 << 10

COOKIE = bytes(8)
CASES = {
    "P_WRITE_ACK": (Stream.META, Cmd.WRITE_ACK, p.BlockAck(0, COOKIE, 4096, 1).pack()),
    "P_DATA 4 KiB": (Stream.DATA, Cmd.DATA, p.Data(0, COOKIE, 1, 2).pack() + bytes(4096)),
    "P_DATA 64 KiB": (Stream.DATA, Cmd.DATA, p.Data(0, COOKIE, 1, 2).pack() + bytes(65536)),
    "P_DATA 1 MiB": (Stream.DATA, Cmd.DATA, p.Data(0, COOKIE, 1, 2).pack() + bytes(1 << 20)),
}


class Case(NamedTuple):
    """One kind of packet, as it arrives in pieces of recv_bytes."""

    name: str
    version: int
    recv_bytes: int
    decoder: StreamDecoder
    pieces: list[bytes]
    packets: int


def cases() -> Iterator[Case]:
    for name, (stream, cmd, body) in CASES.items():
        for version in (97, 101):
            for recv_bytes in (RECV_BYTES, 4096):
                if len(body) - 24 > max_bio_bytes(version):
                    continue
                packet = pack_packet(version, cmd, body)
                packets = max(1, 4 * RECV_BYTES // len(packet))     # the same work for both sizes of pieces
                data = packet * packets
                decoder = StreamDecoder(stream)
                decoder.agreed(version)
                pieces = [data[at : at + recv_bytes] for at in range(0, len(data), recv_bytes)]
                yield Case(name, version, recv_bytes, decoder, pieces, packets)


def seconds_per_packet(case: Case) -> float:
    """CPU time, so that what else runs on the machine counts less."""
    feed = case.decoder.feed
    begin = time.process_time_ns()
    packets = sum(len(feed(piece)) for piece in case.pieces)
    spent_ns = time.process_time_ns() - begin
    assert packets == case.packets and not case.decoder.stalled_bytes()
    return max(spent_ns, 1) / packets / 1e9


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    todo = list(cases())
    spent: list[list[float]] = [[] for _ in todo]
    for _ in range(rounds):                     # interleaved: a busy moment hits all cases alike
        for case, times in zip(todo, spent):
            times.append(seconds_per_packet(case))
    print(f"packets per second of CPU time, {rounds} interleaved rounds")
    for case, times in zip(todo, spent):
        print(f"{case.name:14} protocol {case.version:3} in {case.recv_bytes >> 10:3} KiB: "
              f"best {1 / min(times):12,.0f}  median {1 / median(times):12,.0f}")


if __name__ == "__main__":
    main()
