# SPDX-License-Identifier: GPL-2.0-or-later
"""dump-md's text read back: what was printed comes in again, and nothing else than MetadataError comes out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.meta.dump_reader import looks_like_text, read_dump
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import internal
from replblock.meta.superblock import Flag, Superblock
from replblock.meta.texts import DumpHeader, dump_text, gi_line

WHERE = internal(65536)
uuids = st.integers(0, (1 << 64) - 1)


def text_of(block: Superblock, bitmap: bytes, show_flags: bool = False) -> str:
    header = DumpHeader("now", "alfa", "replctl dump-md r0")
    return "".join(dump_text(block, WHERE, [bitmap], len(bitmap), header, show_flags))


@given(st.tuples(uuids, uuids, uuids, uuids), st.integers(0, 0x1FF), st.integers(0, 1 << 32), st.booleans())
def test_what_is_printed_is_read(four: tuple[int, int, int, int], flags: int, seed: int, show: bool) -> None:
    """UUIDs, flags (shown, or by get-gi), size and number of bits."""
    rng = random.Random(seed)
    bitmap = b"".join(rng.choice([bytes(32), b"\xff" * 32, rng.randbytes(32)]) * 8 for _ in range(16))
    digits = 0x7F & flags       # what get-gi has digits for
    block = Superblock(32768, *four, flags=Flag(flags if show else digits))
    text = text_of(block, bitmap, show) + ("" if show else gi_line(block) + "\n")
    found = read_dump(text.splitlines())
    assert found.superblock[:5] == block[:5] and found.superblock.flags == block.flags
    assert found.marked_blocks == int.from_bytes(bitmap, "little").bit_count()
    assert (found.blocks, found.host) == (4096, "alfa")
    assert looks_like_text(text.encode())


@given(st.data())
def test_a_damaged_dump_is_a_sentence(data: st.DataObject) -> None:
    """Any edit of a dump: it is read, or refused with MetadataError."""
    text = text_of(Superblock(32768), bytes(4096))
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    edited = text[:at] + data.draw(st.text(max_size=12)) + text[at + length:]
    try:
        read_dump(edited.splitlines())
    except MetadataError as error:
        assert error.text and error.rule


def test_a_number_may_begin_with_zeros() -> None:
    """As in any text edited by hand; 0x is what tells the base."""
    text = text_of(Superblock(32768), bytes(4096)).replace("la-size-sect 32768", "la-size-sect 00032768")
    assert "00032768" in text and read_dump(text.splitlines()).superblock.la_size_sectors == 32768


@pytest.mark.parametrize("head", [b"", bytes(512), b"\x7fELF", b"resource r0 {"])
def test_a_disk_is_no_text(head: bytes) -> None:
    assert not looks_like_text(head)


def test_a_disk_that_was_never_in_use_is_marked_completely() -> None:
    """An attach takes all of it as different; internal metadata tell how much that is."""
    found = read_dump(text_of(Superblock(), bytes(4096)).splitlines())
    assert found.blocks == found.marked_blocks == -(-WHERE.data_sectors // 8) and found.flags_known
