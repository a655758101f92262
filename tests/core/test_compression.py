# SPDX-License-Identifier: GPL-2.0-or-later
"""`compression lz4` between two cores: less travels, and everything else is as without it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.core.secondary import MAX_PENDING_BYTES
from replblock.state.names import Conn, Disk
from replblock.wire import compression as codec
from replblock.wire.commands import Cmd, Stream
from replblock.wire.flags import FEATURE_LZ4
from replblock.wire.headers import pack_packet
from replblock.wire.packets import Data
from replblock.wire.stream import StreamDecoder
from tests.core.simhost import Pipe, SimHost
from tests.core.world import MIB, World
from tests.fuzz.puppet import GENERATION, NEGOTIATING, OLDER, Stage

VERSIONS = (86, 94, 95, 99, 100, 101)
LZ4 = {"compression": "lz4"}


def text(size: int, seed: int = 1) -> bytes:
    """What shrinks to less than half, and is nowhere the same."""
    chance = random.Random(seed)
    words = [b"%x" % chance.getrandbits(30) for _ in range(200)]
    return b" ".join(chance.choice(words) for _ in range(size // 6))[:size].ljust(size)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many bytes each node gave to the network."""
    sent = {"a": 0, "b": 0}
    carry = Pipe.carry

    def counted(self: Pipe, side: int, data: bytes) -> None:
        sent[self.ends[side][0].name] += len(data)
        carry(self, side, data)

    monkeypatch.setattr(Pipe, "carry", counted)
    return sent


def facts(host: SimHost) -> dict[str, Any]:
    return dict(host.resource.status()["connections"][0]["replblock-compression"])


def counters(host: SimHost) -> dict[str, int]:
    return dict(host.resource.status()["devices"][0]["replblock-counters"])


def both_agree(world: World) -> None:
    """What one node says it sent is what the other says it received, to the byte."""
    for one, other in ((world.a, world.b), (world.b, world.a)):
        for what in ("payload-bytes", "bytes"):
            assert facts(one)[f"sent-{what}"] == facts(other)[f"received-{what}"]


