# SPDX-License-Identifier: GPL-2.0-or-later
"""What a take-over is made of, second by second: noted on the node that takes over, printed as one table at the end."""

from __future__ import annotations

from dataclasses import dataclass

from tests.kernel.guest import Command

#: Says, with the time, each thing that a take-over is made of, the moment it is true. Ends with the last one.
WATCH = """
import os, re, subprocess, sys, time
log, address, home, script = sys.argv[1:5]
def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
skip = len(read(log))
def dead(): return "is dead" in read(log)[skip:]
def asked(): return re.search(f"Running /etc/ha.d/resource.d/{script} .*start", read(log)[skip:])
def primary(): return any("ro:Primary/" in read(path) for path in ("/run/replblock/proc", "/proc/drbd"))
def mounted(): return f" {home} ext3 " in read("/proc/mounts")
def address_up(): return address in subprocess.run(["ip", "-4", "address", "show", "dev", "eth1"],
                                                   capture_output=True, text=True).stdout
def samba(): return any(":01BD 0" in line and " 0A " in line
                        for line in (read("/proc/net/tcp") + read("/proc/net/tcp6")).splitlines())
left = {"declared dead": dead, "address": address_up, "script begins": asked, "primary": primary, "mounted": mounted,
        "samba": samba}
while "samba" in left or "address" in left:
    for name in [name for name, true in left.items() if true()]:
        del left[name]
        print(time.time(), name, flush=True)
    time.sleep(0.02)
"""

#: Heartbeat's take-overs and Pacemaker's; what none of a run has is left out.
COLUMNS = ("declared dead", "shot", "address", "script begins", "promote", "primary", "promoted", "mounted", "samba",
           "client", "ours")  # fmt: skip


@dataclass
class Row:
    """One take-over: seconds after the fault, by event; files of the client and the writer that were lost by it."""

    fault: str
    seconds: dict[str, float]
    lost: int | None = None

    def cells(self, columns: list[str]) -> list[str]:
        times = [f"{self.seconds[name]:.1f}" if name in self.seconds else "" for name in columns]
        return [*times, "" if self.lost is None else str(self.lost)]


rows: list[Row] = []


def timeline(watch: Command, fault_at: float, patience_s: float) -> dict[str, float]:
    """Seconds after the fault, by event; `ours` is what the resource script takes to a usable device."""
    watch.wait_for(lambda lines: any(line.endswith(" samba") for line in lines), "a take-over", patience_s)
    found = {}
    for line in watch.lines:
        at, _, name = line.partition(" ")
        found[name] = float(at) - fault_at
    if {"primary", "script begins"} <= found.keys():
        found["ours"] = found["primary"] - found["script begins"]
    return found


def table() -> list[str]:
    """All that was noted, for the eye."""
    width = max(len(row.fault) for row in rows)
    columns = [name for name in COLUMNS if any(name in row.seconds for row in rows)]
    heads = [*columns, "files lost"]
    lines = [" ".join([" " * width, *heads])]
    for row in rows:
        cells = (cell.rjust(len(head)) for cell, head in zip(row.cells(columns), heads))
        lines.append(" ".join([row.fault.ljust(width), *cells]))
    return lines
