# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets of P_LZ4: any envelope, and an accepted peer that wraps what it says."""

from __future__ import annotations

from replblock.wire import packets as p
from replblock.wire.commands import Cmd, Stream, allowed_lengths
from replblock.wire.compression import INSIDE, LZ4_BODY, compress, unpack
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import FEATURE_LZ4
from tests.fuzz import target_core as core
from tests.fuzz.feed import Feed
from tests.fuzz.puppet import CAST, Stage

FEATURES = 0x8000000D | FEATURE_LZ4
COMMANDS = (*sorted(INSIDE), *sorted(INSIDE), Cmd.LZ4, Cmd.TRIM, Cmd.WSAME, Cmd.BITMAP, 0xFFF0)
VERSIONS = (101, 100, 99, 94, 86)


def _damaged(feed: Feed, body: bytes) -> bytes:
    """Mostly as it was; else a bit changed, cut, or longer."""
    kind = feed.byte()
    if kind < 128 or not body:
        return body
    at = feed.below(len(body))
    if kind < 176:
        return body[:at] + bytes((body[at] ^ 1 << (kind & 7),)) + body[at + 1 :]
    return body[:at] if kind < 216 else body + feed.take(feed.below(40))


def _envelope(feed: Feed, cmd: int, inside: bytes) -> bytes:
    """A P_LZ4 body for this packet: right, or not quite."""
    length = len(inside) if feed.byte() < 216 else feed.number(32)
    block = compress(inside[24:]) if feed.byte() < 236 else feed.rest(feed.below(300))
    return _damaged(feed, LZ4_BODY.pack(cmd, length) + inside[:24].ljust(24, b"\0") + block)


def envelope(data: bytes) -> None:
    """A body that the decoder lets through is one right packet, or one ProtocolError that can be printed."""
    feed = Feed(data)
    version = feed.one_of(VERSIONS)
    lengths = allowed_lengths(Stream.DATA, version, FEATURE_LZ4)
    cmd = feed.one_of(COMMANDS)
    size = feed.one_of((512, 4096, 8192, 65536, 20 + 4096, 600)) if feed.byte() < 200 else feed.below(2000)
    inside = p.Data(feed.number(64), feed.take(8), 1, 2).pack() + (feed.rest(feed.below(700)) * 400)[:size].ljust(size)
    whole = feed.byte() < 200
    body = _envelope(feed, cmd, inside) if whole else feed.rest(2000)
    if len(body) not in lengths[Cmd.LZ4]:
        return
    try:
        found, inner = unpack(memoryview(body), lengths)
    except ProtocolError as error:
        assert error.reason.isprintable() and len(error.reason) < 200 and error.cmd == Cmd.LZ4
    else:
        assert found in INSIDE and len(inner) in lengths[found] and inner.readonly
        assert bytes(inner[:24]) == body[8:32]


def wrapped_packet(stage: Stage, feed: Feed) -> None:
    cmd = feed.one_of(COMMANDS) if feed.byte() < 60 else Cmd.DATA
    stage.packet(Cmd.LZ4, _envelope(feed, cmd, core.body_of(stage, cmd, feed)))


def wrapped_write(stage: Stage, feed: Feed) -> None:
    """A right one."""
    write = p.Data(8 * feed.below(240), feed.take(8), 0, feed.one_of((0, 128, 256, 272))).pack()
    stage.packet(Cmd.LZ4, LZ4_BODY.pack(Cmd.DATA, 24 + 4096) + write + compress(feed.take(8) * 512))
    stage.run(feed.below(12))


STEPS = (wrapped_packet, wrapped_write, wrapped_write, *core.AFTER)


def peer(data: bytes) -> None:
    """As `connected`: it may not crash the node or reach beyond the data."""
    feed = Feed(data)
    how, settings = CAST[feed.byte() % len(CAST)]
    node = Stage(how, **{"compression": "lz4", **settings})
    node.join()
    core.enter(node, feed, FEATURES if feed.byte() < 240 else 0x8000000D)
    for _ in range(feed.below(5)):
        core.push_on(node, feed)
        core.answer_honestly(node, feed)
    for _ in range(core.MOST_STEPS):
        if not feed:
            break
        feed.one_of(STEPS)(node, feed)
        if feed.byte() < 200:
            node.run(2)
        node.check()
    node.finish_story()
