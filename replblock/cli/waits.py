# SPDX-License-Identifier: GPL-2.0-or-later
"""wait-connect, wait-sync, wait-con-int: wait for the peer, as long as the startup section allows.

Three time-outs, as in DRBD: outdated-wfc-timeout if the peer is known to be outdated, degr-wfc-timeout if this node was
a lonely Primary before it started, else wfc-timeout; 0 is for ever.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from typing import Any

from replblock.cli import progress
from replblock.cli.control import not_up, status_of
from replblock.cli.errors import TIMEOUT, USAGE, Stop
from replblock.cli.run import Run, Target

POLL_S = 0.2
TIMEOUTS = ("wfc-timeout", "degr-wfc-timeout", "outdated-wfc-timeout")


class Waiting:
    """One target that is waited for, and until when. The time-out is chosen at the first look."""

    def __init__(self, run: Run, target: Target, synced: bool) -> None:
        self.run = run
        self.target = target
        self.synced = synced
        self.found: dict[str, Any] = {}
        self.option = ""
        self.timeout_s = 0
        self.began = time.monotonic()

    @property
    def left_s(self) -> float:
        """Time left; infinite without a time-out."""
        return self.began + self.timeout_s - time.monotonic() if self.timeout_s else float("inf")

    def over(self) -> bool:
        """Ask the engine: True once there is nothing more to wait for. Raises Stop(5) when it was in vain."""
        self.found = status_of(self.run, self.target.resource)
        if self._there():
            return True
        if not self.option:
            self._choose_timeout()
        if self.left_s > 0:
            return False
        missing = "not in sync" if self.synced else "no peer"
        raise Stop(
            TIMEOUT,
            f"{self.target}: {missing} within {self.timeout_s} seconds ({self.option})",
            f"look at: replctl status {self.target.resource}",
        )

    def _there(self) -> bool:
        name = self.target.resource
        links = self.found["connections"]
        if not links or links[0]["connection-state"] == "StandAlone":
            if "--wait-after-sb" in self.run.options:
                return False
            raise Stop(
                TIMEOUT,
                f"{self.target}: StandAlone: it does not look for its peer",
                f"see why: replctl status --verbose {name}; then: replctl connect {name}",
            )
        states = [
            item["replication-state"]
            for item in links[0]["peer_devices"]
            if self.target.volume in (None, item["volume"])
        ]
        if links[0]["connection-state"] != "Connected" or not states:
            return False
        return all(state == "Established" if self.synced else state != "Off" for state in states)

    def _choose_timeout(self) -> None:
        peers = [item["peer-disk-state"] for link in self.found["connections"] for item in link["peer_devices"]]
        if "Outdated" in peers:
            self.option = "outdated-wfc-timeout"
        else:
            self.option = "degr-wfc-timeout" if self.found.get("replblock-degraded-start") else "wfc-timeout"
        options = self.run.options
        if any("--" + name in options for name in TIMEOUTS):
            value: object = options.get("--" + self.option, "0")
            if not str(value).isdigit():
                raise Stop(USAGE, f"'{value}' is not a number of seconds (--{self.option})")
            self.timeout_s = int(str(value))
        else:
            value = self.run.view(self.target.resource).startup[self.option]
            self.timeout_s = value if isinstance(value, int) else 0


def wait_connect(run: Run) -> int:
    """Until the peer is there."""
    return _wait([Waiting(run, target, False) for target in run.targets()], _sleep)


def wait_sync(run: Run) -> int:
    """Until no resynchronisation runs; with a progress bar on a terminal."""
    waiting = [Waiting(run, target, True) for target in run.targets()]
    if not sys.stdout.isatty():
        return _wait(waiting, _sleep)
    drawn = False

    def draw(pending: list[Waiting]) -> bool:
        nonlocal drawn
        text = next(filter(None, (progress.line(item.found) for item in pending)), "")
        if text or drawn:
            progress.draw(text)
            drawn = True
        return _sleep(pending)

    code = _wait(waiting, draw)
    if drawn:
        progress.draw("" if code else "in sync\n")
    return code


def wait_con_int(run: Run) -> int:
    """Until all peers are there, or the user types yes or Ctrl-C, which is no failure."""
    if run.names:
        print("This command will ignore resource names!", file=sys.stderr)
    waiting = [Waiting(run, Target(name), False) for name in run.views]
    try:
        return _wait(waiting, Dialog().ask if sys.stdin.isatty() else _sleep)
    except KeyboardInterrupt:
        print("\nnot waiting any longer")
        return 0


def _wait(waiting: list[Waiting], pause: Callable[[list[Waiting]], bool]) -> int:
    """Look at all until none is left; the worst exit code. `pause(pending)` between looks ends the wait with True."""
    worst = 0
    pending = list(waiting)
    while pending:
        for item in list(pending):
            try:
                if not item.run.is_up(item.target.resource):
                    raise not_up(item.run, item.target)
                over = item.over()
            except Stop as stop:
                over = True
                worst = max(worst, stop.exit_code)
                for line in stop.lines:
                    print(line, file=sys.stderr)
            if over:
                pending.remove(item)
        if pending and pause(pending):
            break
    return worst


def _sleep(pending: list[Waiting]) -> bool:
    time.sleep(min([POLL_S, *(max(0.0, item.left_s) for item in pending)]))
    return False


class Dialog:
    """Tells once what is waited for, and takes `yes` for an end of it."""

    def __init__(self) -> None:
        self._told = False

    def ask(self, pending: list[Waiting]) -> bool:
        """Wait a moment for the user; True if he has had enough."""
        if not self._told:
            self._told = True
            for item in pending:
                limit = f"up to {item.timeout_s} seconds" if item.timeout_s else "for as long as it takes"
                print(f"{item.target}: waiting for the peer {limit} [{item.option}]")
            self._prompt()
        ready, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if not ready:
            return False
        word = sys.stdin.readline()
        if word.strip().lower() == "yes":
            print("not waiting any longer")
            return True
        if word:
            self._prompt()
        else:  # the terminal is at its end: nobody is there to ask
            time.sleep(POLL_S)
        return False

    def _prompt(self) -> None:
        print("To stop waiting type: yes", flush=True)
