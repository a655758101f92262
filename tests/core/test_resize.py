# SPDX-License-Identifier: GPL-2.0-or-later
"""`resize` while connected: both disks grew, the device follows, and the new area is the same on both in the end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import INTERNAL, Geometry, check, internal
from replblock.meta.superblock import Superblock
from replblock.state.names import Conn, Role
from replblock.wire.handshake import Sizes

from .world import MIB, SimHost, World

MORE = 4 * MIB


def enlarged(seed: int = 1, a: int = MORE, b: int = MORE, **changes: Any) -> World:
    """A pair in sync on disks that grew by so much, with different junk in what is new."""
    world = World(seed, **changes)
    world.pair()
    for host, more, junk in ((world.a, a, b"\xaa" * 512), (world.b, b, b"\xbb" * 512)):
        host.disk.enlarge(more, junk)
    return world


def largest(world: World) -> int:
    return min(internal(len(host.disk.content) // 512).data_sectors for host in (world.a, world.b))


def said(host: SimHost, words: str) -> bool:
    return any(words in line for line in host.lines)


def superblock(host: SimHost) -> Superblock:
    """As it stands at the end of the disk, which must be where it belongs."""
    sectors = len(host.disk.durable) // 512
    g = internal(sectors)
    block = Superblock.unpack(bytes(host.disk.durable[g.superblock_offset_bytes : g.superblock_offset_bytes + 4096]))
    check(block, INTERNAL, sectors)
    return block


def grown(world: World, size_sectors: int) -> None:
    """Both have the size, in memory and on disk; the data is the same to its end."""
    world.run_until(lambda: all(h.resource.size_sectors == size_sectors for h in (world.a, world.b)))
    world.settle()
    for host in (world.a, world.b):
        assert host.resource.meta is not None
        assert host.resource.meta.bitmap.count == 0
        assert superblock(host).la_size_sectors == size_sectors
    size = size_sectors * 512
    assert world.a.disk.data(size) == world.b.disk.data(size)


@pytest.mark.parametrize("by", ["a", "b"])
@pytest.mark.parametrize("seed", range(4))
def test_the_new_area_is_copied_from_the_primary(seed: int, by: str) -> None:
    """Whichever node is told to."""
    world = enlarged(seed)
    before = world.a.resource.size_sectors
    size = largest(world)
    assert size > before
    world.ok(getattr(world, by), "resize")
    grown(world, size)
    tail = bytes(world.a.disk.content[size * 512 - 4096 : size * 512])
    assert tail == b"\xaa" * 4096
    assert said(world.a, "Began resync as SyncSource") and said(world.b, "Began resync as SyncTarget")
    written = world.write(world.a, size * 512 - 8192, b"n" * 8192)
    world.settle()
    assert written.errno == 0
    assert bytes(world.b.disk.content[size * 512 - 8192 : size * 512]) == b"n" * 8192


@pytest.mark.parametrize("by", ["a", "b"])
def test_assumed_clean_nothing_is_copied(by: str) -> None:
    world = World(3)
    world.pair()
    for host in (world.a, world.b):
        host.disk.enlarge(MORE)
    begun = len([line for line in world.lines if "Began resync" in line])
    world.ok(getattr(world, by), "resize", assume_clean=True)
    grown(world, largest(world))
    assert len([line for line in world.lines if "Began resync" in line]) == begun


def test_the_smaller_disk_decides() -> None:
    world = enlarged(1, MORE, MORE // 2)
    world.ok(world.a, "resize")
    grown(world, largest(world))


def test_a_size_that_was_ordered() -> None:
    world = enlarged()
    wanted = world.a.resource.size_sectors + 2048
    world.ok(world.b, "resize", size_sectors=wanted)
    grown(world, wanted)
    world.ok(world.a, "resize")
    grown(world, largest(world))


def test_only_one_disk_grew() -> None:
    """Nothing happens, and the answer says why."""
    world = enlarged(1, MORE, 0)
    before = world.a.resource.size_sectors
    answer = world.command(world.a, "resize")
    assert answer.exit_code == 0 and "the size stays" in answer.lines[0]
    grown_a = superblock(world.a)
    assert grown_a.la_size_sectors == before == world.a.resource.size_sectors == world.b.resource.size_sectors
    world.b.disk.enlarge(MORE)
    world.ok(world.b, "resize")
    grown(world, largest(world))


def refused(world: World, host: SimHost, words: str, code: int, **args: Any) -> None:
    """With this exit code; and nothing changed."""
    before = host.resource.size_sectors, host.resource.settings, host.resource.state, host.resource.meta.geometry
    answer = world.command(host, "resize", **args)
    assert answer.exit_code == code and words in "\n".join(answer.lines), answer
    assert before == (host.resource.size_sectors, host.resource.settings, host.resource.state,
                      host.resource.meta.geometry)


def test_refusals() -> None:
    world = enlarged()
    size = world.a.resource.size_sectors
    refused(world, world.a, "(170)", 10, size_sectors=size - 8)
    refused(world, world.a, "(111)", 10, size_sectors=1 << 30)
    world.ok(world.a, "secondary")
    refused(world, world.a, "(131)", 10)
    world.ok(world.a, "primary")
    world.ok(world.b, "detach")
    refused(world, world.a, "(-5)", 11)
    answer = world.command(world.b, "resize")
    assert answer.exit_code == 10 and "(138)" in answer.lines[0]


def test_not_during_a_resync() -> None:
    world = enlarged()
    world.ok(world.a, "invalidate_remote")
    refused(world, world.a, "(130)", 10)
    refused(world, world.b, "(130)", 10)


def test_too_little_growth_to_move_the_metadata() -> None:
    """The new place would lie over the old one."""
    world = enlarged(1, 4096, 4096)
    refused(world, world.a, "(116)", 10)
    world = enlarged(1, MORE, 4096)
    answer = world.command(world.a, "resize")
    assert answer.exit_code == 0 and "the size stays" in answer.lines[0]
    assert said(world.b, "its old size counts")


def test_a_disk_that_shrank() -> None:
    world = World(1)
    world.pair()
    del world.a.disk.content[-MIB:]
    refused(world, world.a, "(170)", 10)


def test_alone() -> None:
    """By order only; the generation of a Primary alone brings the new area to the peer."""
    world = enlarged()
    for host in (world.a, world.b):
        if host.resource.state.conn != Conn.STANDALONE:
            world.ok(host, "disconnect")
    before = world.a.resource.size_sectors
    answer = world.command(world.a, "resize")
    assert answer.exit_code == 0 and "not connected" in answer.lines[0]
    assert world.a.resource.size_sectors == before == superblock(world.a).la_size_sectors
    refused(world, world.b, "(131)", 10, assume_peer_has_space=True)
    world.ok(world.a, "resize", assume_peer_has_space=True)
    size = internal(len(world.a.disk.content) // 512).data_sectors
    assert world.a.resource.size_sectors == size
    world.ok(world.b, "detach")
    world.b.disk.geometry = geometry_of(world.b)
    moved_offline(world.b)
    world.ok(world.b, "attach", **world.b.open_disk())
    for host in (world.a, world.b):
        world.ok(host, "connect")
    grown(world, size)


def geometry_of(host: SimHost) -> Geometry:
    """Where the metadata is found: at the end, else where it was meant to be before the disk grew."""
    c = host.disk.content
    for g in (internal(len(c) // 512), *reversed(host.disk.known)):
        try:
            block = Superblock.unpack(bytes(c[g.superblock_offset_bytes : g.superblock_offset_bytes + 4096]))
            return check(block, INTERNAL, g.superblock_offset_bytes // 512 + 8)
        except MetadataError:
            continue
    raise AssertionError(f"{host.name}: no metadata anywhere")


def moved_offline(host: SimHost) -> None:
    """As check-resize does."""
    old, new = host.disk.geometry, internal(len(host.disk.content) // 512)
    if old == new:
        return
    c = host.disk.content
    bm = bytes(c[old.bm_offset_bytes : old.bm_offset_bytes + old.bm_size_bytes])
    log = bytes(c[old.al_offset_bytes : old.al_offset_bytes + old.al_size_bytes])
    block = Superblock.unpack(bytes(c[old.superblock_offset_bytes : old.superblock_offset_bytes + 4096]))
    block = block._replace(md_size_sectors=new.md_size_sectors, bm_offset_sectors=new.bm_offset_sectors)
    for at, data in ((new.bm_offset_bytes, bm.ljust(new.bm_size_bytes, b"\0")), (new.al_offset_bytes, log),
                     (new.superblock_offset_bytes, block.pack())):  # fmt: skip
        c[at : at + len(data)] = data
    c[old.start_bytes : old.end_bytes] = bytes(old.end_bytes - old.start_bytes)
    host.disk.durable[:] = c
    host.disk.geometry = new
    host.disk.known.append(new)


def test_the_activity_log_moves_with_the_rest() -> None:
    """What is hot stays hot: a crash right after the move finds it."""
    world = enlarged()
    world.write(world.a, 5 * MIB, b"h" * 4096)
    world.settle()
    world.ok(world.a, "resize")
    grown(world, largest(world))
    hot = set(world.a.resource.attachment.activity.hot)
    assert 1 in hot
    world.kill(world.a)
    world.a.disk.geometry = geometry_of(world.a)
    world.up(world.a, connect=False)
    assert said(world.a, f"{len(hot)} extents of 4 MiB")


DEATHS = list(itertools.product("ab", (0, 1, 2, 3, 5, 8, 12, 20, 40), (True, False), "ab"))


@pytest.mark.parametrize(("by", "after_ms", "power", "who"), DEATHS)
def test_a_node_dies_on_the_way(by: str, after_ms: int, power: bool, who: str) -> None:
    """At any moment: its metadata is found, by the old or the new size, and the pair comes to the new one."""
    world = enlarged(after_ms)
    size = largest(world)
    world.write(world.a, 4096, b"before".ljust(4096))
    world.flush(world.a)
    world.settle()
    victim = getattr(world, who)
    answers: list[Any] = []
    getattr(world, by).resource.command("resize", {}, answers.append)
    getattr(world, by).finish()
    world.run(after_ms)
    world.kill(victim, power)
    world.run(20_000)
    victim.disk.geometry = geometry_of(victim)
    moved_offline(victim)
    world.up(victim)
    if victim is world.a:
        world.run_until(lambda: world.a.resource.state.conn >= Conn.CONNECTED)
        world.settle()
        world.ok(world.a, "primary")
    world.settle()
    assert world.a.resource.size_sectors == world.b.resource.size_sectors
    if world.a.resource.size_sectors != size:
        world.ok(world.b, "resize")
    grown(world, size)
    assert bytes(world.b.disk.content[4096:4102]) == b"before"


@pytest.mark.parametrize("after_ms", [0, 1, 2, 3, 5, 8, 12, 20, 40])
@pytest.mark.parametrize("by", ["a", "b"])
def test_the_connection_breaks_on_the_way(by: str, after_ms: int) -> None:
    world = enlarged(after_ms)
    size = largest(world)
    answers: list[Any] = []
    host = getattr(world, by)
    host.resource.command("resize", {}, answers.append)
    host.finish()
    world.run(after_ms)
    world.partition()
    world.run(10)
    world.heal()
    world.settle()
    assert answers
    assert world.a.resource.size_sectors == world.b.resource.size_sectors
    if world.a.resource.size_sectors != size:
        world.ok(world.b, "resize")
    grown(world, size)


def test_writes_go_on_meanwhile() -> None:
    """Over the old area all the time, and into the new one as soon as it is there."""
    world = enlarged(7)
    rng = world.rng
    answers: list[Any] = []
    world.a.resource.command("resize", {}, answers.append)
    world.a.finish()
    requests = []
    for n in range(300):
        size = world.a.resource.size_bytes
        at = rng.randrange(0, size // 4096) * 4096 if n % 3 else size - 4096
        requests.append(world.submit(world.a, Op.WRITE, at, data=bytes([n % 251]) * 4096))
        world.run(1)
    for request in requests:
        assert world.wait(request).errno == 0
    assert answers[0].exit_code == 0
    grown(world, largest(world))


@pytest.mark.parametrize("apart_ms", [0, 1, 2, 3, 4, 6, 9, 15])
@pytest.mark.parametrize("first", ["a", "b"])
def test_both_are_told(first: str, apart_ms: int) -> None:
    """Their questions cross; both are answered, and what is written meanwhile is not lost where the metadata was."""
    world = enlarged(apart_ms)
    old = world.a.disk.geometry
    one = getattr(world, first)
    answers: list[Any] = []
    for host in (one, one.peer):
        host.resource.command("resize", {}, answers.append)
        host.finish()
        world.run(apart_ms)
    for ms in range(60):
        if world.a.resource.size_bytes >= old.end_bytes:
            at = old.start_bytes + 4096 * (ms % 10)
            assert world.wait(world.submit(world.a, Op.WRITE, at, data=bytes([ms]) * 4096)).errno == 0
        world.run(1)
    grown(world, largest(world))
    world.run_until(lambda: len(answers) == 2)
    written = bytes(world.a.disk.content[old.start_bytes : old.start_bytes + 10 * 4096])
    assert all(written[n * 4096] % 10 == n and written[n * 4096] for n in range(1, 10))


def test_what_metadata_leaves_becomes_zero() -> None:
    """On both nodes: where nothing is copied, nothing of it is left to differ, nor to be taken for metadata."""
    world = World(1)
    world.pair()
    old = world.a.disk.geometry
    for host in (world.a, world.b):
        host.disk.enlarge(MORE)
    world.ok(world.b, "resize", assume_clean=True)
    grown(world, largest(world))
    for host in (world.a, world.b):
        assert not any(host.disk.content[old.start_bytes : old.end_bytes])


def test_a_peer_that_shrinks_is_left() -> None:
    """DRBD shrinks a device in use when it is told to; here that is refused, and the connection with it."""
    world = World(1)
    world.pair()
    before = world.a.resource.size_sectors
    shrunk = Sizes(before, before - 2048, 0, 1 << 20, limits=None)
    world.b.resource.handshake.on_sizes(memoryview(shrunk.pack()))
    world.run(5_000)
    assert world.b.resource.state.conn == Conn.STANDALONE
    assert said(world.b, "[peer-shrinks]") and world.b.resource.size_sectors == before


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("both", [False, True])
def test_a_larger_disk_is_attached_in_use(who: str, both: bool) -> None:
    """The device of a Primary is never larger than the peer's disk, not even until that one is asked."""
    world = World(5)
    world.pair()
    before = world.a.resource.size_sectors
    host = getattr(world, who)
    sizes: set[int] = set()
    world.watchers.append(lambda host, old, new: sizes.add(world.a.resource.size_sectors))
    for one in (host, host.peer) if both else (host,):
        world.ok(one, "detach")
        one.disk.enlarge(MORE, one.name.encode() * 512)
        moved_offline(one)
        world.ok(one, "attach", **one.open_disk())
        world.settle()
        assert world.same_data()
    assert sizes <= {before, world.a.resource.size_sectors}
    if not both:
        assert sizes == {before}


