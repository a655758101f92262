# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl manual PAGE`: manual pages as roff, made from the tables that the help and the parser are made of."""

from __future__ import annotations

from collections.abc import Iterator

from replblock import __version__
from replblock.cli.errors import USAGE, Stop
from replblock.cli.run import Run
from replblock.cli.texts import arguments_of
from replblock.cli.verbs import EXPERT, GENERAL, MAIN, OWN, SHELL, VERBS, Option, Verb

EXIT_STATUS = (
    # code  what it means
    (0,  "done, or there was nothing to do"),
    (1,  "wrong usage, or a resource that is not in the configuration"),
    (5,  "the time for waiting is over"),
    (10, "refused; the first line on stderr says why, the second what to do"),
    (11, "this change of state is not possible now"),
    (17, "there is no access to UpToDate data"),
    (20, "it could not be carried out at all"),
)  # fmt: skip
ENVIRONMENT = (
    ("REPLBLOCK_HOST", "which node of the configuration this is; default: what uname -n prints"),
    ("REPLBLOCK_RUN", "directory of sockets, logs and state; default: /run/replblock"),
)
FILES = (
    ("/etc/drbd.conf", "the configuration; see drbd.conf(5) and replblock.conf(5)"),
    ("/run/replblock/RES.log", "all that the engine of a resource had to say"),
    ("/run/replblock/proc", "what /proc/drbd would say; proc-8.2 is the same in the words of DRBD 8.2"),
    ("/var/lib/replblock/installed", "what install-scripts has put where"),
    ("/var/lib/replblock/RES.VOLUME.disk-size", "how large a disk was when it was last in use, for check-resize"),
)
GROUPS = (
    (MAIN, "COMMANDS"),
    (OWN, "COMMANDS OF REPLBLOCK ITSELF"),
    (SHELL, "COMMANDS FOR SHELL SCRIPTS"),
    (EXPERT, "COMMANDS FOR EXPERTS"),
)


def manual(run: Run) -> int:
    """Print one page."""
    name = run.names[0] if run.names else ""
    if name not in PAGES:
        said = f"'{name}' is not known" if name else "which page?"
        known = ", ".join(PAGES)
        raise Stop(USAGE, f"{run.program} manual: {said}; there are: {known}", "run: replctl manual replctl.8")
    print(page(name), end="")
    return 0


def page(name: str) -> str:
    """The text of a page, e.g. `replctl.8`."""
    title, _, section = name.rpartition(".")
    head = f'.TH {title.upper()} {section} "" "replblock {__version__}" "replblock"'
    return "\n".join([r'.\" SPDX-License-Identifier: GPL-2.0-or-later', head, *PAGES[name]()]) + "\n"


