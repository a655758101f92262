# SPDX-License-Identifier: GPL-2.0-or-later
"""wait-connect, wait-sync, wait-con-int: wait for the peer, as long as the startup section allows.

Which of the three time-outs counts is known to the engine, which saw the metadata when it attached: degr-wfc-timeout if
this node was a lonely Primary then, outdated-wfc-timeout if the peer was outdated, else wfc-timeout (0: for ever).
"""

from __future__ import annotations

import select
import sys
import time
from typing import Any

from replblock.cli import progress
from replblock.cli.control import not_up, status_of
from replblock.cli.errors import TIMEOUT, USAGE, Stop
from replblock.cli.run import Run, Target

POLL_S = 0.2
STAND_ALONE = "StandAlone"


class Waiting:
    """One volume set that is waited for, and until when."""

    def __init__(self, run: Run, target: Target, synced: bool) -> None:
        self.run = run
        self.target = target
        self.synced = synced
        self.found: dict[str, Any] = {}
        self.timeout_s = 0
        self.option = "wfc-timeout"
        self.began = time.monotonic()

    def choose_timeout(self) -> None:
        """Which time-out counts, from the options or the configuration."""
        self.option = "degr-wfc-timeout" if self.found.get("replblock-degraded-start") else "wfc-timeout"
        for link in self.found["connections"]:
            if any(item["peer-disk-state"] == "Outdated" for item in link["peer_devices"]):
                self.option = "outdated-wfc-timeout"
        named = self.run.options.get("--" + self.option)
        if named is not None:
            if not named.isdigit():
                raise Stop(USAGE, f"'{named}' is not a number of seconds (--{self.option})")
            self.timeout_s = int(named)
        elif self.run.options.keys() & {"--wfc-timeout", "--degr-wfc-timeout", "--outdated-wfc-timeout"}:
            self.timeout_s = 0
        else:
            value = self.run.view(self.target.resource).startup[self.option]
            self.timeout_s = value if isinstance(value, int) else 0

    def look(self) -> bool:
        """Ask the engine; True once there is nothing more to wait for."""
        self.found = status_of(self.run, self.target.resource)
        links = self.found["connections"]
        if not links or links[0]["connection-state"] == STAND_ALONE:
            if "--wait-after-sb" in self.run.options:
                return False
            raise Stop(
                TIMEOUT,
                f"{self.target}: StandAlone: it does not look for its peer",
                f"see why: replctl explain {self.target.resource}; then: replctl connect {self.target.resource}",
            )
        if links[0]["connection-state"] != "Connected":
            return False
        states = [
            item["replication-state"]
            for item in links[0]["peer_devices"]
            if self.target.volume in (None, item["volume"])
        ]
        done = ("Established",) if self.synced else None
        return bool(states) and all(state in done if done else state != "Off" for state in states)

    @property
    def left_s(self) -> float:
        """Time left; infinite without a time-out."""
        return self.began + self.timeout_s - time.monotonic() if self.timeout_s else float("inf")


def wait_connect(run: Run) -> int:
    """Until the peer is there."""
    return _wait(run, [Waiting(run, target, False) for target in run.targets()])


def wait_sync(run: Run) -> int:
    """Until no resynchronisation runs; with a progress bar on a terminal."""
    return _wait(run, [Waiting(run, target, True) for target in run.targets()], bar=sys.stdout.isatty())


def wait_con_int(run: Run) -> int:
    """Until all peers are there, or the user types yes or Ctrl-C, which is no failure."""
    if run.names:
        print("This command will ignore resource names!", file=sys.stderr)
    waiting = [Waiting(run, Target(name), False) for name in run.views]
    try:
        return _wait(run, waiting, dialog=sys.stdin.isatty())
    except KeyboardInterrupt:
        print("\nnot waiting any longer")
        return 0


def _wait(run: Run, waiting: list[Waiting], bar: bool = False, dialog: bool = False) -> int:
    worst = 0
    asked = False
    drawn = False
    for item in waiting:
        if not run.is_up(item.target.resource):
            for line in not_up(run, item.target).lines:
                print(line, file=sys.stderr)
            worst = 10
    pending = [item for item in waiting if run.is_up(item.target.resource)]
    first = True
    while pending:
        for item in list(pending):
            try:
                if item.look():
                    pending.remove(item)
                    continue
                if first:
                    item.choose_timeout()
                if item.left_s <= 0:
                    raise Stop(TIMEOUT, f"{item.target}: no peer within {item.timeout_s} seconds ({item.option})"
                               if not item.synced else
                               f"{item.target}: not in sync within {item.timeout_s} seconds ({item.option})",
                               f"look at: replctl status {item.target.resource}")
            except Stop as stop:
                pending.remove(item)
                worst = max(worst, stop.exit_code)
                for line in stop.lines:
                    print(line, file=sys.stderr)
        first = False
        if not pending:
            break
        if bar:
            text = next(filter(None, (progress.line(item.found) for item in pending)), "")
            if text or drawn:
                progress.draw(text)
                drawn = True
        if dialog and not asked:
            asked = True
            _explain(pending)
        if dialog:
            if _user_says_yes(POLL_S):
                return worst
        else:
            time.sleep(min(POLL_S, max(0.0, *(item.left_s for item in pending))))
    if drawn:
        progress.draw("in sync\n" if not worst else "")
    return worst


def _explain(pending: list[Waiting]) -> None:
    for item in pending:
        limit = f"up to {item.timeout_s} seconds" if item.timeout_s else "for as long as it takes"
        print(f"{item.target}: waiting for the peer {limit} [{item.option}]")
    print("To stop waiting type: yes", flush=True)


def _user_says_yes(timeout_s: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
    if not ready:
        return False
    word = sys.stdin.readline()
    if not word:  # the terminal went away: nobody is there to ask
        time.sleep(timeout_s)
        return False
    if word.strip().lower() == "yes":
        print("not waiting any longer")
        return True
    print("To stop waiting type: yes", flush=True)
    return False
