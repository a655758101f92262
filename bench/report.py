# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds → medians, ratios, a Markdown table and a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from bench.jobs import CPU_JOB, Job, Round


class Row(NamedTuple):
    """One contestant's rounds, by job name."""

    label: str
    legs: int
    yardstick: bool
    rounds: dict[str, list[Round]]

    def median(self, job: Job) -> float | None:
        values = [r.value(job.unit) for r in self.rounds.get(job.name, ())]
        return median(values) if values else None

    def cpu_us(self) -> float | None:
        values = [r.cpu_us_per_operation for r in self.rounds.get(CPU_JOB, ())]
        return median(values) if values else None


class Section(NamedTuple):
    """All contestants on one medium."""

    title: str
    jobs: Sequence[Job]
    rows: Sequence[Row]


class Copy(NamedTuple):
    """Full copies of one file: seconds of each."""

    label: str
    size_bytes: int
    seconds: list[float]

    @property
    def mb_per_s(self) -> float:
        return self.size_bytes / 1e6 / median(self.seconds)


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def ratio(mine: float | None, other: float | None) -> str:
    return f"{mine / other:.2f}" if mine and other else "–"


def best_peer(rows: Sequence[Row], job: Job) -> float | None:
    """The better of the replicating peers at this job."""
    return max((m for r in rows if r.yardstick and (m := r.median(job)) is not None), default=None)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def section_markdown(section: Section) -> str:
    """Medians of everybody, then how our rows stand to the better peer and to the unreplicated ceiling."""
    heads = ["", *(f"{job.name}, {job.unit}" for job in section.jobs), f"CPU µs/op ({CPU_JOB})"]
    medians = [[row.label, *(number(row.median(job)) for job in section.jobs), number(row.cpu_us())]
               for row in section.rows]
    parts = [f"## {section.title}", table(heads, medians)]
    ours = [row for row in section.rows if row.legs > 1 and not row.yardstick]
    ceiling = next((row for row in section.rows if row.legs == 1), None)
    least_cpu = min((c for r in section.rows if r.yardstick and (c := r.cpu_us()) is not None), default=None)
    ratios = []
    for row in ours:
        ratios.append([f"{row.label} / better peer",
                       *(ratio(row.median(job), best_peer(section.rows, job)) for job in section.jobs),
                       ratio(row.cpu_us(), least_cpu)])
        if ceiling:
            ratios.append([f"{row.label} / ceiling", *(ratio(row.median(j), ceiling.median(j)) for j in section.jobs),
                           ratio(row.cpu_us(), ceiling.cpu_us())])
    if ratios:
        parts.append(table(["ratio", *heads[1:]], ratios))
    return "\n\n".join(parts)


def copies_markdown(title: str, copies: Sequence[Copy]) -> str:
    yardstick = next((c.mb_per_s for c in copies if c.label == "nbdcopy"), None)
    rows = [[c.label, number(c.mb_per_s), f"{median(c.seconds):.2f}", ratio(c.mb_per_s, yardstick)] for c in copies]
    return f"## {title}\n\n" + table(["", "MB/s", "s", "/ nbdcopy"], rows)


# ---- the chart ------------------------------------------------------------------------------------------------------

COLOURS = ("#9aa0a6", "#e8a33d", "#c96a3b", "#1a73e8", "#5b9cf5", "#34a07c", "#8ccfb4", "#7b5ea7", "#b9a3d6")
BAR_PX, GAP_PX, HEIGHT_PX, TOP_PX, LEGEND_ROW_PX = 18, 22, 200, 44, 18
LABEL_PX = 6.5          # about a character of the labels below a group
FONT = 'font-family="sans-serif" font-size="11"'


def section_svg(section: Section) -> str:
    """Groups of bars, a group per job, each scaled to its tallest bar."""
    rows, jobs = section.rows, section.jobs
    group_px = max(BAR_PX * len(rows), round(LABEL_PX * max(len(job.name) for job in jobs))) + GAP_PX
    width = max(GAP_PX * 2 + group_px * len(jobs), 420)
    base = TOP_PX + HEIGHT_PX
    height = base + 46 + LEGEND_ROW_PX * ((len(rows) + 1) // 2)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {FONT}>',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="{GAP_PX}" y="18" font-size="14">{escape(section.title)}</text>']
    for column, job in enumerate(jobs):
        left = GAP_PX + column * group_px
        tallest = max((m for row in rows if (m := row.median(job)) is not None), default=0.0) or 1.0
        for index, row in enumerate(rows):
            value = row.median(job)
            if value is None:
                continue
            bar = HEIGHT_PX * value / tallest
            x = left + index * BAR_PX
            parts.append(f'<rect x="{x}" y="{base - bar:.1f}" width="{BAR_PX - 2}" height="{bar:.1f}" '
                         f'fill="{COLOURS[index % len(COLOURS)]}"><title>{escape(row.label)}: {number(value)} '
                         f'{job.unit}</title></rect>')
            parts.append(f'<text x="{x + BAR_PX / 2 - 1}" y="{base - bar - 3:.1f}" text-anchor="middle" '
                         f'font-size="7">{number(value)}</text>')
        middle = left + BAR_PX * len(rows) / 2
        parts.append(f'<text x="{middle}" y="{base + 14}" text-anchor="middle">{escape(job.name)}</text>')
        parts.append(f'<text x="{middle}" y="{base + 27}" text-anchor="middle" font-size="9" fill="#666">'
                     f'{job.unit}</text>')
    parts.append(f'<line x1="{GAP_PX}" y1="{base}" x2="{width - GAP_PX}" y2="{base}" stroke="#666"/>')
    for index, row in enumerate(rows):
        left, top = GAP_PX + (index % 2) * (width // 2 - GAP_PX), base + 44 + LEGEND_ROW_PX * (index // 2)
        parts.append(f'<rect x="{left}" y="{top - 9}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
                     f'<text x="{left + 15}" y="{top}">{escape(row.label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
