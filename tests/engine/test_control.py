# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket and its client."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replblock.engine.arguments import wrong_argument
from replblock.engine.client import Busy, NotUp, call, is_up, resources_up, stream
from replblock.engine.control import Client, Control, answer
from replblock.engine.loop import Loop
from tests.engine.conftest import wait_for


class Server:
    def __init__(self, loop: Loop, run_dir: Path) -> None:
        self.loop = loop
        self.later: list[Client] = []
        self.streams: list[Client] = []
        verbs: dict[str, Any] = {
            "echo": lambda args, client: client.reply(answer(0, ["said"], args)),
            "later": lambda args, client: self.later.append(client),
            "never": lambda args, client: None,
            "events": self.events,
        }
        self.control = Control(loop, run_dir, "r0", verbs)
        opened = threading.Event()
        loop.call_soon(lambda: (self.control.open(), opened.set()))
        assert opened.wait(20)

    def events(self, args: dict[str, Any], client: Client) -> None:
        client.streaming = True
        self.streams.append(client)
        client.push({"status": 0})


@pytest.fixture
def server(start_loop: Callable[..., Loop], tmp_path: Path) -> Iterator[Server]:
    yield Server(start_loop(), tmp_path)


def test_a_question_and_its_answer(server: Server, tmp_path: Path) -> None:
    assert call(tmp_path, "r0", "echo", {"text": "naïve\nline"}) == {
        "exit_code": 0, "lines": ["said"], "data": {"text": "naïve\nline"},
    }  # fmt: skip
    assert is_up(tmp_path, "r0") and resources_up(tmp_path) == ["r0"]
    assert stat.S_IMODE(os.stat(tmp_path / "r0.ctl").st_mode) == 0o600


def test_an_answer_that_comes_later(server: Server, tmp_path: Path) -> None:
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(call(tmp_path, "r0", "later")))
    asking.start()
    client = wait_for(lambda: server.later)[0]
    assert call(tmp_path, "r0", "echo")["exit_code"] == 0  # others are served meanwhile
    server.loop.call_soon(client.reply, answer(11, ["refused"]))
    asking.join(20)
    assert got == [{"exit_code": 11, "lines": ["refused"], "data": {}}]


@pytest.mark.parametrize("line", [b"not json", b"[]", b'{"verb": 1}', b'{"verb": "echo", "args": 3}', b'"x"', b"\xff"])
def test_nonsense_is_answered_with_what_was_expected(server: Server, tmp_path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "r0.ctl"))
        sock.sendall(line + b"\n" + b'{"verb": "echo"}\n')
        reader = sock.makefile("rb")
        assert json.loads(reader.readline())["exit_code"] == 1
        assert json.loads(reader.readline())["exit_code"] == 0


def test_an_unknown_verb_names_the_known_ones(server: Server, tmp_path: Path) -> None:
    found = call(tmp_path, "r0", "fly")
    assert found["exit_code"] == 1 and "echo" in found["lines"][0]


def test_events_are_streamed_until_the_engine_ends(server: Server, tmp_path: Path) -> None:
    lines = stream(tmp_path, "r0")
    assert next(lines) == {"status": 0}
    for number in (1, 2):
        server.loop.call_soon(server.streams[0].push, {"status": number})
        assert next(lines) == {"status": number}
    server.loop.call_soon(server.control.close)
    assert list(lines) == []


def test_a_watcher_that_does_not_read_is_dropped(server: Server, tmp_path: Path) -> None:
    """Invariant 9: nothing grows without bound."""
    lines = stream(tmp_path, "r0")
    next(lines)
    for _ in range(40):
        server.loop.call_soon(server.streams[0].push, {"status": "x" * (1 << 18)})
    wait_for(lambda: server.streams[0].gone)
    assert call(tmp_path, "r0", "echo")["exit_code"] == 0


def test_not_up_stale_and_busy_are_told_apart(server: Server, tmp_path: Path) -> None:
    with pytest.raises(NotUp, match="r9 is not up"):
        call(tmp_path, "r9", "echo")
    with pytest.raises(NotUp, match="left over from a process that died"), socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "r8.ctl"))
        dead.listen()
        dead.close()
        call(tmp_path, "r8", "echo")
    assert not is_up(tmp_path, "r8") and resources_up(tmp_path) == ["r0"]
    with pytest.raises(Busy, match="no answer to 'never' within"):
        call(tmp_path, "r0", "never", timeout_s=0.05)
    with server.loop.lock, pytest.raises(Busy):  # the loop is stuck: somebody is there all the same
        assert is_up(tmp_path, "r0")
        call(tmp_path, "r0", "echo", timeout_s=0.05)


def test_a_deep_run_directory_works_too(start_loop: Callable[..., Loop], tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    Server(start_loop(), deep)
    assert call(deep, "r0", "echo")["exit_code"] == 0


def test_what_cannot_be_json_of_ours_is_refused(server: Server, tmp_path: Path) -> None:
    """However deep, long or many at once: an answer each, or the client is dropped; the server goes on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(server.control.path))
        sock.settimeout(20)
        sock.sendall(b"[" * 50_000 + b"\n" + b'{"verb":"echo"}\n' * 60)
        said = b""
        while said.count(b"\n") < 61:
            said += sock.recv(1 << 16)
        answers = [json.loads(line) for line in said.splitlines()]
        assert [found["exit_code"] for found in answers] == [1] + [0] * 60
    assert call(tmp_path, "r0", "echo", {})["exit_code"] == 0


@pytest.mark.parametrize("args", [
    {"force": 1}, {"timeout_s": "3"}, {"timeout_s": -1}, {"timeout_s": float("inf")}, {"timeout_s": 1e30},
    {"volume": [0]}, {"volume": True}, {"settings": {"protocol": "Z"}}, {"level": 3}, {"config": "a\0b"},
    {"x" * 99: []},
])  # fmt: skip
def test_arguments_of_the_wrong_kind(args: dict[str, Any]) -> None:
    text = wrong_argument(args)
    assert "must be" in text and len(text) < 120


def test_arguments_of_the_right_kind() -> None:
    fine = {"force": True, "timeout_s": 0.5, "volume": 0, "level": "debug", "size_sectors": 8, "new": "x", "old": None}
    assert wrong_argument(fine) == ""
