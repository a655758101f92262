# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment with one machine missing when it is needed: in mid-resync, and at boot. docs/case.md."""

from __future__ import annotations

import time

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.shop import HOME, INIT_S, OUR_LINE, TAKE_OVER_S, Shop, Till
from tests.kernel.timeline import Row, rows

QUICK = {"keepalive": "1", "deadtime": "5", "warntime": "3", "initdead": "20"}
FILES = 50
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def back_in_mid_resync(shop: Shop, till: Till) -> list[str]:
    """backup has the service, dados came back and has not got all of its data yet, nor gets it. What was promised."""
    dados, backup = shop.dados, shop.backup
    shop.open()
    till.served_after(time.time())
    written = dados.write(FILES).wait()
    assert written.code == 0, written
    dados.guest.kill()
    backup.wait_owner()
    till.served_after(time.time())
    backup.sh(f"dd if=/dev/urandom of={HOME}/big bs=1M count=8 conv=fsync")
    backup.do("pause-sync", "r0")
    dados.power_on()
    dados.boot()
    dados.wait_state("cs:PausedSyncT", "ds:Inconsistent/UpToDate")
    wait_until(lambda: dados.holds() == "none", "Heartbeat on dados has joined", TAKE_OVER_S)
    return written.out.splitlines()


def source_returns(shop: Shop, till: Till) -> float:
    """backup is back and the resync ends; by hb_takeover it gets the service. Seconds from that to a served client."""
    shop.switch_on(shop.backup)
    shop.settle()
    wait_until(lambda: shop.backup.holds() == "none", "Heartbeat on backup has joined", TAKE_OVER_S)
    at = time.time()
    shop.backup.sh("/usr/share/heartbeat/hb_takeover")
    shop.backup.wait_owner()
    return till.served_after(time.time()) - at


def test_power_cut_of_the_source(supermarket: Shop) -> None:
    """Our script and Heartbeat's Filesystem: who has no good data gets neither file system nor address nor samba."""
    dados = supermarket.dados
    supermarket.change_heartbeat(**QUICK)
    supermarket.change_resources(OUR_LINE, "replblock")
    with supermarket.till() as till:
        promised = back_in_mid_resync(supermarket, till)
        supermarket.backup.guest.kill()
        gives_up = "Giving up resources due to failure of replblock::r0"
        wait_until(lambda: gives_up in dados.said(), lambda: dados.said()[-4000:], TAKE_OVER_S)
        wait_until(dados.has_nothing, "nothing of the service on dados")
        dados.refused("primary", "r0", code=17)
        promised += till.promised
        served_s = source_returns(supermarket, till)
        row = Row("source dead in mid-resync, replblock::r0: no service; back, hb_takeover", {"client": served_s})
        rows.append(row)
    row.lost = supermarket.close(promised + till.promised)
    assert row.lost == 0


def test_power_cut_of_the_source_with_the_cases_script(supermarket: Shop) -> None:
    """It never fails: samba serves the bare mount point, and what clients put there is lost. All else is not."""
    dados = supermarket.dados
    supermarket.change_heartbeat(**QUICK)
    with supermarket.till() as till:
        promised = back_in_mid_resync(supermarket, till) + till.promised
        supermarket.backup.guest.kill()
        till.served_after(time.time())
        wait_until(lambda: dados.holds() == "all", "Heartbeat on dados has finished", TAKE_OVER_S)
        assert dados.guest.run("mountpoint", HOME).code != 0
        dados.refused("primary", "r0", code=17)
        served_s = source_returns(supermarket, till)
        rows.append(row := Row("source dead in mid-resync, the case's script: an empty share; back, hb_takeover",
                               {"client": served_s}))  # fmt: skip
    row.lost = supermarket.close(promised + till.promised)
    assert supermarket.close(promised) == 0


def test_planned_move_to_a_target(supermarket: Shop) -> None:
    """The node that is still being synced can have the service: what it has not got it reads from its peer."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.change_heartbeat(**QUICK)
    with supermarket.till() as till:
        promised = back_in_mid_resync(supermarket, till)
        watch, at = dados.watch(), time.time()
        backup.sh("/usr/share/heartbeat/hb_standby")
        row = supermarket.note("hb_standby to a node in mid-resync", watch, at, till)
        assert "ds:Inconsistent/UpToDate" in dados.proc
        assert dados.lost(promised) == 0
        backup.do("resume-sync", "r0")
        supermarket.settle()
    row.lost = supermarket.close(promised + till.promised)
    assert row.lost == 0


def test_both_dead(supermarket: Shop) -> None:
    """One after the other, with the case's own timings. Who was Primary alone comes back alone; then the other way."""
    dados, backup = supermarket.dados, supermarket.backup
    with supermarket.till() as till:
        supermarket.open()
        till.served_after(time.time())
        written = dados.write(FILES).wait()
        dados.guest.kill()
        backup.wait_owner()
        till.served_after(time.time())
        backup.guest.kill()
        promised = written.out.splitlines() + till.promised

        # degr-wfc-timeout 120, then initdead 120
        at = time.time()
        backup.power_on()
        boot, watch = backup.begin_boot(), backup.watch()
        assert boot.wait(INIT_S).code == 0
        row = supermarket.note("both dead, who went on alone back alone (120 + 120)", watch, at, till, INIT_S)
        row.lost = backup.lost(promised)
        assert row.lost == 0
        promised = written.out.splitlines() + till.promised
        backup.guest.kill()

        # wfc-timeout 0: dados has older data and does not know it; it waits until backup is there
        dados.power_on()
        boot = dados.begin_boot()
        dados.wait_state("cs:WFConnection")
        at = time.time()
        backup.power_on()
        assert boot.code is None and dados.holds() == "", "dados did not wait for its peer"
        backup.boot()
        assert boot.wait(INIT_S).code == 0
        owner = supermarket.one_owner()
        rows.append(row := Row(f"both dead, older data back alone: waits; the other back, {owner.name} serves",
                               {"client": till.served_after(time.time()) - at}))  # fmt: skip
        supermarket.settle()
    row.lost = supermarket.close(promised + till.promised)
    assert row.lost == 0


def test_somebody_ends_the_wait(supermarket: Shop) -> None:
    """Both lose power at once. dados alone waits for ever (wfc-timeout 0), until somebody types yes."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.change_heartbeat(**QUICK)
    with supermarket.till() as till:
        supermarket.open()
        till.served_after(time.time())
        writer = dados.write()
        writer.wait_for(lambda lines: len(lines) >= FILES, "files are written")
        for node in (dados, backup):
            node.guest.kill()
        promised = writer.lines + till.promised
        dados.power_on()
        boot, watch = dados.begin_boot_at_console(), dados.watch()
        boot.wait_for(lambda lines: any("To abort waiting" in line or "yes" in line for line in lines), "it waits")
        assert boot.code is None
        at = time.time()
        dados.sh("touch /run/type-yes")
        assert boot.wait(INIT_S).code == 0
        row = supermarket.note("both dead at once, one back: waits; yes typed (initdead 20)", watch, at, till)
        row.lost = dados.lost(promised)
        assert row.lost == 0
        supermarket.switch_on(backup)
        supermarket.settle()
        assert dados.owns() and backup.has_nothing()
    assert supermarket.close(promised + till.promised) == 0
