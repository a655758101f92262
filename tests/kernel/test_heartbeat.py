# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment replayed: real Heartbeat 3.0.6 in two guests, with the case's own files. docs/case.md."""

from __future__ import annotations

import time

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.shop import CASE, TAKE_OVER_S, Shop
from tests.kernel.test_replication import io_errors
from tests.kernel.test_restart import kill_engine

KEEPALIVE_S, DEADTIME_S = 2, 30         # of the case's ha.cf
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_the_case_replayed(supermarket: Shop) -> None:
    """Start; the engine is killed; a power cut; the dead one comes back; standby, take-over, an orderly stop."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.open()
    assert backup.has_nothing()
    with supermarket.till() as till:
        till.served_after(time.time())
        writer = dados.write()
        writer.wait_for(lambda lines: len(lines) >= 30, "files are written")

        # The supervisor brings the engine back; Heartbeat notices nothing, the writer only waits.
        kill_engine(dados)
        written = len(writer.lines)
        writer.wait_for(lambda lines: len(lines) > written + 30, "the writer goes on after the engine was killed")
        assert dados.owns() and backup.has_nothing()
        assert not io_errors(dados.kernel_log())
        supermarket.settle()

        watch = backup.watch()
        fault_at = time.time()
        dados.guest.kill()
        promised = writer.lines
        row = supermarket.note("power cut of dados, writing (deadtime 30)", watch, fault_at, till)
        events = row.seconds
        assert DEADTIME_S - 2 * KEEPALIVE_S < events["declared dead"] <= events["samba"] < TAKE_OVER_S
        row.lost = backup.lost(promised)
        assert row.lost == 0
        backup.sh("echo alone >/home/alone; sync /home/alone")

        # auto_failback off: who comes back is resynchronised and gets no service.
        supermarket.switch_on(dados)
        supermarket.settle()
        joined = "remote resource transition completed"
        wait_until(lambda: joined in dados.said(), lambda: dados.said()[-4000:], TAKE_OVER_S)
        assert backup.owns() and dados.has_nothing()

        watch, asked_at = dados.watch(), time.time()
        backup.sh("/usr/share/heartbeat/hb_standby")
        supermarket.note("hb_standby on backup", watch, asked_at, till)
        wait_until(backup.has_nothing, "backup has given everything away")
        assert dados.sh("cat /home/alone") == "alone\n"

        watch, asked_at = backup.watch(), time.time()
        backup.sh("/usr/share/heartbeat/hb_takeover")
        supermarket.note("hb_takeover on backup", watch, asked_at, till)
        wait_until(dados.has_nothing, "dados has given everything away")

        watch, asked_at = dados.watch(), time.time()
        backup.stop_heartbeat()
        supermarket.note("heartbeat stop on backup", watch, asked_at, till)
        assert backup.has_nothing()
    assert supermarket.close(promised + till.promised) == 0


def test_what_heartbeat_refuses(supermarket: Shop) -> None:
    """The case's authkeys as it stands says `Auth 3`: not started. Nor with the method's name in upper case."""
    dados = supermarket.dados
    as_it_stands = (CASE / "authkeys").read_text()
    assert "Auth 3" in as_it_stands and "3 md5" in as_it_stands
    mended = as_it_stands.replace("Auth", "auth")
    for text, why in ((as_it_stands, "Auth line [Auth 3"), (mended.replace("md5", "MD5"), "Invalid authtype [MD5]")):
        dados.write_file("/etc/ha.d/authkeys", text)
        assert dados.guest.run("/etc/init.d/heartbeat", "start").code == 6
        assert why in dados.said()
    dados.write_file("/etc/ha.d/authkeys", mended)
    assert dados.guest.run("/etc/init.d/heartbeat", "start").code == 0
    assert "heartbeat OK" in dados.guest.run("/etc/init.d/heartbeat", "status").out
