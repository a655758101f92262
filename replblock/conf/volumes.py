# SPDX-License-Identifier: GPL-2.0-or-later
"""The statements that describe a volume: device, disk, meta-disk."""

from __future__ import annotations

import re

from .addresses import end, integer, no_block
from .errors import shown
from .lexer import Token
from .model import Device, MetaDisk
from .tree import Statement
from .values import plain

MAX_MINOR = (1 << 20) - 1
MAX_VOLUME = 65535
MAX_INDEX = (1 << 31) - 1
DRBD_NUMBERED = re.compile(r"/dev/drbd([0-9]{1,10})")
NBD_NUMBERED = re.compile(r"/dev/nbd([0-9]{1,6})")
DEVICE_HELP = "expected /dev/drbdN, /dev/drbd_NAME minor N, minor N or /dev/nbdN"


def _is(word: Token, text: str) -> bool:
    return word.kind == "word" and word.text == text


def device(statement: Statement) -> Device:
    """`device [NAME] [minor N];`"""
    no_block(statement)
    words = statement.words
    if len(words) < 2:
        raise statement.error(f"device without a name; {DEVICE_HELP}")
    name: str | None = None
    used = 1
    if not _is(words[1], "minor"):
        name = plain(statement, words[1], DEVICE_HELP.removeprefix("expected "))
        name = name if name.startswith("/") else "/dev/" + name
        used = 2
    minor: int | None = None
    if len(words) > used and _is(words[used], "minor"):
        if len(words) == used + 1:
            raise statement.error("minor without a number; expected a number")
        minor = integer(statement, words[used + 1], "minor", 0, MAX_MINOR)
        used += 2
    elif len(words) > used and words[used].line == words[used - 1].line:
        raise statement.error(f"found {shown(words[used].text)} after {shown(words[used - 1].text)}; "
                              "expected minor or ';'", words[used].line)
    end(statement, used)
    return _named(statement, name, minor)


def _named(statement: Statement, name: str | None, minor: int | None) -> Device:
    if name is None:
        assert minor is not None
        return Device(None, minor)
    nbd = NBD_NUMBERED.fullmatch(name)
    if nbd:
        return Device(name, int(nbd.group(1)) if minor is None else minor, int(nbd.group(1)))
    if not name.startswith("/dev/drbd"):
        raise statement.error(f"device {shown(name)}; {DEVICE_HELP}")
    numbered = DRBD_NUMBERED.fullmatch(name)
    if numbered:
        number = int(numbered.group(1))
        if number > MAX_MINOR:
            raise statement.error(f"minor {number} of {name} out of range [0..{MAX_MINOR}]")
        if minor is not None and minor != number:
            raise statement.error(f"device {shown(name)} cannot have minor {minor}; write 'device /dev/drbd{minor};', "
                                  f"or a name beginning with /dev/drbd_")
        return Device(name, number)
    if minor is None:
        raise statement.error(f"device {shown(name)} has no minor number in it; expected 'device NAME minor N;'")
    if not name.startswith("/dev/drbd_"):
        raise statement.error(f"device {shown(name)}; a name that is not /dev/drbdN must begin with /dev/drbd_")
    return Device(name, minor)


def disk(statement: Statement) -> str:
    """`disk PATH;`"""
    if len(statement.words) < 2:
        raise statement.error("disk without a path; expected 'disk DEVICE;' or 'disk { options }'")
    path = plain(statement, statement.words[1], "the path of the backing device")
    end(statement, 2)
    return path


def meta_disk(statement: Statement, dialect: str) -> MetaDisk:
    """`meta-disk internal | PATH [N];` or `flexible-meta-disk internal | PATH;`"""
    no_block(statement)
    words, keyword = statement.words, statement.keyword
    if len(words) < 2:
        raise statement.error(f"{keyword} without a place; expected internal or the path of a device")
    path = plain(statement, words[1], "internal or the path of a device")
    if path == "internal":
        end(statement, 2)
        return MetaDisk("internal")
    if keyword == "meta-disk" and len(words) > 2 and words[2].kind == "[":
        if len(words) < 4:
            raise statement.error("'[' without an index; expected a number")
        index = integer(statement, words[3], "index", 0, MAX_INDEX)
        if len(words) < 5 or words[4].kind != "]":
            raise statement.error("index without its ']'", words[3].line)
        end(statement, 5)
        return MetaDisk("indexed", path, index)
    end(statement, 2)
    if keyword == "meta-disk" and dialect == "8.3":
        raise statement.error(f"meta-disk {shown(path)} without an index; this file is 8.3 style: expected "
                              f"'meta-disk {path}[0];' or 'flexible-meta-disk {path};'")
    return MetaDisk("flexible", path)
