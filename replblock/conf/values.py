# SPDX-License-Identifier: GPL-2.0-or-later
"""One option statement -> a typed, checked value in the option's unit."""

from __future__ import annotations

import re
from typing import NamedTuple

from .addresses import IPV4_LIKE, OURS, address_or_none
from .errors import ConfigError, nearest, shown
from .lexer import Token
from .options import ADDRESS, BOOL, ENUM, FLAG, INTEGER, NAMES, NUMBER, SECRET_BYTES, WORD, Option, Value
from .tree import Statement
from .vocabulary import KEYWORDS, Spelling

SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "s": 512}
SCALES = {"1": 1, "k": 1 << 10, "s": 512}
NUMBER_TEXT = re.compile(r"(-?)([0-9]+)([kKmMgGs]?)")
MAX_DIGITS = 30  # far beyond every range; keeps int() from being fed a megabyte
DISCARD_NODE = "discard-node-"


class Setting(NamedTuple):
    """One option as set in a file. `text` as written ("yes"/"no" for bools), `value` typed, in the option's unit."""

    option: Option
    text: str
    value: Value
    file: str
    line: int
    section_written: str
    spelled: str
    bare: bool = False

    @property
    def name(self) -> str:
        return self.option.name


def setting(statement: Statement, spelling: Spelling, section: str, dialect: str) -> Setting:
    """The statement `NAME VALUE;` as a Setting. Raises ConfigError."""
    option = spelling.option
    words = _without_is_default(statement.words, dialect)
    value: Value
    name, rest = words[0].text, words[1:]
    if statement.block is not None:
        raise statement.error(f"{shown(name)} is an option, not a section; expected {_expected(option)} and ';'")
    if option.kind in (BOOL, FLAG):
        text, value = _switch(statement, spelling, rest, dialect)
        bare = not rest
    elif option.kind == NAMES:
        names = tuple(plain(statement, word, "a host name") for word in rest)
        if not names:
            raise statement.error(f"{shown(name)} without a value; expected host names, or: both")
        text, value, bare = " ".join(names), names, False
    elif option.kind == ADDRESS:
        value = address_or_none(statement)
        text, bare = str(value or "none"), False
    else:
        word = _single(statement, rest, option)
        text, bare = word.text, False
        value = _value(statement, word, option, dialect)
    return Setting(option, text, value, statement.file, statement.line, section, name, bare)


def _without_is_default(words: list[Token], dialect: str) -> list[Token]:
    """8.3's drbdadm lets `_is_default` follow a value and means nothing by it."""
    if dialect == "8.3" and len(words) > 1 and words[-1].text == "_is_default" and words[-1].kind == "word":
        return words[:-1]
    return words


def _switch(statement: Statement, spelling: Spelling, rest: list[Token], dialect: str) -> tuple[str, bool]:
    name = statement.words[0].text
    option = spelling.option
    bare_only = option.kind == FLAG or spelling.negated or (dialect == "8.3" and option.since != "ours")
    if not rest:
        on = not spelling.negated
        return ("yes" if on else "no"), on
    if bare_only:
        raise statement.error(f"{shown(name)} takes no value, found {shown(rest[0].text)}; expected ';'", rest[0].line)
    if len(rest) > 1 or rest[0].kind != "word" or rest[0].text not in ("yes", "no"):
        found = rest[0] if rest[0].text not in ("yes", "no") else rest[-1]
        raise statement.error(f"{shown(name)} is {shown(found.text)}; expected yes, no or ';'", found.line)
    return rest[0].text, rest[0].text == "yes"


def _single(statement: Statement, rest: list[Token], option: Option) -> Token:
    if not rest:
        raise statement.error(f"{shown(option.name)} without a value; expected {_expected(option)}")
    if len(rest) > 1:
        extra = rest[1]
        after = f"{statement.words[0].text} {rest[0].text}"
        if extra.line > rest[0].line:
            raise statement.error(f"';' missing after {shown(after)}", rest[0].line)
        raise statement.error(f"found {shown(extra.text)} after {shown(after)}; expected ';'", extra.line)
    word = rest[0]
    if option.kind == WORD:
        return word
    plain(statement, word, _expected(option))
    return word


