# SPDX-License-Identifier: GPL-2.0-or-later
"""Crash recovery: logs written by our own writer, replayed by drbdmeta, by `apply-al` and by our attach.

All three must leave the same bitmap and the same flags; what was hot is marked, and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from replblock.core.activity import FREE_SLOT, ActivityLog
from replblock.core.metastore import MetaStore
from replblock.core.requests import Op
from replblock.meta import geometry, offline
from replblock.meta.activity_log import usable_slots
from replblock.meta.bitmap import Bitmap
from replblock.meta.geometry import Geometry
from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Conn, Disk
from tests.meta.tools import FLEXIBLE, FileDevice, MemoryDevice, drbdmeta

from .simdisk import SimDisk
from .world import MIB, World

MD_SECTORS = 2048
EXTENT_BITS = 1024
GEOMETRIES = ((1, 8), (1, 8), (3, 4), (4, 16), (2, 8))
UUID = 0x1122334455667780


class Crashing:
    """A metadata device that finishes one call at a time, and can be torn in the middle of one."""

    def __init__(self, where: Geometry) -> None:
        self.geometry = where
        self.image = bytearray(MD_SECTORS * 512)
        self.queue: list[tuple[list[tuple[int, bytes]], Callable[[int], None]]] = []

    def flush(self, done: Callable[[int], None]) -> None:
        self.queue.append(([], done))

    def meta_write(self, blocks: Sequence[tuple[int, bytes]], done: Callable[[int], None]) -> None:
        self.queue.append(([(at, bytes(data)) for at, data in blocks], done))

    def step(self) -> None:
        blocks, done = self.queue.pop(0)
        for at, data in blocks:
            self.image[at : at + len(data)] = data
        done(0)

    def finish(self) -> None:
        while self.queue:
            self.step()

    def crash(self, rng: random.Random) -> None:
        """Of the call under way, any sectors arrive."""
        for at, data in self.queue[0][0] if self.queue else []:
            share = rng.choice((0.0, 0.5, 1.0))
            for sector in range(0, len(data), 512):
                if rng.random() < share:
                    self.image[at + sector : at + sector + 512] = data[sector : sector + 512]
        self.queue.clear()


class Writes:
    """Random writes of a Primary: what begins is pinned until it is done; some of it stays marked as different."""

    def __init__(self, rng: random.Random, extents: int) -> None:
        self.rng = rng
        self.extents = extents
        self.pins: dict[int, int] = {}
        self.retries: list[Callable[[], None]] = []

    def pinned(self, extent: int) -> bool:
        return extent in self.pins

    def unpin_soon(self, retry: Callable[[], None]) -> None:
        self.retries.append(retry)

    def began(self, first: int, last: int) -> None:
        for extent in range(first, last + 1):
            self.pins[extent] = self.pins.get(extent, 0) + 1

    def some_end(self, marks: Callable[[int], None]) -> None:
        for extent in self.rng.sample(sorted(self.pins), self.rng.randrange(len(self.pins) + 1)):
            if self.rng.random() < 0.5:
                marks(extent)
            del self.pins[extent]
        retries, self.retries = self.retries, []
        for retry in retries:
            retry()


def life_of_a_primary(seed: int) -> tuple[Crashing, MetaStore, Writes, set[int], bytes]:
    """Until it crashes. Returns also every extent the log may name, and the bitmap as it was at the start."""
    rng = random.Random(seed)
    stripes, stripe_4k = rng.choice(GEOMETRIES)
    where = geometry.of(FLEXIBLE, MD_SECTORS, None, stripes, stripe_4k)
    extents = rng.choice((12, 200, 1500))
    size = extents * 8192 - rng.choice((0, 8, 9, 4000))
    disk = Crashing(where)
    writes = Writes(rng, extents)
    flags = Flag.PRIMARY_IND | Flag.CONSISTENT | Flag.WAS_UP_TO_DATE
    flags |= rng.choice((Flag(0), Flag.CONNECTED_IND, Flag.PEER_OUT_DATED))
    block = Superblock(
        size, UUID | 1, rng.choice((0, UUID + 16)), 6, 7, flags=flags, md_size_sectors=where.md_size_sectors,
        al_offset_sectors=where.al_offset_sectors, bm_offset_sectors=where.bm_offset_sectors, al_stripes=stripes,
        al_stripe_size_4k=stripe_4k,
    )  # fmt: skip
    store = MetaStore(disk, where, block, lambda errno: None)  # type: ignore[arg-type]
    bits = -(-size // 8)
    store.bitmap = Bitmap(bits)
    for _ in range(rng.randrange(20)):
        first = rng.randrange(bits)
        store.bitmap.set_range(first, min(bits, first + rng.choice((1, 5, 3000))))
    store.bitmap.mark_changed(range(-(-bits // 32768)))
    store.settle(lambda errno: None)
    disk.finish()
    start = bytes(disk.image[where.bm_offset_bytes :][: -(-bits // 8)])
    slots = rng.choice((2, 7, 67, min(1237, usable_slots(stripes, stripe_4k)), usable_slots(stripes, stripe_4k)))
    log = ActivityLog(store, slots, writes, lambda errno, what: None)
    log._number = rng.choice((0, 0, 3, 0xFFFFFFFB))
    if log._number:
        # a real life begins with 0: only there a torn first transaction can be told from a ruined log
        log.want(0, 0, lambda: writes.began(0, 0))
        log.commit()
        disk.finish()
    named: set[int] = set()
    before: set[int] = set()

    def mark(extent: int) -> None:
        first = min(extent * EXTENT_BITS + rng.randrange(EXTENT_BITS), bits - 1)
        store.bitmap.set_range(first, min(bits, first + 1))

    for _ in range(rng.choice((0, 1, 5, 40, 150))):
        for _ in range(rng.choice((1, 1, 10, 90))):
            first = rng.randrange(extents)
            last = min(extents - 1, first + rng.choice((0, 0, 1)))
            if log.covers(first, last):
                writes.began(first, last)
            else:
                log.want(first, last, lambda first=first, last=last: writes.began(first, last))  # type: ignore[misc]
        after = set(log._context)
        if after != named:
            before, named = named, after
        log.commit()
        for _ in range(rng.choice((0, 1, 2, 8))):
            if disk.queue:
                after = set(log._context)
                if after != named:
                    before, named = named, after
                disk.step()
        if writes.pins:
            writes.some_end(mark)
    disk.crash(rng)
    return disk, store, writes, (named | before | set(log._context)) - {FREE_SLOT}, start


def bits_of(image: bytes, where: Geometry, bits: int) -> int:
    raw = int.from_bytes(image[where.bm_offset_bytes :][: -(-bits // 8)], "little")
    return raw & ((1 << bits) - 1)


def extent_mask(extent: int, bits: int) -> int:
    return (((1 << EXTENT_BITS) - 1) << extent * EXTENT_BITS) & ((1 << bits) - 1)


def attached(image: bytes, where: Geometry, seed: int) -> tuple[bytes, World]:
    """The metadata after our own engine attached it."""
    world = World(seed)
    platter = SimDisk(world, len(image), "a")
    platter.geometry = where
    platter.content[:] = image
    platter.durable[:] = image
    world.a.disk = platter
    world.up(world.a, connect=False)
    world.run_until(lambda: not world.a.busy_with_metadata)
    return bytes(platter.durable), world


@pytest.mark.parametrize("seed", range(60))
def test_three_replays_agree(tmp_path: Path, seed: int) -> None:
    """drbdmeta apply-al, our apply-al and our attach: one bitmap, one set of flags; hot extents in, nothing else."""
    disk, store, writes, named, start = life_of_a_primary(seed)
    where, image = disk.geometry, bytes(disk.image)
    bits = store.bitmap.bits
    theirs = FileDevice(tmp_path / "theirs", MD_SECTORS)
    theirs.pwrite(image, 0)
    judged = drbdmeta(theirs.path, FLEXIBLE, "apply-al")
    ours = MemoryDevice(MD_SECTORS, image)
    applied = offline.apply_al(ours, FLEXIBLE)
    assert judged.exit_code == applied.exit_code == 0, (judged, applied)
    at_attach, world = attached(image, where, seed)
    found = bits_of(at_attach, where, bits)
    assert found == bits_of(bytes(ours.data), where, bits) == bits_of(theirs.path.read_bytes(), where, bits)
    # what may have been under way, and what was marked, is marked
    for extent in writes.pins:
        mask = extent_mask(extent, bits)
        assert found & mask == mask, f"a write to extent {extent} was under way"
    marked = int.from_bytes(store.bitmap.words(0, -(-bits // 64)), "little")
    assert marked & ~found == 0, "a marked block was forgotten"
    # and nothing but that
    may = marked | int.from_bytes(start, "little")
    for extent in named:
        may |= extent_mask(extent, bits)
    assert found & ~may == 0
    flags = [Superblock.unpack(data[where.superblock_offset_bytes :][:4096]).flags
             for data in (theirs.path.read_bytes(), bytes(ours.data), at_attach)]  # fmt: skip
    assert flags[0] == flags[1] and Flag.AL_CLEAN in flags[0] and Flag.PRIMARY_IND in flags[0]
    state = Flag.CONSISTENT | Flag.WAS_UP_TO_DATE | Flag.PEER_OUT_DATED | Flag.FULL_SYNC | Flag.AL_DISABLED
    assert flags[2] & state == flags[0] & state
    assert flags[2] & Flag.CRASHED_PRIMARY and not flags[2] & (Flag.PRIMARY_IND | Flag.AL_CLEAN)
    assert world.a.resource.meta is not None and world.a.resource.meta.bitmap.count == found.bit_count()
    # what one of them left, the others take as it is
    again, _ = attached(theirs.path.read_bytes(), where, seed)
    assert bits_of(again, where, bits) == found
    world.kill(world.a, power=True)
    after_power_loss, _ = attached(bytes(world.a.disk.durable), where, seed)
    assert bits_of(after_power_loss, where, bits) == found


@pytest.mark.parametrize("seed", range(30))
def test_damaged_logs(tmp_path: Path, seed: int) -> None:
    """A flipped bit anywhere: where drbdmeta can still tell, all agree; where it gives up, we take everything."""
    disk, store, _, _, _ = life_of_a_primary(1000 + seed)
    rng = random.Random(seed)
    where, bits = disk.geometry, store.bitmap.bits
    blocks = where.al_size_bytes // 4096
    for victim in rng.sample(range(blocks), rng.choice((1, 1, 2, blocks))):
        at = where.al_offset_bytes + victim * 4096 + rng.randrange(4096)
        disk.image[at] ^= 1 << rng.randrange(8)
    image = bytes(disk.image)
    theirs = FileDevice(tmp_path / "theirs", MD_SECTORS)
    theirs.pwrite(image, 0)
    judged = drbdmeta(theirs.path, FLEXIBLE, "apply-al")
    ours = MemoryDevice(MD_SECTORS, image)
    applied = offline.apply_al(ours, FLEXIBLE)
    assert judged.exit_code == applied.exit_code
    at_attach, _ = attached(image, where, seed)
    found = bits_of(at_attach, where, bits)
    if judged.exit_code:
        assert found == (1 << bits) - 1
        assert offline.apply_al(ours, FLEXIBLE, force=True).exit_code == 0
        assert bits_of(bytes(ours.data), where, bits) == found
    else:
        assert found == bits_of(bytes(ours.data), where, bits) == bits_of(theirs.path.read_bytes(), where, bits)


@pytest.mark.parametrize("flags", [Flag.FULL_SYNC, Flag.AL_DISABLED])
def test_flags_that_mean_everything(flags: Flag) -> None:
    """A full resync that was ordered, or a crash with al-updates no: every block counts as different."""
    disk, store, _, _, _ = life_of_a_primary(7)
    where = disk.geometry
    at = where.superblock_offset_bytes
    block = Superblock.unpack(bytes(disk.image[at : at + 4096]))
    disk.image[at : at + 4096] = block._replace(flags=block.flags | flags).pack()
    found, _ = attached(bytes(disk.image), where, 1)
    assert bits_of(found, where, store.bitmap.bits) == (1 << store.bitmap.bits) - 1


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("protocol", "ABC")
@pytest.mark.parametrize("seed", range(3))
def test_after_a_primarys_crash_the_hot_extents_and_only_they_are_resynced(
    seed: int, protocol: str, power: bool
) -> None:
    """Two cores: what goes over the wire after the crash is exactly the extents of the log, plus what was marked."""
    rng = random.Random(seed)
    world = World(seed, size_bytes=40 * MIB, protocol=protocol, al_extents=rng.choice((3, 7, 67)),
                  offer_features=0b1101).pair()  # zeroes are written, too
    for _ in range(30):
        world.write(world.a, rng.randrange(9) * 4 * MIB + rng.randrange(1000) * 4096, rng.randbytes(4096))
        if rng.random() < 0.2:
            world.flush(world.a)
    world.settle()
    activity, meta = world.a.resource.attachment.activity, world.a.resource.meta
    assert activity is not None and meta is not None and meta.bitmap.count == 0
    marked: set[int] = set()
    if rng.random() < 0.5:
        world.ok(world.a, "disconnect")
        for _ in range(5):
            block = rng.randrange(9) * 1024 + rng.randrange(1000)
            world.write(world.a, block * 4096, rng.randbytes(4096))
            marked.add(block)
        world.flush(world.a)
        world.run(1000)
    hot = {extent for extent in activity._context if extent != FREE_SLOT}
    for extent in rng.sample(sorted(activity.hot), min(2, len(activity.hot))):
        world.submit(world.a, Op.WRITE, extent << 22, 4096, rng.randbytes(4096))
    blocks = world.a.resource.size_bytes // 4096
    expected = {n for extent in hot for n in range(extent * 1024, min(blocks, (extent + 1) * 1024))} | marked
    world.kill(world.a, power)
    world.up(world.a, connect=False)
    meta = world.a.resource.meta
    assert meta is not None and world.a.resource.attachment.crashed_primary
    assert {n for n in range(blocks) if meta.bitmap.any_set(n, n + 1)} == expected
    synced: set[int] = set()
    put = world.b.disk.put

    def note(offset: int, data: bytes, durable: bool = False) -> None:
        if offset < world.b.resource.size_bytes:
            synced.update(range(offset // 4096, -(-(offset + len(data)) // 4096)))
        put(offset, data, durable)

    world.b.disk.put = note  # type: ignore[method-assign]
    world.ok(world.a, "connect")
    if world.b.resource.state.conn == Conn.STANDALONE:
        world.ok(world.b, "connect")
    world.settle()
    assert synced == expected
    assert world.same_data() and world.a.resource.state.disk == Disk.UP_TO_DATE
