# SPDX-License-Identifier: GPL-2.0-or-later
"""Tokens -> a tree of statements, before any word has a meaning.

A statement is words followed by ';' or by a block in braces. What can be said about a file without
knowing any option is said here: missing ';', unclosed braces, stray characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .errors import ConfigError, shown
from .lexer import Token

MAX_DEPTH = 16  # resource > on > proxy on > options is 4; deeper is garbage
LEAF_SECTIONS = frozenset(("net", "syncer", "startup", "handlers", "options", "global", "replblock"))


@dataclass
class Statement:
    """`words` then ';' (block is None) or '{ block }'. The file and line are those of the first word."""

    file: str
    words: list[Token]
    block: list[Statement] | None = None
    end_line: int = 0
    opened: list[Token] = field(default_factory=list)

    @property
    def line(self) -> int:
        return self.words[0].line

    @property
    def keyword(self) -> str:
        """The first word if it is bare, else ''. Keywords are never quoted."""
        return self.words[0].text if self.words[0].kind == "word" else ""

    def text(self, limit: int = 3) -> str:
        """The first words, for messages."""
        return " ".join(word.text for word in self.words[:limit])

    def error(self, text: str, line: int | None = None) -> ConfigError:
        return ConfigError(self.file, self.line if line is None else line, text)


def parse_tree(stream: Iterable[Token], file: str) -> list[Statement]:
    """All statements of one file. Raises ConfigError."""
    top: list[Statement] = []
    stack: list[Statement] = []
    words: list[Token] = []
    iterator = iter(stream)
    last_line = 1
    for token in iterator:
        last_line = token.line
        siblings = top if not stack else _block(stack[-1])
        if token.kind == ";":
            if not words:
                raise ConfigError(file, token.line, "';' without a statement before it")
            siblings.append(Statement(file, words, end_line=token.line))
            words = []
        elif token.kind == "{":
            statement = _open(words, token, stack, file)
            words = []
            siblings.append(statement)
            if not stack and statement.keyword == "skip":
                _skip(iterator, statement)
            else:
                stack.append(statement)
        elif token.kind == "}":
            _close(words, token, stack, file)
        elif token.kind == "junk":
            _refuse_junk(token, words, stack, file)
        else:
            words.append(token)
    _refuse_open_end(words, stack, file, last_line)
    return top


def _block(statement: Statement) -> list[Statement]:
    assert statement.block is not None
    return statement.block


def _open(words: list[Token], token: Token, stack: list[Statement], file: str) -> Statement:
    if not words:
        raise ConfigError(file, token.line, "'{' without the name of a section before it")
    if len(stack) >= MAX_DEPTH:
        raise ConfigError(file, token.line, f"sections nested deeper than {MAX_DEPTH}; is a '}}' missing?")
    if stack and stack[-1].keyword in LEAF_SECTIONS and words[0].text in ("on", "resource", "common", "net", "disk"):
        raise ConfigError(file, words[0].line, f"{shown(words[0].text)} inside section {stack[-1].keyword}; "
                                               f"is the '}}' of line {stack[-1].line}'s section missing?")
    return Statement(file, words, block=[], opened=[token])


def _close(words: list[Token], token: Token, stack: list[Statement], file: str) -> None:
    if words:
        text = " ".join(word.text for word in words[:3])
        raise ConfigError(file, words[-1].line, f"';' missing after {shown(text)}, before '}}'")
    if not stack:
        raise ConfigError(file, token.line, "'}' closes nothing; is there one too many above?")
    stack.pop().end_line = token.line


def _refuse_junk(token: Token, words: list[Token], stack: list[Statement], file: str) -> None:
    if token.text == '"':
        raise ConfigError(file, token.line, "string without its closing '\"' on the same line")
    where = f" after {shown(words[-1].text)}" if words else f" in section {stack[-1].text()}" if stack else ""
    raise ConfigError(file, token.line, f"unexpected character {shown(token.text)}{where}; "
                                        "words with such characters must stand in double quotes")


def _skip(iterator: Iterator[Token], statement: Statement) -> None:
    """Read over a skip block: anything goes in it, only the braces must be balanced."""
    depth = 1
    for token in iterator:
        depth += {"{": 1, "}": -1}.get(token.kind, 0)
        if depth == 0:
            statement.end_line = token.line
            return
        if token.kind == "junk" and token.text == '"':
            raise statement.error("string without its closing '\"' on the same line, in this skip block", token.line)
    raise statement.error("the file ends inside this skip block; expected '}'")


def _refuse_open_end(words: list[Token], stack: list[Statement], file: str, last_line: int) -> None:
    if stack:
        opener = stack[-1]
        raise ConfigError(file, opener.line, f"the '{{' of {shown(opener.text())} opened here is not closed before "
                                             f"the end of the file; expected '}}'")
    if words:
        text = " ".join(word.text for word in words[:3])
        raise ConfigError(file, last_line, f"the file ends after {shown(text)}; expected ';' or '{{'")
