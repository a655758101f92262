# SPDX-License-Identifier: GPL-2.0-or-later
"""DRBD's init scripts at work between two machines; only /etc/default/drbd names our tools and our proc file.

Two generations: the one that drbd-utils ships, and the calls of 8.2's `rc.drbd`. RC_DRBD=FILE adds another one.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.namespaces import call
from tests.e2e.pair import Node
from tests.e2e.shop import HOME, MKFS, Shop
from tests.e2e.waiting import wait_until

STOCK = Path("/lib/drbd/scripts/drbd")
CALLS_OF_82 = Path(__file__).parent / "case" / "rc.drbd-calls"
SCRIPTS = [STOCK, CALLS_OF_82, *(Path(path) for path in os.environ.get("RC_DRBD", "").split())]

pytestmark = [
    pytest.mark.root, pytest.mark.netns, pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
]  # fmt: skip


class Init:
    """An init script on one node."""

    def __init__(self, node: Node, script: Path) -> None:
        self.node, self.path = node, script
        default = node.directory / "default"
        shutil.copytree("/etc/default", default, symlinks=True, dirs_exist_ok=True)
        shutil.copy(node.directory / "drbdadm", node.directory / "drbdsetup")
        proc = "proc" if script == STOCK else "proc-8.2"
        (default / "drbd").write_text(
            f"DRBDADM={node.directory}/drbdadm\nDRBDSETUP={node.directory}/drbdsetup\nPROC_DRBD={node.run_dir}/{proc}\n"
            f"MODPROBE=true\nRMMOD=true\nPATH={node.directory}:/usr/sbin:/usr/bin:/sbin:/bin\n"
        )
        call(*node.enter, "mount", "--bind", str(default), "/etc/default")

    def begin(self, word: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.node.enter, "bash", str(self.path), word], env=self.node.environment, text=True,
                                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def do(self, word: str, code: int = 0) -> str:
        return ended(self.begin(word), code)

    def row(self) -> list[str]:
        """The resource's line in the status table, without the number in front and without labels."""
        said = self.do("status")
        assert "drbd driver loaded OK; device status:\n" in said
        found = re.search(r"^(?:\d+:)?r0 .*$", said, re.MULTILINE)
        assert found, said
        return [word.removeprefix("ro:") for word in found[0].split()[1:]]


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "failed" not in said and "missing" not in said, said
    return said


def on_both(inits: tuple[Init, Init], word: str) -> None:
    """As two machines that boot at the same time: each waits for the other."""
    for process in [init.begin(word) for init in inits]:
        ended(process)
    for init in inits:
        init.node.wait_state("Connected")


@pytest.fixture
def inits(shop: Shop, script: Path) -> Iterator[tuple[Init, Init]]:
    yield Init(shop.a, script), Init(shop.b, script)
    for node in shop.nodes:
        node.run("umount", "-l", HOME)


@pytest.mark.slow
def test_a_day_of_an_init_script(inits: tuple[Init, Init]) -> None:
    dados, backup = inits
    assert dados.do("status", code=3) == "drbd not loaded\n"
    on_both(inits, "start")
    assert dados.row() == ["Connected", "Secondary/Secondary", "Inconsistent/Inconsistent", "B"]
    dados.node.do("new-current-uuid", "--clear-bitmap", "r0")
    dados.node.do("primary", "r0")
    assert dados.node.run(*MKFS, "/dev/drbd0").code == 0
    assert dados.node.run("mount", HOME).code == 0
    assert dados.row() == ["Connected", "Primary/Secondary", "UpToDate/UpToDate", "B", HOME, "ext3"]
    assert backup.row() == ["Connected", "Secondary/Primary", "UpToDate/UpToDate", "B"]

    dados.do("start")       # what runs is left alone
    assert dados.row()[-2:] == [HOME, "ext3"]
    for init in inits:
        text = init.node.config.read_text()
        init.node.config.write_text(text.replace("ping-int 10", "ping-int 7"))
        assert "net-options" in init.node.do("-d", "adjust", "all")
        init.do("reload")
        assert init.node.do("-d", "adjust", "all") == ""
    assert dados.row()[:2] == ["Connected", "Primary/Secondary"]

    assert dados.node.run("umount", HOME).code == 0
    dados.node.do("secondary", "r0")
    on_both(inits, "restart")
    assert dados.row() == ["Connected", "Secondary/Secondary", "UpToDate/UpToDate", "B"]
    for init in inits:
        init.do("stop")
        assert init.node.state() == "down"
        assert init.do("status", code=3) == "drbd not loaded\n"
        assert init.node.run("test", "-e", "/dev/drbd0").code == 1
        init.do("stop")


def test_somebody_at_the_console_ends_the_wait(inits: tuple[Init, Init]) -> None:
    """wfc-timeout 0 waits for ever; a word ends it, and the machine goes on booting, connected or not."""
    dados, _ = inits
    ours, theirs = pty.openpty()
    try:
        start = dados.begin("start", stdin=theirs)
        assert start.stdout is not None
        said = ""
        while "To stop waiting type: yes" not in said:
            said += start.stdout.read(1)
        assert start.poll() is None
        os.write(ours, b"no\n")
        os.write(ours, b"yes\n")
        ended(start)
    finally:
        os.close(ours)
        os.close(theirs)
    assert dados.row()[:2] == ["WFConnection", "Secondary/Unknown"]
    dados.do("stop")


def test_a_degraded_pair_waits_as_long_as_degr_wfc_timeout_says(inits: tuple[Init, Init]) -> None:
    """After a time as lonely Primary the other time-out holds: it was down before, so it may well stay so."""
    dados, _ = inits
    text = dados.node.config.read_text()
    assert "degr-wfc-timeout 120" in text
    dados.node.config.write_text(text.replace("degr-wfc-timeout 120", "degr-wfc-timeout 2"))
    dados.node.do("up", "r0")
    dados.node.do("primary", "--force", "r0")
    dados.node.kill()
    dados.node.clean_up()
    wait_until(lambda: dados.node.state() == "down", "the end of the engine")
    start = dados.begin("start")
    said, _ = start.communicate(timeout=60)
    assert start.returncode == 0, said
    assert "degr-wfc-timeout" in said
    assert dados.node.status()["replblock-degraded-start"]
    dados.do("stop")
