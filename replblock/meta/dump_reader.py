# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of `dump-md` (drbdmeta's or ours) read back: what an admin can copy from a node by ssh.

drbdmeta prints `flags 0x00000000` for v08, so the text may be followed or preceded by the line of `get-gi`, which has
the flags as digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from replblock.meta.errors import MetadataError
from replblock.meta.superblock import UUID_JUST_CREATED, Flag, Superblock
from replblock.meta.texts import parse_gi

SECTOR_BYTES = 512
PLAIN_MASK = ~1

_UUIDS = re.compile(r"0x([0-9A-Fa-f]{16});\s*" * 4 + r"$")
_GI = re.compile(r"(?:[0-9A-Fa-f]{16}:){4}(?:[01]:){6}[01]:?$")
_NUMBER = re.compile(r"(?:# *)?([a-z][a-z0-9_-]*)\s+(?:0x([0-9A-Fa-f]{1,16})|([0-9]{1,20}));?$")
_HOST = re.compile(r"# (\S+)> ")
_WORDS = re.compile(r"(?:([0-9]{1,20}) times )?((?:0x[0-9A-Fa-f]{16};\s*)+)$")


class Dumped(NamedTuple):
    """`blocks`: of the device, 0 if the text does not tell; `flags_known`: they came from get-gi or are not all 0."""

    superblock: Superblock
    marked_blocks: int
    blocks: int
    clean: bool
    flags_known: bool
    host: str


def looks_like_text(head: bytes) -> bool:
    """Is this the beginning of such a text, and not of a disk?"""
    return b"\0" not in head and (b"DRBD meta data dump" in head or b'version "v' in head or _has_gi(head))


def _has_gi(head: bytes) -> bool:
    return any(_GI.match(line.strip()) for line in head.decode("ascii", "replace").splitlines())


def read_dump(lines: Iterable[str]) -> Dumped:
    """Raises MetadataError that names the line. Large bitmaps are read line by line."""
    uuids: tuple[int, ...] = ()
    numbers: dict[str, int] = {}
    gi = host = version = ""
    section = ""
    marked, clean, closed = 0, True, False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if section == "bm":
            if text == "}":
                section, closed = "", True
            elif text and not text.startswith("#"):
                marked += _bits(text, number)
            continue
        if match := _HOST.match(text):
            host = match[1]
        elif text.startswith("version "):
            version = text.removeprefix("version ").strip('";')
            if version != "v08":
                raise MetadataError(f"line {number}: metadata of version {version}, only v08 can be compared",
                                    rule="dump-version")
        elif text.startswith("This_is_an_unclean"):
            clean = False
        elif text in ("uuid {", "bm {"):
            section = text[:-2]
        elif text == "}":
            section = ""
        elif match := _UUIDS.match(text):
            uuids = tuple(int(word, 16) for word in match.groups())
        elif _GI.match(text):
            gi = text.rstrip(":")
        elif match := _NUMBER.match(text):
            numbers[match[1]] = int(match[2], 16) if match[2] else int(match[3])
    return _dumped(uuids, numbers, gi, host, version, marked, clean, closed)


def _bits(text: str, number: int) -> int:
    match = _WORDS.match(text)
    if match is None:
        raise MetadataError(f"line {number}: not a line of a bitmap: {text[:40]}", rule="dump-bitmap")
    words = match[2].replace(";", " ").split()
    return int(match[1] or 1) * sum(int(word, 16).bit_count() for word in words)


def _dumped(uuids: tuple[int, ...], numbers: dict[str, int], gi: str, host: str, version: str, marked: int,
            clean: bool, closed: bool) -> Dumped:
    if gi and not version:
        raise MetadataError("get-gi tells the generations, but not how many blocks are marked as different",
                            rule="dump-gi-only", advice=("add the output of dump-md to the file",))
    if not version or len(uuids) != 4 or "la-size-sect" not in numbers:
        raise MetadataError("not the output of dump-md: version, uuid or la-size-sect is missing",
                            rule="dump-incomplete")
    if not closed:
        raise MetadataError("the dump ends within the bitmap: it was cut off", rule="dump-cut-off")
    block = Superblock(numbers["la-size-sect"], *uuids, flags=Flag(numbers.get("flags", 0)))
    if gi:
        told = parse_gi(gi, block)
        if told[1:5] != uuids:
            raise MetadataError("the line of get-gi and the dump are not of the same moment: other generations",
                                rule="dump-mixed")
        block = told
    fresh = block.uuid_current & PLAIN_MASK == UUID_JUST_CREATED
    blocks = -(-(block.la_size_sectors or _internal_data_sectors(numbers)) // 8)
    if not block.la_size_sectors:
        marked = blocks     # an attach takes all of a device that was never in use as different
    return Dumped(block, marked, blocks, clean, bool(gi or block.flags or fresh), host)


def _internal_data_sectors(numbers: dict[str, int]) -> int:
    """With internal metadata the bitmap begins where the data ends."""
    bitmap, superblock = numbers.get("bm_offset", 0), numbers.get("md_offset", 0)
    return bitmap // SECTOR_BYTES if bitmap < superblock else 0
