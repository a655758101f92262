# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading the files: search path, `include`, standard input. The only place of this room that opens anything."""

from __future__ import annotations

import glob
import os.path
import sys
from collections.abc import Callable

from .errors import ConfigError, printable
from .lexer import MAX_FILE_BYTES, tokens
from .tree import Statement, parse_tree
from .values import plain

Reader = Callable[[str], bytes]
Finder = Callable[[str], list[str]]

MAX_FILES = 4096        # a pattern that matches more was meant for something else
MAX_INCLUDE_DEPTH = 64
STDIN = "-"
STDIN_NAME = "STDIN"    # what drbdadm calls it too


def default_paths() -> tuple[str, ...]:
    """Where a configuration is looked for, in this order."""
    return tuple(f"/etc/{name}" for name in
                 ("drbd-84.conf", "drbd-83.conf", "drbd-82.conf", "drbd-08.conf", "drbd.conf"))


def read_file(path: str) -> bytes:
    """The default reader; "-" is standard input. Reads no more than a configuration can be long."""
    if path == STDIN:
        return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    with open(path, "rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def find_files(pattern: str) -> list[str]:
    """The default finder of include patterns: what matches, sorted."""
    return sorted(glob.glob(pattern))


class Files:
    """One reading of a configuration with everything it includes."""

    def __init__(self, reader: Reader, finder: Finder, dialect: str | None) -> None:
        self._reader = reader
        self._finder = finder
        self._dialect = dialect
        self.read: list[str] = []
        self._seen: set[str] = set()

    def statements(self, path: str) -> list[Statement]:
        """The top-level statements of the file and of those it includes, in the order they apply."""
        return self._file(path, None, 0)

    def _file(self, path: str, included_by: Statement | None, depth: int) -> list[Statement]:
        name = STDIN_NAME if path == STDIN else path
        self._seen.add(os.path.normpath(path))
        data = self._data(path, name, included_by)
        self.read.append(name)
        found: list[Statement] = []
        for statement in parse_tree(tokens(data, name, self._dialect), name):
            if statement.keyword == "include":
                found.extend(self._included(statement, path, depth + 1))
            else:
                found.append(statement)
        return found

    def _data(self, path: str, name: str, included_by: Statement | None) -> bytes:
        try:
            return self._reader(path)
        except OSError as error:
            reason = error.strerror or str(error)
        except ValueError as error:  # a name no file can have
            reason = str(error)
        if included_by is not None:
            raise included_by.error(f"cannot read included file '{printable(path)}': {reason}")
        raise ConfigError(name, 0, f"cannot read the configuration: {reason}")

    def _included(self, statement: Statement, including: str, depth: int) -> list[Statement]:
        words = statement.words
        if statement.block is not None or len(words) != 2:
            raise statement.error("include takes one file name or pattern; expected include \"FILE\";")
        if depth > MAX_INCLUDE_DEPTH:
            raise statement.error(f"includes nested deeper than {MAX_INCLUDE_DEPTH} files")
        wanted = plain(statement, words[1], "a file name or pattern")
        pattern = os.path.join(os.path.dirname(including), wanted) if including != STDIN else wanted
        found = self._matches(statement, pattern, wanted)
        statements: list[Statement] = []
        for path in found:
            if os.path.normpath(path) in self._seen:  # a file counts once, so files may include each other
                continue
            if len(self._seen) >= MAX_FILES:
                raise statement.error(f"more than {MAX_FILES} files included")
            statements.extend(self._file(path, statement, depth))
        return statements

    def _matches(self, statement: Statement, pattern: str, wanted: str) -> list[str]:
        if any(character in wanted for character in "*?["):
            return self._finder(pattern)
        if not wanted:
            raise statement.error("include of an empty file name")
        return [pattern]
