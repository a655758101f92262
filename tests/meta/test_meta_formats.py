# SPDX-License-Identifier: GPL-2.0-or-later
"""Superblock, geometry and activity log by themselves: limits, round trips, and no surprise on random bytes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.meta import activity_log as al
from replblock.meta import geometry
from replblock.meta.errors import MetadataError, NoMetadata
from replblock.meta.geometry import Kind, Placement
from replblock.meta.layout import Field, Layout
from replblock.meta.superblock import MAGIC_UNCLEAN, MAGIC_V08, SUPERBLOCK, Flag, Superblock
from tests.meta.logwriter import Writer

U32 = st.integers(0, (1 << 32) - 1)
I32 = st.integers(-(1 << 31), (1 << 31) - 1)
U64 = st.integers(0, (1 << 64) - 1)
SUPERBLOCKS = st.builds(
    Superblock, U64, U64, U64, U64, U64, U64, U32.map(Flag), st.sampled_from((MAGIC_V08, MAGIC_UNCLEAN)), U32, I32, U32,
    I32, st.just(4096), U32, st.integers(1, 1 << 32 - 1), st.integers(1, (1 << 32) - 1),
)  # fmt: skip

# --- layout and superblock -------------------------------------------------------------------------------------


def test_a_layout_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        Layout("x", 8, ">", (Field("a", "I", 0, ""), Field("b", "I", 2, "")))
    with pytest.raises(ValueError, match="end at 12"):
        Layout("x", 8, ">", (Field("a", "Q", 4, ""),))
    with pytest.raises(KeyError):
        SUPERBLOCK.offset("nonsense")


@given(SUPERBLOCKS)
def test_superblock_round_trip(block: Superblock) -> None:
    raw = block.pack()
    assert len(raw) == 4096 and not any(raw[96:]) and raw[48:56] == bytes(8)
    assert Superblock.unpack(raw) == block


def test_both_al_fields_zero_mean_the_default() -> None:
    old = Superblock(al_stripes=0, al_stripe_size_4k=0)
    assert Superblock.unpack(old.pack()) == Superblock()


@pytest.mark.parametrize(
    ("at", "magic", "rule"),
    [(60, 0x8374026A, "version-07"), (28, 0x8374026A, "version-07"), (60, 0x8374026D, "version-09"),
     (60, 0x83740267, "nothing-there"), (60, 0, "nothing-there")],
)  # fmt: skip
def test_other_versions_are_named(at: int, magic: int, rule: str) -> None:
    raw = bytearray(4096)
    raw[at : at + 4] = magic.to_bytes(4, "big")
    with pytest.raises(NoMetadata) as caught:
        Superblock.unpack(bytes(raw))
    assert caught.value.rule == rule


def test_a_field_out_of_range_is_a_metadata_error() -> None:
    for wrong in (Superblock(uuid_current=1 << 64), Superblock(al_offset_sectors=1 << 31), Superblock(magic=-1)):
        with pytest.raises(MetadataError):
            wrong.pack()


@given(st.data())
def test_random_superblocks_never_surprise(data: st.DataObject) -> None:
    """Whatever stands there: a Superblock that fits the device, or MetadataError; nothing else."""
    raw = bytearray(data.draw(st.binary(max_size=200)).ljust(4096, b"\0"))
    if data.draw(st.booleans()):
        raw = bytearray(data.draw(SUPERBLOCKS).pack())
        for _ in range(data.draw(st.integers(0, 3))):
            raw[data.draw(st.integers(0, 95))] = data.draw(st.integers(0, 255))
    elif data.draw(st.booleans()):
        raw[60:64] = MAGIC_V08.to_bytes(4, "big")
    cut = bytes(raw[: data.draw(st.sampled_from((4096, 4096, 4095, 0)))])
    placement = Placement(data.draw(st.sampled_from(Kind)), data.draw(st.integers(0, 300)))
    sectors = data.draw(st.integers(0, 1 << 22) | st.integers(0, 1 << 60))
    try:
        block = Superblock.unpack(cut)
        where = geometry.check(block, placement, sectors)
    except MetadataError as error:
        assert str(error) and error.rule
    else:
        assert 0 <= where.start_bytes < where.end_bytes <= sectors * 512


# --- geometry ------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 52), st.integers(0, 8), st.integers(0, 64), st.sampled_from(Kind), st.integers(-1, 300))
def test_areas_never_overlap_and_never_leave_the_device(sectors: int, stripes: int, size: int, kind: Kind,
                                                       slot: int) -> None:  # fmt: skip
    try:
        where = geometry.of(Placement(kind, slot), sectors, None, stripes, size)
    except MetadataError:
        return
    areas = sorted([
        (where.superblock_offset_bytes, where.superblock_offset_bytes + 4096),
        (where.al_offset_bytes, where.al_offset_bytes + where.al_size_bytes),
        (where.bm_offset_bytes, where.bm_offset_bytes + where.bm_size_bytes),
    ])  # fmt: skip
    assert areas[0][0] >= 0 and areas[2][1] <= sectors * 512
    assert areas[0][1] <= areas[1][0] and areas[1][1] <= areas[2][0]
    assert 0 < where.data_sectors <= 1 << 51
    assert all(edge % 4096 == 0 or edge == sectors * 512 for area in areas for edge in area)
    assert where.bm_size_bytes * 8 * 8 >= where.data_sectors  # a bit for every 4 KiB
    if kind is Kind.INTERNAL:
        assert where.start_bytes == where.data_sectors * 512
        assert sectors * 512 - where.end_bytes < 4096


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: geometry.internal(2047), "too-small"),
        (lambda: geometry.internal(4096, 1, 510), "too-small"),
        (lambda: geometry.flexible(2047), "too-small"),
        (lambda: geometry.flexible(2048, None, 1, 255), "too-small"),
        (lambda: geometry.indexed(0, None, 262_143), "too-small"),
        (lambda: geometry.indexed(3, None, 4 * 262_144 - 1), "too-small"),
        (lambda: geometry.indexed(256), "bad-index"),
        (lambda: geometry.internal(1 << 20, 1, 7), "al-size"),
        (lambda: geometry.internal(1 << 20, 0, 8), "al-size"),
        (lambda: geometry.internal(1 << 50, 1 << 20, 8), "al-size"),
        (lambda: geometry.of(Placement(Kind.INDEXED, 0), 1 << 20, None, 2, 8), "al-size"),
        (lambda: geometry.internal(1 << 51), "too-large"),
        (lambda: Placement.parse("256"), "bad-index"),
        (lambda: Placement.parse("-1"), "bad-index"),
        (lambda: Placement.parse("outside"), "bad-index"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(make: object, rule: str) -> None:
    with pytest.raises(MetadataError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.rule == rule and "\n" not in caught.value.text


@given(st.integers(1, 1 << 45), st.integers(1, 4), st.integers(8, 64))
def test_the_suggested_device_size_is_enough_and_not_too_much(data: int, stripes: int, size: int) -> None:
    """What "make the device at least …" and "a device of at least …" promise."""
    total = geometry.internal_device_sectors_for(data, stripes, size)
    assert geometry.internal(total, stripes, size).data_sectors >= data
    if total > geometry.MIN_MD_DEVICE_SECTORS:
        try:
            assert geometry.internal(total - 8, stripes, size).data_sectors < data
        except MetadataError:
            pass
    if data < geometry.MAX_DATA_SECTORS >> 6:
        assert geometry.flexible(geometry.flexible_device_sectors_for(data)).data_sectors >= data


# --- activity log --------------------------------------------------------------------------------------------


def bitwise_crc(data: bytes) -> int:
    """CRC-32C register, one bit at a time, straight from the polynomial."""
    register = 0
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register


def test_checksum_is_the_bare_register() -> None:
    """Not inverted: an INITIALIZED block has 0x709cc651 (drbdmeta writes and accepts exactly this)."""
    block = al.initialized_block()
    assert block[:16].hex() == "69cb65a200000000709cc651ffff0000" and not any(block[16:])
    assert al.raw_crc32c(block[:8] + bytes(4) + block[12:]) == 0x709CC651
    assert al.raw_crc32c(b"123456789", 0xFFFFFFFF) ^ 0xFFFFFFFF == 0xE3069283  # the catalogue's check value


@given(st.binary(max_size=300), U32)
def test_fallback_computes_the_same(data: bytes, register: int) -> None:
    assert al.make_raw_crc32c_from_crcmod()(data, register) == al.raw_crc32c(data, register)
    assert al.raw_crc32c(data) == bitwise_crc(data)
    assert al.raw_crc32c(data[5:], al.raw_crc32c(data[:5])) == al.raw_crc32c(data)


@pytest.mark.parametrize(("stripes", "size"), [(1, 8), (3, 4), (4, 16), (8, 1), (2, 5)])
def test_positions_fill_the_ring_once(stripes: int, size: int) -> None:
    blocks = stripes * size
    assert sorted(al.position(t, stripes, size) for t in range(blocks)) == list(range(blocks))
    assert al.position(blocks, stripes, size) == 0
    if stripes == 1:
        assert [al.position(t, 1, size) for t in range(size)] == list(range(size))
    else:
        assert al.position(1, stripes, size) == size  # the next transaction goes to the next stripe


def test_transaction_bytes() -> None:
    block = al.pack_transaction(0x1_0000_0007, [(3, 9), (4, al.FREE_EXTENT)], 919, [1, 2], 1237)
    assert block[:8].hex() == "69cb65a200000007" and block[12:36].hex() == "0000000204d50397" + "00" * 16
    assert block[36:42].hex() == "00030004ffff" and block[164:176].hex() == "00000009ffffffffffffffff"
    assert block[420:432].hex() == "0000000100000002ffffffff"
    seen = al.unpack_transaction(block)
    assert seen is not None and seen.tr_number == 7 and seen.context[:3] == (1, 2, al.FREE_EXTENT)


@pytest.mark.parametrize(
    "arguments",
    [(0, [(0, 0)] * 65, 0, [], 100), (0, [], 0, [0] * 920, 1000), (0, [(100, 0)], 0, [], 100), (0, [(0, -1)], 0, [], 9),
     (0, [(0, 1 << 32)], 0, [], 100), (0, [], 101, [], 100), (0, [], 0, [], 65_535), (0, [], 0, [1 << 32], 5)],
)  # fmt: skip
def test_a_transaction_that_cannot_be_is_the_callers_mistake(arguments: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError):
        al.pack_transaction(*arguments)


GEOMETRIES = ((1, 8), (3, 4), (2, 5), (4, 2))


@pytest.mark.parametrize("seed", range(12))
def test_replay_finds_exactly_the_active_set(seed: int) -> None:
    """Ring wrap, wrap of the transaction number, rotating context, freed slots; then a torn newest block."""
    rng = random.Random(seed)
    stripes, size = GEOMETRIES[seed % len(GEOMETRIES)]
    slots = rng.choice((7, 257, 919, 920, 1237, al.usable_slots(stripes, size)))
    log = Writer(stripes, size, slots, rng.choice((0, 0xFFFFFFFA, 0x7FFFFFFD, 12)))
    for _ in range(rng.choice((1, 3, 40))):
        before = set(log.active)
        chosen = rng.sample(range(slots), min(slots, rng.randint(1, 64)))
        log.write([(slot, rng.choice((al.FREE_EXTENT, rng.randrange(1 << 20)))) for slot in chosen])
    found = log.replay()
    assert found.usable and not found.suspect and set(found.extents) == log.active
    assert found.last_tr_number == (log.tr - 1) & 0xFFFFFFFF
    torn = al.position((log.tr - 1) & 0xFFFFFFFF, stripes, size)
    log.blocks[torn] = log.blocks[torn][:512] + bytes(3584)
    again = log.replay()
    assert again.corrupt == 1
    if again.rule == "replayed":
        assert set(again.extents) == before  # the torn transaction announced nothing that was written
    else:  # the only one: drbdmeta trusts this in block 0 alone, which is why a fresh log starts at number 0
        assert again.rule == ("first-transaction-torn" if torn == 0 else "corrupt-only") and not before


def test_verdicts_have_names() -> None:
    empty, zero = al.initialized_block(), bytes(4096)
    good = al.pack_transaction(0, [(0, 5)], 0, [], 67)
    torn = good[:-1] + b"\x01"
    cases = {
        "never-used": [empty] * 8,
        "first-transaction-torn": [torn] + [empty] * 7,
        "replayed": [good] + [zero] * 7,
        "corrupt-only": [empty] * 3 + [torn] + [empty] * 4,
        "no-usable-log": [zero] * 8,
    }
    for rule, blocks in cases.items():
        found = al.replay(blocks)
        assert (found.rule, found.usable) == (rule, rule in ("never-used", "first-transaction-torn", "replayed"))
        assert found.suspect == (rule in ("corrupt-only", "no-usable-log") or found.corrupt > 1)
    assert al.replay([good, al.pack_transaction(7, [(1, 6)], 0, [5], 67)] + [empty] * 6).gap
    with pytest.raises(ValueError):
        al.replay([empty] * 8, 3, 3)


@given(st.lists(st.binary(max_size=64) | st.just(al.initialized_block()), min_size=0, max_size=10), st.data())
def test_random_logs_never_raise(pieces: list[bytes], data: st.DataObject) -> None:
    """Random bytes, also with a right checksum over nonsense fields."""
    blocks = []
    for piece in pieces:
        block = bytearray(piece.ljust(4096, data.draw(st.sampled_from((b"\0", b"\xff", b"\x01")))))
        if data.draw(st.booleans()):
            block[0:4] = al.MAGIC.to_bytes(4, "big")
            block[8:12] = bytes(4)
            block[8:12] = al.raw_crc32c(block).to_bytes(4, "big")
        blocks.append(bytes(block))
    found = al.replay(blocks)
    assert all(0 <= slot <= al.MAX_SLOT and 0 <= extent < al.FREE_EXTENT for slot, extent in found.slots.items())


def test_flags_nobody_knows_survive_a_change_of_others() -> None:
    """A later DRBD may have given them a meaning; drbdmeta keeps them."""
    from replblock.meta.texts import parse_gi

    block = Superblock(flags=Flag(0xABCD0000) | Flag.CONSISTENT | Flag.WAS_UP_TO_DATE)
    assert parse_gi("::::0:0", block).flags == Flag(0xABCD0000)
    assert block.flags.without(Flag.CONSISTENT) == Flag(0xABCD0000) | Flag.WAS_UP_TO_DATE
