# SPDX-License-Identifier: GPL-2.0-or-later
"""The process stands in the path by which the kernel frees memory: it must neither wait for that nor be killed.

Each protection is best effort: without the rights for it the engine works, and says so.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

#: Lock what is in use now and what will be, page by page as it is touched: stacks that were only reserved stay cheap.
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
PR_SET_IO_FLUSHER = 57
OOM_SCORE_NEVER = -1000


class Protection(NamedTuple):
    """Which protections hold, and why others do not."""

    memory_locked: bool
    io_flusher: bool
    oom_protected: bool
    problems: tuple[str, ...]


def protect() -> Protection:
    """All three, for this process.

    The flag of PR_SET_IO_FLUSHER belongs to the calling thread and is inherited by threads that it starts: call this
    in the thread of the loop, before it starts others.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    problems = []
    locked = libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0
    if not locked:
        problems.append(f"mlockall: {os.strerror(ctypes.get_errno())}")
    flusher = libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0
    if not flusher:
        problems.append(f"PR_SET_IO_FLUSHER: {os.strerror(ctypes.get_errno())}")
    protected = set_oom_score(os.getpid(), OOM_SCORE_NEVER)
    if not protected:
        problems.append("oom_score_adj: could not be written")
    return Protection(locked, flusher, protected, tuple(problems))


def set_oom_score(pid: int, score: int, proc: str = "/proc") -> bool:
    """Tell the kernel whom to spare when memory is out. Returns whether it took it."""
    try:
        with open(f"{proc}/{pid}/oom_score_adj", "w") as out:
            out.write(str(score))
    except OSError:
        return False
    return True
