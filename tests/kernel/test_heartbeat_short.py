# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of `make cluster-test` that every test run has time for, also in an emulated processor."""

from __future__ import annotations

import time

import pytest

from tests.kernel.shop import INIT_S, Shop

#: Long enough for a machine that is emulated, and busy.
PATIENT = {"keepalive": "2", "deadtime": "15", "warntime": "8", "initdead": "30"}


@pytest.mark.timeout(900)
def test_power_cut_of_the_active_node(supermarket: Shop) -> None:
    """Cold start; a client and a writer; a power cut; the other node serves both, and nothing promised is lost."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.change_heartbeat(**PATIENT)
    supermarket.open()
    assert backup.has_nothing()
    with supermarket.till() as till:
        till.served_after(time.time(), INIT_S)
        writer = dados.write()
        writer.wait_for(lambda lines: len(lines) >= 10, "files are written")
        watch = backup.watch()
        fault_at = time.time()
        dados.guest.kill()
        promised = writer.lines
        row = supermarket.note("power cut of dados, writing (deadtime 15)", watch, fault_at, till, INIT_S)
        row.lost = backup.lost(promised)
        assert row.lost == 0
    assert till.promised
    assert backup.lost(till.promised) == 0
    backup.stop_heartbeat()
    backup.do("primary", "all")
    backup.sh("e2fsck -fn /dev/drbd0")
