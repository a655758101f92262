# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine dies under a mounted, busy ext3: the next one takes the device back and nobody notices; or must not."""

from __future__ import annotations

import sys

import pytest

from tests.e2e.pair import ROOT
from tests.kernel.guest import Command
from tests.kernel.pair import DEVICE, MOUNTED, PATIENCE_S, Machine, Pair
from tests.kernel.test_replication import STOP, WRITER, check_files, io_errors

SUPERVISE = ROOT / "replblock" / "cluster" / "lib" / "supervise"


def busy_primary(pair: Pair) -> Machine:
    pair.set_up(first_sync=False)
    first = pair.dados
    first.sh(f"mkfs.ext3 -q {DEVICE}")
    first.mount()
    return first


def kill_engine(machine: Machine) -> None:
    machine.sh("kill -9 $(cat /run/replblock/r0.pid)")


def stop_writer(machine: Machine, writer: Command) -> None:
    """At the end of a file; it must not have failed."""
    machine.sh(f"touch {STOP}")
    done = writer.wait()
    assert done.code == 0, done.err


def check_everything(pair: Pair, machine: Machine, lines: list[str]) -> None:
    """No error anywhere, the file system is whole, on both nodes."""
    assert not io_errors(machine.kernel_log())
    machine.sh(check_files(lines))
    machine.umount()
    machine.sh(f"e2fsck -fn {DEVICE}")
    pair.settle()
    machine.do("secondary", "r0")
    pair.assert_same_data()
    other = pair.other(machine)
    other.do("primary", "r0")
    other.mount()
    other.sh(check_files(lines))


def test_restart_after_kill(pair: Pair) -> None:
    """kill -9 under a writer: it stands still until `restart`, then goes on; then `restart` of a living engine."""
    first = busy_primary(pair)
    writer = first.begin_python(WRITER, MOUNTED, "100000", "100000", STOP)
    for _ in range(2):
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 10, "files are written")   # noqa: B023
        kill_engine(first)
        written = len(writer.lines)
        first.do("restart", "r0")
        writer.wait_for(lambda lines: len(lines) > written + 20, "the writer goes on after the restart")  # noqa: B023
    pid = first.sh("cat /run/replblock/r0.pid")
    first.do("restart", "--crashed", "r0")
    assert first.sh("cat /run/replblock/r0.pid") == pid, "a living engine was restarted"
    written = len(writer.lines)
    first.do("restart", "r0")
    assert first.sh("cat /run/replblock/r0.pid") != pid
    writer.wait_for(lambda lines: len(lines) > written + 20, "the writer goes on after the restart")
    stop_writer(first, writer)
    check_everything(pair, first, writer.lines)


def test_not_over_a_second_primary(pair: Pair) -> None:
    """The peer was promoted and wrote while the engine was dead: the device fails, nothing of it reaches the peer."""
    first, second = busy_primary(pair), pair.backup
    first.sh(f"echo old >{MOUNTED}/file; sync")
    kill_engine(first)
    stuck = first.guest.begin("sh", "-c", f"echo never >{MOUNTED}/file; sync {MOUNTED}/file")
    second.wait_state("cs:WFConnection")
    second.do("primary", "r0")
    second.mount()
    second.sh(f"echo new >{MOUNTED}/file; sync")
    said = first.refused("restart", "r0", code=11)
    assert "rule resume-peer-is-primary" in said or "rule resume-refused-by-the-handshake" in said, said
    assert stuck.wait(PATIENCE_S).code != 0
    first.guest.run("umount", MOUNTED)
    pair.settle()
    assert second.sh(f"cat {MOUNTED}/file") == "new\n"
    second.umount()
    second.sh(f"e2fsck -fn {DEVICE}")
    pair.assert_same_data()
    second.do("secondary", "r0")
    first.do("primary", "r0")
    first.mount()
    assert first.sh(f"cat {MOUNTED}/file") == "new\n"


@pytest.mark.long
@pytest.mark.parametrize("verb", ["up", "down"])
def test_another_start_after_a_crash(pair: Pair, verb: str) -> None:
    """`up` and `down` after a crash do not take the device back: it fails for its users, at once and for good."""
    first = busy_primary(pair)
    first.sh(f"echo old >{MOUNTED}/file; sync {MOUNTED}/file {MOUNTED}")
    kill_engine(first)
    stuck = first.guest.begin("sh", "-c", f"echo never >{MOUNTED}/file; sync {MOUNTED}/file")
    first.do(verb, "r0")
    assert stuck.wait(PATIENCE_S).code != 0
    assert io_errors(first.kernel_log())
    first.sh(f"umount {MOUNTED}")
    if verb == "down":
        assert not first.proc
        first.do("up", "r0")
    pair.settle()
    first.do("primary", "r0")
    first.mount()
    assert first.sh(f"cat {MOUNTED}/file") == "old\n"
    assert first.begin_python(WRITER, MOUNTED, "5", "1000", STOP).wait().code == 0
    first.umount()
    first.sh(f"e2fsck -fn {DEVICE}")
    first.do("secondary", "r0")
    pair.assert_same_data()


@pytest.mark.long
def test_supervised(pair: Pair) -> None:
    """The supervisor restarts a killed engine, again and again, with the peer there and without it."""
    first = busy_primary(pair)
    first.guest.begin("env", f"PYTHONPATH={ROOT}", f"REPLCTL={sys.executable} -m replblock.cli.main",
                      str(SUPERVISE), "r0", timeout_s=3600)  # fmt: skip
    writer = first.begin_python(WRITER, MOUNTED, "100000", "50000", STOP)
    for turn in range(6):
        if turn == 3:
            pair.backup.guest.kill()
            first.wait_state("cs:WFConnection")
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 5, "files are written")    # noqa: B023
        kill_engine(first)
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 20, "the writer goes on")  # noqa: B023
    pair.come_back(pair.backup)
    pair.backup.do("up", "r0")
    pair.settle()
    stop_writer(first, writer)
    check_everything(pair, first, writer.lines)
