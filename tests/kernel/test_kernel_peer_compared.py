# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock with the kernel's DRBD 8.4 as its peer: resync by checksums, pauses, online verify."""

from __future__ import annotations

import re

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.mixed import MixedPair, resynced_kib, scribble, view
from tests.kernel.pair import DISK, Machine

pytestmark = pytest.mark.long

SLOW: dict[str, object] = {"resync-rate": "500K", "c-plan-ahead": 0}
OUT_OF_SYNC = 'handlers { out-of-sync "touch /run/found-out-of-sync"; }'


@pytest.mark.parametrize("algorithm", ["sha1", "md5"])
def test_checksum_based_resync(mixed: MixedPair, algorithm: str) -> None:
    """What was written again as it was is found equal; the rest is sent."""
    mixed.begin({"csums-alg": algorithm})
    first, second = mixed.machines
    scribble(first, "as it was", 200)
    second.do("disconnect", "r0")
    first.wait_state("ro:Primary/Unknown")
    scribble(first, "as it was", 200)
    scribble(first, "new", 10)
    second.do("connect", "r0")
    mixed.settle()
    for machine in mixed.machines:
        said = re.findall(r"(\d+) % had equal checksums, eliminated: (\d+)K; transferred (\d+)K total (\d+)K",
                          machine.log())  # fmt: skip
        assert len(said) == 1, machine.log()
        _, eliminated, transferred, total = (int(word) for word in said[0])
        assert eliminated + transferred == total == resynced_kib(mixed.ours)[-1]
        assert 0 < transferred < eliminated
    mixed.assert_agree()


@pytest.mark.parametrize("who", ["primary", "secondary", "both"])
def test_pause_and_resume(mixed: MixedPair, who: str) -> None:
    """Of a resync; it goes on when nobody pauses it any more, and writes go on meanwhile."""
    mixed.begin({}, SLOW)
    first, second = mixed.machines
    second.do("invalidate", "r0")
    first.wait_state("cs:SyncSource")
    pausing: list[Machine] = {"primary": [first], "secondary": [second], "both": [first, second]}[who]
    for machine in pausing:
        machine.do("pause-sync", "r0")
    first.wait_state("cs:PausedSyncS")
    second.wait_state("cs:PausedSyncT")
    for machine in mixed.machines:
        paused = ("p" if mixed.other(machine) in pausing else "-") + ("u" if machine in pausing else "-")
        assert view(machine.proc)["flags"][2:4] == paused, machine.proc
    scribble(first, "meanwhile", 50)
    for machine in pausing:
        first.wait_state("cs:PausedSyncS")
        machine.do("resume-sync", "r0")
    first.wait_state("cs:SyncSource")
    second.wait_state("cs:SyncTarget")
    mixed.change({}, {"resync-rate": "2G"})
    mixed.settle()
    mixed.assert_agree()


@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_online_verify(mixed: MixedPair, who: str) -> None:
    """Started on either node it finds what was planted on a disk, marks it on both, and a new connection mends it."""
    mixed.blank()
    mixed.configure({"verify-alg": "sha1"}, more=OUT_OF_SYNC)
    mixed.set_up(first_sync=False)
    first, second = mixed.machines
    scribble(first, "data", 300)
    for machine in mixed.machines:
        machine.sh("rm -f /run/found-out-of-sync")
    verifier = first if who == "primary" else second
    verifier.do("verify", "r0")
    wait_verified(mixed, 1)
    assert [out_of_sync_kib(machine) for machine in mixed.machines] == [0, 0]
    for block in (0, 77, 78, 4000, 8000):
        second.sh(f"dd if=/dev/urandom of={DISK} bs=4k count=1 seek={block} oflag=direct conv=notrunc status=none")
    verifier.do("verify", "r0")
    wait_verified(mixed, 2)
    assert all("found 5 4k block out of sync!" in machine.log() for machine in mixed.machines)
    assert [out_of_sync_kib(machine) for machine in mixed.machines] == [20, 20]
    wait_until(lambda: all(machine.guest.run("test", "-e", "/run/found-out-of-sync").code == 0
                           for machine in mixed.machines), "the handler is called on both")  # fmt: skip
    second.do("disconnect", "r0")
    second.do("connect", "r0")
    mixed.settle()
    assert resynced_kib(mixed.ours)[-1] == 20
    mixed.assert_agree()


def test_verify_while_writes_go_on(mixed: MixedPair) -> None:
    """What changes under a verify is no difference."""
    mixed.begin({"verify-alg": "sha1"}, SLOW | {"resync-rate": "20M"})
    first = mixed.dados
    scribble(first, "data", 300)
    mixed.ours.do("verify", "r0")
    for number in range(20):
        scribble(first, f"meanwhile {number}", 30)
    wait_verified(mixed, 1)
    assert [out_of_sync_kib(machine) for machine in mixed.machines] == [0, 0]
    mixed.assert_agree()


def out_of_sync_kib(machine: Machine) -> int:
    """oos: of /proc/drbd's form."""
    text = machine.proc_text
    found = re.search(r"oos:(\d+)", text)
    assert found is not None, text
    return int(found[1])


def wait_verified(mixed: MixedPair, times: int) -> None:
    """Until the log of both says so often that a verify is done."""
    wait_until(lambda: all(machine.log().count("Online verify done") == times for machine in mixed.machines),
               lambda: mixed.ours.log()[-2000:] + mixed.kernel.log()[-2000:], 120)  # fmt: skip
    for machine in mixed.machines:
        machine.wait_state("cs:Connected")
