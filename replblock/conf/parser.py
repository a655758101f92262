# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements -> model: what stands where in drbd.conf. Options themselves are in options.py and values.py."""

from __future__ import annotations

import re
from collections.abc import Callable

from .addresses import end, no_block
from .errors import shown
from .grammar import (
    add_section,
    explicit_volume,
    implicit_volume,
    name,
    need_block,
    once,
    section,
    unexpected,
    volume_statement,
)
from .hosts import HEADS, add_host
from .model import Configuration, Resource, Scope
from .tree import Statement
from .values import plain, setting
from .vocabulary import RESOURCE_WORDS, TOP_WORDS, VOLUME_WORDS, WORDS

PROTOCOL = WORDS["8.4"]["net"]["protocol"]


class Parser:
    """One configuration in one dialect."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.dialect = configuration.dialect

    def parse(self, statements: list[Statement]) -> None:
        """Fill the configuration. Raises ConfigError."""
        for statement in statements:
            handler = TOP.get(statement.keyword)
            if handler is None:
                raise unexpected(statement, "the top level of the file", TOP_WORDS, self.dialect)
            handler(self, statement)

    def skip(self, statement: Statement) -> None:
        if len(statement.words) > 1:
            plain(statement, statement.words[1], "a word or '{'")
        need_block(statement, min(len(statement.words), 2))

    def globals(self, statement: Statement) -> None:
        block = need_block(statement)
        if self.configuration.globals is not None:
            raise statement.error("a second global section; there can be only one")
        if self.configuration.resources:
            self.configuration.warnings.append(
                str(statement.error("the global section should stand before the first resource")))
        self.configuration.globals = section(block, "global", self.dialect)

    def common(self, statement: Statement) -> None:
        block = need_block(statement)
        if self.configuration.common is not None:
            first = self.configuration.common
            raise statement.error(f"conflicting use of common: first at {first.file}:{first.line}")
        scope = Scope("common", statement.file, statement.line)
        self.configuration.common = scope
        for child in block:
            if child.keyword in HEADS:
                raise child.error(f"{shown(child.keyword)} in common; hosts belong into a resource")
            self._scope(scope, child)

    def resource(self, statement: Statement) -> None:
        if len(statement.words) < 2:
            raise statement.error("resource without a name; expected 'resource NAME {'")
        title = name(statement, 1, "the name of the resource")
        if re.search(r"@\d+$", title):
            raise statement.error(f"resource {shown(title)}: so a volume is called; expected a name without '@NUMBER'")
        block = need_block(statement, 2)
        first = self.configuration.resources.get(title)
        if first is not None:
            raise statement.error(f"conflicting use of resource {shown(title)}: first at {first.file}:{first.line}")
        resource = Resource(title, statement.file, statement.line, configuration=self.configuration)
        self.configuration.resources[title] = resource
        for child in block:
            if child.keyword in HEADS:
                add_host(resource, child, self.dialect)
            else:
                self._scope(resource, child)

    # -- what common and resource share

    def _scope(self, scope: Scope, child: Statement) -> None:
        keyword = child.keyword
        if keyword not in RESOURCE_WORDS[self.dialect]:
            where = "common" if scope.name == "common" and not isinstance(scope, Resource) else f"resource {scope.name}"
            known = RESOURCE_WORDS[self.dialect]
            if where == "common":
                known = tuple(word for word in known if word not in HEADS)
            raise unexpected(child, where, known, self.dialect)
        if keyword == "protocol":
            self._protocol(scope, child)
        elif keyword == "ignore-on":
            self._ignore_on(scope, child)
        elif keyword == "volume":
            explicit_volume(scope.volumes, child, self.dialect)
        elif keyword in VOLUME_WORDS and not (keyword == "disk" and child.block is not None):
            volume_statement(implicit_volume(scope.volumes, child), child, self.dialect)
        elif keyword == "syncer":
            self._syncer(scope, child)
        else:
            add_section(scope, child, self.dialect)

    def _protocol(self, scope: Scope, child: Statement) -> None:
        made = setting(child, PROTOCOL, "resource", self.dialect)
        settings = scope.settings("net")
        if any(item.section_written == "resource" for item in settings.items):
            raise child.error("a second protocol statement")
        settings.items.append(made)
        scope.written.append(made)

    def _ignore_on(self, scope: Scope, child: Statement) -> None:
        no_block(child)
        if len(child.words) < 2:
            raise child.error("ignore-on without a host name")
        scope.ignore_on.append(name(child, 1, "a host name"))
        end(child, 2)
        self.configuration.warnings.append(str(child.error("ignore-on is deprecated; the host sections suffice")))

    def _syncer(self, scope: Scope, child: Statement) -> None:
        """Move every option of an 8.3 syncer section to its 8.4 place."""
        for item in section(once(scope, child), "syncer", self.dialect).items:
            scope.settings(item.option.section).items.append(item)
            scope.written.append(item)


TOP: dict[str, Callable[[Parser, Statement], None]] = {
    "global": Parser.globals, "common": Parser.common, "resource": Parser.resource, "skip": Parser.skip,
}
