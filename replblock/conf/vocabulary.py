# SPDX-License-Identifier: GPL-2.0-or-later
"""Which word stands in which section of which dialect, and the hint for a word that does not."""

from __future__ import annotations

from typing import NamedTuple

from .errors import nearest, shown
from .options import BOOL, OUTDATE_PEER, TABLE, Option


class Spelling(NamedTuple):
    """A way to write an option: `negated` means the bare word switches it off, `old` that it is 8.3's."""

    option: Option
    negated: bool = False
    old: bool = False


Words = dict[str, Spelling]


def _new_words() -> dict[str, Words]:
    found: dict[str, Words] = {}
    for option in TABLE:
        words = found.setdefault(option.section, {})
        words[option.name] = Spelling(option)
        if option.negated_83:  # 8.4 goes on to read `no-disk-barrier;`
            words[option.name_83] = Spelling(option, negated=True, old=True)
    found["handlers"][OUTDATE_PEER] = found["handlers"]["fence-peer"]
    return found


def _old_words() -> dict[str, Words]:
    found: dict[str, Words] = {}
    for option in TABLE:
        if option.section_83 not in (None, "resource"):
            words = found.setdefault(str(option.section_83), {})
            words[option.name_83] = Spelling(option, option.negated_83, old=True)
        elif option.since == "ours":
            found.setdefault(option.section, {})[option.name] = Spelling(option)
    found["handlers"][OUTDATE_PEER] = found["handlers"]["fence-peer"]
    return found


WORDS: dict[str, dict[str, Words]] = {"8.3": _old_words(), "8.4": _new_words()}
WORDS["8.4"]["syncer"] = WORDS["8.3"]["syncer"]  # 8.4 reads an 8.3 syncer section and moves its options

# Top level, then what may stand in common and resource, in a host, in a volume.
TOP_WORDS = ("global", "common", "resource", "skip", "include")
RESOURCE_WORDS = {
    "8.4": ("protocol", "on", "floating", "stacked-on-top-of", "ignore-on", "volume", "device", "disk", "meta-disk",
            "flexible-meta-disk", "net", "options", "syncer", "startup", "handlers", "proxy", "replblock"),
    "8.3": ("protocol", "on", "floating", "stacked-on-top-of", "ignore-on", "device", "disk", "meta-disk",
            "flexible-meta-disk", "net", "syncer", "startup", "handlers", "proxy", "replblock"),
}
HOST_WORDS = {
    "8.4": ("address", "device", "disk", "meta-disk", "flexible-meta-disk", "volume", "options", "proxy", "replblock"),
    "8.3": ("address", "device", "disk", "meta-disk", "flexible-meta-disk", "proxy", "replblock"),
}
STACKED_WORDS = {"8.4": ("address", "device", "volume", "options", "proxy", "replblock"),
                 "8.3": ("address", "device", "proxy", "replblock")}
VOLUME_WORDS = ("device", "disk", "meta-disk", "flexible-meta-disk")

# Bare, these are never a name or a value: a forgotten value would swallow the next statement.
KEYWORDS = frozenset((
    *TOP_WORDS, *RESOURCE_WORDS["8.4"], *HOST_WORDS["8.4"], "minor", "inside", "outside", "plugin",
    "ipv4", "ipv6", "sdp", "sci", "ssocks", "yes", "no", "ask", "become-primary-on", "stacked-timeouts",
    "disable-ip-verification", "usage-count", "minor-count", "dialog-refresh")) - {"on", "replblock"}

# Bare, drbdadm takes these for keywords too. We read them; a dump puts them in quotes.
RESERVED = KEYWORDS | {option.name for option in TABLE} | {option.name_83 for option in TABLE} | {
    OUTDATE_PEER, "_is_default", "alternate-link-address", "discard-my-data"} - {""}

DRBD_9 = frozenset((
    "auto-promote", "auto-promote-timeout", "quorum", "quorum-minimum-redundancy", "on-no-quorum", "node-id",
    "connection", "connection-mesh", "path", "hosts", "host", "mesh", "transport", "template-file", "twopc-timeout",
    "twopc-retry-timeout", "peer-ack-window", "peer-ack-delay", "bitmap", "quorum-lost", "disconnected",
    "on-suspended-primary-outdated", "block-size", "load-balance-paths", "rdma-ctrl-rcvbuf-size", "fencing-policy",
    "allow-remote-read", "require-drbd-module-version-eq", "require-drbd-module-version-ge"))

FEW = 14  # a list longer than this hides the message it belongs to

CONNECT_ONLY = {"discard-my-data": "replctl connect --discard-my-data RES", "tentative": "replctl explain RES",
                "dry-run": "replctl explain RES"}


def why_not(word: str, section: str, dialect: str) -> str:
    """The message for a word that is no option of this section."""
    head = f"{shown(word)} is not an option of section {section}"
    if word in CONNECT_ONLY:
        return f"{head}; it belongs on the command line: {CONNECT_ONLY[word]}"
    places = _places(word, section, dialect)
    near = nearest(word, WORDS[dialect].get(section, {}))
    if places:
        return f"{head}; {places}"
    if word in DRBD_9:
        return f"{head}; it belongs to DRBD 9, replblock speaks 8.4"
    if near:
        return f"{head}; did you mean '{near}'?{_old_home(WORDS[dialect][section][near].option, word)}"
    for other in sorted(WORDS[dialect]):
        near = nearest(word, WORDS[dialect][other])
        if near:
            return f"{head}; did you mean '{near}' of section {other}?"
    known = sorted(WORDS[dialect].get(section, ()))
    if len(known) <= FEW:
        return f"{head}; expected one of: {', '.join(known)}"
    return f"{head}; expected an option of {section} or '}}'"


def _places(word: str, section: str, dialect: str) -> str:
    """Where this very word does stand: another section, or the other dialect."""
    here = [name for name, words in sorted(WORDS[dialect].items())
            if word in words and name != section and (dialect, name) != ("8.4", "syncer")]
    if here:
        return f"it belongs in section {' or '.join(here)}"
    other = "8.3" if dialect == "8.4" else "8.4"
    there = [name for name, words in sorted(WORDS[other].items()) if word in words]
    if not there:
        return ""
    spelling = WORDS[other][there[0]][word]
    if dialect == "8.4":
        return f"did you mean '{spelling.option.name}'{_of(spelling.option.section, section)}? " \
               f"(in 8.3 files: {there[0]} {{ {word} ... }})"
    old = spelling.option
    if old.section_83 is None:
        return "8.3 has no such option, and this file is 8.3 style"
    if old.kind == BOOL and old.negated_83:
        return f"this file is 8.3 style, which writes '{old.name_83};' to switch it off"
    return f"this file is 8.3 style, where it is {old.section_83} {{ {old.name_83} ... }}"


def _of(target: str, section: str) -> str:
    return "" if target == section else f" of section {target}"


def _old_home(option: Option, word: str) -> str:
    if option.section_83 == "syncer" and option.name_83 == word:
        return f" (in 8.3 files: syncer {{ {word} ... }})"
    return ""
