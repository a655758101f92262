# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets of the metadata room: superblocks, activity logs and whole images that nobody made on purpose."""

from __future__ import annotations

from replblock.meta import activity_log, geometry, offline, probe
from replblock.meta.activity_log import BLOCK_BYTES, CONTEXT_PER_BLOCK, pack_transaction, raw_crc32c
from replblock.meta.bitmap import Bitmap
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import FLEXIBLE, INTERNAL, Kind, Placement
from replblock.meta.superblock import MAGIC_UNCLEAN, MAGIC_V08, SUPERBLOCK, SUPERBLOCK_BYTES, Flag, Superblock
from replblock.meta.texts import gi_line, parse_gi, show_gi_text
from tests.fuzz.feed import Feed

MOST_READ_BYTES = 64 << 20
FIELD_BITS = {"Q": 64, "I": 32, "i": 32}


class Image:
    """A device in memory that counts what is asked of it and notes what is changed."""

    def __init__(self, content: bytearray) -> None:
        self.content = content
        self.size_sectors = len(content) // 512
        self.asked_bytes = 0
        self.written: list[tuple[int, int]] = []

    def pread(self, length: int, offset_bytes: int) -> bytes:
        self.asked_bytes += length
        assert offset_bytes >= 0 and length >= 0 and self.asked_bytes < MOST_READ_BYTES, (offset_bytes, length)
        return bytes(self.content[offset_bytes : offset_bytes + length])

    def pwrite(self, data: bytes, offset_bytes: int) -> int:
        assert offset_bytes >= 0 and offset_bytes + len(data) <= len(self.content), (offset_bytes, len(data))
        self.written.append((offset_bytes, len(data)))
        self.content[offset_bytes : offset_bytes + len(data)] = data
        return len(data)

    def sync(self) -> None:
        pass


def _check_error(error: MetadataError) -> None:
    assert error.text and "\n" not in error.text and error.rule, repr(error)


def superblock(data: bytes) -> None:
    """A block that is taken for v08 can be shown and written back as it was."""
    block = bytearray(data[:SUPERBLOCK_BYTES].ljust(SUPERBLOCK_BYTES, b"\0"))
    if len(data) & 1:
        block[60:64] = MAGIC_V08.to_bytes(4, "big")
        block[80:84] = (4096).to_bytes(4, "big")
    try:
        found = Superblock.unpack(bytes(block))
    except MetadataError as error:
        _check_error(error)
        return
    again = Superblock.unpack(found.pack())
    assert again == found
    if found.al_stripes != 1 or found.al_stripe_size_4k != 8 or any(block[88:96]):
        assert SUPERBLOCK.unpack(found.pack()) == SUPERBLOCK.unpack(bytes(block))
    assert parse_gi(gi_line(found), found) == found
    show_gi_text(found)
    for placement in (INTERNAL, FLEXIBLE, Placement(Kind.INDEXED, 0)):
        for sectors in (0, 7, 8, 256, 2048, 1 << 30, 1 << 45):
            try:
                where = geometry.check(found, placement, sectors)
            except MetadataError as error:
                _check_error(error)
                continue
            assert where.superblock_offset_bytes >= 0 and where.al_offset_bytes >= 0 and where.bm_offset_bytes >= 0
            assert where.data_sectors > 0 and where.al_size_bytes > 0


