# SPDX-License-Identifier: GPL-2.0-or-later
"""What drbdmeta 9.22 prints about v08 metadata, byte for byte (its output is what scripts parse)."""
from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replblock.meta.errors import MetadataError
from replblock.meta.geometry import Geometry
from replblock.meta.superblock import Flag, Superblock

# order of the seven digits of a generation identifier string
GI_FLAGS = (Flag.CONSISTENT, Flag.WAS_UP_TO_DATE, Flag.PRIMARY_IND, Flag.CONNECTED_IND, Flag.FULL_SYNC,
            Flag.PEER_OUT_DATED, Flag.CRASHED_PRIMARY)
GI_UUIDS = ("uuid_current", "uuid_bitmap", "uuid_history0", "uuid_history1")

_GI_HEADING = """
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
"""
# one meaning for each digit, aligned so that the arrows end below it
_GI_LEGEND = (
    (38, "Data consistency flag"),
    (29, "Data was/is currently up-to-date"),
    (34, "Node was/is currently primary"),
    (34, "Node was/is currently connected"),
    (9, "Node was in the progress of setting all bits in the bitmap"),
    (24, "The peer's disk was out-dated or inconsistent"),
    (6, "This node was a crashed primary, and has not seen its peer since "),
)
_GI_FIRST_DIGIT_COLUMN = 68
_UNITS = ("KB", "MB", "GB", "TB", "PB", "EB")
_UNCLEAN_DUMP = ("This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.\n"
                 '# You should "apply-al" first, if you plan to restore this.\n\n')
_ROW = struct.Struct("<4Q")
_ROW_BYTES = _ROW.size
_ROW_KIB = 8 * _ROW_BYTES * 4  # KiB of data a row stands for
_ROWS_PER_MARK = 8             # every 8 MiB of data the dump says where it is
_STRIDES = (4096, 64, 1)       # rows


class DumpHeader(NamedTuple):
    """The three things in a dump that are not in the metadata: drbdmeta prints ``# HOST> COMMAND``."""

    stamp: str = ""    # "2026-11-22 14:53:46 +0000 [1795359226]"
    host: str = ""
    command: str = ""


def gi_line(block: Superblock) -> str:
    """``get-gi``: four UUIDs and seven digits, colon-separated, without newline."""
    uuids = (block.uuid_current, block.uuid_bitmap, block.uuid_history0, block.uuid_history1)
    return ":".join((*(f"{uuid:016X}" for uuid in uuids), *("1" if flag in block.flags else "0" for flag in GI_FLAGS)))


def parse_gi(text: str, block: Superblock) -> Superblock:
    """``set-gi``: the block with what the string says; empty and missing fields keep their value.

    Fields beyond the eleventh are ignored, as drbdmeta does. Raises MetadataError on anything else.
    """
    fields = text.split(":")
    uuids = {name: _uuid(field) for name, field in zip(GI_UUIDS, fields[:4], strict=False) if field}
    flags = block.flags
    for flag, field in zip(GI_FLAGS, fields[4:], strict=False):
        if field not in ("", "0", "1"):
            raise MetadataError(f"'{_shown(field)}' is not 0 or 1.", rule="bad-gi", exit_code=10)
        if field:
            flags = flags | flag if field == "1" else flags.without(flag)
    return block._replace(**uuids, flags=flags)


