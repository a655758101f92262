# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer that asks and does not take, or knocks and does not speak, costs a bounded amount of memory."""

from __future__ import annotations

import pytest

from replblock.core import link as link_module
from replblock.core.peer_reads import MAX_ASKED_BYTES
from replblock.core.rendezvous import MAX_UNKNOWN
from replblock.state.names import Conn
from replblock.wire.commands import Cmd
from replblock.wire.packets import BlockReq
from tests.fuzz.feed import Feed
from tests.fuzz.puppet import Stage
from tests.fuzz.target_core import enter

SIZE = 1 << 19


def connected(**settings: object) -> Stage:
    node = Stage("data", **settings)
    node.join()
    enter(node, Feed(bytes(8)))
    assert node.a.resource.state.conn == Conn.CONNECTED
    return node


@pytest.mark.parametrize("cmd", [Cmd.RS_DATA_REQUEST, Cmd.DATA_REQUEST])
@pytest.mark.parametrize("slow_share", [0.0, 1.0])
def test_requests_that_nobody_takes_the_answers_of(cmd: Cmd, slow_share: float) -> None:
    """200 requests in one piece for 100 MiB; when they are taken after all, every one is answered."""
    node = connected()
    link = node.a.resource.links.link
    assert link is not None
    node.a.disk.slow_share = slow_share
    node.a.push = lambda sock: None  # type: ignore[method-assign]
    asked = [BlockReq(8 * (i % 64), i.to_bytes(8, "big"), SIZE) for i in range(200)]
    header = Stage.header_of(node.version, cmd, 24)
    node.heard_now()
    node.say_whole(node.data, b"".join(header + request.pack() for request in asked))
    most = 0
    for _ in range(50):
        node.run(5)
        most = max(most, node.a.unsent_bytes(link.data))
    assert MAX_ASKED_BYTES // 2 < most <= MAX_ASKED_BYTES + (2 << 20)
    assert node.a.resource.state.conn == Conn.CONNECTED
    del node.a.push
    answers: list[bytes] = []
    for _ in range(600):
        if len(answers) == len(asked):
            break
        node.a.finish()
        node.run(5)
        answers += [body[8:16] for _, cmd, body in node.heard_now() if cmd in (Cmd.RS_DATA_REPLY, Cmd.DATA_REPLY)]
    assert sorted(answers) == [request.block_id for request in asked]


def test_pings_whose_answers_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_UNTAKEN_ACKS_BYTES", 1 << 20)
    node = connected(ko_count=0)
    node.a.push = lambda sock: None  # type: ignore[method-assign]
    ping = Stage.header_of(node.version, Cmd.PING, 0)
    sent = 0
    while node.a.resource.links.link is not None and sent < 4 << 20:
        node.say_whole(node.meta, ping * 65536)
        sent += 65536 * len(ping)
        node.run(3)
    assert any("acks-not-taken" in line for line in node.lines)


def test_a_queue_soon_after_the_start_is_no_stall() -> None:
    """A clock that began long ago: what waits to be sent half a second after the handshake does not wait since then."""
    node = Stage("data")
    node.run(50_000_000)
    node.join()
    enter(node, Feed(bytes(8)))
    node.a.push = lambda sock: None  # type: ignore[method-assign]
    node.packet(Cmd.DATA_REQUEST, BlockReq(0, bytes(8), SIZE).pack())
    node.run(3000)
    assert node.a.resource.state.conn == Conn.CONNECTED and not any("ko-count" in line for line in node.lines)


def test_a_crowd_at_the_door() -> None:
    """Connections that say nothing: the oldest goes when there are too many, all go after a while, nothing is kept."""
    node = Stage("fresh")
    node.ok(node.a, "connect")
    node.run(8)
    for _ in range(300):
        node.dial()
        node.run(50)
        assert len(node.a.pipes) <= MAX_UNKNOWN + 3
    links = node.a.resource.links
    assert len(links._decoders) <= MAX_UNKNOWN + 3
    node.run(8000)
    assert not links.rendezvous._unknown
    node.dial()
    assert len(links._decoders) <= 3
