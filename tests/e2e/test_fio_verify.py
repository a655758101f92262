# SPDX-License-Identifier: GPL-2.0-or-later
"""fio writes with checksums in every block while the pair is disturbed; at the end both disks are the same.

Each round writes a region of its own; all regions are verified at the end on either node as Primary.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import PAIRS
from tests.e2e.namespaces import two_spaces
from tests.e2e.pair import MIB, Node, Pair, make_pair
from tests.e2e.waiting import wait_until

DISK_BYTES = 64 * MIB
REGION_BYTES = 8 * MIB

pytestmark = pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")


class Round(NamedTuple):
    """What one call of fio wrote."""

    number: int
    block_bytes: int
    depth: int
    flush_every: int

    def command(self, node: Node, *more: str) -> list[str]:
        flushing = [f"--fsync={self.flush_every}"] if self.flush_every else []
        return [
            "fio", "--name=verify", "--ioengine=nbd", f"--uri={node.uri}", "--rw=randwrite", f"--bs={self.block_bytes}",
            f"--iodepth={self.depth}", f"--offset={self.number * REGION_BYTES}", f"--size={REGION_BYTES}",
            f"--randseed={4711 + self.number}", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
            "--do_verify=1", "--group_reporting", *flushing, *more,
        ]  # fmt: skip


ROUNDS = (Round(0, 4096, 16, 0), Round(1, 4096, 4, 32), Round(2, 65536, 8, 0), Round(3, 8192, 1, 8),
          Round(4, 512, 32, 0), Round(5, 4096, 16, 64))


def verified(node: Node, rounds: tuple[Round, ...]) -> None:
    """Read everything back through this node's door."""
    for one in rounds:
        done = subprocess.run(one.command(node, "--verify_only"), capture_output=True, text=True, timeout=120,
                              cwd=node.directory)  # fmt: skip
        assert done.returncode == 0, f"round {one.number} on {node.name}: {done.stdout}{done.stderr}"


def written_kib(node: Node) -> int:
    return int(node.device["replblock-counters"]["dw"])


@contextmanager
def fio(node: Node, one: Round, iops: int) -> Iterator[Callable[[int], None]]:
    """fio beside the test, at a pace that leaves time; the block gets a function that waits for more KiB written.

    fio must end well: every write succeeded and was read back unchanged.
    """
    log = node.directory / f"fio-{one.number}.log"
    with log.open("w") as output:
        running = subprocess.Popen(one.command(node, f"--rate_iops={iops}"), stdout=output, stderr=output,
                                   stdin=subprocess.DEVNULL, cwd=node.directory)  # fmt: skip
    try:
        reached = written_kib(node)

        def until_more(kib: int) -> None:
            nonlocal reached
            reached += kib
            wait_until(lambda: written_kib(node) >= reached or running.poll() is not None, f"{kib} KiB more from fio")
            assert running.poll() is None, f"fio ended too early:\n{log.read_text()}"

        yield until_more
        assert running.wait(timeout=120) == 0, log.read_text()
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["A", "B", "C"])
def test_swaps_and_reconnects(pair: Pair, protocol: str) -> None:
    """Disconnect by hand, on either side, in mid-write; swap roles; kill -9 of the secondary; verify on both."""
    pair.configure(net={"protocol": protocol})
    pair.make_disks(DISK_BYTES)
    pair.clean()
    primary, secondary = pair.a, pair.b
    primary.do("primary", "r0")

    with fio(primary, ROUNDS[0], 900) as more:
        more(1024)
        primary.do("disconnect", "r0")
        more(1024)
        primary.do("connect", "r0")
        primary.wait_state("Established UpToDate/UpToDate")
    pair.assert_same_data()

    primary, secondary = pair.swap(primary), primary
    with fio(primary, ROUNDS[1], 900) as more:
        more(1024)
        secondary.do("disconnect", "r0")
        more(1024)
        secondary.do("connect", "r0")
        primary.wait_state("Established UpToDate/UpToDate")
    pair.assert_same_data()

    with fio(primary, ROUNDS[2], 60) as more:
        more(2048)
        secondary.kill()
        more(2048)
        secondary.do("up", "r0")
        primary.wait_state("Established UpToDate/UpToDate")
    pair.assert_same_data()

    primary, secondary = pair.swap(primary), primary
    verified(primary, ROUNDS[:3])
    with fio(primary, ROUNDS[3], 500) as more:
        more(512)
        secondary.do("down", "r0")
        secondary.do("up", "r0")
        more(512)
        primary.wait_state("Established UpToDate/UpToDate")
    pair.assert_same_data()
    primary, secondary = pair.swap(primary), primary
    verified(primary, ROUNDS[:4])


