# SPDX-License-Identifier: GPL-2.0-or-later
"""The one error of this room, and the nearest-word hint that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_TEXT_CHARACTERS = 600
SHOWN_WORD_CHARACTERS = 40  # a word of a garbage file must not fill the terminal


class ConfigError(Exception):
    """Something in the configuration that cannot be right: where, what was found, what was expected.

    `line` counts from 1; 0 means the file as a whole. str() is one line, "FILE:LINE: text".
    """

    def __init__(self, file: str, line: int, text: str) -> None:
        super().__init__(file, line, text)
        self.file = file
        self.line = line
        text = printable(text)
        self.text = text if len(text) <= MAX_TEXT_CHARACTERS else text[:MAX_TEXT_CHARACTERS] + "..."

    def __str__(self) -> str:
        where = f"{printable(self.file)}:{self.line}" if self.line else printable(self.file)
        return f"{where}: {self.text}"


def printable(text: str) -> str:
    """`text` on one line, nothing a terminal would obey; bytes that were no UTF-8 become \\xNN."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that was not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown(word: str) -> str:
    """The word in quotes as an error message shows it: printable and cut to a sane length."""
    text = printable(word)
    if len(text) > SHOWN_WORD_CHARACTERS:
        text = text[:SHOWN_WORD_CHARACTERS] + "..."
    return f"'{text}'"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like this one, or None when nothing is near."""
    found = difflib.get_close_matches(word[:128], sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' or nothing."""
    near = nearest(word, known)
    return f"; did you mean '{near}'?" if near else ""
