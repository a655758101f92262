# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a resync or a verify is: per mille, rates, remaining time, and the bars that show them.

The arithmetic is that of DRBD 8.4's /proc/drbd, integer divisions included, so that the same resync shows the same
line on a kernel node and here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BLOCK_KIB = 4
BAR_CELLS = 20
MARKS = 8                       # ring of marks, so the rate shown covers the last 18 to 24 seconds
MARK_STEP_MS = 3000
STALLED_AFTER_S = 180
MEBIBYTES_FROM_BLOCKS = 1 << 20  # more than 4 GiB: sizes are shown in MiB
RUNNING = frozenset({"SyncSource", "SyncTarget", "VerifyS", "VerifyT"})
VERIFYING = frozenset({"VerifyS", "VerifyT"})
SETS_THE_PACE = frozenset({"SyncTarget", "VerifyS"})


class Sync(NamedTuple):
    """The inputs of a progress line; blocks of 4 KiB, times in milliseconds of the engine's clock."""

    total_blocks: int
    left_blocks: int
    marks: tuple[tuple[int, int], ...]
    want_kib_s: int
    started_ms: int
    paused_ms: int
    now_ms: int

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Sync:
        """From the table `replblock-sync` of the status: blocks that failed are done with, though not in sync."""
        left = max(0, table["rs_left_blocks"] - table["rs_failed_blocks"])
        marks = tuple((int(t_ms), int(blocks)) for t_ms, blocks in table["marks"])
        return cls(table["rs_total_blocks"], left, marks, table["want_kib_s"], table["started_ms"],
                   table["paused_ms"], table["now_ms"])

    @property
    def done_permille(self) -> int:
        return done_permille(self.left_blocks, self.total_blocks)

    @property
    def rate_mark(self) -> tuple[int, int]:
        """The mark two after the newest in a ring of 8 that was filled with the start."""
        return self.marks[-MARKS:][1] if len(self.marks) >= MARKS else (
            self.marks[0] if len(self.marks) == MARKS - 1 else (self.started_ms, self.total_blocks))


class Rates(NamedTuple):
    """What the second line shows."""

    speed_kib_s: int
    average_kib_s: int
    remaining_s: int
    stalled: bool


def done_permille(left_blocks: int, total_blocks: int) -> int:
    """Per mille done, in the coarse steps of DRBD 8.4: the sizes are shifted before they are divided."""
    if left_blocks > total_blocks:
        return 1000 if total_blocks else 0
    shift = 16 if total_blocks > 0xFFFFFFFF else 10
    return 1000 - (left_blocks >> shift) * 1000 // (1 + (total_blocks >> shift))


def rates(sync: Sync) -> Rates:
    mark_ms, mark_left = sync.rate_mark
    elapsed_s = max(0, sync.now_ms - mark_ms) // 1000
    span_s = max(1, elapsed_s)
    blocks = max(0, mark_left - sync.left_blocks)
    remaining_s = span_s * (sync.left_blocks // (blocks // 100 + 1)) // 100
    since_start_s = max(1, (sync.now_ms - sync.started_ms - sync.paused_ms) // 1000)
    done = max(0, sync.total_blocks - sync.left_blocks)
    return Rates(blocks // span_s * BLOCK_KIB, done // since_start_s * BLOCK_KIB, remaining_s,
                 elapsed_s > STALLED_AFTER_S)


def add_mark(marks: list[tuple[int, int]], now_ms: int, left_blocks: int) -> list[tuple[int, int]]:
    """The ring with one mark more, or the same one if the newest is not yet 3 seconds old (or nothing moved)."""
    if marks and (now_ms - marks[-1][0] < MARK_STEP_MS or marks[-1][1] == left_blocks):
        return marks
    return [*marks, (now_ms, left_blocks)][-MARKS:]


def bar(permille: int, cells: int = BAR_CELLS) -> str:
    """`[=======>............]`; at 0 the arrow stands outside of the cells, as DRBD draws it."""
    full = permille * cells // 1000
    return "[" + "=" * (full - 1) + ">" + "." * (cells - full) + "]"


def thousands(number: int) -> str:
    return f"{number:,}"


def clock(seconds: int) -> str:
    """`H:MM:SS`"""
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def proc_lines(cstate: str, sync: Sync) -> list[str]:
    """The two lines of /proc/drbd while a resync or verify runs; none while it is paused."""
    if cstate not in RUNNING:
        return []
    permille = sync.done_permille
    verb = "verified:" if cstate in VERIFYING else "sync'ed:"
    shift, unit = (10, "M") if sync.total_blocks > MEBIBYTES_FROM_BLOCKS else (0, "K")
    left, total = (BLOCK_KIB * (blocks >> shift) for blocks in (sync.left_blocks, sync.total_blocks))
    figures = rates(sync)
    want = f" want: {thousands(sync.want_kib_s)}" if cstate in SETS_THE_PACE else ""
    return [
        f"\t{bar(permille)} {verb}{permille // 10:3d}.{permille % 10}% ({left}/{total}){unit}",
        f"\tfinish: {clock(figures.remaining_s)} speed: {thousands(figures.speed_kib_s)}"
        f" ({thousands(figures.average_kib_s)}){want} K/sec{' (stalled)' if figures.stalled else ''}",
    ]


def terminal_line(name: str, cstate: str, sync: Sync, columns: int = 80) -> str:
    """One line for a terminal, as wide as it may be: name, bar, percent, rate, time left.

    `r0/0 SyncTarget [=========>..........]  50.0%  34.6 MB left  3.9 MB/s  0:00:08`
    """
    figures = rates(sync)
    permille = sync.done_permille
    left = human_kib(sync.left_blocks * BLOCK_KIB)
    if cstate not in RUNNING:
        tail = f"{permille / 10:5.1f}%  {left} left  paused"
    elif figures.stalled:
        tail = f"{permille / 10:5.1f}%  {left} left  stalled"
    else:
        tail = f"{permille / 10:5.1f}%  {left} left  {human_kib(figures.speed_kib_s)}/s  {clock(figures.remaining_s)}"
    head = f"{name} {cstate}"
    cells = columns - len(head) - len(tail) - 5
    return f"{head} {bar(permille, min(cells, 40))} {tail}" if cells >= 5 else f"{head} {tail}"[:columns]


def human_kib(kib: int) -> str:
    """KiB with a unit a person reads: `640 KiB`, `3.4 MiB`, `1.9 TiB`."""
    size, units = float(kib), ["KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "KiB" else f"{size:.1f} {units[0]}"
