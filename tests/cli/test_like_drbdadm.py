# SPDX-License-Identifier: GPL-2.0-or-later
"""The same words to replctl and to drbd-utils' drbdadm-84: same answer, same exit code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Node, one_resource, two_resources

MACHINE = os.uname().nodename

SAME_OUTPUT = [
    "sh-nop", "sh-resources", "-S sh-resources", "sh-dev all", "sh-dev r1/1", "sh-minor all", "sh-ll-dev all",
    "sh-md-dev all", "sh-md-idx all", "sh-ip r1", "sh-mod-parms", "sh-resource r2", "sh-dev r1 r2",
]  # fmt: skip

SAME_CODE = [
    "", "nonsense r1", "sh-dev", "primary", "up", "create-md", "up r9", "role r1/7", "primary --nonsense r1",
    "-x role r1", "connect r1/1", "disconnect r1/0", "adjust r1/1", "dump r1/1", "-d -S up all", "sh-lr-of r1",
    "help", "help primary", "-d up all", "-d down all", "-d create-md r1/1", "-d -- --force primary all",
    "sh-resource 2",
]  # fmt: skip


@pytest.fixture
def twin(tmp_path: Path) -> Node:
    made = Node(tmp_path, MACHINE)
    made.config.write_text(two_resources(MACHINE, tmp_path))
    return made


@pytest.mark.parametrize("line", SAME_OUTPUT)
def test_same_answer(twin: Node, line: str) -> None:
    ours, theirs = twin.run(*line.split()), twin.drbdadm(*line.split())
    assert (ours.code, ours.out) == (theirs.code, theirs.out), f"{ours}{theirs}"
    assert ours.code == 0


@pytest.mark.parametrize("line", SAME_CODE)
def test_same_exit_code(twin: Node, line: str) -> None:
    ours, theirs = twin.run(*line.split()), twin.drbdadm(*line.split())
    assert ours.code == theirs.code, f"{ours}{theirs}"
    if ours.code:
        assert ours.errors, "a refusal without a word"
        assert "Traceback" not in "".join(ours.errors)


def test_mod_params_has_two_spellings(twin: Node) -> None:
    assert twin.run("sh-mod-params").out == twin.drbdadm("sh-mod-parms").out == "minor_count=8\n"


def test_dump_is_the_same_configuration(twin: Node) -> None:
    """Only drbdadm says `# defined at`; it also prints time-outs of its own among the global options."""
    ours, theirs = twin.run("dump").out, twin.drbdadm("dump").out

    def settings(text: str) -> list[str]:
        lines = (" ".join(line.split()) for line in text.splitlines())
        return [line for line in lines if line and not line.startswith(("# defined at", "cmd-timeout", "usage-count"))]

    assert settings(ours) == settings(theirs)


@pytest.mark.parametrize(("line", "names"), [("dump r2", "r2"), ("dump r1 r2", "r1 r2"), ("dump all", "r1 r2")])
def test_dump_of_some_can_be_read_again_by_drbdadm(twin: Node, tmp_path: Path, line: str, names: str) -> None:
    again = Node(tmp_path / "again", MACHINE)
    again.config.write_text(twin.run(*line.split(), "--drbd").out)
    assert again.drbdadm("sh-resources").out == names + "\n"


@pytest.mark.parametrize(
    "text", ["resource r0 { foo bar; }", "resource {", "resource r0 { on a { } }", 'include "/none";']
)
def test_a_broken_file_is_exit_10_with_file_and_line(twin: Node, text: str) -> None:
    twin.config.write_text(text)
    ours, theirs = twin.run("up", "r0"), twin.drbdadm("up", "r0")
    assert ours.code == theirs.code == 10
    assert ours.errors[0].startswith(f"{twin.config}:1: ")


def test_a_missing_file_is_exit_20_and_says_which(twin: Node) -> None:
    twin.config.unlink()
    ours = twin.run("role", "r1")
    assert ours.code == twin.drbdadm("role", "r1").code == 20
    assert str(twin.config) in ours.errors[0]
    assert ours.errors[1:] == ["name the configuration with: -c FILE"]


def test_config_to_test_is_read_too(twin: Node, tmp_path: Path) -> None:
    broken = tmp_path / "broken.conf"
    broken.write_text("resource r0 { foo bar; }")
    ours = twin.run("-t", str(broken), "sh-nop")
    assert ours.code == 10
    assert ours.errors[0].startswith(f"{broken}:1: ")


def test_configuration_from_standard_input(node: Node) -> None:
    text = node.config.read_text()
    assert node.run("-c", "-", "sh-dev", "r0", stdin=text, config=False).out == "/dev/drbd0\n"
    refused = node.run("-c", "-", "up", "r0", stdin=text, config=False)
    assert refused.code == 20
    assert "write it to a file" in refused.errors[1]


def test_become_primary_on(tmp_path: Path) -> None:
    """`sh-b-pri` names the same resources as drbdadm's."""
    for startup, promoted in (("become-primary-on here;", True), ("become-primary-on there;", False), ("", False)):
        made = Node(tmp_path / startup[-7:-1])
        made.config.write_text(one_resource("here", "/none").replace("wfc-timeout 0;", startup, 1))
        lines = made.run("-d", "sh-b-pri", "all").out.splitlines()
        assert [line.split()[-2:] for line in lines] == ([["primary", "r0"]] if promoted else [])
