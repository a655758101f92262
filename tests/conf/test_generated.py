# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up configurations in both dialects: drbdadm and we read the same and print the same, byte for byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from replblock.conf import Option, Value, dump, load, loads
from replblock.conf.options import BOOL, ENUM, FLAG, INTEGER, NAMES, NUMBER, TABLE, WORD
from replblock.conf.values import SCALES, SUFFIXES
from replblock.conf.vocabulary import RESERVED
from tests.conf.oracle import drbdadm

HOSTS = ("a", "b")
Draw = st.DrawFn
# The text of values: bare words and strings with every awkward character a string may hold.
BARE = st.from_regex(r"[A-Za-z0-9/_-][A-Za-z0-9/._-]{0,30}", fullmatch=True).filter(
    lambda word: word not in RESERVED and not word.replace(".", "").isdigit())
QUOTED = st.text(st.characters(min_codepoint=32, max_codepoint=0x17F, exclude_categories=["Cc"]), max_size=40).filter(
        lambda text: text not in RESERVED and not text.replace(".", "").isdigit()).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
OWN_RULES = {"protocol", "on-congestion", "fencing", "allow-two-primaries", "resync-after", "cpu-mask",
             "become-primary-on"}


@st.composite
def number(draw: Draw, option: Option, dialect: str) -> str:
    low, high = option.range(dialect)
    small = st.integers(low, min(high, low + 300))
    value = draw(st.one_of(st.integers(low, high), st.sampled_from((low, high)), small))
    if option.kind == INTEGER:
        return str(value)
    suffix = draw(st.sampled_from(("", "", "", "k", "K", "m", "M", "g", "G", "s")))
    units = SUFFIXES[suffix.lower()] / SCALES[option.scale] if suffix else 1
    digits = int(value // units)
    if suffix and not low <= -(-digits * SUFFIXES[suffix.lower()] // SCALES[option.scale]) <= high:
        return str(value)
    return draw(st.sampled_from(("", "", "0"))) + (f"{digits}{suffix}" if suffix else str(value))


@st.composite
def statement(draw: Draw, option: Option, dialect: str) -> str:
    name = option.name_83 if dialect == "8.3" else option.name
    if option.kind == FLAG:
        return f"{name};"
    if option.kind == BOOL:
        if dialect == "8.3":
            return f"{name};"
        if option.negated_83 and draw(st.booleans()):
            return f"{option.name_83};"
        return f"{name}{draw(st.sampled_from(('', ' yes', ' no')))};"
    if name == "minor-count":
        return "minor-count 200;"   # drbdadm refuses minors beyond it; to us it means nothing
    if option.kind in (NUMBER, INTEGER):
        return f"{name} {draw(number(option, dialect))};"
    if option.kind in (ENUM, WORD):
        words = [*option.words, *(f"discard-node-{host}" for host in HOSTS if name == "after-sb-0pri")]
        return f"{name} {draw(st.sampled_from(words))};"
    if option.kind == NAMES:
        return f"{name} {' '.join(draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=2)))};"
    return f"{name} {draw(st.one_of(BARE, QUOTED))};"


@st.composite
def section(draw: Draw, name: str, dialect: str, mixed: bool = False) -> str:
    rows = [option for option in TABLE if option.name not in OWN_RULES and option.since != "ours" and
            (option.section_83 if dialect == "8.3" else option.section) == name]
    if mixed:   # 8.3's range of it is not 8.4's
        rows = [option for option in rows if option.name != "al-extents"]
    chosen = draw(st.lists(st.sampled_from(rows), max_size=6))
    body = [draw(statement(option, dialect)) for option in chosen]
    if name == "global":
        body.append("disable-ip-verification;")
    blank = draw(st.sampled_from((" ", "\n", "\n\t# a comment; }\n")))
    return f"{name} {{{blank}{blank.join(body)}{blank}}}"


SECTIONS = {"8.4": ("disk", "net", "options", "startup", "handlers", "proxy", "syncer"),
            "8.3": ("disk", "net", "syncer", "startup", "handlers", "proxy")}


@st.composite
def sections(draw: Draw, dialect: str) -> str:
    names = draw(st.lists(st.sampled_from(SECTIONS[dialect]), unique=True, max_size=5))
    protocol = f"protocol {draw(st.sampled_from('ABCabc'))};\n" if dialect == "8.3" or draw(st.booleans()) else ""
    made = [draw(section(name, "8.3" if name == "syncer" else dialect, dialect == "8.4")) for name in names]
    return protocol + "\n".join(made)


@st.composite
def volume(draw: Draw, minor: int, host: str, dialect: str, explicit: bool) -> str:
    device = draw(st.sampled_from((f"/dev/drbd{minor}", f"minor {minor}", f"drbd{minor} minor {minor}",
                                   f'"/dev/drbd_{host} {minor}" minor {minor}')))
    meta = draw(st.sampled_from((f"meta-disk /dev/meta[{minor}]", "meta-disk internal",
                                 f"flexible-meta-disk /dev/meta{minor}",
                                 f"meta-disk /dev/meta{minor}" if dialect == "8.4" else "flexible-meta-disk internal")))
    options = draw(section("disk", dialect)) if explicit and draw(st.booleans()) else ""
    parts = [f"device {device};", f"disk /dev/disk{minor};", f"{meta};"]
    return options + " ".join(draw(st.permutations(parts)))


@st.composite
def resource(draw: Draw, index: int, dialect: str) -> str:
    hosts = []
    explicit = dialect == "8.4" and draw(st.booleans())
    numbers = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)) if explicit else [0]
    kind = draw(st.sampled_from(("on", "on", "floating")))
    for place, host in enumerate(HOSTS):
        # drbdadm takes every floating address that is not IPv4 for its own
        families = ("", "ipv4 ", "sdp ", "ssocks ", "ipv6 ") if kind == "on" else ("", "ipv4 ")
        family = draw(st.sampled_from(families))
        address = f"ipv6 [fd00::{place + 1}]" if family == "ipv6 " else f"{family}10.0.0.{place + 1}"
        address += f":{7000 + index}"
        bodies = [draw(volume(index * 10 + number, host, dialect, explicit)) for number in numbers]
        body = " ".join(f"volume {n} {{ {text} }}" for n, text in zip(numbers, bodies)) if explicit else bodies[0]
        if kind == "on":
            hosts.append(f"on {host} {{ {body} address {address}; }}")
        else:
            hosts.append(f"floating {address} {{ {body} }}")
    order = draw(st.permutations([draw(sections(dialect)), *hosts]))
    name = draw(st.sampled_from((f"r{index}", f"res-{index}", f'"x y {index}"')))
    return f"resource {name} {{\n" + "\n".join(order) + "\n}\n"


