# SPDX-License-Identifier: GPL-2.0-or-later
"""`compression lz4` on slow links: python -m bench.compression [--rates 10 100 1000] [--rounds 3]. Wants root.

Two pairs of nodes, one with compression and one without, each in two network namespaces of its own joined by a shaped
cable. In turn they write the same data (protocol C, flushed at the end) and copy a whole device, three kinds of data
each. What is reported are medians, and how many times as fast it is with compression.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import nbd

from bench.processes import BenchError
from bench.replblock_pair import NODES
from bench.resync import ReplblockResync
from bench.rounds import say
from bench.shaped_link import ADDRESSES, shaped_link

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
PIECE_BYTES = 16 << 10          # of mixed data, every other piece is noise: files of both kinds side by side
UNSHAPED_MBIT = 4000            # what a link that is not shaped is taken for, to choose sizes

CONFIG = """\
resource r0 {{
    net {{ protocol C; }}
    disk {{ resync-rate 4G; c-plan-ahead 0; }}
    replblock {{ attach none; compression {compression}; }}
{hosts}}}
"""
HOST = """\
    on {node} {{ device /dev/drbd0; disk {disk}; meta-disk internal; address {address}:7788; }}
"""


class Load(NamedTuple):
    """Writes of one size, so many in flight."""

    name: str
    block_bytes: int
    depth: int


LOADS = (Load("4k QD1", 4096, 1), Load("4k QD16", 4096, 16), Load("256k QD4", 256 << 10, 4))
RESYNC = "full resync"


class ShapedPair(ReplblockResync):
    """A pair whose nodes are in namespaces of their own."""

    def __init__(self, directory: Path, size_bytes: int, compression: str, enters: Sequence[list[str]]) -> None:
        super().__init__(directory, size_bytes, sparse=True)
        self.label = f"compression {compression}"
        self.compression = compression
        self.enters = dict(zip(NODES, enters, strict=True))

    def command(self, node: str, *arguments: str) -> list[str]:
        return [*self.enters[node], "env", f"PYTHONPATH={ROOT}", *super().command(node, *arguments)]

    def start(self) -> str:
        self.make_files()
        hosts = "".join(HOST.format(node=node, disk=disk, address=address)
                        for node, disk, address in zip(NODES, self.files(), ADDRESSES, strict=True))
        (self.directory / "drbd.conf").write_text(CONFIG.format(compression=self.compression, hosts=hosts))
        for node in NODES:
            self.replctl(node, "create-md", "--force", "r0")
        for node in NODES:
            self.up.append(node)
            self.replctl(node, "up", "r0")
        self.replctl(NODES[0], "wait-connect", "r0")
        self.replctl(NODES[0], "new-current-uuid", "--clear-bitmap", "r0")
        self.replctl(NODES[0], "primary", "r0")
        self.check()
        return self.replctl(NODES[0], "sh-nbd", "r0")


def text_like() -> bytes:
    """What people write: the sources and documents of this tree."""
    paths = sorted(path for kind in ("*.py", "*.md") for folder in ("replblock", "docs", "tests")
                   for path in (ROOT / folder).rglob(kind))
    return b"".join(path.read_bytes() for path in paths)


def kinds(size_bytes: int) -> dict[str, bytes]:
    """The same for both pairs, and in every run on the same tree."""
    text = text_like()
    text = (text * (size_bytes // len(text) + 1))[:size_bytes]
    chance = random.Random(84)
    noise = b"".join(chance.randbytes(MIB) for _ in range(size_bytes // MIB))
    pieces = range(0, size_bytes, PIECE_BYTES)
    mixed = b"".join((noise if at // PIECE_BYTES % 2 else text)[at : at + PIECE_BYTES] for at in pieces)
    return {"text": text, "mixed": mixed, "random": noise}


def write(uri: str, load: Load, data: bytes, seconds: float) -> float:
    """MiB a second of writes in a row, until the last one is flushed on both nodes."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    buffers = [nbd.Buffer.from_bytearray(bytearray(data[at : at + load.block_bytes]))
               for at in range(0, len(data) - load.block_bytes + 1, load.block_bytes)]
    done = 0
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        index = done % len(buffers)
        handle.aio_pwrite(buffers[index], index * load.block_bytes)
        done += 1
        while handle.aio_in_flight() >= load.depth:
            handle.poll(-1)
    while handle.aio_in_flight():
        handle.poll(-1)
    handle.flush()
    spent = time.monotonic() - begin
    handle.shutdown()
    return done * load.block_bytes / MIB / spent


