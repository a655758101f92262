# SPDX-License-Identifier: GPL-2.0-or-later
"""events2: what there is, then every change, one line each, until interrupted (or with --now: at once the end)."""

from __future__ import annotations

import queue
import sys
import threading
from datetime import datetime
from typing import Any, NamedTuple

from replblock.cli.control import status_of
from replblock.cli.errors import Stop
from replblock.cli.run import Run
from replblock.engine.client import resources_up, stream
from replblock.status.events import Event, diff, dump, helper

LOOK_S = 1.0
"""How often it is looked for resources that came up."""


class News(NamedTuple):
    """From the thread that listens to one engine; `message` None: it ended."""

    resource: str
    message: dict[str, Any] | None


def events2(run: Run) -> int:
    """Follow the named resources, or every one that is up or comes up."""
    return _Follower(run).run()


class _Follower:
    """A thread per running resource reads its engine's stream; one place compares and prints."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._statistics = "--statistics" in run.options
        self._news: queue.Queue[News] = queue.Queue()
        self._statuses: dict[str, dict[str, Any]] = {}
        self._followed: set[str] = set()

    def run(self) -> int:
        for name in self._up():
            try:
                self._statuses[name] = status_of(self._run, name)
            except Stop:  # it went down meanwhile
                pass
        self._print(dump(self._statuses.values(), statistics=self._statistics))
        while "--now" not in self._run.options:
            for name in self._up():
                if name not in self._followed:
                    self._followed.add(name)
                    threading.Thread(target=self._listen, args=(name,), daemon=True).start()
            try:
                self._take(self._news.get(timeout=LOOK_S))
            except queue.Empty:
                pass
        return 0

    def _up(self) -> list[str]:
        up = resources_up(self._run.run_dir)
        named = [name for name in self._run.names if name != "all"]
        return [name for name in up if name in named or not named]

    def _listen(self, name: str) -> None:
        try:
            for message in stream(self._run.run_dir, name):
                self._news.put(News(name, message))
        except OSError:
            pass
        self._news.put(News(name, None))

    def _take(self, news: News) -> None:
        old = [self._statuses[news.resource]] if news.resource in self._statuses else []
        if news.message is None:
            self._followed.discard(news.resource)
            self._statuses.pop(news.resource, None)
            self._print(diff(old, [], statistics=self._statistics))
        elif "status" in news.message:
            self._statuses[news.resource] = news.message["status"]
            self._print(diff(old, [news.message["status"]], statistics=self._statistics))
        elif "helper" in news.message and old:
            device = old[0]["devices"][0]
            self._print([helper(news.message["what"], news.resource, device["volume"], device["minor"],
                                news.message["helper"], news.message["exit_code"])])  # fmt: skip

    def _print(self, events: list[Event]) -> None:
        moment = datetime.now().astimezone() if "--timestamps" in self._run.options else None
        for event in events:
            print(event.json(moment) if "--json" in self._run.options else event.text(moment))
        sys.stdout.flush()