@pytest.mark.parametrize("first", ["a", "b"])
def test_both_are_told_different_sizes(first: str) -> None:
    """The smaller one counts where the questions cross."""
    world = enlarged(2)
    one = getattr(world, first)
    small = world.a.resource.size_sectors + 1024
    answers: list[Any] = []
    for host, size in ((one, small + 1024), (one.peer, small)):
        host.resource.command("resize", {"size_sectors": size}, answers.append)
        host.finish()
    world.run_until(lambda: len(answers) == 2)
    world.settle()
    assert [answer.exit_code for answer in answers] == [0, 0]
    grown(world, small)


@pytest.mark.parametrize("verb", ["verify", "invalidate", "invalidate_remote", "detach", "secondary", "disconnect"])
@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("by", ["a", "b"])
@pytest.mark.parametrize("after_ms", [0, 2, 4, 8, 12, 20])
def test_another_order_meanwhile(by: str, who: str, verb: str, after_ms: int) -> None:
    """Whatever comes of both, both are answered, nobody waits for ever, and the pair reaches the new size."""
    world = enlarged(after_ms, verify_alg="crc32c")
    host = getattr(world, who)
    answers: list[Any] = []
    getattr(world, by).resource.command("resize", {}, answers.append)
    getattr(world, by).finish()
    world.run(after_ms)
    host.resource.command(verb, {}, answers.append)
    host.finish()
    world.run_until(lambda: len(answers) == 2)
    world.run(30_000)
    for one in (world.a, world.b):
        if one.resource.disk is None:
            one.disk.geometry = geometry_of(one)
            moved_offline(one)
            world.ok(one, "attach", **one.open_disk())
        if one.resource.state.conn == Conn.STANDALONE:
            world.ok(one, "connect")
    world.settle()
    if world.a.resource.state.role != Role.PRIMARY:
        world.ok(world.a, "primary")
    if world.a.resource.size_sectors != largest(world):
        world.ok(world.b, "resize")
    grown(world, largest(world))


def test_a_peer_that_does_not_answer() -> None:
    """It lives, and does nothing about it: the connection is made anew, and the order answered."""
    world = enlarged()
    deaf = world.b.resource
    deaf.resizing.takes = lambda theirs: True  # type: ignore[method-assign]
    deaf.resizing.on_sizes = lambda theirs: None  # type: ignore[method-assign]
    answer = world.command(world.a, "resize")
    assert answer.exit_code == 11 and "(-18)" in answer.lines[0]
    assert said(world.a, "[resize-not-answered]")
    del deaf.resizing.takes, deaf.resizing.on_sizes
    world.settle()
    world.ok(world.a, "resize")
    grown(world, largest(world))
