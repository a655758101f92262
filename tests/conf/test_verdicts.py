# SPDX-License-Identifier: GPL-2.0-or-later
"""What drbdadm takes we take, what it refuses we refuse; the exceptions are listed and each has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from replblock.conf import ConfigError, dump, load
from tests.conf.oracle import accepts, drbdadm
from tests.conf.snippets import (
    GLOBAL,
    HOST_A,
    HOSTS,
    IN_RESOURCE,
    LOOSER_HOST_A,
    STRICTER,
    STRICTER_HOST_A,
    TOP,
    pieces,
)

DIALECTS = ("8.3", "8.4")


def in_resource(snippet: str) -> str:
    if "protocol" in snippet:
        return f"{GLOBAL}common {{ protocol C; }}\nresource r {{\n{snippet}\n{HOSTS}}}\n"
    return f"{GLOBAL}resource r {{\nprotocol C; {snippet}\n{HOSTS}}}\n"


def at_top(snippet: str) -> str:
    return f"{snippet}\nresource r {{ protocol C;\n{HOSTS.replace('10.0.0.1', '127.0.0.1')}}}\n"


def in_host_a(snippet: str) -> str:
    return f"{GLOBAL}resource r {{ protocol C;\n on a {{ {snippet} }}\n{HOSTS.splitlines()[1]}\n}}\n"


def ours(path: Path, dialect: str) -> str:
    """'' if we take the file, else the error."""
    try:
        load(str(path), dialect=dialect)
    except ConfigError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


CASES = [(in_resource, IN_RESOURCE), (at_top, TOP), (in_host_a, HOST_A)]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_same_verdict(case: int, dialect: str, tmp_path: Path) -> None:
    place, text = CASES[case]
    path = tmp_path / "drbd.conf"
    different = []
    for snippet in pieces(text):
        path.write_text(place(snippet))
        theirs, error = accepts(dialect, path, "a"), ours(path, dialect)
        if theirs != (not error):
            different.append((snippet, theirs, error))
    assert not different


@pytest.mark.parametrize("dialect", DIALECTS)
def test_taken_pieces_dump_alike(dialect: str, tmp_path: Path) -> None:
    """Whatever both take is also printed alike."""
    path = tmp_path / "drbd.conf"
    count = 0
    for place, text in CASES:
        for snippet in pieces(text):
            path.write_text(place(snippet))
            theirs = drbdadm(dialect, path, "a")
            if theirs.code == 0:
                assert dump(load(str(path), dialect=dialect), "a") == theirs.out, snippet
                count += 1
    assert count > 60


@pytest.mark.parametrize("snippet", STRICTER)
def test_stricter_than_drbdadm(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "drbd.conf"
    path.write_text(in_resource(snippet))
    assert accepts("8.4", path, "a") and ours(path, "8.4")


@pytest.mark.parametrize("snippet", STRICTER_HOST_A)
def test_stricter_than_drbdadm_about_hosts(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "drbd.conf"
    path.write_text(in_host_a(snippet))
    assert accepts("8.4", path, "a") and ours(path, "8.4")


@pytest.mark.parametrize("snippet", LOOSER_HOST_A)
def test_looser_than_drbdadm(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "drbd.conf"
    path.write_text(in_host_a(snippet))
    assert not accepts("8.4", path, "a") and not ours(path, "8.4")
