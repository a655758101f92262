# SPDX-License-Identifier: GPL-2.0-or-later
"""What `explain --images` can read: a disk or an image of one, the text of dump-md, the JSON of another node's explain,
or a resource of this node. Nothing is written, and nothing is locked.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from replblock.cli.blockdev import BlockDevice
from replblock.cli.errors import CANNOT, REFUSED, Stop
from replblock.cli.run import Run, Target
from replblock.meta import dump_reader
from replblock.meta.blockdev import read_padded
from replblock.meta.errors import MetadataError
from replblock.meta.geometry import FLEXIBLE, INTERNAL, Kind, Placement
from replblock.meta.offline import read_metadata
from replblock.meta.recovery import bits_of, recover
from replblock.meta.superblock import Flag, Superblock
from replblock.status.explain import SCHEMA, node_of_metadata

HEAD_BYTES = 65536
_PLACED = re.compile(r"(.+)\[(\d+|internal|flexible)\]$")
_NODE_KEYS = frozenset({"name", "uuids", "marked-blocks", "disk", "role", "crashed-primary"})


class Source(NamedTuple):
    """One metadata set: a node of a fact table, the blocks of its device (0: not known), and what must be said."""

    node: dict[str, Any]
    blocks: int
    notes: tuple[str, ...] = ()


def read_source(run: Run, word: str, fencing: str) -> Source:
    """Raises Stop with one clear line."""
    if word == "-":
        return _from_stream(sys.stdin.buffer, word, "standard input", fencing)
    match = None if os.path.exists(word) else _PLACED.match(word)
    path, placed = (match[1], match[2]) if match else (word, "")
    if not os.path.exists(path):
        return _from_resource(run, word, fencing)
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode)):
        raise Stop(CANNOT, f"{path}: neither a file nor a block device", "see: replctl help explain")
    if not placed and not stat.S_ISBLK(mode):
        try:
            with open(path, "rb") as file:
                if stat.S_ISFIFO(mode) or _is_text(file.peek(HEAD_BYTES)[:HEAD_BYTES]):
                    return _from_stream(file, path, path, fencing)
        except OSError as error:
            raise Stop(CANNOT, f"open({path}) failed: {error.strerror}", f"look at it: ls -l {path}") from None
    return _from_device(path, placed, _label(path), fencing)


def _label(path: str) -> str:
    """A name short enough for the columns."""
    name = os.path.basename(path) or path
    return name if len(name) <= 24 else f"{name[:11]}..{name[-11:]}"


# ---- text


def _is_text(head: bytes) -> bool:
    return head.lstrip()[:1] in (b"[", b"{") or dump_reader.looks_like_text(head)


def _from_stream(stream: Any, label: str, named: str, fencing: str) -> Source:
    head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if not _is_text(head):
        raise Stop(REFUSED, f"{named}: neither the output of dump-md nor of explain --json",
                   "see: replctl help explain")
    if head.lstrip()[:1] in (b"[", b"{"):
        return _from_json(stream.read(), named)
    try:
        dump = dump_reader.read_dump(io.TextIOWrapper(stream, errors="replace"))
    except MetadataError as error:
        raise Stop(REFUSED, f"{named}: {error.text}", *(error.advice or ("see: replctl help explain",))) from None
    notes = []
    if not dump.clean:
        notes.append(f"{named} is an unclean dump: what only stands in the activity log is missing, so more may be "
                     "marked than counted. Dump again after: replctl apply-al RES")
    if not dump.flags_known:
        notes.append(f"{named} does not tell the flags (drbdmeta prints none): taken as UpToDate and not crashed. Put "
                     "the line of get-gi into the same file to be exact.")
    name = dump.host or ("stdin" if label == "-" else _label(label))
    return _of(dump.superblock, name, dump.marked_blocks, dump.blocks, fencing, notes, dump.flags_known)


def _of(
    block: Superblock, name: str, marked: int, blocks: int, fencing: str, notes: list[str], flags_known: bool = True
) -> Source:
    uuids = (block.uuid_current, block.uuid_bitmap, block.uuid_history0, block.uuid_history1)
    node = node_of_metadata(name, uuids, int(block.flags), marked, blocks, fencing, flags_known)
    return Source(node, blocks, tuple(notes))


def _from_json(text: bytes, named: str) -> Source:
    """Another node's `explain --json`: what it says of itself."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Stop(REFUSED, f"{named}: not JSON: {error}", "make it with: replctl explain --json RES") from None
    one = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(one, dict) or one.get("schema") != SCHEMA:
        raise Stop(REFUSED, f"{named}: not one resource of schema {SCHEMA}", "make it with: replctl explain --json RES")
    node = one.get("here")
    if one.get("from") != "live" or not isinstance(node, dict) or not node.keys() >= _NODE_KEYS:
        raise Stop(REFUSED, f"{named}: it does not tell about a running node's own disk",
                   "make it with: replctl explain --json RES")
    try:
        keys = (*_NODE_KEYS, "went-on-alone", "lost-writes", "since-ms", "not-before-ms")
        kept = {key: node[key] for key in keys if key in node}
        [int(uuid, 16) for uuid in kept["uuids"]]
        return Source({**kept, "role": "Secondary"}, int(one.get("blocks") or 0))
    except (TypeError, ValueError):
        raise Stop(REFUSED, f"{named}: damaged, its generations are {node['uuids']!r}",
                   "make it with: replctl explain --json RES") from None


