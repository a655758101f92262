# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl install-scripts`: what it puts where, that removal is exact, that nothing of anybody else's is touched."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from replblock.cluster import install, layout
from replblock.cluster.install import Item, Step, carry_out, plan_install, plan_remove

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "etc/ha.d/resource.d/replblock"
LINK = "sbin/drbdadm"


def replctl(prefix: Path, *words: str, dry: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "replblock.cli.main", *(["-d"] if dry else []), "install-scripts",
               f"--prefix={prefix}", *words]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def picture(root: Path) -> dict[str, str]:
    """All there is below a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        mark = os.readlink(path) if path.is_symlink() else "dir" if path.is_dir() else \
            f"{path.stat().st_mode & 0o777:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        found[str(path.relative_to(root))] = mark
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Somebody's root directory."""
    root = tmp_path / "machine"
    for directory in ("etc/ha.d/resource.d", "sbin", "usr/local", "var/lib"):
        (root / directory).mkdir(parents=True)
    (root / "etc/ha.d/resource.d/IPaddr").write_text("#!/bin/sh\n")
    (root / "sbin/init").write_text("#!/bin/sh\n")
    return root


def test_there_and_back_again(machine: Path) -> None:
    before = picture(machine)
    put = replctl(machine)
    assert put.returncode == 0, put
    for path in (SCRIPT, "usr/local/share/man/man8/replctl.8", "usr/local/share/man/man5/replblock.conf.5",
                 "etc/systemd/system/replblock@.service", "usr/local/share/bash-completion/completions/replctl",
                 "usr/local/lib/replblock/shutdown-guard", "etc/udev/rules.d/65-replblock.rules",
                 "usr/local/lib/replblock/replblock-crm-fence",
                 "usr/lib/ocf/resource.d/replblock/replblock"):  # fmt: skip
        assert (machine / path).is_file(), path
    assert os.access(machine / SCRIPT, os.X_OK)
    agent = machine / "usr/lib/ocf/resource.d/replblock/replblock"
    assert os.access(agent, os.X_OK) and "/usr/local/lib/replblock/replblock-crm-unfence" in agent.read_text()
    assert os.readlink(machine / LINK) == "/usr/local/sbin/replctl" == os.readlink(machine / "usr/local/sbin/drbdadm")
    assert "@" + "REPLCTL" not in (machine / "etc/systemd/system/replblock@.service").read_text()
    again = replctl(machine)
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")
    removed = replctl(machine, "--remove")
    assert removed.returncode == 0, removed
    assert picture(machine) == before
    assert replctl(machine, "--remove").stdout == "nothing to do\n"