def fill(uri: str, data: bytes) -> None:
    """The whole device, whatever it takes."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for at in range(0, len(data), MIB):
        handle.pwrite(data[at : at + MIB], at)
    handle.flush()
    handle.shutdown()


class Row(NamedTuple):
    mbit: int
    job: str
    kind: str
    plain_mib_s: float
    lz4_mib_s: float


def measure(
    mbit: int, rounds: int, seconds: float, directory: Path, wanted: Sequence[str], data_kinds: Sequence[str]
) -> Iterator[Row]:
    """All jobs on links of one speed; the device is what an uncompressed one carries in a few seconds."""
    size_bytes = min(max((mbit or UNSHAPED_MBIT) * 125_000 * 4 // MIB, 4), 256) * MIB
    with ExitStack() as stack:
        pairs, uris = [], []
        for compression in ("none", "lz4"):
            enters = stack.enter_context(shaped_link(mbit))
            where = directory / f"{mbit}-{compression}"
            where.mkdir(parents=True)
            pair = ShapedPair(where, size_bytes, compression, enters)
            stack.callback(pair.stop)
            pairs.append(pair)
            uris.append(pair.start())
        known = kinds(size_bytes)
        for kind in data_kinds:
            data = known[kind]
            loads = [load for load in LOADS if load.name in wanted]
            found: dict[str, list[list[float]]] = {name: [[], []] for name in (*(x.name for x in loads), RESYNC)}
            for turn in range(rounds):
                for load in loads:
                    for index in (0, 1) if turn % 2 else (1, 0):
                        found[load.name][index].append(write(uris[index], load, data, seconds))
            if RESYNC in wanted:
                for uri in uris:
                    fill(uri, data)
                for turn in range(rounds):
                    for index in (0, 1) if turn % 2 else (1, 0):
                        found[RESYNC][index].append(size_bytes / MIB / pairs[index].copy())
            for pair in pairs:
                pair.check()
            for job, both in found.items():
                if both[0]:
                    yield Row(mbit, job, kind, *(median(values) for values in both))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.compression", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rates", type=int, nargs="+", default=[10, 100, 1000], metavar="MBIT", help="0: not shaped")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one round of writes")
    parser.add_argument("--jobs", nargs="+", default=[*(load.name for load in LOADS), RESYNC], metavar="JOB")
    parser.add_argument("--kinds", nargs="+", default=["text", "mixed", "random"], metavar="KIND", help="of data")
    parser.add_argument("--dir", type=Path, default=None, help="where the disks live; else a temporary directory")
    options = parser.parse_args()
    print("| Mbit/s | job | data | none MiB/s | lz4 MiB/s | ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="rb-lz4-", dir=options.dir) as directory:
        for mbit in options.rates:
            say(f"{mbit} Mbit/s, load {os.getloadavg()[0]:.1f}")
            rows = measure(mbit, options.rounds, options.seconds, Path(directory), options.jobs, options.kinds)
            for row in rows:
                ratio = row.lz4_mib_s / row.plain_mib_s
                print(f"| {row.mbit or 'unshaped'} | {row.job} | {row.kind} | {row.plain_mib_s:.2f} | "
                      f"{row.lz4_mib_s:.2f} | {ratio:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as problem:
        sys.exit(str(problem))