def gi(data: bytes) -> None:
    """set-gi's argument: refused in one line, or a superblock that fits its fields."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_gi(text, Superblock())
    except MetadataError as error:
        assert error.rule == "bad-gi"
        return
    assert Superblock.unpack(found.pack()) == found


def activity(data: bytes) -> None:
    """Replay never raises, ends, and names no more extents than slots can hold."""
    feed = Feed(data)
    stripes, stripe_4k = feed.one_of(((1, 8), (1, 1), (2, 4), (4, 2), (1, 64), (0, 0)))
    blocks = [_log_block(feed) for _ in range(stripes * stripe_4k if feed.byte() else feed.below(12))]
    try:
        found = activity_log.replay(blocks, stripes, stripe_4k)
    except ValueError:
        assert stripes * stripe_4k != len(blocks)
        return
    assert len(found.extents) <= len(found.slots) <= activity_log.MAX_SLOT + 1
    assert all(0 <= slot <= activity_log.MAX_SLOT for slot in found.slots)
    assert all(0 <= extent < activity_log.FREE_EXTENT for extent in found.extents)
    assert found.usable or not found.slots
    assert len(found.remarks) <= 2 + len(blocks) * (CONTEXT_PER_BLOCK + 64)


def _log_block(feed: Feed) -> bytes:
    kind = feed.byte() % 6
    if kind == 0:
        return bytes(BLOCK_BYTES)
    if kind == 1:
        return activity_log.initialized_block()
    updates = [(feed.below(1237), feed.number(32)) for _ in range(feed.below(8))]
    context = [feed.number(32) for _ in range(feed.below(20))]
    block = bytearray(pack_transaction(feed.number(32), updates, feed.below(1237), context, 1237))
    if kind == 2:
        return bytes(block)
    for _ in range(feed.below(6)):
        at = 12 + feed.below(BLOCK_BYTES - 12) if kind == 3 else 12 + feed.below(8)
        block[at] = feed.byte()
    if kind != 5:
        block[8:12] = bytes(4)
        block[8:12] = raw_crc32c(bytes(block)).to_bytes(4, "big")
    return bytes(block)


def bits(data: bytes) -> None:
    """A bitmap loaded from any bytes counts what is there and finds every bit of it."""
    feed = Feed(data)
    size = feed.number(16)
    found = Bitmap(size)
    raw = feed.take(min(found.n_blocks * 4096, feed.below(65536)))
    try:
        found.load(raw)
    except ValueError:
        assert len(raw) != found.n_blocks * 4096
        return
    assert found.count == sum(n for value, n in found.runs(0) if value)
    at, seen = found.next_set(0), 0
    while at >= 0 and seen < 300:
        seen += 1
        assert at < size
        at = found.next_set(at + 1) if at + 1 < size else -1
    first, end = feed.number(20), feed.number(20)
    for change in (found.set_range, found.clear_range):
        try:
            change(first, end)
        except ValueError:
            assert not 0 <= first <= end <= size


def image(data: bytes) -> None:
    """The verbs of a node that is down, on a device with anything on it: a result or one error, reads write nothing."""
    feed = Feed(data)
    size = 512 * feed.one_of((0, 1, 8, 64, 255, 256, 300, 2048, 2051))
    content = bytearray(size)
    placement = feed.one_of((INTERNAL, INTERNAL, FLEXIBLE, Placement(Kind.INDEXED, feed.byte() % 2)))
    for _ in range(feed.below(4)):
        _put_superblock(content, placement, feed)
    for _ in range(feed.below(8)):
        at = feed.below(size) if size else 0
        piece = feed.rest(feed.below(64))[: size - at]
        content[at : at + len(piece)] = piece
    device = Image(content)
    before = bytes(content)
    reads = (offline.get_gi, offline.show_gi, offline.dstate, offline.read_dev_uuid)
    for read in reads:
        _tried(lambda read=read: read(device, placement))
    for force in (False, True):
        _tried(lambda force=force: sum(map(len, offline.dump_md(device, placement, force=force, show_flags=force))))
    _tried(lambda: offline.set_gi(device, placement, feed.take(20).decode("latin-1"), dry_run=True))
    probe.probe(device)
    assert not device.written and content == before
    where = _tried(lambda: offline.read_metadata(device, placement).geometry)
    for write in (offline.apply_al, offline.outdate, offline.invalidate, offline.wipe_md):
        failed = _tried(lambda write=write: write(device, placement)) is None
        assert where is not None or not device.written
        if not failed and where is not None:
            assert content[:_data_end(where, placement)] == before[:_data_end(where, placement)]


def _data_end(where: geometry.Geometry, placement: Placement) -> int:
    """Bytes in front of the metadata that no verb may touch."""
    if placement.kind is Kind.INTERNAL:
        return where.data_sectors * 512
    return where.superblock_offset_bytes


def _tried(call: object) -> object:
    try:
        return call()  # type: ignore[operator]
    except MetadataError as error:
        _check_error(error)
        return None


def _put_superblock(content: bytearray, placement: Placement, feed: Feed) -> None:
    """One that fits this device, some of its fields replaced."""
    sectors = len(content) // 512
    stripes = feed.one_of(((1, 8), (1, 8), (0, 0), (2, 4), (3, 3), (1 << 16, 1 << 16)))
    try:
        where = geometry.of(placement, sectors, None, *(stripes if stripes != (0, 0) else (1, 8)))
    except MetadataError:
        return
    block = Superblock(
        la_size_sectors=feed.one_of((0, where.data_sectors, feed.number(64))), flags=Flag(feed.below(512)),
        magic=feed.one_of((MAGIC_V08, MAGIC_UNCLEAN)), md_size_sectors=where.md_size_sectors,
        al_offset_sectors=where.al_offset_sectors, bm_offset_sectors=where.bm_offset_sectors,
        al_stripes=stripes[0], al_stripe_size_4k=stripes[1],
    )
    raw = bytearray(block.pack())
    for _ in range(feed.below(3)):
        field = feed.one_of(SUPERBLOCK.fields)
        width = FIELD_BITS[field.type] // 8
        raw[field.offset : field.offset + width] = feed.number(8 * width).to_bytes(width, "big")
    at = where.superblock_offset_bytes
    if at + 4096 <= len(content):
        content[at : at + 4096] = raw
