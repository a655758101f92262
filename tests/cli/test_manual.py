# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: judged by man's own warnings and by mandoc, and complete by the tables they are made from."""

from __future__ import annotations

import os
import subprocess

import pytest

from replblock.cli import manual
from replblock.cli.verbs import GENERAL, VERBS
from replblock.conf.options import TABLE


def shown(name: str) -> str:
    """The page as a reader sees it, without breaks of words."""
    done = subprocess.run(["man", "--warnings", "--nh", "--nj", "-l", "-"], input=manual.page(name), text=True,
                          capture_output=True, env={**os.environ, "MANWIDTH": "160", "LC_ALL": "C.UTF-8",
                                                    "MANPAGER": "cat", "GROFF_NO_SGR": "1"})  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return subprocess.run(["col", "-b"], input=done.stdout, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", manual.PAGES)
def test_mandoc_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=manual.page(name), capture_output=True,
                          text=True)  # fmt: skip
    complaints = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert not complaints, "\n".join(complaints)


def test_every_command_and_option_is_described() -> None:
    text = shown("replctl.8")
    for verb in VERBS:
        assert verb.name in text and verb.help in text, verb.name
        for option in verb.options:
            assert option.name in text, option.name
    for general in GENERAL:
        assert general.help in text, general.long


def test_every_difference_of_the_configuration_is_named() -> None:
    text = shown("replblock.conf.5")
    for option in TABLE:
        if option.section == "replblock" or option.support != "yes":
            assert option.name in text, option.name
    assert "8.3: 127, 8.4: 1237" in text


def test_an_unknown_page_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    from replblock.cli.main import main

    assert main(["manual", "drbd.8"]) == 1
    assert "replctl.8, replblock.conf.5" in capsys.readouterr().err
