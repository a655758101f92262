# SPDX-License-Identifier: GPL-2.0-or-later
"""Our metadata through drbdmeta's eyes, and drbdmeta's through ours, byte by byte."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from replblock.meta import activity_log as al
from replblock.meta import geometry, offline
from replblock.meta.create import create_md
from replblock.meta.errors import MetadataError, NoMetadata
from replblock.meta.geometry import Kind, Placement
from replblock.meta.superblock import MAGIC_UNCLEAN, MAGIC_V08, Flag, Superblock
from replblock.meta.texts import DumpHeader, size_text
from tests.meta.logwriter import Writer
from tests.meta.tools import FLEXIBLE, INTERNAL, FileDevice, Result, drbdmeta

INDEX_0, INDEX_1 = Placement(Kind.INDEXED, 0), Placement(Kind.INDEXED, 1)
AL_GEOMETRIES = ((1, 8), (3, 4), (4, 16), (2, 8))
ODD_SIZES = (2048, 2049, 2055, 4000, 20_000, 262_143, 262_144, 262_145, 262_151, 999_999, 5_000_001, (1 << 30) + 7)


def device(tmp_path: Path, sectors: int, name: str = "disk") -> FileDevice:
    return FileDevice(tmp_path / name, sectors)


def put(disk: FileDevice, placement: Placement, block: Superblock, bitmap: bytes = b"",
        log: list[bytes] | None = None) -> Superblock:  # fmt: skip
    """Write metadata by hand: a superblock with the right offsets, an optional bitmap and log."""
    where = geometry.of(placement, disk.size_sectors, None, block.al_stripes, block.al_stripe_size_4k)
    block = block._replace(md_size_sectors=where.md_size_sectors, al_offset_sectors=where.al_offset_sectors,
                           bm_offset_sectors=where.bm_offset_sectors)  # fmt: skip
    disk.pwrite(block.pack(), where.superblock_offset_bytes)
    disk.pwrite(bitmap, where.bm_offset_bytes)
    disk.pwrite(b"".join(log or [al.initialized_block()] * (where.al_size_bytes // 4096)), where.al_offset_bytes)
    return block


def random_block(rng: random.Random, la_size: int) -> Superblock:
    return Superblock(
        la_size_sectors=la_size, uuid_current=rng.getrandbits(64), uuid_bitmap=rng.getrandbits(64),
        uuid_history0=rng.getrandbits(64), uuid_history1=rng.getrandbits(64), device_uuid=rng.getrandbits(64),
        flags=Flag(rng.getrandbits(9)), magic=rng.choice((MAGIC_V08, MAGIC_UNCLEAN)),
        la_peer_max_bio_size_bytes=rng.choice((0, 4096, 130_560, 1 << 20)), al_nr_extents=rng.choice((67, 257, 1237)),
    )  # fmt: skip


def our_dump(disk: FileDevice, placement: Placement, theirs: str) -> str:
    """Our dump under the header (date, host, command line) of theirs."""
    lines = theirs.splitlines()
    at = lines.index("# DRBD meta data dump")
    host, command = lines[at + 2].removeprefix("# ").split("> ", 1)
    header = DumpHeader(lines[at + 1].removeprefix("# "), host, command)
    return "".join(offline.dump_md(disk, placement, header=header, force=True))


# --- create-md ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sectors", ODD_SIZES)
@pytest.mark.parametrize("placement", [INTERNAL, FLEXIBLE, INDEX_0, INDEX_1], ids=["int", "flex", "0", "1"])
def test_create_md_writes_the_same_bytes(tmp_path: Path, sectors: int, placement: Placement) -> None:
    """Superblock, log and bitmap of a fresh device, for odd sizes and every activity-log geometry."""
    if placement.kind is Kind.INDEXED and sectors < 262_144 * (placement.slot + 1):
        with pytest.raises(MetadataError):  # the kernel refuses such a device, drbdmeta does not look
            create_md(device(tmp_path, sectors), placement, random64=lambda: 0)
        return
    few = AL_GEOMETRIES[:1] if placement.kind is Kind.INDEXED else AL_GEOMETRIES
    for stripes, size in few[: 1 if sectors == 2048 else 4]:
        ours, theirs = device(tmp_path, sectors, "ours"), device(tmp_path, sectors, "theirs")
        create_md(ours, placement, random64=lambda: 0, al_stripes=stripes, al_stripe_size_4k=size,
                  data_device_sectors=None if placement == INTERNAL else 50_000)  # fmt: skip
        options = [f"--al-stripes={stripes}", f"--al-stripe-size-kB={size * 4}"]
        made = drbdmeta(theirs.path, placement, *options, "create-md", "1")
        assert made.exit_code == 0, made
        where = geometry.of(placement, sectors, None, stripes, size)
        assert ours.areas(where, 4096) == theirs.areas(where, 4096)
        assert offline.read_metadata(theirs, placement).superblock == offline.read_metadata(ours, placement).superblock
        assert drbdmeta(ours.path, placement, "get-gi").out == offline.get_gi(theirs, placement)


def test_create_md_zeroes_an_old_bitmap(tmp_path: Path) -> None:
    """Whole images, full of old bytes before, are equal afterwards."""
    sectors = 300_000
    ours, theirs = device(tmp_path, sectors, "ours"), device(tmp_path, sectors, "theirs")
    for disk in (ours, theirs):
        disk.pwrite(b"\xee" * 100_000, sectors * 512 - 100_000)
    said = create_md(ours, INTERNAL, random64=lambda: 0, peer_max_bio_size_bytes=65_536)
    made = drbdmeta(theirs.path, INTERNAL, "--peer-max-bio-size=65536", "create-md", "1")
    assert made.exit_code == 0 and made.out == said
    assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_device_uuid(tmp_path: Path) -> None:
    disk = device(tmp_path, 4096)
    create_md(disk, INTERNAL, random64=lambda: 0x123456789ABCDEF0)
    assert drbdmeta(disk.path, INTERNAL, "read-dev-uuid").out == "123456789ABCDEF0\n"
    offline.write_dev_uuid(disk, INTERNAL, 0xFEDCBA9876543210)
    assert drbdmeta(disk.path, INTERNAL, "read-dev-uuid").out == "FEDCBA9876543210\n"
    assert drbdmeta(disk.path, INTERNAL, "write-dev-uuid", "AB").exit_code == 0
    assert offline.read_dev_uuid(disk, INTERNAL) == 0xAB
    with pytest.raises(MetadataError):
        offline.write_dev_uuid(disk, INTERNAL, 1 << 64)


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_what_we_print_is_what_drbdmeta_prints(tmp_path: Path, seed: int) -> None:
    """get-gi, show-gi, dstate and dump-md of random superblocks and bitmaps."""
    rng = random.Random(seed)
    placement = (INTERNAL, FLEXIBLE, INDEX_1)[seed % 3]
    sectors = 2 * 262_144 + 77 if placement == INDEX_1 else rng.choice((2048, 5000, 300_001, 4_000_000))
    disk = device(tmp_path, sectors)
    where = geometry.of(placement, sectors)
    la_size = rng.choice((0, 1, 8, 64 * 8 + 1, where.data_sectors - 3, where.data_sectors + 1, 1 << 60))
    la_size = min(la_size, 1 << 24) if placement != INTERNAL else la_size  # keeps their dump short
    rows = [bytes(32), b"\xff" * 32, rng.randbytes(8) * 4, rng.randbytes(4) * 8, rng.randbytes(1) * 28 + bytes(4),
            rng.randbytes(32)]  # fmt: skip
    bitmap = b"".join(rng.choice(rows) * rng.choice((1, 1, 2, 3, 9, 40)) for _ in range(60))[: where.bm_size_bytes]
    put(disk, placement, random_block(rng, la_size), bitmap)
    assert drbdmeta(disk.path, placement, "get-gi").out == offline.get_gi(disk, placement)
    assert drbdmeta(disk.path, placement, "show-gi").out == offline.show_gi(disk, placement)
    assert drbdmeta(disk.path, placement, "dstate").out == offline.dstate(disk, placement)
    dump = drbdmeta(disk.path, placement, "dump-md").out
    assert our_dump(disk, placement, dump) == dump


@pytest.mark.parametrize("flags", range(0, 512, 37))
def test_every_flag_in_words(tmp_path: Path, flags: int) -> None:
    disk = device(tmp_path, 4096)
    put(disk, INTERNAL, Superblock(la_size_sectors=2048, flags=Flag(flags)))
    assert drbdmeta(disk.path, INTERNAL, "show-gi").out == offline.show_gi(disk, INTERNAL)
    assert drbdmeta(disk.path, INTERNAL, "dstate").out == offline.dstate(disk, INTERNAL)


def test_sizes_in_words(tmp_path: Path) -> None:
    """Rounding and units of the size, from KB to TB."""
    disk = device(tmp_path, 1 << 31)
    for size in (2, 19_998, 20_000, 20_001, 20_479, 21_504, 10_239_999 * 2, (10_000 << 11) - 1, 10_000 << 21,
                 15_873 << 21, (19_999 << 20) + 5, 1000 << 31, 1 << 41):  # fmt: skip
        put(disk, FLEXIBLE, Superblock(la_size_sectors=size))
        theirs = drbdmeta(disk.path, FLEXIBLE, "show-gi").out
        assert theirs == offline.show_gi(disk, FLEXIBLE)
        assert f"last agreed size: {size_text(size // 2)} (" in theirs


def test_long_runs_in_a_dump(tmp_path: Path) -> None:
    """Runs that cross our reading chunks are still one line."""
    disk = device(tmp_path, 64 << 11)
    put(disk, FLEXIBLE, Superblock(la_size_sectors=(20 << 20) * 64 - 5))
    where = geometry.flexible(disk.size_sectors)
    disk.pwrite(b"\xff" * ((3 << 20) + 64), where.bm_offset_bytes + 4096)
    disk.pwrite(b"\x01" + bytes(31), where.bm_offset_bytes + (9 << 20))
    dump = drbdmeta(disk.path, FLEXIBLE, "dump-md").out
    assert our_dump(disk, FLEXIBLE, dump) == dump
    assert dump.count("times") == 4


def test_unclean_metadata_is_not_dumped_by_accident(tmp_path: Path) -> None:
    disk = device(tmp_path, 4096)
    for block in (Superblock(magic=MAGIC_UNCLEAN), Superblock(flags=Flag.CONSISTENT)):
        put(disk, INTERNAL, block)
        with pytest.raises(MetadataError, match="unclean"):
            offline.dump_md(disk, INTERNAL)
        assert "unclean" in drbdmeta(disk.path, INTERNAL, "dump-md").err[0]


def test_the_flags_can_be_dumped_for_real(tmp_path: Path) -> None:
    """drbdmeta prints 0x00000000 always; on request ours does not."""
    disk = device(tmp_path, 4096)
    put(disk, INTERNAL, Superblock(flags=Flag(0x93)))
    assert "flags 0x00000000;" in drbdmeta(disk.path, INTERNAL, "dump-md").out
    assert "flags 0x00000093;" in "".join(offline.dump_md(disk, INTERNAL, show_flags=True))


POKES: tuple[tuple[int, int], ...] = (
    (64, 88), (64, 1 << 20), (68, 16), (68, -72), (76, 80), (76, -80), (88, 2), (88, 0), (92, 4), (60, MAGIC_UNCLEAN),
    (60, 0x8374026A), (60, 0x8374026D), (60, 0), (48, 1), (96, 5), (72, 0),
)  # fmt: skip


@pytest.mark.parametrize("placement", [INTERNAL, FLEXIBLE, INDEX_1], ids=["int", "flex", "1"])
@pytest.mark.parametrize(("offset", "value"), POKES)
def test_we_accept_and_refuse_what_drbdmeta_does(tmp_path: Path, placement: Placement, offset: int,
                                                 value: int) -> None:  # fmt: skip
    disk = device(tmp_path, 2 * 262_144 + 1000)
    block = bytearray(put(disk, placement, Superblock(la_size_sectors=1000)).pack())
    block[offset : offset + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")
    disk.pwrite(bytes(block), geometry.superblock_offset_bytes(placement, disk.size_sectors))
    theirs = drbdmeta(disk.path, placement, "get-gi")
    try:
        ours = Result(0, offline.get_gi(disk, placement), ())
    except MetadataError as error:
        ours = Result(error.exit_code, "", ())
    assert ours[:2] == theirs[:2]


def test_a_resized_device_loses_internal_metadata_only(tmp_path: Path) -> None:
    for placement, still_there in ((INTERNAL, False), (FLEXIBLE, True)):
        disk = device(tmp_path, 300_000)
        put(disk, placement, Superblock())
        with disk.path.open("r+b") as file:
            file.truncate(400_000 * 512)
        assert (drbdmeta(disk.path, placement, "get-gi").exit_code == 0) == still_there
        if still_there:
            offline.get_gi(disk, placement)
        else:
            with pytest.raises(MetadataError):
                offline.get_gi(disk, placement)


# --- changing ----------------------------------------------------------------------------------------------------


def same_change(tmp_path: Path, block: Superblock, ours: object, *command: str) -> Result:
    """Both do it to equal images; the images stay equal and ours fails exactly when theirs does."""
    images = [device(tmp_path, 4096, name) for name in ("ours", "theirs")]
    for disk in images:
        put(disk, INTERNAL, block)
    theirs = drbdmeta(images[1].path, INTERNAL, *command)
    try:
        said = ours(images[0], INTERNAL) or ""  # type: ignore[operator]
        assert theirs.exit_code == 0 and said == theirs.out
    except MetadataError as error:
        assert error.exit_code == theirs.exit_code
    assert images[0].path.read_bytes() == images[1].path.read_bytes()
    return theirs


@pytest.mark.parametrize("seed", range(12))
def test_outdate_invalidate_wipe(tmp_path: Path, seed: int) -> None:
    block = random_block(random.Random(seed), 2048)
    pairs = ((offline.outdate, "outdate"), (offline.invalidate, "invalidate"), (offline.wipe_md, "wipe-md"))
    for ours, command in pairs:
        same_change(tmp_path, block, ours, command)


@pytest.mark.parametrize(
    "text",
    ["1:2:3:4", "1:2:3:4:1:1:1:1:1:1:1", "1:2:3:4:0:0:0:0:0:0:0", ":::5:", "::::1", ":::::0", "0x12:", "abcdef", "",
     "1:2:3:4:1:1:1:1:1:1:1:1", "FFFFFFFFFFFFFFFF:", "1:2:3:4:2", "1;2", "zz:", "12345678901234567:", "1:2:3:4:x"],
)  # fmt: skip
@pytest.mark.parametrize("flags", [0x80, 0x1FF, 0x25])
def test_set_gi(tmp_path: Path, text: str, flags: int) -> None:
    block = Superblock(2048, 0xAA, 0xBB, 0xCC, 0xDD, flags=Flag(flags))
    same_change(tmp_path, block, lambda disk, placement: offline.set_gi(disk, placement, text), "set-gi", text)


def test_set_gi_dry_run_writes_nothing(tmp_path: Path) -> None:
    disk = device(tmp_path, 4096)
    put(disk, INTERNAL, Superblock())
    before = disk.path.read_bytes()
    assert "set GI to  0000000000000001:" in offline.set_gi(disk, INTERNAL, "1", dry_run=True)
    assert disk.path.read_bytes() == before


def test_without_metadata(tmp_path: Path) -> None:
    """Nothing there: every operation says so, none writes."""
    disk = device(tmp_path, 4096)
    for operation in (offline.get_gi, offline.show_gi, offline.dstate, offline.dump_md, offline.outdate,
                      offline.invalidate, offline.apply_al, offline.read_dev_uuid):  # fmt: skip
        with pytest.raises(NoMetadata):
            operation(disk, INTERNAL)
    assert offline.wipe_md(disk, INTERNAL) == "There appears to be no drbd meta data to wipe out?\n"
    assert drbdmeta(disk.path, INTERNAL, "wipe-md").err == ("There appears to be no drbd meta data to wipe out?",)
    assert not any(disk.path.read_bytes())


# --- apply-al ----------------------------------------------------------------------------------------------------


def random_log(rng: random.Random, stripes: int, size: int, extents: int) -> list[bytes]:
    """A ring of transactions as a Primary leaves it, up to wrap-around, sometimes with one torn block."""
    slots = rng.choice((67, 257, 919, 1237, 2000))
    # not across 2**31: drbdmeta compares plain signed numbers there and takes the oldest for the newest
    log = Writer(stripes, size, slots, rng.choice((0, 5, 0xFFFFFFFB, 0x7FFFFF00)))
    for _ in range(rng.choice((0, 1, 3, 8, 9, 30))):
        chosen = rng.sample(range(slots), rng.randint(0, 64))
        fresh = sorted(set(range(extents)) - log.active)  # an extent is never in two slots
        rng.shuffle(fresh)
        log.write([(slot, rng.choice((al.FREE_EXTENT, fresh.pop())) if fresh else al.FREE_EXTENT) for slot in chosen])
    if rng.random() < 0.4:
        victim = rng.randrange(len(log.blocks))
        block = bytearray(log.blocks[victim])
        block[rng.randrange(4, 4096)] ^= 1 << rng.randrange(8)
        log.blocks[victim] = bytes(block)
    return log.blocks


@pytest.mark.parametrize("seed", range(60))
def test_apply_al_marks_the_same_bits(tmp_path: Path, seed: int) -> None:
    """Random logs, bitmaps, flags, placements and geometries: same exit code, same words, same bytes after."""
    rng = random.Random(seed)
    placement = rng.choice((INTERNAL, INTERNAL, FLEXIBLE, INDEX_0))
    stripes, size = (1, 8) if placement.kind is Kind.INDEXED else rng.choice(AL_GEOMETRIES)
    sectors = rng.choice((262_144 + 5, 2_000_001, 9_000_000))
    where = geometry.of(placement, sectors, None, stripes, size)
    la_size = rng.choice((0, 8, 262_144 + 8, min(where.data_sectors, 9_000_000) - 3))
    flags = Flag(rng.getrandbits(9))
    flags = flags | Flag.PRIMARY_IND if rng.random() < 0.8 else flags
    block = random_block(rng, la_size)._replace(flags=flags, al_stripes=stripes, al_stripe_size_4k=size)
    log = random_log(rng, stripes, size, rng.choice((60, 1200)))
    bitmap = rng.randbytes(500)
    images = [device(tmp_path, sectors, name) for name in ("ours", "theirs")]
    for disk in images:
        put(disk, placement, block, bitmap, log)
    ours = offline.apply_al(images[0], placement)
    theirs = drbdmeta(images[1].path, placement, "apply-al")
    assert ours.exit_code == theirs.exit_code, (ours, theirs)
    ours_areas, their_areas = (disk.areas(where, 1 << 18) for disk in images)
    assert ours_areas[0] == their_areas[0] and ours_areas[2] == their_areas[2]
    # drbdmeta leaves a log whose first transaction was torn as it is; ours is always empty afterwards
    assert ours_areas[1] == (b"".join(log) if ours.exit_code else al.initialized_block() * (stripes * size))
    said = [line for line in (*theirs.out.splitlines(), *theirs.err) if "ASSERT" not in line]
    if flags & Flag.PRIMARY_IND:
        assert list(ours.remarks) == sorted(set(said), key=said.index)  # a torn block can show an extent twice


def test_apply_al_forgives_only_what_drbdmeta_forgives(tmp_path: Path) -> None:
    """The log is needed and unreadable: exit 1, nothing changed; with force everything is marked."""
    ruins: dict[str, list[bytes]] = {
        "no-usable-log": [bytes(4096)] * 8,
        "corrupt-only": [al.initialized_block()] * 3 + [b"\x55" * 4096] + [al.initialized_block()] * 4,
    }
    for rule, log in ruins.items():
        disk = device(tmp_path, 262_144)
        put(disk, INTERNAL, Superblock(200_000, flags=Flag.PRIMARY_IND | Flag.CONSISTENT, magic=MAGIC_UNCLEAN), log=log)
        before = disk.path.read_bytes()
        found = offline.apply_al(disk, INTERNAL)
        assert (found.exit_code, found.rule) == (1, rule) and disk.path.read_bytes() == before
        assert drbdmeta(disk.path, INTERNAL, "apply-al").exit_code == 1 and disk.path.read_bytes() == before
        forced = offline.apply_al(disk, INTERNAL, force=True)
        assert (forced.exit_code, forced.rule, forced.marked_bits) == (0, "forced-full", 4096 * 8)
        meta = offline.read_metadata(disk, INTERNAL)
        assert meta.superblock.clean and disk.pread(4096, meta.geometry.bm_offset_bytes) == b"\xff" * 4096


def test_a_ruined_log_under_the_clean_magic_is_not_called_done(tmp_path: Path) -> None:
    """drbdmeta applies nothing here and says clean; a crashed Primary's changes would be forgotten."""
    log = [b"\x55" * 4096] * 8
    ours, theirs = device(tmp_path, 262_144, "ours"), device(tmp_path, 262_144, "theirs")
    for disk in (ours, theirs):
        put(disk, INTERNAL, Superblock(200_000, flags=Flag.PRIMARY_IND, magic=MAGIC_V08), log=log)
    assert drbdmeta(theirs.path, INTERNAL, "apply-al").exit_code == 0
    assert offline.read_metadata(theirs, INTERNAL).superblock.clean
    assert offline.apply_al(ours, INTERNAL).exit_code == 1
    assert not offline.read_metadata(ours, INTERNAL).superblock.clean