def test_the_dry_run_changes_nothing_and_its_commands_do_the_same(machine: Path, tmp_path: Path) -> None:
    """Each line is a command; carried out by a shell they give the same tree."""
    before = picture(machine)
    dry = replctl(machine, dry=True)
    assert dry.returncode == 0, dry
    assert picture(machine) == before
    assert replctl(machine).returncode == 0
    by_us = picture(machine)
    assert replctl(machine, "--remove").returncode == 0
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "replctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m replblock.cli.main "$@"\n')
    (tools / "replctl").chmod(0o755)
    done = subprocess.run(["sh", "-euc", dry.stdout], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"})  # fmt: skip
    assert done.returncode == 0, done
    by_shell = picture(machine)
    del by_us["var/lib/replblock"], by_us[install.MANIFEST[1:]]
    assert by_shell == by_us


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_strangers_file_is_not_overwritten(machine: Path, kind: str) -> None:
    """All or nothing: where one thing is in the way, nothing is done."""
    path = machine / SCRIPT
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to("/nowhere")
    else:
        path.mkdir()
    before = picture(machine)
    refused = replctl(machine)
    assert refused.returncode == 10
    assert str(path) in refused.stderr.splitlines()[0]
    assert picture(machine) == before
    forced = replctl(machine, "--force")
    if kind == "directory":
        assert forced.returncode == 10
        assert picture(machine) == before
        return
    assert forced.returncode == 0, forced
    assert path.read_bytes() == (layout.HERE / "resource.d" / "replblock").read_bytes()
    assert replctl(machine).stdout == "nothing to do\n"
    assert replctl(machine, "--remove").returncode == 0
    assert picture(machine) == before, "what was set aside is back"


def test_another_drbdadm_is_left_alone(machine: Path) -> None:
    (machine / LINK).write_text("drbd-utils' own")
    done = replctl(machine)
    assert done.returncode == 0 and "left alone" in done.stderr
    assert (machine / LINK).read_text() == "drbd-utils' own"
    assert (machine / "usr/local/sbin/drbdadm").is_symlink()
    assert replctl(machine, "--remove").returncode == 0
    assert (machine / LINK).read_text() == "drbd-utils' own"


def test_what_the_administrator_changed_is_his(machine: Path) -> None:
    assert replctl(machine).returncode == 0
    unit = machine / "etc/systemd/system/replblock@.service"
    unit.write_text("[Unit]\n")
    refused = replctl(machine)
    assert refused.returncode == 10 and "was changed since it was installed" in refused.stderr
    removed = replctl(machine, "--remove")
    assert removed.returncode == 0 and f"left alone: {unit}" in removed.stderr
    assert unit.read_text() == "[Unit]\n" and not (machine / SCRIPT).exists()
    unit.unlink()
    assert replctl(machine, "--remove").returncode == 0
    assert not (machine / install.MANIFEST[1:]).exists()
    assert not unit.parent.exists(), "a directory that was made goes with the last file in it"


def test_an_identical_file_of_somebody_else_outlives_removal(machine: Path) -> None:
    (machine / SCRIPT).write_bytes((layout.HERE / "resource.d" / "replblock").read_bytes())
    assert replctl(machine).returncode == 0
    assert replctl(machine, "--remove").returncode == 0
    assert (machine / SCRIPT).exists()


def test_a_newer_version_replaces_and_drops(tmp_path: Path) -> None:
    root = str(tmp_path)
    carry_out(root, plan_install(root, [Item("/a/one", b"1"), Item("/a/two", b"2"), Item("/l", link="/a/one")], {}))
    carry_out(root, plan_install(root, [Item("/a/one", b"1.1"), Item("/l", link="/a/three")], {}))
    assert (tmp_path / "a/one").read_bytes() == b"1.1"
    assert not (tmp_path / "a/two").exists() and os.readlink(tmp_path / "l") == "/a/three"
    carry_out(root, plan_remove(root))
    assert {path for path in picture(tmp_path) if not path.startswith("var")} == set()


@pytest.mark.parametrize("forward", [True, False], ids=["installing", "removing"])
def test_a_run_that_was_cut_short_anywhere_can_be_taken_back_and_repeated(
    tmp_path: Path, forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item("/a/b/one", b"1", 0o755), Item("/a/two", b"2"), Item("/sbin/l", link="/a/two"), Item("/theirs", b"3")]
    real = Step.apply

    def fresh(number: int) -> str:
        root = tmp_path / str(number)
        (root / "var/lib").mkdir(parents=True)
        (root / "theirs").write_text("keep me")
        return str(root)

    def die_at(number: int) -> None:
        count = iter(range(100))

        def apply(step: Step) -> None:
            if not step.path.endswith("installed") and next(count) == number:
                raise OSError("power failure")
            real(step)

        monkeypatch.setattr(Step, "apply", apply)

    reference = fresh(99)
    before = picture(Path(reference))
    carry_out(reference, plan_install(reference, items, {}, force=True))
    after, entries = picture(Path(reference)), set(install.read_manifest(reference))
    after.pop(install.MANIFEST[1:])
    steps = len(plan_remove(reference).steps)
    assert steps >= 7
    for number in range(steps):
        root = fresh(number)
        if not forward:
            carry_out(root, plan_install(root, items, {}, force=True))
        die_at(number)
        with pytest.raises(OSError, match="power failure"):
            carry_out(root, plan_install(root, items, {}, force=True) if forward else plan_remove(root))
        monkeypatch.setattr(Step, "apply", real)
        if number % 2:      # repeated
            carry_out(root, plan_install(root, items, {}, force=True))
            assert set(install.read_manifest(root)) == entries, number
            repeated = picture(Path(root))
            repeated.pop(install.MANIFEST[1:])
            assert repeated == after, number
        carry_out(root, plan_remove(root))
        assert picture(Path(root)) == before, number
