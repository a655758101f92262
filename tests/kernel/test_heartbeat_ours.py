# SPDX-License-Identifier: GPL-2.0-or-later
"""Our share of a take-over, with a short deadtime: idle, and under full write load; by our script, the case's and
drbd-utils', and kernel DRBD in the same guests beside them. docs/case.md."""

from __future__ import annotations

import time

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.shop import HOME, OUR_LINE, TAKE_OVER_S, Node, Shop

QUICK = {"keepalive": "1", "deadtime": "5", "warntime": "3", "initdead": "20"}
WAYS = [
    pytest.param("the case's script", "", "drbd", id="case"),
    pytest.param("replblock::r0", OUR_LINE, "replblock", id="replblock"),
    pytest.param("drbddisk::r0", OUR_LINE.replace("replblock", "drbddisk"), "drbddisk", id="drbddisk"),
    pytest.param("kernel DRBD, the case's script", "", "drbd", id="kernel-drbd",
                 marks=pytest.mark.machines(disk_mib=256, kernel_drbd=True)),
]  # fmt: skip
#: Two writers, one that lets the cache fill and one that syncs each block.
LOAD = f"""
(while :; do dd if=/dev/urandom of={HOME}/load1 bs=64k count=100 conv=notrunc,fsync; done) &
while :; do dd if=/dev/urandom of={HOME}/load2 bs=4k count=2000 conv=notrunc oflag=dsync; done
"""
LOADED_S = 20.0
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def lose_power(shop: Shop, node: Node, fault: str, promised: list[str]) -> None:
    """The other one takes over; every promised file is there."""
    other = shop.backup if node is shop.dados else shop.dados
    watch, fault_at = other.watch(), time.time()
    node.guest.kill()
    row = shop.note(fault, watch, fault_at)
    row.lost = other.lost(promised)
    assert row.lost == 0


@pytest.mark.machines(disk_mib=256)
@pytest.mark.parametrize(("way", "line", "script"), WAYS)
def test_power_cuts(supermarket: Shop, way: str, line: str, script: str) -> None:
    """dados dies idle, backup dies under load. No promised file is lost, and load alone moves nothing."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.change_heartbeat(**QUICK)
    if line:
        supermarket.change_resources(line, script)
    supermarket.open()
    with supermarket.till() as till:
        till.served_after(time.time())
        promised = dados.write(50).wait().out.splitlines() + till.promised
    lose_power(supermarket, dados, f"{way}: power cut, idle (deadtime 5)", promised)

    supermarket.switch_on(dados)
    supermarket.settle()
    wait_until(lambda: dados.holds() == "none", "Heartbeat on dados has joined", TAKE_OVER_S)
    backup.guest.begin("sh", "-c", LOAD, timeout_s=600)
    backup.sh(f"mkdir {HOME}/late; sync {HOME}")
    writer = backup.write(place=f"{HOME}/late", most_bytes=20_000)
    end = time.monotonic() + LOADED_S
    while time.monotonic() < end:
        assert backup.owns() and dados.has_nothing(), "a node under load was declared dead"
        time.sleep(1)
    writer.wait_for(lambda lines: len(lines) >= 20, "files are written beside the load")
    lose_power(supermarket, backup, f"{way}: power cut, full write load (deadtime 5)", promised + writer.lines)

    supermarket.switch_on(backup)
    supermarket.settle()
    assert supermarket.close(promised + writer.lines) == 0


@pytest.mark.parametrize(("way", "line", "script"), WAYS[:2])
def test_somebody_sits_in_home(supermarket: Shop, way: str, line: str, script: str) -> None:
    """A process of dados's own holds /home during hb_standby. The case's script says it has stopped, and has not;
    Heartbeat's Filesystem ends the process. Never are there two Primaries, and nothing is lost."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.change_heartbeat(**QUICK)
    if line:
        supermarket.change_resources(line, script)
    supermarket.open()
    promised = dados.write(50).wait().out.splitlines()
    sitter = dados.guest.begin("sh", "-c", f"cd {HOME} && echo sits && exec sleep 600", timeout_s=600)
    sitter.wait_for(lambda lines: lines == ["sits"], "somebody sits in /home")
    dados.sh("/usr/share/heartbeat/hb_standby")
    wait_until(lambda: backup.holds() == "all", "Heartbeat on backup has finished", TAKE_OVER_S)
    if line:
        backup.wait_owner()
        assert sitter.wait().code != 0 and dados.has_nothing()
    else:
        assert dados.proc.split()[2] == "ro:Primary/Secondary" and backup.guest.run("mountpoint", HOME).code != 0
        backup.refused("primary", "r0", code=11)
        sitter.stop()
        dados.sh(f"umount {HOME}")
        dados.do("secondary", "r0")
        backup.sh("/etc/ha.d/resource.d/drbd start")    # what the operator does: samba serves it from now on
        backup.wait_owner()
    assert supermarket.close(promised) == 0
