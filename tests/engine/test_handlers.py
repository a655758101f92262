# SPDX-License-Identifier: GPL-2.0-or-later
"""Handlers: environment, exit codes, time limit, and that the loop never waits for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replblock.engine.handlers import NOT_STARTED, TIMED_OUT, Handlers
from replblock.engine.loop import Loop
from tests.engine.conftest import Lines, wait_for


@pytest.fixture
def run(start_loop: Callable[..., Loop], log: Lines) -> Callable[..., int]:
    loop = start_loop()

    def run(command: str | None, env: dict[str, str] | None = None, **options: Any) -> int:
        commands = {} if command is None else {"fence-peer": command}
        handlers = Handlers(commands, {"DRBD_RESOURCE": "r0", "DRBD_MINOR": "0"}, loop.post, log, **options)
        got: list[int] = []
        loop.call_soon(handlers.run, "fence-peer", env or {}, got.append)
        wait_for(lambda: got)
        return got[0]

    return run


@pytest.mark.parametrize("code", [0, 3, 4, 5, 6, 7])
def test_the_exit_code_comes_back(run: Callable[..., int], code: int) -> None:
    assert run(f"exit {code}") == code


def test_an_unconfigured_handler_is_success_and_a_missing_program_is_not(run: Callable[..., int]) -> None:
    assert run(None) == 0
    assert run("/no/such/script") == NOT_STARTED


def test_drbds_environment_reaches_the_command(run: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "env"
    assert run(f'echo "$DRBD_RESOURCE $DRBD_MINOR $DRBD_PEER" > {out}', {"DRBD_PEER": "beta"}) == 0
    assert out.read_text() == "r0 0 beta\n"


def test_what_a_handler_says_is_logged(run: Callable[..., int], log: Lines) -> None:
    run("echo cannot reach the switch >&2; exit 5")
    assert log.with_rule("handler-ended") == ["handler fence-peer ended with exit code 5: cannot reach the switch"]


def test_a_handler_that_hangs_is_killed_with_its_children(run: Callable[..., int]) -> None:
    assert run("sleep 300 & wait", timeout_s=0.2) == TIMED_OUT


def test_what_it_leaves_in_the_background_does_not_hold_us_up(run: Callable[..., int]) -> None:
    assert run("sleep 60 & exit 4", timeout_s=30) == 4


def test_calls_and_responses_are_reported_for_events(run: Callable[..., int]) -> None:
    seen: list[tuple[str, str, int | None]] = []
    run("exit 7", report=lambda *what: seen.append(what))
    assert seen == [("call", "fence-peer", None), ("response", "fence-peer", 7)]
