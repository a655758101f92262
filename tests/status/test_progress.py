# SPDX-License-Identifier: GPL-2.0-or-later
"""The progress of a resync: DRBD's arithmetic at its edges, and the line for terminals."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.status import model, progress
from replblock.status.progress import Sync, add_mark, bar, done_permille, proc_lines, rates, terminal_line

BLOCKS = st.integers(0, 1 << 40)


def syncing(total: int, left: int, **given: object) -> Sync:
    return Sync.of(model.sync(rs_total_blocks=total, rs_left_blocks=left, **given))


@given(BLOCKS, BLOCKS)
def test_done_is_always_a_permille(left: int, total: int) -> None:
    assert 0 <= done_permille(left, total) <= 1000


@given(st.integers(0, 1000))
def test_bar_is_20_cells_wide_once_it_has_begun(permille: int) -> None:
    drawn = bar(permille)
    assert re.fullmatch(r"\[=*>\.*\]", drawn)
    assert len(drawn) == (22 if permille >= 50 else 23)


@pytest.mark.parametrize(("left", "total", "expected"), [
    (0, 0, 1000), (5, 0, 0), (17, 16, 1000), (0, 16374, 1000), (16374, 16374, 63), (9167, 16374, 500),
    (1 << 33, 1 << 33, 1), (1 << 32, 1 << 33, 501),
])
def test_done_at_its_edges(left: int, total: int, expected: int) -> None:
    assert done_permille(left, total) == expected


def test_kernel_lines_of_a_large_target() -> None:
    """More than 4 GiB is shown in MiB, and rates get a comma every three digits."""
    lines = proc_lines("SyncTarget", syncing(3 << 20, 1 << 20, started_ms=0, now_ms=10_000, want_kib_s=1_234_567))
    assert lines == [
        "\t[============>.......] sync'ed: 66.7% (4096/12288)M",
        "\tfinish: 0:00:04 speed: 838,860 (838,860) want: 1,234,567 K/sec",
    ]


def test_nothing_while_paused() -> None:
    assert proc_lines("PausedSyncS", syncing(100, 50)) == []


def test_stalled_after_three_minutes() -> None:
    sync = syncing(2_000_000, 1_000_000, started_ms=0, now_ms=181_000)
    assert rates(sync).stalled and proc_lines("SyncSource", sync)[1].endswith(" K/sec (stalled)")
    assert not rates(sync._replace(now_ms=180_999)).stalled


def test_rate_is_taken_from_the_mark_two_after_the_newest() -> None:
    marks: list[tuple[int, int]] = []
    for second in range(0, 60):
        marks = add_mark(marks, 1000 * second, 100_000 - 100 * second)
        sync = syncing(100_000, 100_000 - 100 * second, marks=marks, started_ms=0, now_ms=1000 * second)
        assert rates(sync).speed_kib_s in (0, 400)
    assert len(marks) == progress.MARKS
    assert marks[-1][0] - marks[0][0] == 21_000
    assert sync.rate_mark == marks[1]


def test_a_pause_does_not_count() -> None:
    sync = syncing(10_000, 5_000, started_ms=0, paused_ms=90_000, now_ms=100_000)
    assert rates(sync).average_kib_s == 2000


def test_failed_blocks_are_not_left() -> None:
    assert syncing(1000, 300, rs_failed_blocks=200).left_blocks == 100


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 132])
@pytest.mark.parametrize("cstate", ["SyncTarget", "PausedSyncT"])
def test_terminal_line_fits(columns: int, cstate: str) -> None:
    line = terminal_line("r0/0", cstate, syncing(16374, 9167, started_ms=0, now_ms=7000), columns)
    assert len(line) <= columns and line.startswith("r0/0 ")


def test_terminal_line() -> None:
    line = terminal_line("r0/0", "SyncTarget", syncing(16374, 9167, started_ms=0, now_ms=7000), 80)
    assert line == "r0/0 SyncTarget [========>..........]  50.0%  35.8 MiB left  4.0 MiB/s  0:00:08"
