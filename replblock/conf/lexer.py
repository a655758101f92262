# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes of a configuration file -> tokens.

Lexical rules of drbd.conf(5), as drbdadm 8.3 and 8.4 apply them: `#` comments, bare words of
[A-Za-z0-9/._-], "quoted strings" with backslash escapes on one line, single marks { } [ ] : ;
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .errors import ConfigError, shown

MAX_FILE_BYTES = 4 << 20  # a configuration beyond this is some other file, given by mistake
MAX_WORD_CHARACTERS = {"8.3": 80, "8.4": 128}
MAX_STRING_CHARACTERS = 255

TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*")
      | (?P<ipv6>[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9._-]+)?)
      | (?P<word>[A-Za-z0-9/._-]+)
      | (?P<mark>[{}\[\]:;])
      | (?P<junk>.)""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
BARE = re.compile(r"[A-Za-z0-9/._-]{1,80}")


class Token(NamedTuple):
    """One token. `kind`: "word", "string", "ipv6", "junk", or the mark itself ("{", ";" ...)."""

    kind: str
    text: str
    line: int


def tokens(data: bytes, file: str, dialect: str | None = None) -> Iterator[Token]:
    """The tokens of one file. Raises ConfigError for what no token can be made of."""
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(file, 0, f"larger than {MAX_FILE_BYTES >> 20} MiB; this is not a drbd.conf")
    text = data.decode("utf-8", "surrogateescape")
    nul = text.find("\0")
    if nul >= 0:
        raise ConfigError(file, text.count("\n", 0, nul) + 1, "binary data (a zero byte); this is not a drbd.conf")
    max_word = MAX_WORD_CHARACTERS[dialect or "8.4"]
    line = 1
    for match in TOKEN.finditer(text):
        kind = match.lastgroup or "junk"
        found = match.group()
        if kind == "string":
            yield Token("string", _unquoted(found, file, line), line)
        elif kind == "word":
            if len(found) > max_word:
                raise ConfigError(file, line, f"word {shown(found)} has {len(found)} characters, at most {max_word} "
                                              "are allowed; put longer text in double quotes")
            yield Token("word", found, line)
        elif kind == "mark":
            yield Token(found, found, line)
        elif kind in ("ipv6", "junk"):
            yield Token(kind, found, line)
        line += found.count("\n") if kind == "space" else 0
        if found == "\n" and kind == "junk":  # unreachable by the grammar above; keeps the count right if it changes
            line += 1


def _unquoted(found: str, file: str, line: int) -> str:
    inner = ESCAPE.sub(r"\1", found[1:-1])
    if len(found) - 2 > MAX_STRING_CHARACTERS:
        raise ConfigError(file, line, f"string {shown(inner)} has {len(found) - 2} characters, "
                                      f"at most {MAX_STRING_CHARACTERS} are allowed")
    return inner


def quoted(text: str) -> str:
    """`text` as it can stand in a file: bare when the rules allow it, else in double quotes."""
    return text if BARE.fullmatch(text) else in_quotes(text)


def in_quotes(text: str) -> str:
    """`text` as a string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