def _uuid(field: str) -> int:
    try:
        value = int(field, 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64 or "_" in field:
        raise MetadataError(f"'{_shown(field)}' is not a number of up to 16 hexadecimal digits", rule="bad-gi",
                            exit_code=10)
    return value


def _shown(field: str) -> str:
    """Somebody's argument in an error of one line: nothing a terminal would obey, and not pages of it."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in field[:41])
    return text if len(field) <= 40 else text + "..."


def disk_state(block: Superblock) -> str:
    """``dstate`` without a running node: what the flags alone allow to say."""
    if Flag.CONSISTENT not in block.flags:
        return "Inconsistent"
    if Flag.WAS_UP_TO_DATE not in block.flags:
        return "Outdated"
    return "UpToDate" if Flag.PEER_OUT_DATED in block.flags else "Consistent"


def size_text(kib: int) -> str:
    """KiB as drbdmeta rounds it for humans: at most four digits and a unit."""
    unit = 0
    while kib >= 10_000 and unit < len(_UNITS) - 1:
        kib = (kib >> 10) + (kib >> 9 & 1)
        unit += 1
    return f"{kib} {_UNITS[unit]}"


def truncation_note(claimed_sectors: int, usable_sectors: int) -> str:
    """The line drbdmeta puts before everything else when the agreed size cannot be."""
    return f"# la-size-sect was too big ({claimed_sectors}), truncated ({usable_sectors})!\n"


def show_gi_text(block: Superblock) -> str:
    """``show-gi``: the identifier with its legend, then flags, cleanness and size in words."""
    lines = [_GI_HEADING + gi_line(block), " " * _GI_FIRST_DIGIT_COLUMN + " ".join("^" * len(GI_FLAGS))]
    for i, (indent, meaning) in enumerate(_GI_LEGEND):
        arms = "--+" + " |" * (len(_GI_LEGEND) - 1 - i)
        lines.append(f"{' ' * indent}-<  {meaning}  >{arms}")
    lines += ["", _flags_in_words(block), f"meta-data: {'clean' if Flag.AL_CLEAN in block.flags else 'need apply-al'}"]
    if block.la_size_sectors:
        lines.append(f"last agreed size: {size_text(block.la_size_sectors >> 1)} ({block.la_size_sectors} sectors)")
        lines.append(f"last agreed max bio size: {block.la_peer_max_bio_size_bytes} Byte")
    else:
        lines.append("zero size device -- never seen peer yet?")
    return "\n".join(lines) + "\n"


def _flags_in_words(block: Superblock) -> str:
    flags = block.flags
    if Flag.CONSISTENT not in flags:
        disk = "Inconsistent"
    else:
        disk = "UpToDate" if Flag.WAS_UP_TO_DATE in flags else "Outdated"
    return "".join((
        "flags:",
        " crashed" if Flag.CRASHED_PRIMARY in flags else "",
        " Primary" if Flag.PRIMARY_IND in flags else " Secondary",
        ", Connected" if Flag.CONNECTED_IND in flags else ", StandAlone",
        f", {disk}",
        ", need full sync" if Flag.FULL_SYNC in flags else "",
        ", peer Outdated" if Flag.PEER_OUT_DATED in flags else "",
    ))


def dump_text(block: Superblock, where: Geometry, bitmap: Iterable[bytes], bm_bytes: int, header: DumpHeader,
              show_flags: bool) -> Iterator[str]:
    """``dump-md`` in pieces. ``bitmap`` are chunks of 4 KiB blocks, ``bm_bytes`` in all.

    drbdmeta 9.22 always prints flags 0x00000000 for v08; ``show_flags`` prints the real ones instead.
    """
    flags = int(block.flags) if show_flags else 0
    bio_size = block.la_peer_max_bio_size_bytes
    yield (f"# DRBD meta data dump\n# {header.stamp}\n# {header.host}> {header.command}\n#\n\n"
           'version "v08";\n\n'
           f"{'' if block.clean else _UNCLEAN_DUMP}"
           f"# md_size_sect {block.md_size_sectors}\n"
           f"# md_offset {where.superblock_offset_bytes}\n"
           f"# al_offset {where.al_offset_bytes}\n"
           f"# bm_offset {where.bm_offset_bytes}\n\n"
           "uuid {\n"
           f"    0x{block.uuid_current:016X}; 0x{block.uuid_bitmap:016X}; "
           f"0x{block.uuid_history0:016X}; 0x{block.uuid_history1:016X};\n"
           f"    flags 0x{flags:08X};\n"
           "}\n"
           f"# al-extents {block.al_nr_extents};\n"
           f"la-size-sect {block.la_size_sectors};\n"
           f"bm-byte-per-bit {block.bm_bytes_per_bit};\n"
           f"device-uuid 0x{block.device_uuid:016X};\n"
           f"la-peer-max-bio-size {bio_size - (1 << 32) if bio_size >> 31 else bio_size};\n"  # printed as signed
           f"al-stripes {block.al_stripes};\n"
           f"al-stripe-size-4k {block.al_stripe_size_4k};\n"
           f"# bm-bytes {bm_bytes};\n"
           "bm {\n")
    bits = 0
    printer = _BitmapPrinter()
    for chunk in bitmap:
        bits += int.from_bytes(chunk, "little").bit_count()
        yield "".join(printer.feed(chunk))
    yield printer.finish()
    yield f"}}\n# bits-set {bits};\n"


class _BitmapPrinter:
    """Rows of four 64-bit words; two or more equal rows of one repeated word become a single ``N times`` line.

    drbdmeta compares 32-bit halves, so a word of two different halves is never joined.
    """

    def __init__(self) -> None:
        self._row_bytes = b""      # the repeated row that may still go on
        self._rows = 0
        self._printed = 0          # rows printed

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Text of all rows that are certain. ``chunk`` is a whole number of rows."""
        at = 0
        while at < len(chunk):
            row = chunk[at:at + _ROW_BYTES]
            if row != self._row_bytes:
                yield self.finish()
            if row == row[:4] * 8:
                self._row_bytes = row
                rows = _repetitions(chunk, at, row)
                self._rows += rows
                at += rows * _ROW_BYTES
            else:
                yield self._mark() + _row_text(row)
                self._printed += 1
                at += _ROW_BYTES

    def finish(self) -> str:
        """Text of the repeated rows held back."""
        text = ""
        if self._rows == 1:
            text = self._mark() + _row_text(self._row_bytes)
        elif self._rows:
            text = f"{self._mark()}    {4 * self._rows} times 0x{int.from_bytes(self._row_bytes[:8], 'little'):016X};\n"
        self._printed += self._rows
        self._row_bytes, self._rows = b"", 0
        return text

    def _mark(self) -> str:
        if self._printed % _ROWS_PER_MARK:
            return ""
        return f"   # at {self._printed * _ROW_KIB}kB\n"


def _row_text(row: bytes) -> str:
    return "    " + " ".join(f"0x{word:016X};" for word in _ROW.unpack(row)) + "\n"


def _repetitions(chunk: bytes, at: int, row: bytes) -> int:
    """How often ``row`` stands in ``chunk`` from ``at`` on; large strides first, so long runs cost little."""
    start = at
    for stride in _STRIDES:
        pattern = row * stride
        while chunk.startswith(pattern, at):
            at += len(pattern)
    return (at - start) // len(row)
