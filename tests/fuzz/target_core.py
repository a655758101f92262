# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets of the core: a peer that says anything, before it was accepted and after.

A story is made of steps, each drawn from the fuzzer's bytes: packets with fields of their own choice, real answers to
what the node said, raw bytes, time, operators and applications. It may end the connection; it may never end the node.
"""

from __future__ import annotations

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire import packets as p
from replblock.wire.bitmap_code import Transfer, encode
from replblock.wire.commands import COMMANDS, Cmd, Stream, allowed_lengths
from replblock.wire.headers import pack_packet
from replblock.wire.limits import VERSION_MIN
from tests.fuzz.feed import Feed
from tests.fuzz.puppet import GENERATION, NEGOTIATING, OLDER, Stage, stage

MOST_STEPS = 40
WIRE_VERSIONS = (101, 100, 101, 99, 95, 94, 90, 88, 86)
COMMAND_NUMBERS = sorted(set(COMMANDS) - {Cmd.LZ4})
"""P_LZ4 has a target of its own: a kept input says the same as ever."""
DATA_COMMANDS = [cmd for cmd in COMMAND_NUMBERS if COMMANDS[cmd].stream & Stream.DATA and cmd < 0xFFF0]
META_COMMANDS = [cmd for cmd in COMMAND_NUMBERS if COMMANDS[cmd].stream & Stream.META and cmd < 0xFFF0]
OURS = (GENERATION, GENERATION | 1, OLDER, 4, 0, 0xABCD_EF00_1234_5678)
FINE_STATES = [
    State(role, Role.SECONDARY, conn, disk, Disk.UP_TO_DATE)
    for role in (Role.SECONDARY, Role.PRIMARY) for conn in Conn for disk in Disk
]
VERBS = ("disconnect", "connect", "primary", "secondary", "invalidate", "invalidate_remote", "detach", "pause_sync",
         "resume_sync", "outdate", "new_current_uuid")


def _sector(feed: Feed) -> int:
    """Mostly on the device."""
    return feed.number(64) if feed.byte() < 12 else 8 * feed.below(240) + (feed.byte() & 7 if feed.byte() < 40 else 0)


def _size(feed: Feed) -> int:
    return feed.number(32) if feed.byte() < 20 else feed.one_of((512, 4096, 4096, 8192, 65536))


def _ident(stage: Stage, feed: Feed) -> bytes:
    kind = feed.byte() % 4
    if kind == 0:
        return feed.take(8)
    if kind == 1:
        return p.ID_SYNCER
    return feed.below(6).to_bytes(8, "big")


def _uuid(feed: Feed) -> int:
    return feed.number(64) if feed.byte() < 64 else feed.one_of(OURS)


def body_of(stage: Stage, cmd: int, feed: Feed) -> bytes:
    """A body with fields of the fuzzer's choice for this packet."""
    features = stage.a.resource.links.link.features if stage.a.resource.links.link is not None else 0
    if cmd in (Cmd.DATA, Cmd.DATA_REPLY, Cmd.RS_DATA_REPLY):
        size = feed.one_of((512, 4096, 4096, 4096, 4096, 8192, 8192, 65536)) if feed.byte() > 12 else feed.below(1000)
        return p.Data(_sector(feed), _ident(stage, feed), feed.number(32), feed.number(32)).pack() + bytes(size)
    if cmd in (Cmd.TRIM, Cmd.ZEROES, Cmd.WSAME):
        body = p.Trim(_sector(feed), _ident(stage, feed), feed.number(32), feed.number(32), _size(feed)).pack()
        return body + bytes(512 * (cmd == Cmd.WSAME))
    kind = p.BODIES.get(cmd)
    if kind is p.BlockAck:
        return p.BlockAck(_sector(feed), _ident(stage, feed), _size(feed), feed.number(32)).pack()
    if kind is p.BlockReq:
        digest = feed.take(20) if cmd in (Cmd.OV_REPLY, Cmd.CSUM_RS_REQUEST) else b""
        return p.BlockReq(_sector(feed), _ident(stage, feed), _size(feed)).pack() + digest
    if kind is p.BlockDesc:
        return p.BlockDesc(_sector(feed), _size(feed)).pack()
    if kind is p.Barrier:
        return p.Barrier(feed.take(4)).pack()
    if kind is p.BarrierAck:
        return p.BarrierAck(feed.number(32).to_bytes(4, "big"), feed.number(32)).pack()
    if kind is p.Protocol:
        good = stage.own_settings()
        body = good._replace(conn_flags=feed.byte() & 3) if feed.byte() < 160 else p.Protocol(*_numbers(feed, 6))
        return body.pack(stage.version)
    if kind is p.SyncParam:
        alg = feed.one_of(("", "", "sha1", "md5"))
        return p.SyncParam(feed.number(32), alg, alg, *_numbers(feed, 4)).pack(stage.version)
    if kind is p.Sizes:
        limits = p.Limits(*_numbers(feed, 5)) if features & 4 else None
        sizes = (feed.number(64) if feed.byte() < 96 else stage.a.disk.geometry.data_sectors for _ in range(3))
        return p.Sizes(*sizes, feed.number(32), feed.number(16), feed.number(16), limits).pack()
    if kind is p.Uuids:
        return p.Uuids(*(_uuid(feed) for _ in range(4)), feed.number(64), feed.number(64)).pack()
    if kind is p.StateWord:
        fine = feed.byte() < 192
        return p.StateWord(feed.one_of(FINE_STATES).pack() if fine else feed.number(32)).pack()
    if kind is p.StateChangeRequest:
        if feed.byte() < 128:
            return p.StateChangeRequest(feed.number(32), feed.number(32)).pack()
        mask = feed.one_of((0x3, 0xC, 0x1F0, 0x1E00, 0x1E000, 0x1FFFF))
        return p.StateChangeRequest(mask, feed.one_of(FINE_STATES).pack() & mask).pack()
    if kind is p.StateChangeReply:
        return p.StateChangeReply(feed.byte() - 128).pack()
    if kind is p.SyncUuid:
        return p.SyncUuid(_uuid(feed)).pack()
    if cmd == Cmd.BITMAP:
        return feed.one_of((b"", b"\xff" * 8, bytes(64), b"\xff" * 32, bytes(40)))
    if cmd == Cmd.COMPRESSED_BITMAP:
        runs = [(i & 1, feed.below(255) + 1) for i in range(feed.below(4) + 1)]
        return encode(runs, 512).payload if feed.byte() < 192 else feed.take(feed.below(32) + 2)
    allowed = allowed_lengths(Stream.EITHER, stage.version, features).get(cmd)
    return feed.take(allowed[feed.below(min(len(allowed), 256))] if allowed else feed.below(64))


