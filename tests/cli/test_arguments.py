# SPDX-License-Identifier: GPL-2.0-or-later
"""drbdadm's grammar of the command line, and what is said about words that are not in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.cli.arguments import parse
from replblock.cli.errors import Stop

PRIMARY_FORCED = ("primary", ["r0"], {"--force": ""})


@pytest.mark.parametrize(
    "line",
    [
        "primary --force r0",
        "primary r0 --force",
        "--force primary r0",
        "-- --force primary r0",
        "primary r0 -- --force",
        "-- --overwrite-data-of-peer primary r0",  # 8.3
        "--overwrite-data-of-peer primary r0",
        "-- -o primary r0",
        "-f primary r0",
        "primary --fo r0",
        "-W--force primary r0",
        "--setup-option=--force primary r0",
    ],
)
def test_force_in_all_spellings(line: str) -> None:
    words = parse(line.split(), "drbdadm")
    assert words.verb is not None
    assert (words.verb.name, words.names, words.options) == PRIMARY_FORCED


@pytest.mark.parametrize(
    "line", ["-- --discard-my-data connect r0", "connect --discard-my-data r0", "-- -D connect r0"]
)
def test_discard_my_data(line: str) -> None:
    assert parse(line.split(), "drbdadm").options == {"--discard-my-data": ""}


@pytest.mark.parametrize(
    "line",
    [
        "-d -n res -c /tmp/x adjust all",
        "-dn res -c/tmp/x adjust all",
        "-dnres --config-file /tmp/x adjust all",
        "--dry-run --sh-varname=res --config-file=/tmp/x adjust all",
        "adjust -d -n res -c /tmp/x all",
        "adjust all --dry --sh-v res --config-f /tmp/x",
    ],
)
def test_general_options(line: str) -> None:
    words = parse(line.split(), "drbdadm")
    assert words.verb is not None and words.verb.name == "adjust"
    assert words.names == ["all"]
    assert words.general == {"--dry-run": "", "--sh-varname": "res", "--config-file": "/tmp/x"}


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("wait-connect --wfc-timeout=7 r0", "7"),
        ("wait-connect --wfc-timeout 7 r0", "7"),
        ("-- --wfc-timeout 7 wait-connect r0", "7"),
        ("-- -t 7 wait-connect r0", "7"),
    ],
)
def test_options_with_a_value(line: str, seconds: str) -> None:
    words = parse(line.split(), "drbdadm")
    assert words.options == {"--wfc-timeout": seconds}
    assert words.names == ["r0"]


def test_verbose_is_an_option_of_status_too() -> None:
    words = parse(["status", "--verbose", "--statistics"], "replctl")
    assert "--verbose" in words.general
    assert "--statistics" in words.options


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("primry r0", "did you mean 'primary'"),
        ("primary --frce r0", "did you mean '--force'"),
        ("primary --clear-bitmap r0", "not an option of 'primary'"),
        ("-x role r0", "invalid option -- 'x'"),
        ("role -c", "'-c' needs a value"),
        ("wait-connect --wfc-timeout", "needs a value"),
        ("role --ver r0", "ambiguous"),
        ("-W--nonsense primary r0", "not an option of 'primary'"),
    ],
)
def test_bad_words_exit_1_with_the_nearest_one(line: str, has: str) -> None:
    with pytest.raises(Stop) as stop:
        parse(line.split(), "replctl")
    assert stop.value.exit_code == 1
    assert has in stop.value.lines[0]
    assert "replctl help" in stop.value.lines[-1]
    assert len(stop.value.lines) == 2


WORDS = st.sampled_from(
    ["primary", "r0", "all", "--", "-", "--force", "-d", "-n", "res", "-c", "/tmp/x", "--wfc-timeout", "-t", "-f", "-o",
     "--wfc-timeout=1", "wait-connect", "--version", "--help", "=", "--=", "r0/1", "", "-W", "--setup-option=--force"]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.text(max_size=6))))
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    try:
        made = parse(words, "replctl")
    except Stop as stop:
        assert stop.exit_code == 1 and stop.lines
    else:
        assert made.verb is not None or not made.names