@pytest.mark.parametrize("protocol", ["A", "C"])
def test_a_killed_primary_in_mid_write(pair: Pair, protocol: str) -> None:
    """Both nodes are the same again, whichever blocks were under way; what stood before is unharmed."""
    pair.configure(net={"protocol": protocol})
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    with fio(pair.a, ROUNDS[5], 100000):
        pass
    pair.settle()
    command = ROUNDS[4].command(pair.a)
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=pair.directory)
    try:
        before = written_kib(pair.a)
        wait_until(lambda: written_kib(pair.a) > before + 512, "fio writing")
        pair.a.kill()
    finally:
        running.kill()
        running.wait()
    pair.b.wait_state("Connecting")
    pair.b.do("primary", "r0")
    verified(pair.b, (ROUNDS[5],))
    with fio(pair.b, ROUNDS[0], 100000):
        pass
    pair.a.do("up", "r0")
    pair.assert_same_data()
    assert "Secondary" in pair.a.state()
    pair.swap(pair.b)
    verified(pair.a, (ROUNDS[0], ROUNDS[5]))


@pytest.fixture
def wired(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, Callable[[bool], None]]]:
    """A pair on two machines, and its cable."""
    with ExitStack() as stack:
        pair = stack.enter_context(make_pair())
        spaces = stack.enter_context(two_spaces(pair.directory))
        stack.callback(pair.clean_up)
        for node, space, address in zip(pair.nodes, spaces, ("10.0.0.1", "10.0.0.2")):
            node.enter = space.enter
            node.address = address
        request.node.stash.setdefault(PAIRS, []).append(pair)
        yield pair, spaces[0].link


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.parametrize("protocol", ["A", "B", "C"])
def test_a_cut_cable(wired: tuple[Pair, Callable[[bool], None]], protocol: str) -> None:
    """No packet says goodbye: only time-outs notice. Writing goes on, and the resync brings the rest over."""
    pair, plug = wired
    pair.configure(net={"protocol": protocol, "ping-timeout": 10})
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    with fio(pair.a, ROUNDS[0], 900) as more:
        more(1024)
        plug(False)
        pair.a.wait_state("Connecting")
        more(1024)
        plug(True)
        pair.a.wait_state("Established UpToDate/UpToDate")
    pair.assert_same_data()
    pair.swap(pair.a)
    verified(pair.b, ROUNDS[:1])
    with fio(pair.b, ROUNDS[1], 1500) as more:      # a cut so short that nobody may notice
        more(1024)
        plug(False)
        plug(True)
    pair.assert_same_data()
    pair.swap(pair.b)
    verified(pair.a, ROUNDS[:2])


def test_the_pace_of_many_reconnects(pair: Pair, tmp_path: Path) -> None:
    """Ten quick reconnects under load: each ends in a resync of little, none in a split brain or a full sync."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    since = len(pair.a.log())
    with fio(pair.a, ROUNDS[0], 400) as more:
        for turn in range(5):
            more(64)
            node = pair.nodes[turn % 2]
            node.do("disconnect", "r0")
            more(64)
            node.do("connect", "r0")
            pair.a.wait_state("Established UpToDate/UpToDate")
    pair.assert_same_data()
    log = pair.a.log()[since:]
    assert "split-brain" not in log
    assert "everything" not in log, "a full sync"
