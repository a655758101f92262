# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment where two nodes live and do not see each other: a frozen one, cut cables. docs/case.md."""

from __future__ import annotations

import time

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.shop import TAKE_OVER_S, Node, Shop, Till
from tests.kernel.timeline import Row, rows

FILES = 50
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def begin(shop: Shop, till: Till) -> list[str]:
    """The service is on dados; some files, promised."""
    shop.open()
    till.served_after(time.time())
    written = shop.dados.write(FILES).wait()
    assert written.code == 0, written
    return written.out.splitlines()


def reunited(shop: Shop, fault: str, till: Till, keep: Node | None = None) -> None:
    """The nodes see each other again: until one has the service, the client is served, and the split brain is over."""
    at = time.time()
    owner = shop.one_owner()
    served_s = till.served_after(time.time()) - at
    how = heal_split_brain(shop, keep or owner, till)
    rows.append(Row(f"{fault}: both restart, {how}", {"client": served_s}))


def heal_split_brain(shop: Shop, keep: Node, till: Till) -> str:
    """Who decided. Where the nodes met as two Primaries nobody did (after-sb-2pri disconnect): then an operator reads
    `explain`, moves the service to the data that is worth more, gives up the other. Where Heartbeat had demoted one
    before they met, after-sb-1pri discard-secondary has given up what that one wrote."""
    victim = shop.other(keep)
    for node in shop.machines:
        wait_until(lambda node=node: "both-moved-on" in node.log(), "the split brain was found")  # type: ignore[misc]
    if "discarded (rule both-moved-on" in keep.log():
        shop.settle()
        return "discard-secondary decided"
    for node in shop.machines:
        assert "split brain" in node.try_("explain", "r0").out
    if not keep.owns():
        keep.sh("/usr/share/heartbeat/hb_takeover")
        keep.wait_owner()
        till.served_after(time.time())
        wait_until(lambda: shop.one_owner() is keep, "Heartbeat has finished", TAKE_OVER_S)
    victim.try_("disconnect", "r0")
    victim.do("connect", "--discard-my-data", "r0")
    if "cs:StandAlone" in keep.proc:
        keep.do("connect", "r0")
    shop.settle()
    assert keep.owns()
    return "the operator decided"


def test_a_frozen_node(supermarket: Shop) -> None:
    """dados stands still for longer than deadtime, and goes on as if nothing had been."""
    dados, backup = supermarket.dados, supermarket.backup
    with supermarket.till() as till:
        promised = begin(supermarket, till)
        watch, fault_at = backup.watch(), time.time()
        dados.guest.freeze()
        row = supermarket.note("dados frozen (deadtime 30)", watch, fault_at, till)
        assert backup.lost(promised) == 0
        served = len(till.promised)
        wait_until(lambda: len(till.promised) > served + 10, "the client goes on", TAKE_OVER_S)
        dados.guest.thaw()
        reunited(supermarket, "dados thawed", till, keep=backup)    # it has served for longer
    row.lost = supermarket.close(promised + till.promised)
    assert supermarket.close(promised) == 0


def test_the_only_cable_cut(supermarket: Shop) -> None:
    """ha.cf's one `bcast eth0` is the replication link as well: each node takes the other for dead."""
    dados, backup = supermarket.dados, supermarket.backup
    with supermarket.till() as till:
        promised = begin(supermarket, till)
        watch, fault_at = backup.watch(), time.time()
        dados.guest.cut("eth0")
        row = supermarket.note("eth0 cut, Heartbeat's only link (deadtime 30)", watch, fault_at, till)
        assert dados.owns() and backup.owns(), "not what was expected: only one has the service"
        served = len(till.promised)
        wait_until(lambda: len(till.promised) > served + 10, "the client goes on", TAKE_OVER_S)
        dados.guest.heal("eth0")
        reunited(supermarket, "eth0 healed", till)
    row.lost = supermarket.close(promised + till.promised)
    assert supermarket.close(promised) == 0


def test_two_ways_for_heartbeat(supermarket: Shop) -> None:
    """`bcast eth0 eth1`: without eth0 the service stays; without both it is the same as before."""
    dados, backup = supermarket.dados, supermarket.backup
    supermarket.change_heartbeat(bcast="eth0 eth1", keepalive="1", deadtime="10", warntime="5", initdead="30")
    with supermarket.till() as till:
        promised = begin(supermarket, till)
        fault_at = time.time()
        dados.guest.cut("eth0")
        dados.wait_state("cs:WFConnection")
        rows.append(row := Row("eth0 cut, eth1 whole (deadtime 10): no take-over", {}))
        row.seconds["client"] = till.served_after(time.time()) - fault_at
        dead = "Link backup:eth0 dead"
        wait_until(lambda: dead in dados.said(), lambda: dados.said()[-2000:], TAKE_OVER_S)
        served = len(till.promised)
        wait_until(lambda: len(till.promised) > served + 10, "the client goes on", TAKE_OVER_S)
        assert dados.owns() and backup.has_nothing()
        dados.guest.heal("eth0")
        supermarket.settle()
        assert dados.owns() and backup.has_nothing()
        row.lost = dados.lost(promised + till.promised)
        assert row.lost == 0

        watch, fault_at = backup.watch(), time.time()
        for cable in ("eth0", "eth1"):
            dados.guest.cut(cable)
        row = supermarket.note("eth0 and eth1 of dados cut (deadtime 10)", watch, fault_at, till)
        wait_until(dados.owns, "dados goes on as well")
        dados.sh("echo alone >/home/alone; sync /home/alone")
        served = len(till.promised)
        wait_until(lambda: len(till.promised) > served + 10, "the client goes on, on backup", TAKE_OVER_S)
        for cable in ("eth0", "eth1"):
            dados.guest.heal(cable)
        reunited(supermarket, "both healed", till)
    row.lost = supermarket.close(promised + till.promised)
    assert supermarket.close(promised) == 0
