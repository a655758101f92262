# SPDX-License-Identifier: GPL-2.0-or-later
"""samba dies on a healthy node: Heartbeat alone notices nothing, with our monitor the service moves. docs/case.md."""

from __future__ import annotations

import time

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.shop import ADDRESS, CHECKOUT, Shop

QUICK = {"keepalive": "1", "deadtime": "5", "warntime": "3", "initdead": "20"}
MONITOR = f"respawn root {CHECKOUT}/replblock/cluster/lib/service-monitor {ADDRESS} smbclient -N -t 3 -L {ADDRESS}\n"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_samba_dies(supermarket: Shop) -> None:
    dados, backup = supermarket.dados, supermarket.backup
    for node in (dados, backup):
        node.heartbeat += MONITOR
        node.sh("printf 'MONITOR_PERIOD_S=2\\n' >>/etc/default/replblock")
    supermarket.change_heartbeat(**QUICK)
    with supermarket.till() as till:
        supermarket.open()
        till.served_after(time.time())
        promised = dados.write(50).wait().out.splitlines()
        watch, fault_at = backup.watch(), time.time()
        dados.sh("kill -9 $(pidof smbd)")
        row = supermarket.note("samba killed on dados (asked every 2 s, 3 times)", watch, fault_at, till)
        wait_until(dados.has_nothing, "dados has given everything away")
        wait_until(lambda: supermarket.one_owner() is backup, "Heartbeat has finished")
    row.lost = supermarket.close(promised + till.promised)
    assert row.lost == 0
