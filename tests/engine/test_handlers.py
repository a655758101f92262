# SPDX-License-Identifier: GPL-2.0-or-later
"""Handlers: environment, exit codes, time limit, and that the loop never waits for one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replblock.engine.handlers import NOT_STARTED, OUTPUT_MAX_BYTES, RUNNING_MAX, TIMED_OUT, Handlers
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


def test_a_handler_that_talks_without_end_fills_neither_disk_nor_log(run: Callable[..., int], log: Lines) -> None:
    """The file its output goes to is cut back while it runs; it says itself how big it became."""
    size = 'sleep 1.5; stat -Lc %s /dev/fd/1 >&9'
    command = f'exec 9>"$SIZES"; yes reached | head -c 300000; {size}; exit 5'
    sizes = Path(tempfile.mkdtemp()) / "sizes"
    assert run(command, {"SIZES": str(sizes)}) == 5
    line = log.with_rule("handler-ended")[0]
    assert len(line) < OUTPUT_MAX_BYTES + 200 and line.endswith("…")
    assert int(sizes.read_text()) < 3 * OUTPUT_MAX_BYTES


def test_handlers_that_hang_are_not_piled_up(start_loop: Callable[..., Loop], log: Lines, tmp_path: Path) -> None:
    loop = start_loop()
    gate = tmp_path / "gate"
    handlers = Handlers({"split-brain": f"while [ ! -e {gate} ]; do sleep 0.05; done"}, {}, loop.post, log)
    ended: list[int] = []
    for _ in range(RUNNING_MAX + 1):
        loop.call_soon(handlers.run, "split-brain", {}, ended.append)
    wait_for(lambda: ended)
    assert ended == [NOT_STARTED] and len(log.with_rule("too-many-handlers")) == 1
    gate.touch()
    wait_for(lambda: len(ended) > RUNNING_MAX)
    assert ended == [NOT_STARTED] + [0] * RUNNING_MAX
