# SPDX-License-Identifier: GPL-2.0-or-later
"""drbd.conf.example is DRBD's language: drbdadm-84 takes it once our own section is cut out."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from replblock.conf import load

EXAMPLE = Path(__file__).resolve().parent.parent / "drbd.conf.example"
DRBDADM_84 = "/lib/drbd/drbdadm-84"


def for_drbdadm() -> str:
    """The example without our section, and without the check that this machine has one of its addresses."""
    cut, sections = re.subn(r"^\s*replblock \{[^{}]*\}\n", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert sections == 1
    return cut.replace("usage-count no;", "usage-count no; disable-ip-verification;")


def drbdadm_dump(path: Path, node: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "__DRBD_NODE__": node}     # drbdadm's own way to be another host
    command = [DRBDADM_84, "-c", str(path), "dump"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_drbdadm_accepts_the_example(tmp_path: Path, node: str) -> None:
    path = tmp_path / "drbd.conf"
    path.write_text(for_drbdadm())
    dump = drbdadm_dump(path, node)
    assert dump.returncode == 0, dump.stderr
    assert "on alpha {" in dump.stdout and "on beta {" in dump.stdout
    assert f"{node}: not ignored" in dump.stdout, "drbdadm found no role for this node in the resource"
    assert re.search(r"protocol\s+C;", dump.stdout) and re.search(r"resync-rate\s+100M;", dump.stdout)


def test_every_commented_option_is_accepted_too(tmp_path: Path) -> None:
    """The lines shown as defaults are real options with real values."""
    live, options = re.subn(r'^(\s+)# ([a-z0-9-]+ +("[^"]*"|[\w-]+);)', r"\1\2", for_drbdadm(), flags=re.MULTILINE)
    assert options >= 15
    path = tmp_path / "drbd.conf"
    path.write_text(live)
    dump = drbdadm_dump(path, "alpha")
    assert dump.returncode == 0, dump.stderr
    assert "pri-on-incon-degr" in dump.stdout and "csums-alg" in dump.stdout


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_we_read_the_example_too(node: str) -> None:
    view = load(str(EXAMPLE)).resources["r0"].view(node)
    assert view.net["protocol"] == "C"


def test_drbdadm_does_not_know_our_section() -> None:
    """If it did, the word would be taken and we would need another."""
    dump = drbdadm_dump(EXAMPLE, "alpha")
    assert dump.returncode == 10 and "replblock" in dump.stdout + dump.stderr


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_the_configuration_of_the_installation_guide(tmp_path: Path, node: str) -> None:
    """Whoever follows docs/installation.md types a file that both programs take."""
    guide = (EXAMPLE.parent / "docs" / "installation.md").read_text()
    found = re.search(r"^resource r0 \{\n.*?^\}$", guide, re.DOTALL | re.MULTILINE)
    assert found
    path = tmp_path / "drbd.conf"
    path.write_text(f"global {{ usage-count no; disable-ip-verification; }}\n{found[0]}\n")
    assert drbdadm_dump(path, node).returncode == 0
    view = load(str(path)).resources["r0"].view(node, ())
    assert (view.volumes[0].disk, view.volumes[0].device) == ("/dev/sdb1", "/dev/drbd0")
