# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs without coverage guidance: damaged, spliced and invented ones, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
CRASHES = HERE / "crashes"
EDGE_BYTES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x80", b"\x01\0\0\0")


def inputs_of(folder: Path, target: str) -> list[tuple[str, bytes]]:
    """Kept inputs of a target: (name, bytes), by name."""
    here = folder / target
    if not here.is_dir():
        return []
    return [(path.name, path.read_bytes()) for path in sorted(here.iterdir()) if path.is_file()]


def mutated(rng: random.Random, pool: Sequence[bytes], most_bytes: int) -> bytes:
    """One input: a kept one damaged in a few places, two of them spliced, or plain noise."""
    if not pool or rng.random() < 0.05:
        return rng.randbytes(rng.choice((0, 1, 3, 16, 60, 300, most_bytes)))
    data = bytearray(rng.choice(pool))
    for _ in range(rng.choice((1, 1, 2, 3, 6, 12))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 2:
            piece = rng.choice(EDGE_BYTES)
            data[at : at + len(piece)] = piece
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 4, 8, 40))]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 40)))
        elif kind == 5:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            data[at:] = other[start : start + rng.choice((8, 40, 400, most_bytes))]
        elif kind == 6:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.choice((8, 24, 40, 200))]
        else:
            del data[at:]
    return bytes(data[:most_bytes])


def stream(seed: int, pool: Sequence[bytes], most_bytes: int = 4096) -> Iterator[bytes]:
    """Inputs without end."""
    rng = random.Random(seed)
    while True:
        yield mutated(rng, pool, most_bytes)
