# SPDX-License-Identifier: GPL-2.0-or-later
"""A bar chart of one table, as PNG; matplotlib draws, which nothing else here needs."""

from __future__ import annotations

from pathlib import Path

from bench.report import Copy, Section, number

COLOURS = ("#9aa0a6", "#e8a33d", "#c96a3b", "#1a73e8", "#5b9cf5", "#a8c8fa", "#34a07c", "#8ccfb4", "#c5e8da")
INCHES_PER_BAR, HEIGHT_INCHES, DPI = 0.26, 4.6, 120
COLUMNS = 3         # of the legend


class NoPlotError(Exception):
    """There is nothing to draw with."""


def section_png(section: Section, path: Path) -> None:
    """A group of bars for each job, scaled to its tallest; the whiskers are the slowest and the quickest round.

    Raises NoPlotError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlotError("no plots without matplotlib; run: make bench, or pip install 'replblock[bench]'") from None
    rows, jobs = section.rows, section.jobs
    width = len(rows) + 1.5
    figure = Figure(figsize=(max(7.0, INCHES_PER_BAR * width * len(jobs)), HEIGHT_INCHES), layout="constrained")
    axes = figure.subplots()
    tallest = [max((m for row in rows if (m := row.median(job)) is not None), default=0.0) or 1.0 for job in jobs]
    for index, row in enumerate(rows):
        colour = COLOURS[index % len(COLOURS)]
        label: str | None = row.label
        for group, job in enumerate(jobs):
            middle = row.median(job)
            if middle is None:
                continue
            values = [r.value(job.unit) for r in row.rounds[job.name]]
            spread = [[(middle - min(values)) / tallest[group]], [(max(values) - middle) / tallest[group]]]
            at = group * width + index
            axes.bar(at, middle / tallest[group], 0.9, color=colour, label=label, yerr=spread,
                     error_kw={"elinewidth": 0.7, "ecolor": "#444444"})
            axes.text(at, 0.02, number(middle), rotation=90, ha="center", va="bottom", fontsize=6)
            label = None
    axes.set_xticks([group * width + (len(rows) - 1) / 2 for group in range(len(jobs))],
                    [f"{job.name}\n{job.unit}" for job in jobs])
    axes.set_yticks([])
    axes.set_title(section.title, fontsize=10)
    axes.spines[["top", "left", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=COLUMNS, fontsize=8, frameon=False)
    figure.savefig(path, dpi=DPI)


def copies_png(title: str, copies: list[Copy], path: Path) -> None:
    """Full copies, MB/s. Raises NoPlotError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlotError("no plots without matplotlib; run: make bench, or pip install 'replblock[bench]'") from None
    figure = Figure(figsize=(7.0, 0.5 + 0.4 * len(copies)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([copy.label for copy in copies], [copy.mb_per_s for copy in copies],
                     color=[COLOURS[index % len(COLOURS)] for index in range(len(copies))])
    axes.bar_label(bars, [f"{number(copy.mb_per_s)} MB/s" for copy in copies], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "bottom", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)
