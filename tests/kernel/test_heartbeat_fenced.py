# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment with a second way for Heartbeat and its dopd: old data must not be served. docs/case.md."""

from __future__ import annotations

import time

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.shop import OUR_LINE, TAKE_OVER_S, Shop
from tests.kernel.timeline import Row, rows

QUICK = {"bcast": "eth0 eth1", "keepalive": "1", "deadtime": "5", "warntime": "3", "initdead": "20"}
DOPD = """respawn root /usr/libexec/heartbeat/dopd
apiauth dopd uid=root,hacluster gid=haclient
"""
HANDLERS = 'handlers { fence-peer "/usr/libexec/heartbeat/drbd-peer-outdater -t 5"; }'


def with_dopd(shop: Shop) -> None:
    for node in (shop.dados, shop.backup):
        node.heartbeat += DOPD
        for old, new in (("on-io-error detach;", "on-io-error detach; fencing resource-only;"),
                         ("protocol B;", f"protocol B; {HANDLERS}")):  # fmt: skip
            assert old in node.config
            node.config = node.config.replace(old, new)
        node.write_file("/etc/drbd.conf", node.config)
    shop.change_heartbeat(**QUICK)
    shop.change_resources(OUR_LINE, "replblock")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_dopd(supermarket: Shop) -> None:
    """A power cut: the dead node is fenced by being dead. A cut cable: the other node is outdated over the second one,
    and when the good node then dies, nobody serves what is old."""
    dados, backup = supermarket.dados, supermarket.backup
    with_dopd(supermarket)
    with supermarket.till() as till:
        supermarket.open()
        till.served_after(time.time())
        promised = dados.write(50).wait().out.splitlines()
        watch, fault_at = backup.watch(), time.time()
        dados.guest.kill()
        row = supermarket.note("power cut of dados, fencing by dopd (deadtime 5)", watch, fault_at, till)
        assert "fence-peer ended with exit code 5" in backup.log()
        row.lost = backup.lost(promised)
        assert row.lost == 0
        supermarket.switch_on(dados)
        supermarket.settle()
        wait_until(lambda: dados.holds() == "none", "Heartbeat on dados has joined", TAKE_OVER_S)

        dados.guest.cut("eth0")
        backup.wait_state("cs:WFConnection", "ds:UpToDate/Outdated")
        dados.wait_state("cs:WFConnection", "ds:Outdated/DUnknown")
        assert backup.owns() and dados.has_nothing()
        newer = len(till.promised)
        wait_until(lambda: len(till.promised) > newer + 10, "the client goes on", TAKE_OVER_S)
        backup.guest.kill()
        gives_up = "Giving up resources due to failure of replblock::r0"
        wait_until(lambda: gives_up in dados.said(), lambda: dados.said()[-4000:], TAKE_OVER_S)
        wait_until(dados.has_nothing, "nothing of the service on dados")
        promised += till.promised

        dados.guest.heal("eth0")
        supermarket.switch_on(backup)
        supermarket.settle()
        wait_until(lambda: backup.holds() == "none", "Heartbeat on backup has joined", TAKE_OVER_S)
        at = time.time()
        backup.sh("/usr/share/heartbeat/hb_takeover")
        backup.wait_owner()
        rows.append(row := Row("eth0 cut, dopd outdated dados, then backup died: no service; back, hb_takeover",
                               {"client": till.served_after(time.time()) - at}))  # fmt: skip
    row.lost = supermarket.close(promised + till.promised)
    assert row.lost == 0
