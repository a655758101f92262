# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of a command line → verb, options, names. Written by hand: argparse loads slower than a role changes.

drbdadm's grammar: options stand anywhere; what follows a lone `--` are options of the command itself (`drbdadm --
--force primary r0`); long options may be shortened while they stay unique; `-dv` is `-d -v`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from replblock.cli.errors import USAGE, Stop, nearest
from replblock.cli.verbs import BY_NAME, GENERAL, VERBS, Option, Verb

_SHORT = {option.short: option for option in GENERAL if option.short}
_VALUED = {option.name: bool(option.value) for verb in VERBS for option in verb.options}
_LONG = {**_VALUED, **{option.long: bool(option.value) for option in GENERAL}}


class Words(NamedTuple):
    """A parsed command line; nothing has been looked up yet."""

    verb: Verb | None
    names: list[str]
    general: dict[str, str]
    """Long name of a general option → its value ("" for a switch)."""
    options: dict[str, str]
    """Long name of an option of the verb → its value."""


def parse(argv: list[str], program: str) -> Words:
    """Raises Stop(1) with the nearest known word."""
    plain: list[str] = []
    general: dict[str, str] = {}
    found: list[tuple[str, str, bool]] = []
    backend = False
    rest = iter(argv)
    for word in rest:
        if word == "--":
            backend = True
        elif word.startswith("--"):
            name, _, value = word.partition("=")
            name = _complete(name, program)
            if _LONG[name] and "=" not in word:
                value = _value(rest, name, program)
            found.append((name, value, backend))
        elif word.startswith("-") and len(word) > 1:
            if backend:
                found.append((word, "", True))
            else:
                _short(word, rest, found, program)
        elif backend and found and _short_takes_value(found[-1], plain):
            found[-1] = (found[-1][0], word, True)
        else:
            plain.append(word)
    verb = _verb(plain[0], program) if plain else None
    options: dict[str, str] = {}
    names_of_general = {option.long for option in GENERAL}
    for name, value, after_dashes in found:
        own = _own(verb, name)
        if own:
            options[own.same_as or own.name] = value
            if own.name == "--verbose":
                general[own.name] = value
        elif name in names_of_general and not (after_dashes and name == "--dry-run"):
            if name == "--setup-option":
                _setup_option(verb, value, options, program)
            general[name] = value
        else:
            at = f" of '{verb.name}'" if verb else ""
            known = [option.name for option in verb.options] if verb else []
            see = f"replctl help {verb.name}" if verb else "replctl help"
            raise Stop(USAGE, f"{program}: '{name}' is not an option{at}{nearest(name, known)}", f"see: {see}")
    return Words(verb, plain[1:], general, options)


def _verb(word: str, program: str) -> Verb:
    verb = BY_NAME.get(word)
    if verb is None:
        hint = nearest(word, list(BY_NAME))
        raise Stop(USAGE, f"{program}: Unknown command '{word}'{hint}", "the commands are listed by: replctl help")
    return verb


def _complete(name: str, program: str) -> str:
    """The full name of a possibly shortened long option."""
    if name in _LONG:
        return name
    starts = [long for long in _LONG if long.startswith(name)]
    if len(starts) == 1:
        return starts[0]
    if starts:
        raise Stop(USAGE, f"{program}: option '{name}' is ambiguous: {', '.join(starts)}", "see: replctl help")
    raise Stop(USAGE, f"{program}: unrecognized option '{name}'{nearest(name, list(_LONG))}", "see: replctl help")


def _short(word: str, rest: Iterator[str], found: list[tuple[str, str, bool]], program: str) -> None:
    letters = word[1:]
    while letters:
        option = _SHORT.get("-" + letters[0])
        if option is None and letters[0] == "f":  # 8.3's drbdadm -f
            found.append(("--force", "", False))
        elif option is None:
            raise Stop(USAGE, f"{program}: invalid option -- '{letters[0]}'", "see: replctl help")
        elif option.value:
            found.append((option.long, letters[1:] or _value(rest, option.short, program), False))
            return
        else:
            found.append((option.long, "", False))
        letters = letters[1:]


def _value(rest: Iterator[str], name: str, program: str) -> str:
    value = next(rest, None)
    if value is None:
        raise Stop(USAGE, f"{program}: option '{name}' needs a value", "see: replctl help")
    return value


def _own(verb: Verb | None, name: str) -> Option | None:
    """The verb's option of this name, long or (after `--`) of one letter."""
    if verb is None:
        return None
    for option in verb.options:
        if name == option.name or (option.short and name == "-" + option.short):
            return option
    return None


def _short_takes_value(last: tuple[str, str, bool], plain: list[str]) -> bool:
    """True if the word before was a one-letter backend option still without its number (`-- -t 10 wait-connect r0`)."""
    name, value, after_dashes = last
    return after_dashes and not plain and not value and name in ("-t", "-d") and len(name) == 2


def _setup_option(verb: Verb | None, text: str, options: dict[str, str], program: str) -> None:
    name, _, value = text.partition("=")
    own = _own(verb, name if name.startswith("-") else "--" + name)
    if own is None:
        of = f" of '{verb.name}'" if verb else ""
        raise Stop(USAGE, f"{program}: '{text}' is not an option{of}", "see: replctl help")
    options[own.same_as or own.name] = value