def _numbers(feed: Feed, count: int) -> tuple[int, ...]:
    return tuple(feed.number(32) & (0xFF if count == 5 and i > 4 else 0xFFFFFFFF) for i in range(count))


def answer_honestly(stage: Stage, feed: Feed) -> None:
    """What a good peer would answer to everything the node has said: so that stories get anywhere."""
    for on_meta, cmd, body in stage.heard_now():
        if cmd in (Cmd.DATA, Cmd.TRIM, Cmd.ZEROES) and not on_meta:
            head = p.Data.unpack(body) if cmd == Cmd.DATA else p.Trim.unpack(body)
            size = len(body) - 24 if cmd == Cmd.DATA else head.size_bytes  # type: ignore[union-attr]
            ack = feed.one_of((Cmd.WRITE_ACK, Cmd.WRITE_ACK, Cmd.RECV_ACK, Cmd.NEG_ACK, Cmd.RS_WRITE_ACK))
            stage.packet(ack, p.BlockAck(head.sector, head.block_id, size).pack(), meta=True)
        elif cmd == Cmd.BARRIER:
            count = feed.byte() & 3
            stage.packet(Cmd.BARRIER_ACK, p.BarrierAck(body[:4], count).pack(), meta=True)
        elif cmd in (Cmd.RS_DATA_REQUEST, Cmd.DATA_REQUEST):
            ask = p.BlockReq.unpack(body)
            reply = Cmd.RS_DATA_REPLY if cmd == Cmd.RS_DATA_REQUEST else Cmd.DATA_REPLY
            stage.packet(reply, p.Data(ask.sector, ask.block_id).pack() + bytes(min(ask.size_bytes, 1 << 20)))
        elif cmd == Cmd.RS_DATA_REPLY:
            head = p.Data.unpack(body)
            stage.packet(Cmd.RS_WRITE_ACK, p.BlockAck(head.sector, head.block_id, len(body) - 24).pack(), meta=True)
        elif cmd == Cmd.PING:
            stage.packet(Cmd.PING_ACK, meta=True)
        elif cmd in (Cmd.BITMAP, Cmd.COMPRESSED_BITMAP) and stage.a.resource.state.conn != Conn.WF_SYNC_UUID:
            stage.packet(cmd, body)
        elif cmd in (Cmd.STATE_CHG_REQ, Cmd.CONN_ST_CHG_REQ):
            reply = Cmd.STATE_CHG_REPLY if cmd == Cmd.STATE_CHG_REQ else Cmd.CONN_ST_CHG_REPLY
            stage.packet(reply, p.StateChangeReply(feed.one_of((1, 1, -10))).pack(), meta=True)
    stage.run(feed.below(20))