def roff(text: str) -> str:
    """Plain text as roff shows it: nothing in it is a command, a hyphen is one that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("×", "x").replace("–", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def _entry(term: str, *texts: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{roff(term)}\\fR"
    for text in texts:
        yield roff(text)


def _option(option: Option) -> Iterator[str]:
    text = option.help + (f" (another spelling of {option.same_as})" if option.same_as else "")
    yield from _entry(f"{option.name}={option.value}" if option.value else option.name, text)


def _verb(verb: Verb) -> Iterator[str]:
    yield from _entry(f"{verb.name}{' [OPTION...]' if verb.options else ''}{arguments_of(verb)}", verb.help)
    if verb.options:
        yield ".RS"
        for option in verb.options:
            yield from _option(option)
        yield ".RE"


def _replctl() -> Iterator[str]:
    yield from (".SH NAME", roff("replctl - administer replicated block devices (DRBD 8.4 without a kernel module)"))
    yield from (".SH SYNOPSIS", r"\fBreplctl\fR [\fIGENERAL OPTION\fR...] \fICOMMAND\fR [\fIOPTION\fR...] "
                r"{\fBall\fR | \fIRESOURCE\fR[/\fIVOLUME\fR]...}", ".br", r"\fBdrbdadm\fR ...")  # fmt: skip
    yield ".SH DESCRIPTION"
    yield roff("One process per resource serves a block device and keeps a copy of it on a second machine. replctl"
               " starts, stops and asks these processes. Commands, options, output and exit codes are those of"
               " drbdadm(8) of DRBD 8.4; a link named drbdadm serves scripts that call that.")  # fmt: skip
    yield ".SH GENERAL OPTIONS"
    for general in GENERAL:
        names = ", ".join(filter(None, (general.short, general.long)))
        yield from _entry(f"{names}={general.value}" if general.value else names, general.help)
    for group, title in GROUPS:
        yield f'.SH "{title}"'
        for verb in VERBS:
            if verb.group == group:
                yield from _verb(verb)
    yield '.SH "EXIT STATUS"'
    for code, text in EXIT_STATUS:
        yield from _entry(str(code), text)
    for title, rows in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {title}"
        for term, text in rows:
            yield from _entry(term, text)
    yield from ('.SH "SEE ALSO"', roff("replblock.conf(5), drbd.conf(5), drbdadm(8)"))


def _replblock_conf() -> Iterator[str]:
    from replblock.conf.options import TABLE

    yield from (".SH NAME", roff("replblock.conf - what replblock understands of drbd.conf, and what it adds"))
    yield ".SH DESCRIPTION"
    yield roff("replblock reads /etc/drbd.conf as drbdadm of DRBD 8.3 and 8.4 does, includes and all; drbd.conf(5)"
               " tells what the options of DRBD mean. This page lists where replblock differs.")  # fmt: skip
    yield '.SH "THE SECTION replblock"'
    yield roff("It may stand in common or in a resource. replctl dump --drbd prints the configuration without it.")
    for option in TABLE:
        if option.section == "replblock":
            yield from _entry(f"{option.name} {_values(option)};", _with_default(option))
    yield '.SH "OPTIONS WITHOUT EFFECT"'
    yield roff("They are read and shown, but change nothing here:")
    for section in dict.fromkeys(option.section for option in TABLE if option.support != "yes"):
        names = [option.name for option in TABLE if option.section == section and option.support != "yes"]
        yield from _entry(section, ", ".join(names))
    yield '.SH "OLD NAMES"'
    yield roff("In files of the time of DRBD 8.3 these stand elsewhere, or are called otherwise:")
    for option in TABLE:
        moved = option.section_83 not in (None, option.section) or option.name_83 not in ("", option.name)
        if option.section_83 and moved:
            before = f"{option.section_83} {{ {option.name_83}; }}"
            yield from _entry(before, f"now {option.section} {{ {option.name}; }}")
    yield '.SH "WHOSE DEFAULTS"'
    yield roff("A file with anything that only 8.4 reads has the defaults of 8.4. A file with a syncer section or a"
               " no-... switch, and nothing of 8.4, has those of 8.3. Where they differ:")  # fmt: skip
    for option in TABLE:
        if option.section_83 and option.default_83 != option.default:
            both = f"8.3: {_shown(option.default_83)}, 8.4: {_shown(option.default)}"
            yield from _entry(f"{option.section} {{ {option.name} }}", both)
    yield from ('.SH "SEE ALSO"', roff("replctl(8), drbd.conf(5)"))


def _values(option: object) -> str:
    words: tuple[str, ...] = getattr(option, "words", ())
    if words:
        return "|".join(words)
    kind = getattr(option, "kind", "")
    return {"bool": "yes|no", "text": "TEXT"}.get(kind, "NUMBER")


def _with_default(option: object) -> str:
    default = getattr(option, "default", None)
    said = getattr(option, "meaning", "")
    return f"{said}; default: {_shown(default)}" if default is not None else said


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, ()) else str(value)


PAGES = {"replctl.8": _replctl, "replblock.conf.5": _replblock_conf}
"""Name of a page → the lines of it."""