def some_of_everything(world: World) -> None:
    """Writes of all sizes, some on top of each other, some flushed, then an outage and a resync of what was missed."""
    rng = random.Random(7)
    pending = []
    for number in range(120):
        length = rng.choice([512, 4096, 4096, 8192, 65536, MIB])
        offset = rng.randrange(0, (6 * MIB - length) // 512) * 512
        data = text(length, number) if rng.random() < 0.7 else rng.randbytes(length)
        pending.append(world.submit(world.a, Op.WRITE, offset, length, data, fua=number % 10 == 0))
        if number % 30 == 0:
            pending.append(world.submit(world.a, Op.ZERO, offset, length))
            pending.append(world.submit(world.a, Op.FLUSH))
        world.run(rng.randrange(0, 3))
    for request in pending:
        assert world.wait(request).errno == 0
    world.settle()
    both_agree(world)
    world.kill(world.b)
    world.run_until(lambda: world.a.resource.state.conn == Conn.WF_CONNECTION, 30_000)
    world.write(world.a, MIB, text(MIB, 99))
    world.up(world.b)
    world.settle()


@pytest.mark.parametrize("more", [
    {}, {"protocol": "A", "offer_ordered": False, "offer_features": 0}, {"protocol": "B", "data_integrity_alg": "sha1"},
    {"data_integrity_alg": "crc32c", "csums_alg": "sha1", "cram_hmac_alg": "sha256", "shared_secret": "x"},
], ids=["C", "A-unordered", "B-digests", "C-log-in"])  # fmt: skip
def test_less_travels_and_the_rest_is_the_same(more: dict[str, Any], wire: dict[str, int]) -> None:
    """Initial sync, writes, an outage: equal disks, the same payload counted, and about half the bytes."""
    totals, numbers = [], []
    for compression in ("none", "lz4"):
        wire.update(a=0, b=0)
        world = World(3, compression=compression, **more)
        world.split = True
        world.a.disk.content[0:6 * MIB] = text(6 * MIB, 5)
        world.pair()
        some_of_everything(world)
        assert world.same_data()
        totals.append(wire["a"])
        numbers.append([counters(host)[name] for host in (world.a, world.b) for name in ("ns", "dw", "oos")])
        assert facts(world.a)["state"] == ("lz4" if compression == "lz4" else "off")
    assert totals[1] < 0.75 * totals[0]
    # but for what was sent twice or came too late, a matter of the moment the peer went: all in the last MiB or two
    assert all(abs(one - other) <= 2048 for one, other in zip(*numbers)), numbers


def test_both_ways(wire: dict[str, int]) -> None:
    """The resync that a Secondary is the source of is compressed as well."""
    world = World(4, offer_features=0, **LZ4).pair()  # zeroes travel as data, too
    world.write(world.a, 0, text(MIB))
    world.settle()
    world.ok(world.a, "invalidate")
    wire.update(a=0, b=0)
    world.settle()
    assert world.same_data()
    assert counters(world.b)["ns"] * 1024 == facts(world.b)["sent-payload-bytes"] > 7 * MIB
    assert facts(world.b)["sent-bytes"] < MIB and wire["b"] < MIB
    both_agree(world)


def test_a_diskless_primary_reads_and_writes(wire: dict[str, int]) -> None:
    world = World(5, **LZ4).pair()
    data = text(MIB)
    world.write(world.a, 4096, data)
    world.ok(world.a, "detach")
    assert world.a.resource.state.disk == Disk.DISKLESS
    wire.update(a=0, b=0)
    assert world.read(world.a, 4096, MIB) == data
    assert MIB // 8 < wire["b"] < MIB * 3 // 4
    world.write(world.a, 2 * MIB, data)
    assert world.read(world.a, 2 * MIB, MIB) == data
    both_agree(world)


def test_noise_goes_as_it_is(wire: dict[str, int]) -> None:
    """Random data costs the wire nothing more, and text behind it is noticed."""
    world = World(6, **LZ4).pair()
    world.settle()
    wire.update(a=0, b=0)
    before = facts(world.a)
    for number in range(40):
        world.write(world.a, number * 65536, world.rng.randbytes(65536))
    after = facts(world.a)
    assert after["sent-payload-bytes"] - before["sent-payload-bytes"] == 40 * 65536
    assert after["sent-bytes"] - before["sent-bytes"] == 40 * 65536
    assert wire["a"] < 40 * (65536 + 300)
    wire.update(a=0, b=0)
    for number in range(40):
        world.write(world.a, number * 65536, text(65536, number))
    assert wire["a"] < 24 * 65536
    both_agree(world)


@pytest.mark.parametrize("only", ["a", "b"])
def test_only_one_node_wants_it(only: str, wire: dict[str, int]) -> None:
    """Nothing is compressed, both say so, and nothing else is different."""
    world = World(8, offer_features=0)
    wants, other = (world.a, world.b) if only == "a" else (world.b, world.a)
    wants.settings = replace(wants.settings, **LZ4)  # type: ignore[attr-defined]
    world.pair()
    world.write(world.a, 0, text(MIB))
    world.settle()
    assert world.same_data()
    assert (facts(wants)["state"], facts(other)["state"]) == ("only-here", "only-peer")
    assert not any(value for key, value in facts(wants).items() if key != "state")
    assert wire["a"] > (world.a.resource.size_bytes + MIB) * 0.99
    assert any("[compression-only-here]" in line for line in wants.lines)
    world.kill(other)
    world.run_until(lambda: wants.resource.state.conn == Conn.WF_CONNECTION, 30_000)
    assert facts(wants)["state"] == "off"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_protocol_version(version: int) -> None:
    """Pieces, headers and lengths as the version has them."""
    world = World(version, version_max=version, **LZ4)
    world.a.disk.content[0:6 * MIB] = text(6 * MIB, 5)
    world.pair()
    world.write(world.a, 512, text(MIB))
    world.ok(world.a, "detach")
    assert world.read(world.a, 512, MIB) == text(MIB)
    assert facts(world.a)["state"] == "lz4" and facts(world.b)["sent-bytes"] < MIB
    assert not [line for line in world.lines if "protocol" in line and "[version-agreed]" not in line]
    both_agree(world)


def test_it_is_switched_on_and_off_while_connected() -> None:
    """adjust on one node, then on the other: each connects anew; the last one makes it so, and undoes it."""
    world = World(9).pair()
    for value, states in (("lz4", ("only-here", "lz4")), ("none", ("only-peer", "off"))):
        for host, state in zip((world.a, world.b), states):
            host.settings = replace(host.settings, compression=value)  # type: ignore[attr-defined]
            world.ok(host, "net_options", settings=host.settings)  # type: ignore[attr-defined]
            world.settle()
            assert facts(host)["state"] == state
            world.write(world.a, 0, text(65536))
    world.settle()
    assert world.same_data()


# --- a peer that is not honest


def stage(features: int = 0x8000000D | FEATURE_LZ4, **settings: Any) -> Stage:
    node = Stage("data", **{"compression": "lz4", **settings})
    node.join()
    node.offer(features=features)
    node.introduce(*PEER)
    assert node.a.resource.state.conn == Conn.CONNECTED
    return node


def uuids() -> Any:
    from replblock.wire.packets import Uuids

    return Uuids(GENERATION, 0, OLDER, 0, 0)


PEER = (uuids(), NEGOTIATING)
FIXED = Data(8, b"\0" * 8, 1, 0).pack()


def wrapped(payload: bytes, cmd: int = Cmd.DATA, fixed: bytes = FIXED) -> bytes:
    return codec.pack(101, 0, cmd, fixed, len(payload), codec.compress(payload))


def test_a_peer_that_has_it_not_never_gets_one() -> None:
    """A kernel's features: nothing of ours is in what the node sends, whatever it has configured."""
    node = stage(features=0xD)
    link = node.a.resource.links.link
    assert link is not None and not link.features & FEATURE_LZ4
    assert facts(node.a)["state"] == "only-here"
    node.say_whole(node.data, wrapped(bytes(4096)))
    node.run(20)
    assert node.a.resource.links.link is not link
    assert any("P_LZ4" in line and "the feature LZ4 was not agreed" in line for line in node.lines)


def test_a_right_one_is_a_write_like_any_other() -> None:
    node = stage()
    data = text(4096)
    node.say_whole(node.data, wrapped(data))
    node.run(50)
    assert bytes(node.a.disk.content[4096:8192]) == data
    assert node.a.resource.secondary.received_sectors == 8


FINE = wrapped(bytes(4096))
BAD = {
    "cut": pack_packet(101, Cmd.LZ4, FINE[16:-1]),
    "longer": pack_packet(101, Cmd.LZ4, FINE[16:] + b"\0"),
    "says-more": pack_packet(101, Cmd.LZ4, codec.LZ4_BODY.pack(0, 24 + 8192) + FINE[24:]),
    "says-everything": pack_packet(101, Cmd.LZ4, codec.LZ4_BODY.pack(0, 0xFFFFFFFF) + FINE[24:]),
    "nested": wrapped(FINE[16 + 32 :].ljust(4096), Cmd.LZ4),
    "trim": wrapped(bytes(4096), Cmd.TRIM),
    "bitmap": wrapped(bytes(4096), Cmd.BITMAP),
    "beyond-the-device": wrapped(bytes(4096), Cmd.DATA, Data(1 << 40, b"\0" * 8, 1, 0).pack()),
    "half-a-sector": wrapped(bytes(4097)),
    "unasked-reply": wrapped(bytes(4096), Cmd.DATA_REPLY),
    "unasked-resync": wrapped(bytes(4096), Cmd.RS_DATA_REPLY),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_one_costs_the_connection_and_nothing_else(name: str) -> None:
    node = stage()
    link, area = node.a.resource.links.link, node.data_area
    node.say_whole(node.data, BAD[name])
    node.run(20)
    assert node.a.resource.links.link is not link, node.lines[-5:]
    assert any("[protocol-error]" in line for line in node.lines)
    assert node.data_area == area and node.a.resource.secondary.received_sectors == 0
    node.finish_story()


def test_a_wrong_digest_inside_is_found() -> None:
    """Digests are of what was written, not of what travelled."""
    from replblock.wire.digests import digest

    node = stage(data_integrity_alg="sha1")
    data = text(4096)
    right = wrapped(digest("sha1")(data) + data)
    node.say_whole(node.data, right)
    node.run(50)
    assert bytes(node.a.disk.content[4096:8192]) == data
    node.say_whole(node.data, wrapped(digest("sha1")(data) + text(4096, 2)))
    node.run(20)
    assert any("Digest integrity check FAILED" in line for line in node.lines)
    assert bytes(node.a.disk.content[4096:8192]) == data


def test_much_in_little_is_taken_out_piece_by_piece() -> None:
    """300 MiB of zeroes in one read of 1.2 MiB: no more lies unpacked than of writes that came as they are."""
    node = stage()
    node.a.disk.slow_share, node.a.disk.slow_ms = 1.0, 3
    one = wrapped(bytes(256 << 10))
    most = seen = 0
    node.say_whole(node.data, one * 1200)
    path = node.a.resource.secondary
    for _ in range(20_000):
        node.run(1)
        most = max(most, path._pending_bytes)
        seen = path.received_sectors // 512
        if seen == 1200:
            break
    assert seen == 1200 and most <= MAX_PENDING_BYTES + MIB


def test_what_a_node_sends_is_what_any_decoder_takes() -> None:
    """Its stream, decoded: P_LZ4 with P_DATA inside, P_DATA where it did not pay, in the order of the writes."""
    heard: list[int] = []
    world = World(10, **LZ4).pair()
    world.settle()
    decoder = StreamDecoder(Stream.DATA)
    decoder.agreed(101, 0xFFFFFFFF)
    send = world.a.send

    def tap(sock: int, parts: Any) -> None:
        link = world.a.resource.links.link
        if link is not None and sock == link.data:
            heard.extend(cmd for cmd, _, _ in decoder.feed(b"".join(bytes(part) for part in parts)))
        send(sock, parts)

    world.a.send = tap  # type: ignore[method-assign]
    for data in (text(65536), world.rng.randbytes(65536), bytes(512), bytes(4096)):
        world.write(world.a, 0, data)
    assert [cmd for cmd in heard if cmd in (Cmd.DATA, Cmd.LZ4)] == [Cmd.LZ4, Cmd.DATA, Cmd.DATA, Cmd.LZ4]
