# SPDX-License-Identifier: GPL-2.0-or-later
"""ext3 on /dev/drbd0 in a guest, replblock beside the kernel's DRBD: python -m bench.guests [--rounds 3] [--seconds 3].

In the two guests of tests/kernel (docs/kernel-tests.md says which kernel that is), in turn in every round:
ext3 on the bare disk, on replblock by either door, and on the kernel's DRBD, protocol C, fio in a file of it. Each is
compared with the bare disk of its own round: a guest's absolute figures say nothing about real machines.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from statistics import median

from bench.rounds import say
from tests.kernel.boot import NoGuest
from tests.kernel.guest import Guest
from tests.kernel.mixed import KernelMachine
from tests.kernel.network import NetworkError
from tests.kernel.pair import DEVICE, DISK, MOUNTED, OURS_ONLY, Machine, Pair, two_guests

FILE_MIB = 96
DISK_MIB = 192
JOBS: dict[str, str] = {
    "4k random write, direct, depth 1": "--rw=randwrite --bs=4k --direct=1 --ioengine=psync",
    "4k random write, direct, depth 16": "--rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16",
    "4k random write, fsync every 16": "--rw=randwrite --bs=4k --ioengine=psync --fsync=16",
    "1M sequential write, direct": "--rw=write --bs=1M --direct=1 --ioengine=psync",
    "4k random read, direct, depth 16": "--rw=randread --bs=4k --direct=1 --ioengine=libaio --iodepth=16",
}
Rates = dict[str, float]


def fio(machine: Machine, seconds: float) -> Rates:
    """Bytes a second of every job, in a file of the mounted ext3."""
    machine.sh(f"dd if=/dev/zero of={MOUNTED}/f bs=1M count={FILE_MIB} conv=fsync status=none", 300)
    rates = {}
    for name, words in JOBS.items():
        out = machine.sh(f"fio --name=x --filename={MOUNTED}/f --size={FILE_MIB}M --time_based --runtime={seconds} "
                         f"--output-format=json {words} 2>/dev/null", 60 + 10 * seconds)  # fmt: skip
        (job,) = json.loads(out[out.index("{") :])["jobs"]
        rates[name] = job["write"]["bw_bytes"] + job["read"]["bw_bytes"]
        machine.sh("sync", 120)
    return rates


def on_ext3(machine: Machine, device: str, seconds: float) -> Rates:
    machine.sh(f"mkfs.ext3 -q -F {device} && mkdir -p {MOUNTED} && mount -t ext3 {device} {MOUNTED}", 120)
    try:
        return fio(machine, seconds)
    finally:
        machine.umount()


def bare(guests: list[Guest], seconds: float) -> Rates:
    machine = Machine(guests[0])
    try:
        return on_ext3(machine, DISK, seconds)
    finally:
        blank(guests)


def replicated(guests: list[Guest], kind: type[Machine], door: str, seconds: float) -> Rates:
    """Both nodes of this kind; what they were is gone afterwards."""
    pair = Pair([kind(guest) for guest in guests])
    pair.configure()
    for machine in pair.machines:
        machine.configure(pair.config.replace(OURS_ONLY, f"replblock {{ attach nbd; door {door}; }}" if door else ""))
    pair.set_up(first_sync=False)
    try:
        return on_ext3(pair.dados, DEVICE, seconds)
    finally:
        for machine in pair.machines:
            machine.do("down", "r0")
        blank(guests)


def blank(guests: list[Guest]) -> None:
    for guest in guests:
        guest.sh(f"dd if=/dev/zero of={DISK} bs=1M status=none 2>/dev/null || true; sync", 120)


CONTESTANTS: dict[str, Callable[[list[Guest], float], Rates]] = {
    "replblock, door nbdkit": lambda guests, seconds: replicated(guests, Machine, "nbdkit", seconds),
    "replblock, door direct": lambda guests, seconds: replicated(guests, Machine, "direct", seconds),
    "the kernel's DRBD": lambda guests, seconds: replicated(guests, KernelMachine, "", seconds),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guests", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    ratios: dict[tuple[str, str], list[float]] = {}
    plain: dict[str, list[float]] = {}
    try:
        with two_guests(disk_mib=DISK_MIB) as guests:
            for number in range(1, options.rounds + 1):
                disk = bare(guests, options.seconds)
                for job, rate in disk.items():
                    plain.setdefault(job, []).append(rate)
                for name, measure in CONTESTANTS.items():
                    for job, rate in measure(guests, options.seconds).items():
                        ratios.setdefault((name, job), []).append(rate / disk[job])
                say(f"round {number} of {options.rounds} done")
    except (NoGuest, NetworkError) as reason:
        print(f"bench.guests: {reason}", file=sys.stderr)
        return 1
    say(f"\nTimes the speed of ext3 on the guest's bare disk, medians of {options.rounds}:\n")
    say("| | bare disk, MB/s | " + " | ".join(CONTESTANTS) + " |\n|---|" + "---:|" * (1 + len(CONTESTANTS)))
    for job in JOBS:
        cells = [f"{median(ratios[name, job]):.2f}" for name in CONTESTANTS]
        say(f"| {job} | {median(plain[job]) / 1e6:.1f} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