def typed_packet(stage: Stage, feed: Feed) -> None:
    """Mostly of a kind the node knows; what it does not know ends the story early."""
    resource, odd = stage.a.resource, feed.byte()
    if odd & 1:
        known = [Cmd.DATA, Cmd.DATA, *sorted(set(resource._data_handlers) - {Cmd.LZ4})]
        cmd = feed.one_of(known if odd > 20 else DATA_COMMANDS)
        stage.packet(cmd, body_of(stage, cmd, feed))
    else:
        cmd = feed.one_of(sorted(resource._meta_handlers) if odd > 20 else META_COMMANDS)
        stage.packet(cmd, body_of(stage, cmd, feed), meta=True)


def push_on(stage: Stage, feed: Feed) -> None:
    """What a good peer says next of his own accord."""
    conn = stage.a.resource.state.conn
    if conn in (Conn.WF_BITMAP_S, Conn.WF_BITMAP_T) and stage.a.resource.meta is not None:
        transfer = Transfer(stage.a.resource.meta.bitmap.bits, stage.version)
        while not transfer.finished:
            length = transfer.plain_bytes()
            stage.packet(Cmd.BITMAP, feed.one_of((b"\xff", b"\0", b"\x11")) * length)
            transfer.plain(length)
    elif conn == Conn.WF_SYNC_UUID:
        stage.packet(Cmd.SYNC_UUID, p.SyncUuid(_uuid(feed)).pack())
    elif conn == Conn.SYNC_SOURCE:
        for _ in range(feed.below(4) + 1):
            ask = p.BlockReq(_sector(feed) & ~7, p.ID_SYNCER, _size(feed))
            stage.packet(Cmd.RS_DATA_REQUEST, ask.pack())
    elif conn == Conn.CONNECTED:
        write = p.Data(_sector(feed) & ~7, feed.take(8), 0, feed.one_of((0, 128, 256, 272, 260, 384)))
        stage.packet(Cmd.DATA, write.pack() + bytes(4096))
        if feed.byte() & 1:
            stage.packet(Cmd.BARRIER, p.Barrier(feed.take(4)).pack())
    stage.run(feed.below(12))


def burst(stage: Stage, feed: Feed) -> None:
    """Several packets that arrive in one piece."""
    for _ in range(feed.below(6)):
        typed_packet(stage, feed)


def time_passes(stage: Stage, feed: Feed) -> None:
    stage.run(feed.one_of((0, 1, 3, 10, 100, 500, 2500, 11_000)))


def raw_bytes(stage: Stage, feed: Feed) -> None:
    sock = stage.meta if feed.byte() & 1 else stage.data
    stage.say(sock, feed.rest(feed.below(200)))


def wrong_header(stage: Stage, feed: Feed) -> None:
    cmd = feed.number(16)
    stage.packet(cmd, feed.take(feed.below(300)), meta=bool(feed.byte() & 1))


def hang_up(stage: Stage, feed: Feed) -> None:
    sock = feed.one_of((stage.data, stage.meta))
    if sock is not None:
        stage.puppet.close(sock)


def knock(stage: Stage, feed: Feed) -> None:
    """Another connection; the first packet says what for, or nothing does."""
    sock = stage.dial()
    kind = feed.byte() % 5
    if kind < 2:
        stage.say(sock, pack_packet(0, Cmd.INITIAL_META if kind else Cmd.INITIAL_DATA))
        if feed.byte() & 1:
            stage.data, stage.meta = (stage.data, sock) if kind else (sock, stage.meta)
    elif kind == 2:
        stage.say(sock, feed.rest(feed.below(100)))
    elif kind == 3:
        stage.puppet.close(sock)


def come_again(stage: Stage, feed: Feed) -> None:
    """A good peer comes (anew) and gets as far as the story lets it."""
    stage.run(feed.one_of((0, 700, 12_000)))
    if not stage.a.listening and stage.a.resource.links.link is not None:
        return
    stage.join()
    enter(stage, feed)


