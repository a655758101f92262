# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of verbs is whole: every row leads to code, and everything that is made from it agrees."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from replblock.cli import completion, texts
from replblock.cli.arguments import parse
from replblock.cli.verbs import BY_NAME, EXPERT, GENERAL, SHELL, VERBS, Verb

DRBDADM = "/lib/drbd/drbdadm-84"
HANDLERS = {
    "before-resync-target", "after-resync-target", "before-resync-source", "pri-on-incon-degr", "pri-lost-after-sb",
    "fence-peer", "unfence-peer", "local-io-error", "pri-lost", "initial-split-brain", "split-brain", "out-of-sync",
}  # fmt: skip
LEFT_OUT = {
    "proxy-up", "proxy-down",  # the proxy is a closed product
    "sh-udev",  # no udev rules
    "set-gi",
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_a_function(verb: Verb) -> None:
    module = importlib.import_module(f"replblock.cli.{verb.module}")
    assert callable(getattr(module, verb.function))


def test_names_are_unique_and_general_options_are_not_taken() -> None:
    assert len(BY_NAME) == len(VERBS)
    general = {option.long for option in GENERAL} - {"--verbose"}
    for verb in VERBS:
        assert not general & {option.name for option in verb.options}, verb.name
        shorts = [option.short for option in verb.options if option.short]
        assert len(shorts) == len(set(shorts)), verb.name


def test_no_command_of_drbdadm_is_missing_unknowingly() -> None:
    """Judge: drbd-utils' own lists."""
    names: set[str] = set()
    for words in (["--help"], ["hidden-commands"]):
        listed = subprocess.run([DRBDADM, *words], capture_output=True, text=True).stdout
        for line in listed.splitlines():
            if re.fullmatch(r" [a-z0-9-]+( +[a-z0-9-]+)? *", line):  # their lists have two columns
                names |= set(line.split())
    assert len(names) > 60
    assert names - set(BY_NAME) - HANDLERS - LEFT_OUT == set()


def test_usage_lists_every_public_verb_and_hidden_commands_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    usage = texts.usage("replctl")
    for verb in VERBS:
        hidden = verb.group in (SHELL, EXPERT)
        assert (re.search(rf"^  {re.escape(verb.name)} ", usage, re.M) is None) == hidden, verb.name
        assert verb.name in texts.usage("replctl", verb.name)
    assert max(map(len, usage.splitlines())) <= 100


def test_completion_is_valid_bash_and_offers_verbs_options_and_resources(tmp_path: Path) -> None:
    script = tmp_path / "completion.sh"
    script.write_text(completion.bash())
    replctl = tmp_path / "replctl"
    replctl.write_text(
        "#!/bin/sh\ncase $1$2 in sh-resources) echo r0 r1;; roler0) echo Primary/Secondary;;"
        " roler1) echo Secondary/Primary;; cstater0) echo Connected;; cstater1) exit 10;; esac\n"
    )
    replctl.chmod(0o755)

    def complete(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        made = subprocess.run(
            ["bash", "-euc", f"source {script}; COMP_WORDS=({replctl} {line}); COMP_CWORD={len(words)};"
                             ' _replctl; printf "%s\\n" "${COMPREPLY[@]}"'],
            capture_output=True, text=True,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return made.stdout.split()

    assert complete("prim") == ["primary"]
    assert complete("primary", "--fo") == ["--force"]
    assert complete("primary", "") == ["r1", "all"]
    assert complete("secondary", "") == ["r0", "all"]
    assert complete("up", "") == ["r1", "all"]
    assert complete("down", "") == ["r0", "all"]
    assert complete("dump", "") == ["r0", "r1", "all"]
    assert complete("completion", "") == ["bash"]
    assert set(complete("sta")) == {"status"}


def test_every_verb_parses() -> None:
    for verb in VERBS:
        assert parse([verb.name, "r0"], "replctl").verb is verb
