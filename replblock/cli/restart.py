# SPDX-License-Identifier: GPL-2.0-or-later
"""restart: another engine under a device that stays in use. After a crash, or for a new version of replblock."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from replblock.cli.control import MEDIUM_S, ask, finish
from replblock.cli.errors import CANNOT, TIMEOUT, USAGE, Stop
from replblock.cli.lifecycle import END_POLL_S, END_S, missing_steps, start, step
from replblock.cli.run import Run, Target

WAIT_S = MEDIUM_S


def restart(run: Run) -> int:
    """Refused (exit 11) where the device would not survive it, or if it may not be taken back afterwards."""
    return run.each(lambda target: _restart(run, target))


def _restart(run: Run, target: Target) -> int:
    run.view(target.resource)       # a configuration that cannot be read is no reason to end what runs
    with _one_at_a_time(run, target):
        supervised, leave_only = False, "--leave" in run.options
        if leave_only and not run.is_up(target.resource):
            return 0            # the next one is its supervisor's business in any case
        if run.is_up(target.resource):
            if "--crashed" in run.options:
                return 0
            reply = ask(run, target, "leave", {"dry_run": leave_only})
            if reply.exit_code:
                return finish(run, target, reply)
            supervised = bool(reply.data.get("supervised"))
            if leave_only and not supervised:
                raise Stop(USAGE, f"{target}: its engine has no supervisor that would start the next one",
                           f"run: replctl restart {target.resource}")  # fmt: skip
            if leave_only:
                return finish(run, target, ask(run, target, "leave"))
            _wait_until(run, target, False)
        if supervised:
            _wait_until(run, target, True)
        else:
            start(run, target, resume=True)
        for verb, _ in [] if supervised else missing_steps(run, target):   # it sees to disk and connection, too
            code = step(run, target, verb)
            if code:
                return code     # the device waits on: what is wrong can be mended, and restart be repeated
        return finish(run, target, ask(run, target, "resume", timeout_s=WAIT_S))


@contextmanager
def _one_at_a_time(run: Run, target: Target) -> Iterator[None]:
    """A supervisor and an operator may have the same idea."""
    os.makedirs(run.run_dir, exist_ok=True)
    path = os.path.join(run.run_dir, f"{target.resource}.restart")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise Stop(CANNOT, f"{target}: {path}: {problem.strerror}", "run it as who started the engine") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _wait_until(run: Run, target: Target, up: bool) -> None:
    """Until the old engine is gone, or the next one, which a supervisor starts, is there."""
    end = time.monotonic() + END_S
    while run.is_up(target.resource) is not up:
        if time.monotonic() > end:
            text = ("its supervisor did not start the next engine" if up else
                    "the engine said it ends, but is still there")
            raise Stop(TIMEOUT, f"{target}: {text} within {END_S:g} s", f"look at: replctl status {target.resource}")
        time.sleep(END_POLL_S)
