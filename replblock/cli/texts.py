# SPDX-License-Identifier: GPL-2.0-or-later
"""Usage, help, `hidden-commands` and versions: all read from the table of verbs."""

from __future__ import annotations

from replblock import __version__
from replblock.cli.errors import USAGE, Stop, nearest
from replblock.cli.run import Run
from replblock.cli.verbs import (
    ANY,
    BY_NAME,
    EXPERT,
    GENERAL,
    MAIN,
    NONE,
    OWN,
    RESOURCE,
    SHELL,
    VERBS,
    VOLUME,
    Verb,
)

DRBD_UTILS_VERSION = "9.22.0"
"""The drbd-utils whose 8.4 command line this one follows; scripts compare it."""
API_VERSION = 1
KERNEL_VERSION = (8, 4, 11)
"""The DRBD kernel driver this program stands in for."""

_ARGUMENTS = {
    NONE: "",
    ANY: " [all|RESOURCE...]",
    RESOURCE: " {all|RESOURCE...}",
    VOLUME: " {all|RESOURCE[/VOLUME]...}",
}
_WORDS = {"help": " [COMMAND]", "completion": " bash", "demo": " [...]", "manual": " PAGE"}


def arguments_of(verb: Verb) -> str:
    """What stands behind a verb in its usage line."""
    return _ARGUMENTS.get(verb.needs, _WORDS.get(verb.name, " ..."))


def usage(program: str, verb: str = "") -> str:
    """The usage text of the program, or of one verb."""
    if verb:
        return _usage_of(program, BY_NAME[verb])
    lines = ["", f"USAGE: {program} COMMAND [OPTION...] {{all|RESOURCE[/VOLUME]...}}", "", "GENERAL OPTIONS:"]
    lines += _general()
    for group, title in ((MAIN, "COMMANDS:"), (OWN, "COMMANDS OF REPLBLOCK ITSELF:")):
        lines += ["", title]
        lines += [f"  {verb.name:<20} {verb.help}" for verb in VERBS if verb.group == group]
    lines += ["", f"More on a command: {program} help COMMAND", f"Version: {__version__}"]
    return "\n".join(lines) + "\n"


def _usage_of(program: str, verb: Verb) -> str:
    options = " [OPTION...]" if verb.options else ""
    arguments = arguments_of(verb)
    lines = ["", f"USAGE: {program} {verb.name}{options}{arguments}", "", f"  {verb.help}", "", "GENERAL OPTIONS:"]
    lines += _general()
    if verb.options:
        lines += ["", f"OPTIONS FOR {verb.name}:"]
        lines += [f"  {_with_value(o.name, o.value):<26} {o.help}" for o in verb.options]
    if verb.more:
        lines += ["", *(f"  {line}".rstrip() for line in verb.more)]
    return "\n".join(lines) + "\n"


def _general() -> list[str]:
    return [
        f"  {_with_value(o.long, o.value) + (', ' + o.short if o.short else ''):<26} {o.help}"
        for o in GENERAL
        if "accepted" not in o.help
    ]


def _with_value(name: str, value: str) -> str:
    return f"{name}={value}" if value else name


def version() -> str:
    """As `drbdadm --version`: shell assignments. The OCF agent decides by them how to talk to us."""
    major, minor, patch = (int(part) for part in DRBD_UTILS_VERSION.split("."))
    return (
        f"DRBDADM_BUILDTAG=replblock\\ {__version__}\n"
        f"DRBDADM_API_VERSION={API_VERSION}\n"
        f"DRBD_KERNEL_VERSION_CODE=0x{KERNEL_VERSION[0]:02x}{KERNEL_VERSION[1]:02x}{KERNEL_VERSION[2]:02x}\n"
        f"DRBD_KERNEL_VERSION={'.'.join(map(str, KERNEL_VERSION))}\n"
        f"DRBDADM_VERSION_CODE=0x{major:02x}{minor:02x}{patch:02x}\n"
        f"DRBDADM_VERSION={DRBD_UTILS_VERSION}\n"
        f"REPLBLOCK_VERSION={__version__}\n"
    )


def help(run: Run) -> int:
    """`help [COMMAND]`."""
    word = run.names[0] if run.names else ""
    if word and word not in BY_NAME:
        raise Stop(USAGE, f"{run.program}: Unknown command '{word}'{nearest(word, list(BY_NAME))}", "see: replctl help")
    print(usage(run.program, word), end="")
    return 0


def hidden_commands(run: Run) -> int:
    """The commands that stand in no usage text."""
    for group in (SHELL, EXPERT):
        print(f"\nCommands {group}:\n")
        for verb in VERBS:
            if verb.group == group:
                print(f"  {verb.name:<24} {verb.help}")
    print()
    return 0
