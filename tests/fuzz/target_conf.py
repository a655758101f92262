# SPDX-License-Identifier: GPL-2.0-or-later
"""Target of the configuration: any text, any includes: a configuration, or one line that says where."""

from __future__ import annotations

import fnmatch
import re

from replblock.conf import ConfigError, dump, load
from tests.fuzz.feed import Feed

MAIN = "/etc/drbd.conf"
MOST_READ = 5000
"""Files one load may open: as many as it allows itself, and a few."""
WHERE = re.compile(r"[^\n]+?(:[0-9]+)?: [^\n]+")


def loads_or_says_where(files: dict[str, bytes], dialect: str | None) -> None:
    read = 0

    def reader(path: str) -> bytes:
        nonlocal read
        read += 1
        assert read < MOST_READ, "includes without end"
        if "\0" in path:
            raise ValueError("embedded null byte")
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    def finder(pattern: str) -> list[str]:
        return sorted(name for name in files if fnmatch.fnmatchcase(name, pattern))

    try:
        found = load(MAIN, reader, finder, dialect)
        for resource in found.resources.values():
            for host in ("alpha", "beta", "node-a"):
                try:
                    resource.view(host, ["10.1.1.31"]).unused()
                except ConfigError as error:
                    _one_line(error)
        text = dump(found, "alpha", dialect="8.4")
    except ConfigError as error:
        _one_line(error)
        return
    assert text.startswith("# ")


def _one_line(error: ConfigError) -> None:
    text = str(error)
    assert text.isprintable() and len(text) < 1000 and WHERE.fullmatch(text), text


def conf(data: bytes) -> None:
    """The first byte picks a dialect; a line of dashes begins another file, f1, f2 …"""
    feed = Feed(data)
    dialect = feed.one_of((None, None, "8.3", "8.4"))
    parts = feed.rest(1 << 20).split(b"\n----\n")
    names = [MAIN, *(f"/etc/f{number}" for number in range(1, len(parts)))]
    loads_or_says_where(dict(zip(names, parts)), dialect)
