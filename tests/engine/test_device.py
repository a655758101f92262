# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system on the device of a real engine: attached at promotion, let go at demotion, never under a mount."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replblock.engine import client
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.root


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def alpha(request: pytest.FixtureRequest, tmp_path: Path, port: Callable[[], int]) -> Iterator[Node]:
    how = getattr(request, "param", "auto")
    minor = 600 + os.getpid() % 300
    with nodes(tmp_path, port, attach=how, device=f"/dev/drbd{minor}", size_bytes=64 << 20) as (alpha, _):
        alpha.start()
        alpha.do("attach")
        yield alpha
        if alpha.alive():
            subprocess.run(["umount", tmp_path / "mnt"], check=False, capture_output=True)
            wait_for(lambda: alpha.ask("stop")["exit_code"] == 0)
            alpha.exit_code()


def test_a_mounted_file_system_keeps_the_role(alpha: Node, tmp_path: Path) -> None:
    device, mount = alpha.device, tmp_path / "mnt"
    mount.mkdir()
    assert Path(device).is_block_device()  # in both roles, from up to down
    alpha.do("primary", force=True)
    run("mkfs.ext3", "-q", device)
    run("mount", device, mount)
    (mount / "file").write_bytes(os.urandom(1 << 20))
    for verb in ("secondary", "stop"):
        found = alpha.ask(verb)
        assert found["exit_code"] == 11 and "(-12) Device is held open by someone" in found["lines"][0]
        assert found["lines"][1] == f"mounted at {mount}"
    os.kill(alpha.pid, signal.SIGTERM)
    wait_for(lambda: "stop-refused" in alpha.log())
    os.sync()
    assert len((mount / "file").read_bytes()) == 1 << 20
    run("umount", mount)
    alpha.do("secondary")
    alpha.do("primary")
    run("fsck.ext3", "-fn", device)
    alpha.do("stop")
    assert alpha.exit_code() == 0
    assert not os.path.exists(device)


def test_what_a_killed_engine_left_is_cleared_away(alpha: Node) -> None:
    alpha.do("primary", force=True)
    assert (alpha.run / "r0.device").exists()
    alpha.kill()
    alpha.start()
    alpha.do("attach")
    alpha.do("primary")
    run("mkfs.ext3", "-q", alpha.device)
    alpha.do("stop")
    assert alpha.exit_code() == 0
    assert not os.path.exists(alpha.device)


@pytest.mark.parametrize("alpha", ["fuse"], indirect=True)
def test_a_device_that_would_not_survive_is_not_restarted_under_its_users(alpha: Node, tmp_path: Path) -> None:
    """Through FUSE it would give I/O errors. Unused, the new engine is Primary again, with the device attached anew."""
    mount = tmp_path / "mnt"
    mount.mkdir()
    alpha.do("primary", force=True)
    run("mkfs.ext3", "-q", alpha.device)
    run("mount", alpha.device, mount)
    found = alpha.ask("leave")
    assert found["exit_code"] == 11 and found["lines"][1] == f"mounted at {mount}"
    run("umount", mount)
    alpha.do("leave")
    assert alpha.exit_code() == 0
    alpha.start(resume=True)
    assert alpha.ask("primary")["exit_code"] == 11  # its device decides, and nobody else
    alpha.do("attach")
    assert alpha.do("resume")["data"] == {"resumed": True}
    assert alpha.status()["role"] == "Primary"
    run("fsck.ext3", "-fn", alpha.device)


def test_who_stops_an_engine_that_has_not_decided_gives_the_device_up(alpha: Node) -> None:
    alpha.do("primary", force=True)
    alpha.kill()
    alpha.start(resume=True)
    os.kill(alpha.pid, signal.SIGTERM)  # no order to fail anybody's device; and at once: signals must be ours by then
    wait_for(lambda: "stop-refused" in alpha.log())
    alpha.do("stop")
    assert "rule given-up" in alpha.log()
    assert alpha.exit_code() == 0
    assert not os.path.exists(alpha.device)


def test_a_supervisor_starts_the_next_engine(tmp_path: Path, port: Callable[[], int]) -> None:
    """`restart` leaves that to it. The engine goes with a failure: systemd runs no `down` then, and starts another."""
    with nodes(tmp_path, port) as (alpha, _):
        ours = {"REPLBLOCK_RUN": str(alpha.run), "REPLBLOCK_HOST": alpha.host, "NOTIFY_SOCKET": "@replblock-nobody"}
        replctl = [sys.executable, "-m", "replblock.cli.main", "-c", str(alpha.config)]

        def begin(*words: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*replctl, *words], env={**os.environ, **ours}, cwd=ROOT)

        engine = begin("new-resource", "--supervised", "r0")
        try:
            wait_for(lambda: client.is_up(alpha.run, "r0"))
            restart = begin("restart", "r0")
            assert engine.wait(20) == 1
            engine = begin("new-resource", "--supervised", "r0")
            wait_for(lambda: client.is_up(alpha.run, "r0"))
            assert begin("up", "r0").wait(30) == 0      # ExecStartPost
            assert restart.wait(30) == 0
            assert alpha.do("ping")["data"]["pid"] == engine.pid
            assert alpha.status()["devices"][0]["disk-state"] != "Diskless"
        finally:
            engine.kill()
            engine.wait()
