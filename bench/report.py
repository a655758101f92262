# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds → medians, ratios and a Markdown table."""

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
