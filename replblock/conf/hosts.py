# SPDX-License-Identifier: GPL-2.0-or-later
"""Host sections: `on`, `floating`, `stacked-on-top-of`, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable

from .addresses import address, no_block
from .errors import shown
from .grammar import add_section, explicit_volume, implicit_volume, name, section, unexpected, volume_statement
from .model import HostSection, ProxyHost, Resource, Settings
from .tree import Statement
from .vocabulary import HOST_WORDS, STACKED_WORDS

PROXY_WORDS = ("inside", "outside", "options")


def add_host(resource: Resource, statement: Statement, dialect: str) -> None:
    """Add the host section to the resource. Raises ConfigError."""
    host = HEADS[statement.keyword](statement)
    for other in resource.hosts:
        both = set(host.names) & set(other.names)
        if both:
            raise statement.error(f"conflicting use of host section 'on {sorted(both)[0]}': first at "
                                  f"{other.file}:{other.line}")
    resource.hosts.append(host)
    for child in statement.block or ():
        _statement(host, child, dialect)


def _on(statement: Statement) -> HostSection:
    if statement.block is None:
        raise statement.error(f"found ';' after {shown(statement.text())}; expected '{{'")
    if len(statement.words) < 2:
        raise statement.error("on without a host name; expected 'on NAME {'")
    names = tuple(name(statement, i, "a host name") for i in range(1, len(statement.words)))
    return HostSection("on", names, statement.file, statement.line)


def _floating(statement: Statement) -> HostSection:
    return HostSection("floating", (), statement.file, statement.line, address=address(statement))


def _stacked(statement: Statement) -> HostSection:
    if len(statement.words) < 2:
        raise statement.error("stacked-on-top-of without the name of a resource")
    lower = name(statement, 1, "the name of the lower resource")
    if len(statement.words) > 2 or statement.block is None:
        raise statement.error(f"expected '{{' after 'stacked-on-top-of {lower}'")
    return HostSection("stacked", (), statement.file, statement.line, lower=lower)


HEADS: dict[str, Callable[[Statement], HostSection]] = {
    "on": _on, "floating": _floating, "stacked-on-top-of": _stacked}


def _statement(host: HostSection, child: Statement, dialect: str) -> None:
    known = (STACKED_WORDS if host.kind == "stacked" else HOST_WORDS)[dialect]
    keyword = child.keyword
    if keyword not in known:
        raise unexpected(child, host.title, known, dialect)
    if keyword == "address":
        _address(host, child)
    elif keyword == "volume":
        explicit_volume(host.volumes, child, dialect)
    elif keyword == "proxy":
        _proxy(host, child, dialect)
    elif keyword in ("options", "replblock"):
        add_section(host, child, dialect)
    elif keyword == "disk" and child.block is not None and dialect == "8.3":
        raise child.error("a disk section in a host section; this file is 8.3 style, which has it in the resource only")
    else:
        volume_statement(implicit_volume(host.volumes, child), child, dialect)


def _address(host: HostSection, child: Statement) -> None:
    no_block(child)
    if host.kind == "floating":
        raise child.error("address in a floating section, which has it in its head already")
    if host.address is not None:
        raise child.error("a second address statement of this host")
    host.address = address(child)


def _proxy(host: HostSection, child: Statement, dialect: str) -> None:
    words = child.words
    if host.proxy is not None:
        raise child.error("a second proxy section of this host")
    if len(words) < 3 or words[1].text != "on" or child.block is None:
        raise child.error("proxy in a host section; expected 'proxy on HOST {'")
    names = tuple(name(child, i, "a host name") for i in range(2, len(words)))
    found: dict[str, Statement] = {}
    for part in child.block:
        if part.keyword not in PROXY_WORDS:
            raise unexpected(part, "proxy on", PROXY_WORDS, dialect)
        if part.keyword in found:
            raise part.error(f"a second {part.keyword} in this proxy section")
        found[part.keyword] = part
    for side in ("inside", "outside"):
        if side not in found:
            raise child.error(f"{side} missing in this proxy section")
        no_block(found[side])
    settings = Settings()
    if "options" in found:
        part = found["options"]
        if part.block is None:
            raise part.error("found ';' after 'options'; expected '{'")
        settings = section(part.block, "proxy", dialect)
    host.proxy = ProxyHost(names, address(found["inside"]), address(found["outside"]), settings)
