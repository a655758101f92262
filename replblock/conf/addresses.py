# SPDX-License-Identifier: GPL-2.0-or-later
"""Where somebody listens, as a statement says it; and what every statement with an end needs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .errors import shown
from .lexer import Token
from .tree import Statement

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

FAMILIES = {"ipv4": "ipv4", "ipv6": "ipv6", "sdp": "sdp", "ssocks": "ssocks", "sci": "ssocks"}
MAX_PORT = 65535
DIGITS = re.compile(r"[0-9]{1,10}")
IPV4_LIKE = re.compile(r"[0-9]+(\.[0-9]+){3}")
DRBDS = "expected ADDRESS:PORT, or ipv6 [ADDRESS]:PORT"
OURS = "expected ADDRESS:PORT, [ADDRESS]:PORT or none"


class Address(NamedTuple):
    """Where a node listens. family: ipv4, ipv6, sdp or ssocks; `host` without brackets."""

    family: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.family == "ipv6" else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Nobody from outside reaches it."""
        return _parsed(self.host).is_loopback

    def meets(self, other: Address) -> bool:
        """Whether both cannot be listened on at once, on one node."""
        if (self.family, self.port) != (other.family, other.port):
            return False
        mine, theirs = _normal(self.host), _normal(other.host)
        return mine == theirs or not {mine, theirs}.isdisjoint(("0.0.0.0", "::"))


def _parsed(host: str) -> IPv4Address | IPv6Address:
    from ipaddress import ip_address  # few files need it

    return ip_address(host)


def _normal(host: str) -> str:
    try:
        return str(_parsed(host))
    except ValueError:  # DRBD's addresses are not looked at so closely
        return host


def integer(statement: Statement, word: Token, what: str, low: int, high: int) -> int:
    """A plain decimal number of the grammar itself (minor, volume, port, index)."""
    if word.kind != "word" or not word.text.isascii() or not word.text.isdigit():
        raise statement.error(f"{what} {shown(word.text)}; expected a number {low}..{high}", word.line)
    digits = word.text.lstrip("0") or "0"
    value = int(digits) if DIGITS.fullmatch(digits) else high + 1
    if not low <= value <= high:
        raise statement.error(f"{what} {word.text[:20]} out of range [{low}..{high}]", word.line)
    return value


def no_block(statement: Statement) -> None:
    if statement.block is not None:
        raise statement.error(f"found '{{' after {shown(statement.text())}; expected ';'")


def end(statement: Statement, used: int) -> None:
    """Nothing may follow the first `used` words."""
    if len(statement.words) > used:
        extra, last = statement.words[used], statement.words[used - 1]
        if extra.line > last.line and extra.kind == "word":
            raise statement.error(f"';' missing after {shown(statement.text(used))}", last.line)
        raise statement.error(f"found {shown(extra.text)} after {shown(last.text)}; expected ';'", extra.line)


def address(statement: Statement, first: int = 1, *, ours: bool = False) -> Address:
    """`[FAMILY] ADDRESS:PORT` in the words from `first` on; nothing may follow.

    `ours`: brackets alone say that it is IPv6, which drbdadm would not take.
    """
    words = statement.words[first:]
    what = statement.words[0].text
    expected = OURS if ours else DRBDS
    family = "ipv4"
    used = first
    if words and words[0].kind == "word" and words[0].text in FAMILIES:
        family = FAMILIES[words[0].text]
        words, used = words[1:], used + 1
    elif ours and words and words[0].kind == "[":
        family = "ipv6"
    if not words:
        raise statement.error(f"{what} without an address; {expected}")
    if family == "ipv6":
        kinds = [word.kind for word in words[:4]]
        if kinds[:3] != ["[", "ipv6", "]"]:
            text = "[ADDRESS]:PORT" if ours else "ipv6 [ADDRESS]:PORT"
            raise statement.error(f"{what} {shown(words[0].text)}; expected {text}", words[0].line)
        host, words, used = words[1].text, words[3:], used + 3
    else:
        if words[0].kind != "word" or not IPV4_LIKE.fullmatch(words[0].text):
            raise statement.error(f"{what} {shown(words[0].text)} is not an address; {expected}", words[0].line)
        _check_octets(statement, words[0])
        host, words, used = words[0].text, words[1:], used + 1
    if len(words) < 2 or words[0].kind != ":":
        raise statement.error(f"{what} {shown(host)} without a port; {expected}")
    port = integer(statement, words[1], "port", 1, MAX_PORT)
    end(statement, used + 2)
    return Address(family, host, port)


def _check_octets(statement: Statement, word: Token) -> None:
    if any(len(octet) > 3 or int(octet) > 255 for octet in word.text.split(".")):
        raise statement.error(f"{shown(word.text)} is not an IPv4 address: each number must be 0..255", word.line)


def address_or_none(statement: Statement) -> Address | None:
    """An option of ours: `NAME ADDRESS:PORT;`, `NAME [ADDRESS]:PORT;` or `NAME none;`."""
    what, words = statement.words[0].text, statement.words
    if len(words) > 1 and words[1].kind == "word" and words[1].text == "none":
        end(statement, 2)
        return None
    found = address(statement, ours=True)
    if found.family not in ("ipv4", "ipv6"):
        raise statement.error(f"{what} {shown(words[1].text)}; {OURS}")
    try:
        return found._replace(host=str(_parsed(found.host)))
    except ValueError:  # 010.0.0.1 among them, which some read as 8.0.0.1
        raise statement.error(f"{what} {shown(found.host)} is not an address; {OURS}") from None
