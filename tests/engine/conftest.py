# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for conditions, free ports, loops that end with the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replblock.engine.loop import Loop
from replblock.engine.network import Addresses
from tests.engine.fakes import RecordingCore

PATIENCE_S = 20.0


def wait_for(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Poll until true; generous, because other tests share the machine."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.002)
    raise AssertionError(f"{what} did not come true within {PATIENCE_S} s")


@pytest.fixture
def port() -> Callable[[], int]:
    """Ports nobody listens on, another one each time (the kernel may well offer the same one again)."""
    given: set[int] = set()

    def free() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                number: int = probe.getsockname()[1]
            if number not in given:
                given.add(number)
                return number

    return free


class Lines:
    """A log for tests."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()

    def __call__(self, level: str, rule: str, text: str) -> None:
        with self._lock:
            self.lines.append((level, rule, text))

    def with_rule(self, rule: str) -> list[str]:
        return [text for _, found, text in self.lines if found == rule]


@pytest.fixture
def log() -> Lines:
    return Lines()


@pytest.fixture
def start_loop(log: Lines) -> Iterator[Callable[..., Loop]]:
    """start_loop(core, addresses) → running loop; a crash of it fails the test."""
    loops: list[Loop] = []
    crashes: list[str] = []

    def start(core: Any = None, addresses: Addresses | None = None, **options: Any) -> Loop:
        loop = Loop(
            addresses or Addresses(own_port=1, peer_port=1),
            log,
            lambda name, env, done: None,
            on_fatal=lambda rule, text: crashes.append(text),
            **options,
        )
        loops.append(loop)
        loop.start(core or RecordingCore())
        return loop

    yield start
    for loop in loops:
        loop.stop()
    assert not crashes, crashes[0]
