# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever the bytes: a Configuration or a ConfigError of one line, and soon."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.conf import ConfigError, dump, loads
from replblock.conf.options import TABLE
from tests.conf.oracle import CORPUS

FILES = {path.name: path.read_bytes() for path in sorted(CORPUS.glob("*.conf"))}
GRAMMAR = ("on", "floating", "resource", "common", "global", "skip", "volume", "device", "disk", "net", "syncer",
           "replblock", "include", "internal", "minor", "yes", "no", "{", "}", "[", "]",
           ":", ";", '"', "#", "0", "1", "-1",
           "10.0.0.1", "99999999999999999999", "\x00", "é", "\\")
WORDS = sorted({*GRAMMAR, *(option.name for option in TABLE), *(option.name_83 for option in TABLE)})
SPLICES = st.one_of(st.sampled_from([word.encode() for word in WORDS]), st.binary(max_size=8))


def digest(data: bytes, dialect: str | None = None) -> None:
    """Load; whatever loads must also be viewed and dumped without surprise."""
    try:
        configuration = loads(data, dialect=dialect)
        for resource in configuration.resources.values():
            try:
                resource.view("alpha", ["10.1.1.31"]).unused()
            except ConfigError as error:
                assert "\n" not in str(error)
        text = dump(configuration, "alpha", dialect="8.4")
    except ConfigError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return
    assert text.startswith("# ")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.sampled_from((0, 0, 1, 5, 40)))
        piece = draw(SPLICES)
        space = draw(st.sampled_from((b"", b" ")))
        data[at:at + cut] = space + piece + space
    return bytes(data)


@given(damaged())
def test_damaged_files(data: bytes) -> None:
    digest(data)


@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_words_in_any_order(words: list[str]) -> None:
    digest(" ".join(words).encode())


@given(st.binary(max_size=300), st.sampled_from((None, "8.3", "8.4")))
def test_any_bytes(data: bytes, dialect: str | None) -> None:
    digest(data, dialect)


@pytest.mark.parametrize("name", sorted(FILES))
def test_cut_off_anywhere(name: str) -> None:
    data = FILES[name]
    for end in range(0, len(data), 7):
        digest(data[:end])


@pytest.mark.parametrize("data", [
    b"{" * 100000, b"}" * 100000, b";" * 100000, b"a" * 3000000, b'"' * 100001,
    b"resource r { " * 50000, b"\\" * 100000, b"#" * 3000000, b"skip " + b"{" * 300000, b"a " * 500000,
    b"[" * 100000, b":" * 200000,
    b'"' + b"\\a" * 100000, b"\n" * 1000000,
    b"resource r { net { timeout " + b"9" * 100 + b"; } }", b"resource r { on a { address " + b"1." * 60 + b"1:5; } }",
    b"include \"\\\x00\";", b"resource r { on " + b"h " * 20000 + b"{ } }"])
def test_huge_or_monotonous(data: bytes) -> None:
    """Linear work: the test runner's limit catches anything else."""
    digest(data)
