# SPDX-License-Identifier: GPL-2.0-or-later
"""The pieces of grammar that several places share: sections of options, volumes, names, unexpected words."""

from __future__ import annotations

from .addresses import integer, no_block
from .errors import ConfigError, shown, suggestion
from .model import HostSection, Scope, Settings, Volume
from .options import OUTDATE_PEER
from .tree import Statement
from .values import plain, setting
from .vocabulary import DRBD_9, RESOURCE_WORDS, VOLUME_WORDS, WORDS, why_not
from .volumes import MAX_VOLUME, device, disk, meta_disk


def need_block(statement: Statement, words: int = 1) -> list[Statement]:
    """The block of a section whose head has exactly that many words."""
    if len(statement.words) > words:
        extra = statement.words[words]
        after = statement.words[words - 1]
        raise statement.error(f"found {shown(extra.text)} after {shown(after.text)}; expected '{{'", extra.line)
    if statement.block is None:
        raise statement.error(f"found ';' after {shown(statement.text())}; expected '{{'")
    return statement.block


def unexpected(statement: Statement, where: str, known: tuple[str, ...], dialect: str) -> ConfigError:
    """The error for a statement that has no business in `where`."""
    word = statement.words[0]
    head = f"unexpected {shown(word.text)} in {where}"
    if word.kind == "string":
        return statement.error(f"{head}; keywords must not stand in quotes")
    if word.text in DRBD_9:
        return statement.error(f"{head}; it belongs to DRBD 9, replblock speaks 8.4")
    homes = [name for name in sorted(WORDS[dialect]) if word.text in WORDS[dialect][name]]
    if homes:
        return statement.error(f"{head}; it is an option of section {' or '.join(homes)}")
    if word.text in RESOURCE_WORDS["8.4"] and word.text not in RESOURCE_WORDS[dialect]:
        return statement.error(f"{head}; 8.3 has no such section, and this file is 8.3 style")
    hint = suggestion(word.text, known)
    return statement.error(f"{head}{hint or '; expected one of: ' + ', '.join(known)}")


def name(statement: Statement, index: int, what: str) -> str:
    """A resource's or host's name: not empty, no keyword, no number."""
    word = statement.words[index]
    text = plain(statement, word, what)
    if not text:
        raise statement.error(f"{what} is empty", word.line)
    if word.kind == "word" and (text == "on" or text.isdigit()):
        raise statement.error(f"found {shown(text)}; expected {what} (in quotes if that is meant)", word.line)
    return text


def once(place: Scope | HostSection, child: Statement) -> list[Statement]:
    """The section's block; a section may stand only once in its place."""
    block = need_block(child)
    if child.keyword in place.opened:
        raise child.error(f"conflicting use of section {child.keyword}: first at line {place.opened[child.keyword]}")
    place.opened[child.keyword] = child.line
    return block


def add_section(place: Scope | HostSection, child: Statement, dialect: str) -> None:
    """Read the section and keep it under its name."""
    made = section(once(place, child), child.keyword, dialect)
    settings = place.sections.setdefault(child.keyword, Settings())
    settings.items.extend(made.items)
    place.written.extend(made.items)
    settings.plugins.extend(made.plugins)


def section(block: list[Statement], name: str, dialect: str) -> Settings:
    """All options of a section's block."""
    words = WORDS[dialect][name]
    settings = Settings()
    for statement in block:
        if name == "proxy" and statement.keyword == "plugin":
            settings.plugins = _plugins(statement)
            continue
        spelling = words.get(statement.keyword)
        if spelling is None:
            word = statement.words[0]
            if word.kind == "string":
                raise statement.error(f"option {shown(word.text)} in quotes; option names must not stand in quotes")
            raise statement.error(why_not(word.text, name, dialect))
        made = setting(statement, spelling, name, dialect)
        if statement.keyword == OUTDATE_PEER:
            made = made._replace(spelled="fence-peer")
        settings.items.append(made)
    return settings


def _plugins(statement: Statement) -> list[tuple[str, ...]]:
    lines = []
    for line in need_block(statement):
        no_block(line)
        lines.append(tuple(word.text for word in line.words))
    return lines


def implicit_volume(volumes: dict[int, Volume], child: Statement) -> Volume:
    """Volume 0, spoken of without a volume section."""
    if any(not volume.implicit for volume in volumes.values()):
        raise child.error(f"{shown(child.keyword)} beside volume sections; mixing explicit and implicit volumes is "
                          "not allowed")
    return volumes.setdefault(0, Volume(0, child.file, child.line, implicit=True))


def explicit_volume(volumes: dict[int, Volume], child: Statement, dialect: str) -> Volume:
    """`volume N { ... }`"""
    if len(child.words) < 2:
        raise child.error("volume without a number")
    number = integer(child, child.words[1], "volume", 0, MAX_VOLUME)
    block = need_block(child, 2)
    if any(volume.implicit for volume in volumes.values()):
        raise child.error("a volume section beside device, disk or meta-disk statements; mixing explicit and "
                          "implicit volumes is not allowed")
    if number in volumes:
        raise child.error(f"conflicting use of volume {number}: first at line {volumes[number].line}")
    volume = volumes[number] = Volume(number, child.file, child.line)
    for statement in block:
        if statement.keyword not in VOLUME_WORDS:
            raise unexpected(statement, f"volume {number}", VOLUME_WORDS, dialect)
        volume_statement(volume, statement, dialect)
    return volume


def volume_statement(volume: Volume, statement: Statement, dialect: str) -> None:
    """device, disk, meta-disk, or disk { options }."""
    keyword = statement.keyword
    if keyword == "disk" and statement.block is not None:
        made = section(need_block(statement), "disk", dialect)
        if volume.settings:
            raise statement.error("a second disk { } section of this volume")
        volume.settings = made
        return
    have = {"device": volume.device, "disk": volume.disk}.get(keyword, volume.meta_disk)
    if have is not None:
        raise statement.error(f"a second {keyword} statement of this volume")
    if keyword == "device":
        volume.device = device(statement)
    elif keyword == "disk":
        volume.disk = disk(statement)
    else:
        volume.meta_disk = meta_disk(statement, dialect)