def application(stage: Stage, feed: Feed) -> None:
    if not stage.a.resource.doors_open:
        return
    op = feed.one_of((Op.WRITE, Op.WRITE, Op.READ, Op.FLUSH, Op.TRIM, Op.ZERO))
    size = stage.a.resource.size_bytes
    if size < 8192:
        return
    offset = 512 * feed.below(min(size, DISK_SHOWN_BYTES) // 512 - 8)
    length = 0 if op == Op.FLUSH else feed.one_of((512, 4096))
    stage.submit(stage.a, op, offset, length, b"w" * length if op == Op.WRITE else b"", fua=bool(feed.byte() & 1))


DISK_SHOWN_BYTES = 1 << 19


def operator(stage: Stage, feed: Feed) -> None:
    verb = feed.one_of(VERBS)
    args = {"force": bool(feed.byte() & 1), "discard_my_data": feed.byte() > 192}
    stage.a.resource.command(verb, args, lambda answer: None)
    stage.a.finish()


def weather(stage: Stage, feed: Feed) -> None:
    """TCP that takes nothing, a slow or failing disk."""
    kind = feed.byte() % 6
    stage.slow_tcp = 0.3 if kind == 0 else 0.0
    stage.split = kind == 1
    stage.a.disk.slow_share = 1.0 if kind == 2 else 0.3
    stage.a.disk.fail_writes = kind == 3 and feed.byte() > 128
    stage.a.disk.fail_reads = kind == 4 and feed.byte() > 128


BEFORE = (typed_packet, typed_packet, raw_bytes, wrong_header, time_passes, hang_up, knock, burst, weather)
AFTER = (typed_packet, typed_packet, typed_packet, burst, push_on, push_on, answer_honestly, answer_honestly,
         application, application, time_passes, raw_bytes, wrong_header, hang_up, knock, come_again, operator, weather)


def enter(stage: Stage, feed: Feed, features: int | None = None) -> None:
    """A handshake that the node can accept, with generations and a state that decide what follows."""
    version = feed.one_of(WIRE_VERSIONS)
    stage.offer(VERSION_MIN, version, feed.one_of((0x8000000D, 0xD, 0x1, 0)) if features is None else features)
    kind = feed.byte() % 6
    current = (GENERATION, GENERATION, OLDER, 0x7777_0000_0000_0000, 4, 0)[kind]
    bitmap = GENERATION if kind == 3 else 0
    uuids = p.Uuids(current, bitmap, OLDER, 0, feed.below(100), feed.byte() & 15)
    state = NEGOTIATING
    if kind in (4, 5):
        state = state._replace(disk=Disk.INCONSISTENT if kind == 4 else Disk.DISKLESS)
    role = Role.PRIMARY if feed.byte() > 200 else Role.SECONDARY
    stage.introduce(uuids, state._replace(role=role))
    stage.run(20)


def handshake(data: bytes) -> None:
    """Before the peer is accepted nothing on the disk changes, but for the agreed size."""
    feed = Feed(data)
    node = stage(feed.byte())
    ways = feed.byte() % 4
    node.ok(node.a, "connect")
    node.run(8)
    if ways:
        node.join()
    if ways >= 2:
        node.offer(VERSION_MIN, feed.one_of(WIRE_VERSIONS))
    before, area = node.identity, node.data_area
    accepted = False

    def watch(host: object, old: State, new: State) -> None:
        nonlocal accepted
        accepted |= new.conn >= Conn.CONNECTED

    node.watchers.append(watch)
    for _ in range(MOST_STEPS):
        if not feed:
            break
        feed.one_of(BEFORE)(node, feed)
        node.run(3)
        node.check()
    node.run(3000)
    if not accepted and not node.a.resource.links.losses and node.a.resource.state.role == Role.SECONDARY:
        assert node.identity == before, (node.identity, before)
    if not accepted:
        assert node.data_area == area
    node.finish_story()


def connected(data: bytes) -> None:
    """An accepted peer may order what peers may order; it may not crash the node or reach beyond the data."""
    feed = Feed(data)
    node = stage(feed.byte())
    node.join()
    enter(node, feed)
    for _ in range(feed.below(5)):
        push_on(node, feed)
        answer_honestly(node, feed)
    for _ in range(MOST_STEPS):
        if not feed:
            break
        feed.one_of(AFTER)(node, feed)
        if feed.byte() < 200:
            node.run(2)
        node.check()
    node.finish_story()
