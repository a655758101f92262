# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says about a process that asked for protection."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from replblock.device import protect
got = protect()
status = open("/proc/self/status").read()
locked = int(status.partition("VmLck:")[2].split()[0])
print(got.memory_locked, locked > 0)
print(got.io_flusher, ctypes.CDLL(None).prctl(58, 0, 0, 0, 0) == 1)
print(got.oom_protected, open("/proc/self/oom_score_adj").read().strip())
print(len(got.problems))
"""


def lines(*prefix: str) -> list[str]:
    return subprocess.run([*prefix, sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
                          timeout=30).stdout.splitlines()


CAP_SYS_RESOURCE = 24


def capable(number: int) -> bool:
    with open("/proc/self/status") as status:
        effective = int(next(line.split()[1] for line in status if line.startswith("CapEff")), 16)
    return bool(effective >> number & 1)


@pytest.mark.root
def test_what_is_said_is_what_the_kernel_shows() -> None:
    """All three with the rights of real root; in a container without CAP_SYS_RESOURCE only the first."""
    expected = ["True True", "True True", "True -1000", "0"] if capable(CAP_SYS_RESOURCE) else [
        "True True", "False False", "False 0", "2"]
    assert lines() == expected


@pytest.mark.root
def test_without_rights_it_goes_on_and_says_so() -> None:
    shown = lines("setpriv", "--inh-caps=-all", "--bounding-set=-all", "prlimit", "--memlock=0:0")
    assert shown[1] == "False False" and shown[2].startswith("False") and int(shown[3]) >= 2