def test_a_valid_update_counts_wherever_it_stands(tmp_path: Path) -> None:
    """drbdmeta looks for its magic in the first two blocks only, and under the clean magic then forgets the rest."""
    log = [bytes(4096)] * 2 + [al.pack_transaction(2, [(0, 5)], 0, [], 67)] + [al.initialized_block()] * 5
    for magic, theirs_too in ((MAGIC_UNCLEAN, True), (MAGIC_V08, False)):
        ours, theirs = device(tmp_path, 262_144, "ours"), device(tmp_path, 262_144, "theirs")
        for disk in (ours, theirs):
            put(disk, INTERNAL, Superblock(200_000, flags=Flag.PRIMARY_IND, magic=magic), log=log)
        where = geometry.internal(262_144)
        assert offline.apply_al(ours, INTERNAL).marked_bits == 1024
        assert ours.pread(128, where.bm_offset_bytes + 5 * 128) == b"\xff" * 128
        assert drbdmeta(theirs.path, INTERNAL, "apply-al").exit_code == 0
        assert (theirs.pread(4096, where.bm_offset_bytes) == ours.pread(4096, where.bm_offset_bytes)) == theirs_too


def test_a_log_without_active_extents(tmp_path: Path) -> None:
    log = [al.pack_transaction(0, [(0, 5)], 0, [], 67), al.pack_transaction(1, [(0, al.FREE_EXTENT)], 0, [5], 67)]
    log += [al.initialized_block()] * 6
    ours, theirs = device(tmp_path, 262_144, "ours"), device(tmp_path, 262_144, "theirs")
    for disk in (ours, theirs):
        put(disk, INTERNAL, Superblock(200_000, flags=Flag.PRIMARY_IND, magic=MAGIC_UNCLEAN), log=log)
    assert offline.apply_al(ours, INTERNAL).remarks == drbdmeta(theirs.path, INTERNAL, "apply-al").err
    assert ours.path.read_bytes() == theirs.path.read_bytes()