@st.composite
def configuration(draw: Draw, dialect: str) -> str:
    parts = [draw(section("global", dialect))]
    if draw(st.booleans()):
        parts.append("common {\n" + draw(sections(dialect)) + "\n}")
    parts += [draw(resource(index, dialect)) for index in range(1, draw(st.integers(1, 3)) + 1)]
    if draw(st.booleans()):
        parts.insert(1, "skip me { { } ; \"}\" }")
    return "\n".join(parts)


def values(text: str, name: str, dialect: str) -> list[tuple[str, str, str, Value]]:
    """Every setting of a configuration, typed; of several for one option in the order that decides."""
    read = loads(text, name, dialect)
    scopes = [*([read.common] if read.common else []), *read.resources.values()]
    found = [(scope.name, item.option.section, item.name, item.value)
             for scope in scopes for settings in scope.sections.values() for item in settings.items
             if item.option.kind not in (FLAG, NAMES)]
    return sorted(found, key=lambda row: row[:3])


def compare(text: str, dialect: str, read_as: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "drbd.conf"
        path.write_text(text, encoding="utf-8")
        read = load(str(path), dialect=read_as or dialect)
        theirs = drbdadm(read_as or dialect, path, "a")
        if theirs.code == 1 and "no normal resources" in theirs.err:
            return
        assert theirs.code == 0, theirs.err
        assert dump(read, "a", dialect=read_as or dialect) == theirs.out
        assert values(theirs.out, str(path), read_as or dialect) == values(text, str(path), read_as or dialect)


@given(configuration("8.4"))
def test_84(text: str) -> None:
    compare(text, "8.4")


@given(configuration("8.3"))
def test_83(text: str) -> None:
    compare(text, "8.3")
