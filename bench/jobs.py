# SPDX-License-Identifier: GPL-2.0-or-later
"""The fio jobs, and one round of one job against one NBD URI."""

from __future__ import annotations

import json
import subprocess
from typing import NamedTuple

from bench.processes import BenchError


class Job(NamedTuple):
    name: str               # heading in the tables
    pattern: str            # fio's rw=
    block_bytes: int
    queue_depth: int
    unit: str               # "kIOPS" or "MB/s"
    fsync_every: int = 0    # a client flush after so many writes; 0 = none

    @property
    def is_read(self) -> bool:
        return "read" in self.pattern


JOBS = (
    Job("4k w QD1", "randwrite", 4096, 1, "kIOPS"),
    Job("4k w QD16", "randwrite", 4096, 16, "kIOPS"),
    Job("4k w QD64", "randwrite", 4096, 64, "kIOPS"),
    Job("4k r QD16", "randread", 4096, 16, "kIOPS"),
    Job("64k w QD8", "write", 65536, 8, "MB/s"),
    Job("1M w QD4", "write", 1 << 20, 4, "MB/s"),
)
FLUSH_JOB = Job("4k w QD16 f/32", "randwrite", 4096, 16, "kIOPS", fsync_every=32)
CPU_JOB = "4k w QD16"       # the job whose CPU time per operation is reported


class Round(NamedTuple):
    """What one round measured."""

    operations: int
    operations_per_s: float
    bytes_per_s: float
    p50_us: float
    p99_us: float
    cpu_us_per_operation: float

    def value(self, unit: str) -> float:
        return self.operations_per_s / 1e3 if unit == "kIOPS" else self.bytes_per_s / 1e6


def fio_command(job: Job, uri: str, span_bytes: int, seconds: float) -> list[str]:
    return [
        "fio", f"--name={job.name.replace(' ', '-')}", "--ioengine=nbd", f"--uri={uri}", f"--rw={job.pattern}",
        f"--bs={job.block_bytes}", f"--iodepth={job.queue_depth}", f"--size={span_bytes}", "--time_based",
        f"--runtime={round(seconds * 1000)}ms", "--norandommap", "--randrepeat=0", "--output-format=json",
        *([f"--fsync={job.fsync_every}"] if job.fsync_every else []),
    ]


def run_fio(job: Job, uri: str, span_bytes: int, seconds: float) -> Round:
    """One round; CPU time is filled in by the caller, who knows the processes."""
    command = fio_command(job, uri, span_bytes, seconds)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 10 + 60, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"fio {job.name}: stuck") from None
    try:
        result = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    except (ValueError, LookupError):
        raise BenchError(f"fio {job.name}: {(done.stderr or done.stdout)[-500:]}") from None
    if done.returncode or result["error"]:
        raise BenchError(f"fio {job.name}: error {result['error']}: {done.stderr[-500:]}")
    side = result["read" if job.is_read else "write"]
    if not side["total_ios"]:
        raise BenchError(f"fio {job.name}: no operation completed")
    percentiles = side["clat_ns"]["percentile"]
    return Round(side["total_ios"], side["iops"], side["bw_bytes"],
                 percentiles["50.000000"] / 1e3, percentiles["99.000000"] / 1e3, 0.0)
