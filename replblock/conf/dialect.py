# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this an 8.3 or an 8.4 configuration? That decides which words are known and whose defaults apply.

The rule, over all files of a configuration together:

1. the file's name decides if it is drbd-84.conf, drbd-83.conf, drbd-82.conf or drbd-08.conf;
2. otherwise anything only 8.4 can read makes it 8.4: sections `options` and `volume`, an option in its 8.4 section
   (`net { protocol }`, `disk { resync-rate }`), `yes` or `no` after a switch, `meta-disk DEVICE;` without an index;
3. otherwise anything only 8.3 wrote makes it 8.3: a `syncer` section, or a `no-…` switch;
4. otherwise it is 8.4. `protocol` beside the sections says nothing: both take it.

8.4 reads every 8.3 spelling, so a file of both kinds is an 8.4 file with old words in it.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .tree import Statement
from .vocabulary import WORDS

NAMES = {"drbd-84.conf": "8.4", "drbd-83.conf": "8.3", "drbd-82.conf": "8.3", "drbd-08.conf": "8.3"}


class Mark(NamedTuple):
    """A statement that tells the dialect, and the words that say so."""

    dialect: str
    statement: Statement
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.statement.file}:{self.statement.line}"


def detect(path: str, statements: list[Statement]) -> tuple[str, str]:
    """("8.3" or "8.4", why)."""
    base = os.path.basename(path)
    if base in NAMES:
        return NAMES[base], f"the name {base}"
    old: Mark | None = None
    for mark in marks(statements):
        if mark.dialect == "8.4":
            return "8.4", str(mark)
        old = old or mark
    return ("8.3", str(old)) if old else ("8.4", "nothing in the files tells; 8.4 is assumed")


def marks(statements: list[Statement]) -> Iterator[Mark]:
    for statement in statements:
        if statement.block is None:
            continue
        if statement.keyword in ("common", "resource"):
            for child in statement.block:
                yield from _resource_marks(child)
        elif statement.keyword == "global":
            yield from _option_marks("global", statement.block)


def _resource_marks(child: Statement) -> Iterator[Mark]:
    if child.keyword in ("options", "volume") and child.block is not None:
        yield Mark("8.4", child, f"'{child.keyword}'")
        return
    if child.keyword == "syncer" and child.block is not None:
        yield Mark("8.3", child, "'syncer'")
    yield from _meta_disk_mark(child)
    if child.block is None:
        return
    if child.keyword in ("on", "floating", "stacked-on-top-of"):
        for part in child.block:
            if part.block is not None and part.keyword in ("options", "volume", "disk"):
                yield Mark("8.4", part, f"'{part.keyword}' in a host section")
            yield from _meta_disk_mark(part)
    elif child.keyword in READERS:
        yield from READERS[child.keyword](child.keyword, child.block)


def _meta_disk_mark(child: Statement) -> Iterator[Mark]:
    if child.keyword == "meta-disk" and len(child.words) == 2 and child.words[1].text != "internal":
        yield Mark("8.4", child, "'meta-disk' without an index")


def _option_marks(section: str, block: list[Statement]) -> Iterator[Mark]:
    new, old = WORDS["8.4"][section], WORDS["8.3"][section]
    for statement in block:
        spelling = new.get(statement.keyword)
        if spelling is not None and spelling.negated:
            yield Mark("8.3", statement, f"'{statement.keyword}'")
        elif spelling is not None and spelling.option.kind == "bool" and len(statement.words) > 1:
            yield Mark("8.4", statement, f"'{statement.text()}'")
        elif spelling is not None and statement.keyword not in old:
            yield Mark("8.4", statement, f"'{section} {{ {statement.keyword} }}'")


def _syncer_marks(section: str, block: list[Statement]) -> Iterator[Mark]:
    for statement in block:
        spelling = WORDS["8.3"][section].get(statement.keyword)
        if spelling is not None and spelling.option.kind == "bool" and len(statement.words) > 1:
            yield Mark("8.4", statement, f"'{statement.text()}'")


READERS: dict[str, Callable[[str, list[Statement]], Iterator[Mark]]] = {
    "net": _option_marks, "disk": _option_marks, "startup": _option_marks, "handlers": _option_marks,
    "proxy": _option_marks, "syncer": _syncer_marks,
}
