# SPDX-License-Identifier: GPL-2.0-or-later
"""The small parts: timers, log, out-queue of a link, ping counting."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from replblock.engine.guard import pings_beyond
from replblock.engine.link import Link
from replblock.engine.log import Log
from replblock.engine.timers import Timers
from replblock.wire.commands import Cmd
from replblock.wire.headers import pack_header

# ---- timers


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 50))), max_size=60))
def test_timers_behave_like_a_dictionary(steps: list[tuple[str, int | None]]) -> None:
    timers, model = Timers(), {}
    for name, deadline in steps:
        timers.set(name, deadline)
        if deadline is None:
            model.pop(name, None)
        else:
            model[name] = deadline
        assert timers.next_ms() == min(model.values(), default=None)
    fired = []
    while (name := timers.pop_due(25)) is not None:
        fired.append(name)
    assert sorted(fired) == sorted(name for name, deadline in model.items() if deadline <= 25)


def test_rearming_a_timer_often_keeps_the_heap_small() -> None:
    timers = Timers()
    for number in range(100_000):
        timers.set("epoch", number)
    assert len(timers._heap) < 3000 and timers.next_ms() == 99_999


# ---- log


def test_a_storm_of_lines_ends_in_one_that_counts_them(tmp_path: Path) -> None:
    now = [0.0]
    log = Log("r0", tmp_path / "r0.log", clock=lambda: now[0], lines_per_second=10, to_stderr=False)
    for number in range(1000):
        log.write("info", "storm", f"line {number}")
    log.write("error", "stop", "why it stopped")
    now[0] = 1.0
    log.write("info", "calm", "again")
    log.close()
    lines = (tmp_path / "r0.log").read_text().splitlines()
    assert len(lines) == 13
    assert "stop: why it stopped" in lines[10] and "990 lines suppressed" in lines[11] and "calm: again" in lines[12]


def test_a_line_says_when_how_bad_who_and_which_rule(tmp_path: Path) -> None:
    log = Log("r0", tmp_path / "r0.log", to_stderr=False)
    log.write("debug", "quiet", "not shown")
    log.write("warning", "both-moved-on", "first\nsecond")
    log.close()
    stamp, rest = (tmp_path / "r0.log").read_text().split(" ", 1)
    assert len(stamp) == len("2026-11-22T12:00:00.000")
    assert rest == "warning r0 both-moved-on: first | second\n"


# ---- the out-queue


@given(
    st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=30),
    st.lists(st.integers(1, 400), min_size=1),
)
def test_partial_sends_lose_and_repeat_nothing(entries: list[list[bytes]], takes: list[int]) -> None:
    link = Link(1, _Trickle(takes), dialing=False)  # type: ignore[arg-type]
    for entry in entries:
        link.send(entry)
    wanted = b"".join(part for entry in entries for part in entry)
    for _ in range(len(wanted) + 2):
        assert link.flush() == 0
        # between two sendmsg the guard may want to speak: only at a boundary
        assert link.mid == (link.unsent > 0 and not _at_boundary(entries, link.sent_bytes))
    assert bytes(link.sock.taken) == wanted  # type: ignore[attr-defined]
    assert link.unsent == 0 and not link.out


def _at_boundary(entries: list[list[bytes]], sent: int) -> bool:
    at, ends = 0, {0}
    for entry in entries:
        at += sum(map(len, entry))
        ends.add(at)
    return sent in ends


class _Trickle:
    """A socket that takes a few bytes and then says EAGAIN."""

    def __init__(self, takes: list[int]) -> None:
        self.takes = takes
        self.taken = bytearray()
        self._calls = 0

    def fileno(self) -> int:
        return -1

    def sendmsg(self, buffers: list[bytes]) -> int:
        self._calls += 1
        if self._calls % 2 == 0:
            raise BlockingIOError(11, "again")
        joined = b"".join(buffers)[: self.takes[self._calls % len(self.takes)]]
        self.taken += joined
        return len(joined)


def test_a_buffer_is_copied_when_its_owner_takes_it_back() -> None:
    """A door's buffer may be reused the moment its request is answered, though a slow peer has not got it yet."""
    one, other = socket.socketpair()
    one.setblocking(False)
    link = Link(1, one, dialing=False)
    payload = bytearray(os.urandom(4 << 20))
    view = memoryview(payload)
    before = bytes(payload)
    link.send([b"head", view])
    assert link.flush() == 0 and link.unsent  # half of it is with the kernel
    link.keep_safe(view)
    payload[:] = bytes(len(payload))
    got = b""
    while len(got) < len(before) + 4:
        got += other.recv(1 << 20)
        link.flush()
    assert got == b"head" + before


# ---- counting pings


@given(st.data())
def test_pings_are_counted_in_the_unread_part_only(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([86, 94, 99, 100, 101]))
    kinds = [Cmd.PING, Cmd.WRITE_ACK, Cmd.PING_ACK, Cmd.BARRIER_ACK]
    commands = data.draw(st.lists(st.sampled_from(kinds), max_size=9))
    bodies = {Cmd.WRITE_ACK: 24, Cmd.BARRIER_ACK: 8}
    stream, ends = b"", []
    for command in commands:
        length = bodies.get(command, 0)
        stream += pack_header(version, command, length) + b"\x13" * length
        if command == Cmd.PING:
            ends.append(len(stream))
    start = data.draw(st.integers(0, len(stream)))
    cut = data.draw(st.integers(start, len(stream)))
    assert pings_beyond(stream[:cut], start, version) == sum(start < end <= cut for end in ends)
