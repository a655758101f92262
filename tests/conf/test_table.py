# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of options against drbdsetup's own description of them."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from replblock.conf import TABLE
from replblock.conf.options import BOOL, ENUM, NUMBER
from replblock.conf.vocabulary import WORDS

COMMAND_ONLY = {"tentative", "discard-my-data", "alternate-address", "alternate-peer-address", "set-defaults",
                "dry-run"}
SPECIAL = {"resync-after", "after"}     # drbdadm turns the resource's name into a minor number


def described(dialect: str, command: str) -> dict[str, ElementTree.Element]:
    tool, verb = {"8.3": ("/lib/drbd/drbdsetup-83", "xml"), "8.4": ("/lib/drbd/drbdsetup-84", "xml-help")}[dialect]
    run = subprocess.run([tool, verb, command], capture_output=True, text=True, timeout=30, check=False)
    text = run.stdout + run.stderr
    root = ElementTree.fromstring(text[text.index("<command"):text.index("</command>") + len("</command>")])
    return {str(option.get("name")): option for option in root.iter("option")}


@pytest.mark.parametrize(("dialect", "command", "section"), [
    ("8.4", "attach", "disk"), ("8.4", "connect", "net"), ("8.4", "resource-options", "options"),
    ("8.3", "disk", "disk"), ("8.3", "net", "net"), ("8.3", "syncer", "syncer")])
def test_same_options_ranges_defaults(dialect: str, command: str, section: str) -> None:
    theirs = described(dialect, command)
    words = WORDS[dialect][section]
    ours = {name for name, spelling in words.items() if dialect == "8.3" or not spelling.old}
    assert set(theirs) - COMMAND_ONLY == ours - {"use-bmbv" if dialect == "8.4" else ""}
    for name, element in theirs.items():
        if name in COMMAND_ONLY or name in SPECIAL:
            continue
        option = words[name].option
        if element.get("type") == "numeric":
            assert option.kind == NUMBER
            low, high = (int(element.findtext(key) or "") for key in ("min", "max"))
            assert option.range(dialect) == (low, high), name
            assert option.default_of(dialect) == int(element.findtext("default") or ""), name
            assert option.scale == (element.findtext("unit_prefix") or "1").lower(), name
        elif element.get("type") == "handler":
            assert option.kind == ENUM
            assert set(option.words) == {handler.text for handler in element.iter("handler")}, name
        elif element.get("type") == "boolean":
            assert option.kind == BOOL
            if element.findtext("default") is not None:
                assert option.default_of(dialect) is (element.findtext("default") == "yes"), name


def test_rows_are_whole() -> None:
    assert len({(option.section, option.name) for option in TABLE}) == len(TABLE)
    for option in TABLE:
        assert option.meaning and option.support in ("yes", "accepted")
        if option.words:
            assert option.default in option.words and option.default_83 in option.words
        if option.kind == NUMBER:
            for dialect in ("8.3", "8.4"):
                low, high = option.range(dialect)
                default = option.default_of(dialect)
                assert isinstance(default, int) and low <= default <= high, option.name