def plain(statement: Statement, word: Token, expected: str) -> str:
    """The text of a word used as a value or a name; bare keywords and addresses are refused, as drbdadm does."""
    if word.kind == "string":
        return word.text
    if word.kind != "word":
        raise statement.error(f"found {shown(word.text)}; expected {expected}", word.line)
    if word.text in KEYWORDS:
        raise statement.error(f"found the keyword {shown(word.text)}; expected {expected} (in quotes if that is meant)",
                              word.line)
    if IPV4_LIKE.fullmatch(word.text):
        raise statement.error(f"found the address {shown(word.text)}; expected {expected} (in quotes if that is meant)",
                              word.line)
    return word.text


def _value(statement: Statement, word: Token, option: Option, dialect: str) -> Value:
    if option.kind in (NUMBER, INTEGER):
        return number(statement, word, option, dialect)
    if option.kind in (ENUM, WORD):
        return _enum(statement, word, option)
    if option.name == "shared-secret" and len(word.text.encode("utf-8", "surrogateescape")) > SECRET_BYTES:
        raise statement.error(f"shared-secret is longer than {SECRET_BYTES} bytes, which is all DRBD takes", word.line)
    if option.name == "cpu-mask" and not re.fullmatch(r"(0x)?[0-9A-Fa-f,]*", word.text):
        raise statement.error(f"cpu-mask {shown(word.text)}; expected a hexadecimal number", word.line)
    return word.text


def _enum(statement: Statement, word: Token, option: Option) -> str:
    text = word.text.upper() if option.name == "protocol" else word.text
    if text in option.words and (option.kind != WORD or word.kind == "word"):
        return text
    if option.name == "after-sb-0pri" and text.startswith(DISCARD_NODE) and len(text) > len(DISCARD_NODE):
        return text
    near = nearest(text, option.words)
    hint = f"; did you mean '{near}'?" if near else ""
    raise statement.error(f"{option.name} {shown(word.text)}; expected {_expected(option)}{hint}", word.line)


def number(statement: Statement, word: Token, option: Option, dialect: str) -> int:
    """The number in the option's unit, rounded up; checked against the dialect's range."""
    match = NUMBER_TEXT.fullmatch(word.text)
    suffix = match.group(3).lower() if match else ""
    if match is None or (option.kind == INTEGER and (suffix or match.group(1))):
        expected = _expected(option, dialect)
        raise statement.error(f"{option.name} {shown(word.text)} is not a number; expected {expected}", word.line)
    low, high = option.range(dialect)
    digits = match.group(2).lstrip("0") or "0"
    if len(digits) > MAX_DIGITS or match.group(1):
        raise _out_of_range(statement, word, option, dialect, "")
    value = int(digits)
    if suffix:
        scale = SCALES[option.scale]
        value = -(-value * SUFFIXES[suffix] // scale)
    if not low <= value <= high:
        meant = f" = {value}" if suffix else ""
        raise _out_of_range(statement, word, option, dialect, meant)
    return value


def _out_of_range(statement: Statement, word: Token, option: Option, dialect: str, meant: str) -> ConfigError:
    low, high = option.range(dialect)
    unit = f" ({option.unit})" if option.unit else ""
    text = f"{option.name} {shown(word.text)[1:-1]}{meant} out of range [{low}..{high}]{unit}"
    return statement.error(text, word.line)


def _expected(option: Option, dialect: str = "8.4") -> str:
    if option.kind in (NUMBER, INTEGER):
        low, high = option.range(dialect)
        suffixes = "" if option.kind == INTEGER or high < 1024 else ", suffix K, M, G or s"
        unit = f" ({option.unit})" if option.unit else ""
        return f"{low}..{high}{unit}{suffixes}"
    if option.kind in (ENUM, WORD):
        return " | ".join(option.words)
    if option.kind == BOOL:
        return "yes | no"
    if option.kind == ADDRESS:
        return OURS.removeprefix("expected ")
    return "a word or a quoted string"