# ---- disks


@contextmanager
def _sentences(path: str) -> Iterator[None]:
    try:
        yield
    except MetadataError as error:
        raise Stop(error.exit_code, f"{path}: neither a dump of metadata nor metadata: {error.text}", *error.advice,
                   "if it is external metadata, say where it lies: FILE[flexible] or FILE[INDEX]") from None
    except OSError as error:
        raise Stop(CANNOT, f"{path}: {error.strerror}", "the kernel's log may say more: dmesg | tail") from None


def _from_device(path: str, placed: str, name: str, fencing: str) -> Source:
    if placed.isdigit():
        places = [Placement(Kind.INDEXED, int(placed))]
    else:
        places = {"internal": [INTERNAL], "flexible": [FLEXIBLE]}.get(
            placed, [INTERNAL, FLEXIBLE, Placement(Kind.INDEXED, 0)])
    with BlockDevice(path, False, "disk", shared=True) as device, _sentences(path):
        first: MetadataError | None = None
        for placement in places:
            try:
                return _read(device, placement, name, path, fencing)
            except MetadataError as error:
                first = first or error
        assert first is not None
        raise first


def _read(device: BlockDevice, placement: Placement, name: str, path: str, fencing: str) -> Source:
    block, where, _note = read_metadata(device, placement)
    notes: list[str] = []
    if not block.la_size_sectors:
        blocks = bits_of(where.data_sectors) if placement.kind is Kind.INTERNAL else 0
        return _of(block, name, blocks, blocks, fencing, notes)
    found = recover(lambda at, length: read_padded(device, length, at), where, block, block.la_size_sectors)
    if found.replayed_extents or not found.log_usable:
        what = "cannot be read: every block counts as different" if not found.log_usable else "is counted in"
        notes.append(f"{path} was not shut down in order (or is in use): its activity log {what}.")
    if block.flags & Flag.FULL_SYNC:
        notes.append(f"{path} was told to be copied completely (invalidate) and has not been yet.")
    return _of(block, name, found.bitmap.count, found.bitmap.bits, fencing, notes)


# ---- resources of this node


def _from_resource(run: Run, word: str, fencing: str) -> Source:
    name, _, number = word.partition("/")
    if not name or ("/" in word and not number.isdigit()):
        raise Stop(CANNOT, f"{word}: no such file", "see: replctl help explain")
    try:
        view = run.view(name)
    except Stop:
        raise Stop(CANNOT, f"{word}: no such file, and no resource of this node is called so",
                   "see: replctl help explain") from None
    if run.is_up(name):
        from replblock.cli.control import status_of
        from replblock.cli.explain import facts_of

        facts = facts_of(run, status_of(run, name))
        if facts["here"] is None:
            raise Stop(REFUSED, f"{name}: no disk is attached, so there are no generations",
                       f"run: replctl attach {name}")
        return Source({**facts["here"], "role": "Secondary"}, facts["blocks"])
    from replblock.cli.metadata import placement_of

    target = Target(name, int(number) if number else min(view.volumes))
    path, placement = placement_of(run.volumes(target)[0])
    if not os.path.exists(path):
        raise Stop(CANNOT, f"{path}: the disk of {target} is not there", f"see: replctl sh-ll-dev {name}")
    placed = {Kind.INTERNAL: "internal", Kind.FLEXIBLE: "flexible"}.get(placement.kind, str(placement.slot))
    return _from_device(path, placed, run.host, fencing)

