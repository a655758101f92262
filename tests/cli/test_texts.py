# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user reads when a word is wrong: one clear line, the nearest known word, the next command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Node, one_resource


def test_unknown_resource_names_those_known(node: Node) -> None:
    made = node.run("primary", "ro")
    assert made.code == 1
    assert made.errors == ["'ro' not defined in your config (for this host).", "known: r0; did you mean 'r0'?"]


def test_another_nodes_resource_names_its_hosts(node: Node) -> None:
    made = node.run("--host", "elsewhere", "primary", "r0")
    assert made.code == 1
    assert made.errors[0] == "'r0' not defined in your config (for this host)."
    assert made.errors[1].startswith("it is for here and there, and this node is elsewhere")
    assert node.run("--host", "elsewhere", "primary", "all").code == 1
    assert node.run("--host", "there", "sh-ll-dev", "r0").out == "/dev/sda1\n"


def test_no_configuration_names_the_places_searched(node: Node) -> None:
    """Run where /etc holds none."""
    empty = node.directory / "etc"
    empty.mkdir()
    replctl = shlex.quote(f"{node.environment['PYTHONPATH']}/.venv/bin/replctl")
    command = f"mount --bind {empty} /etc && exec {replctl} up r0"
    made = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, env=node.environment)
    if "unshare" in made.stderr or "mount:" in made.stderr:
        pytest.skip("needs root and mount namespaces")
    assert made.returncode == 10
    assert made.stderr.splitlines()[0] == (
        "no configuration found; searched: /etc/drbd-84.conf, /etc/drbd-83.conf, /etc/drbd-82.conf, /etc/drbd-08.conf,"
        " /etc/drbd.conf"
    )


DOWN = ["role", "cstate", "primary", "secondary", "invalidate-remote", "pause-sync", "attach"]


@pytest.mark.parametrize("verb", DOWN)
def test_a_resource_that_is_down(node: Node, verb: str) -> None:
    """drbdsetup's own first line, then what to do."""
    made = node.run(verb, "r0")
    assert made.code == 10
    assert made.out == ""
    assert made.errors == [
        "0: Failure: (127) Device minor not allocated",
        "r0 is not up on this node; run: replctl up r0",
    ]


def test_status_of_a_resource_that_is_down(node: Node) -> None:
    made = node.run("status", "r0")
    assert (made.code, made.out) == (10, "")
    assert made.errors[0] == "r0: No such resource"
    assert node.run("connect", "r0").errors[0] == "r0: Failure: (158) Unknown resource"


def test_down_is_done_when_there_is_nothing_to_do(node: Node) -> None:
    assert node.run("down", "all").code == 0


def test_minor_and_device_name_a_volume(node: Node) -> None:
    assert node.run("sh-ll-dev", "minor-0").out == node.run("sh-ll-dev", "/dev/drbd0").out != ""


def test_floating_hosts_are_found_by_address(tmp_path: Path) -> None:
    made = Node(tmp_path)
    text = one_resource("here", "/none").replace("on here {", "floating 127.0.0.1:7788 {").replace(
        "address 127.0.0.1:7788;", "").replace("on there {", "floating 192.0.2.1:7788 {").replace(
        "address 127.0.0.2:7788;", "")  # fmt: skip
    made.config.write_text(text)
    assert made.run("sh-resources").out == "r0\n", made.run("sh-resources")
    assert made.run("sh-ip", "r0").out == "127.0.0.1\n"


def test_version_is_eval_able(node: Node) -> None:
    text = node.run("--version").out
    script = f'{text}\n(( DRBD_KERNEL_VERSION_CODE >= 0x080400 )) && echo "$DRBDADM_VERSION"'
    made = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert made.stdout == "9.22.0\n"


def test_called_drbdadm_it_says_so(node: Node, tmp_path: Path) -> None:
    link = tmp_path / "drbdadm"
    link.symlink_to(Path(node.environment["PYTHONPATH"]) / ".venv/bin/replctl")
    made = subprocess.run([str(link), "-c", str(node.config), "sh-dev", "r0"], env=node.environment,
                          capture_output=True, text=True)  # fmt: skip
    assert made.stdout == "/dev/drbd0\n", made.stderr
    made = subprocess.run([str(link), "nonsense"], env=node.environment, capture_output=True, text=True)
    assert made.stderr.startswith("drbdadm: Unknown command 'nonsense'")


def test_a_closed_pipe_is_no_traceback(node: Node) -> None:
    command = f"{shlex.quote(node.environment['PYTHONPATH'])}/.venv/bin/replctl --help | true"
    made = subprocess.run(["bash", "-c", command], env=node.environment, capture_output=True, text=True)
    assert made.stderr == ""


def test_nothing_is_loaded_that_a_role_change_does_not_need(node: Node) -> None:
    """A cluster manager waits for this process: a running resource is asked without the parser of the configuration."""
    code = (
        "import sys; from replblock.cli.main import main; "
        "import replblock.engine.client as c; c.is_up = lambda *a: True; "
        "c.call = lambda *a: {'exit_code': 0, 'lines': [], 'data': {}}; "
        "assert main(['primary', 'r0']) == 0; "
        "print(*(m for m in sys.modules if m.startswith('replblock.conf') or m in ('argparse', 'dataclasses',"
        " 'difflib', 'subprocess', 'shutil', 'secrets', 'inspect')))"
    )
    made = subprocess.run([sys.executable, "-c", code], env=node.environment, capture_output=True, text=True)
    assert (made.stdout.strip(), made.stderr) == ("", "")
