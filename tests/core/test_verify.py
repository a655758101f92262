# SPDX-License-Identifier: GPL-2.0-or-later
"""Online verify: it finds what differs, marks it on both nodes, and is not deceived by writes under way."""

from __future__ import annotations

import random
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.core.verify_target import VerifyTarget
from replblock.state.names import Conn, Disk
from replblock.wire.flags import OV_OUT_OF_SYNC
from replblock.wire.packets import BlockAck
from tests.core.simhost import SimHost
from tests.core.world import MIB, World

BLOCK = 4096
VERIFYING = (Conn.VERIFY_S, Conn.VERIFY_T)


def alike(seed: int = 3, **changes: Any) -> World:
    """Two equal disks with something on them, `a` Primary."""
    world = World(seed, **{"verify_alg": "crc32c", **changes}).pair()
    for megabyte in range(7):
        world.write(world.a, megabyte * MIB, world.rng.randbytes(MIB))
    world.flush(world.a)
    world.settle()
    return world


def rot(host: SimHost, block: int) -> None:
    """The disk forgets what it had, and says nothing."""
    for content in (host.disk.content, host.disk.durable):
        content[block * BLOCK : (block + 1) * BLOCK] = b"rot!" * (BLOCK // 4)


def said(world: World, rule: str, node: str = "") -> list[str]:
    return [line for line in world.lines if f"{node} " in line[8:12] + " " and f"[{rule}]" in line]


def marks(host: SimHost) -> list[int]:
    bitmap = host.resource.meta.bitmap  # type: ignore[union-attr]
    return [block for block in range(bitmap.bits) if bitmap.count_range(block, block + 1)]


def verify(world: World, host: SimHost, **args: int) -> None:
    """To its end on both nodes."""
    world.ok(host, "verify", **args)
    assert host.resource.state.conn == Conn.VERIFY_S
    world.run_until(lambda: all(h.resource.state.conn == Conn.CONNECTED for h in (world.a, world.b)))


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("alg", ["crc32c", "sha1"])
def test_what_differs_is_marked_on_both_and_nothing_is_copied(who: str, alg: str) -> None:
    world = alike(verify_alg=alg)
    rotten = [0, 7, 8, 9, 1500, 2037]
    for block in rotten:
        rot(world.b, block)
    before = world.b.disk.data(world.b.resource.size_bytes)
    verify(world, getattr(world, who))
    assert marks(world.a) == marks(world.b) == rotten
    assert world.b.disk.data(world.b.resource.size_bytes) == before
    assert len([line for line in world.lines if "Online verify found 6 4k block out of sync!" in line]) == 2
    ranges = [line.split("Out of sync: ")[1] for line in world.lines if "Out of sync: " in line]
    wanted = ["start=0, size=8 (sectors)", "start=56, size=24 (sectors)", "start=12000, size=8 (sectors)",
              "start=16296, size=8 (sectors)"]  # fmt: skip
    assert sorted(ranges) == sorted(wanted * 2)


def test_a_new_connection_copies_what_was_found() -> None:
    world = alike()
    rot(world.b, 11)
    verify(world, world.a)
    world.ok(world.b, "disconnect")
    world.ok(world.b, "connect")
    world.settle()
    assert world.same_data() and marks(world.a) == marks(world.b) == []


def test_two_equal_disks() -> None:
    world = alike()
    verify(world, world.a)
    assert marks(world.a) == marks(world.b) == []
    assert len([line for line in world.lines if "Online verify done (total " in line]) == 2


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("seed", range(8))
def test_writes_are_no_differences(seed: int, who: str, ordered: bool) -> None:
    """An application at work on a few blocks, slow disks: equal blocks stay unmarked, and one that differs is found."""
    world = alike(seed, protocol="ABC"[seed % 3], offer_ordered=ordered, resync_rate_kib=6000)
    for host in (world.a, world.b):
        host.disk.slow_share, host.disk.slow_ms = (0.8, 6) if seed % 2 else (0.2, 2)
    rot(world.b, 2000)
    host = getattr(world, who)
    world.ok(host, "verify")
    chance = random.Random(seed)
    while host.resource.state.conn == Conn.VERIFY_S:
        first = host.resource.sync.verify.source._position
        block = first + chance.randrange(-60, 60)
        block = block if 0 <= block < 1700 else chance.randrange(1700)
        data = bytes([chance.randrange(256)]) * chance.choice((512, 4096, 9 * 512))
        if len(world.kept) - len(world.answers) < 16:
            world.submit(world.a, Op.WRITE, block * BLOCK + chance.choice((0, 512)), len(data), data)
        world.run(chance.randrange(1, 4))
    world.run(3000)
    assert marks(world.a) == marks(world.b) == [2000]
    rules = "were compared twice"
    twice = [line for line in world.lines if rules in line]
    if ordered:
        assert all("; 1 blocks were compared twice, 0 of" in line for line in twice), twice


def test_a_difference_that_goes_away_is_none() -> None:
    """A page that changed on its way is written anew soon after: the second look finds it equal."""
    world = alike(resync_rate_kib=4000)
    rot(world.b, 5)
    world.ok(world.a, "verify")
    world.run_until(lambda: bool(world.a.resource.sync.verify.source._later))
    world.write(world.a, 5 * BLOCK, b"again" * 800 + b"." * 96)
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.run(100)
    assert marks(world.a) == marks(world.b) == []
    assert "; 1 blocks were compared twice, 1 of them were equal then" in said(world, "verify-done")[0]


def test_start_stop_and_going_on() -> None:
    world = alike()
    for block in (10, 100, 1000):
        rot(world.b, block)
    verify(world, world.a, start=8 * 50 + 3, stop=8 * 500)
    assert marks(world.a) == marks(world.b) == [100]
    assert "Starting Online Verify from sector 400" in said(world, "verify-started")[0]
    verify(world, world.a)
    assert marks(world.a) == [100, 1000], "it goes on where it was stopped"
    verify(world, world.a)
    assert marks(world.a) == marks(world.b) == [10, 100, 1000], "and behind the end it begins anew"


def test_the_stop_sector_can_be_moved_while_it_runs() -> None:
    world = alike(resync_rate_kib=1000)
    world.ok(world.a, "verify")
    world.run(500)
    assert world.a.resource.state.conn == Conn.VERIFY_S
    world.ok(world.a, "verify", stop=8)
    world.run(300)
    assert world.a.resource.state.conn == world.b.resource.state.conn == Conn.CONNECTED
    assert 0 < world.a.resource.sync.verify.start_sector < 8000


def test_a_lost_connection_ends_it_and_the_next_goes_on() -> None:
    world = alike(resync_rate_kib=1000)
    rot(world.b, 1900)
    world.ok(world.a, "verify")
    world.run(2000)
    world.ok(world.b, "disconnect")
    reached = world.a.resource.sync.verify.start_sector
    assert 8 * 300 < reached < 8 * 700 and reached == world.b.resource.sync.verify.start_sector
    assert said(world, "verify-cut-short")
    world.ok(world.b, "connect")
    world.settle()
    verify(world, world.b)
    assert marks(world.a) == marks(world.b) == [1900]
    assert any(f"from sector {reached}" in line for line in said(world, "verify-started"))


def test_progress() -> None:
    world = alike(resync_rate_kib=1000)
    world.ok(world.a, "verify")
    world.run(2000)
    for host in (world.a, world.b):
        link = host.resource.status()["connections"][0]["peer_devices"][0]
        table = link["replblock-sync"]
        assert table["rs_total_blocks"] == 2038 and 1400 < table["rs_left_blocks"] < 1700
        assert link["replication-state"] == ("VerifyS" if host is world.a else "VerifyT")
    assert world.a.resource.status()["connections"][0]["peer_devices"][0]["replblock-sync"]["want_kib_s"] == 1000


def refusals() -> list[tuple[str, World, SimHost, int, int]]:
    without = alike(verify_alg="")
    unknown = alike(verify_alg="crc-of-tomorrow")
    alone = alike()
    alone.ok(alone.b, "disconnect")
    syncing = alike(resync_rate_kib=1000)
    syncing.ok(syncing.b, "invalidate")
    fresh = World(2, verify_alg="md5").pair(sync=False)
    diskless = alike()
    diskless.ok(diskless.b, "detach")
    twice = alike(resync_rate_kib=1000)
    twice.ok(twice.a, "verify")
    return [
        ("without an algorithm", without, without.a, -14, 11), ("an unknown one", unknown, unknown.a, -14, 11),
        ("alone", alone, alone.a, -15, 11), ("in a resync", syncing, syncing.a, -8, 11),
        ("no good data", fresh, fresh.a, -2, 17), ("no disk here", diskless, diskless.b, -4, 16),
        ("no disk there", diskless, diskless.a, -5, 11), ("the other way round", twice, twice.b, -8, 11),
    ]  # fmt: skip


def test_refusals() -> None:
    """DRBD's codes; and a fresh pair is not declared UpToDate by a verify, as DRBD's adjustment of states would do."""
    for what, world, host, code, exit_code in refusals():
        before = host.resource.state, host.peer.resource.state
        answer = world.command(host, "verify")
        assert (answer.exit_code, answer.data["code"]) == (exit_code, code), (what, answer)
        assert before == (host.resource.state, host.peer.resource.state), what


def test_the_peer_refuses_where_its_disk_is_no_good() -> None:
    """A kernel node would ask: by its table both disks become UpToDate."""
    world = World(2, verify_alg="md5").pair(sync=False)
    answers: list[int | None] = []
    world.a.resource.admin.ask_peer(answers.append, conn=Conn.VERIFY_S)
    world.run(100)
    assert answers == [-2]
    assert world.b.resource.state.conn == Conn.CONNECTED and world.b.resource.state.disk == Disk.INCONSISTENT


@pytest.mark.parametrize("policy", ["pass_on", "detach"])
@pytest.mark.parametrize("which", ["a", "b"])
def test_a_disk_that_cannot_be_read(which: str, policy: str) -> None:
    """It is no good disk any more: the verify ends on both nodes, and nobody calls that disk UpToDate."""
    world = alike(on_io_error=policy)
    host = getattr(world, which)
    host.disk.fail_reads = True
    world.ok(world.a, "verify")
    world.run(3000)
    wanted = Disk.INCONSISTENT if policy == "pass_on" else Disk.DISKLESS
    assert host.resource.state.disk == wanted == host.peer.resource.state.pdsk
    assert {world.a.resource.state.conn, world.b.resource.state.conn} == {Conn.CONNECTED}


def test_the_handler_is_called_on_both_nodes_where_something_was_found() -> None:
    called: list[str] = []
    world = alike(handlers=frozenset({"out-of-sync"}))
    for host in (world.a, world.b):
        host.run_handler = lambda name, env, done, who=host.name: called.append(f"{who} {name}")  # type: ignore[method-assign]
    verify(world, world.a)
    assert called == []
    rot(world.a, 3)
    verify(world, world.a)
    world.run(100)
    assert sorted(called) == ["a out-of-sync", "b out-of-sync"]


@pytest.mark.parametrize("primary", ["a", "b"])
def test_a_peer_that_counts_results_hears_what_was_found_before_it_is_through(
    primary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel is over when it has had a result for each block, and gets one for each question all the same."""
    heard: list[tuple[int, bool]] = []
    on_result = VerifyTarget.on_result

    def spy(self: VerifyTarget, body: memoryview) -> None:
        ack = BlockAck.unpack(body)
        heard.append((ack.sector // 8, ack.block_id == OV_OUT_OF_SYNC))
        on_result(self, body)

    monkeypatch.setattr(VerifyTarget, "on_result", spy)
    world = alike(offer_ordered=False)
    if primary == "b":
        world.ok(world.a, "secondary")
        world.ok(world.b, "primary")
    rotten = (3, 4, 1000)
    for block in rotten:
        rot(world.b, block)
    world.ok(world.a, "verify")
    world.run_until(lambda: bool(world.a.resource.sync.verify.source._later))
    ruling = world.a if primary == "a" else world.b
    waits = world.submit(ruling, Op.WRITE, 4 * BLOCK, 512, b"w" * 512)      # to a block that is looked at twice
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)
    world.run(100)
    assert world.wait(waits).errno == 0
    blocks = world.a.resource.meta.bitmap.bits  # type: ignore[union-attr]
    assert len(heard) == blocks + len(rotten)
    assert sorted(block for block, _ in heard[:blocks]) == list(range(blocks))
    assert {block for block, differs in heard[:blocks] if differs} == set(rotten)
    assert heard[blocks:] == [entry for entry in heard[:blocks] if entry[0] in rotten]
    assert marks(world.a) == marks(world.b) == list(rotten)


@pytest.mark.parametrize("seed", range(6))
def test_verify_again_and_again(seed: int) -> None:
    """Ended by a cut, a demotion in the middle, a promotion of the other one: no question stays without its answer."""
    world = alike(seed, resync_rate_kib=3000)
    for host in (world.a, world.b):
        host.disk.slow_share, host.disk.slow_ms = 0.5, 20
    chance = random.Random(seed)
    for _ in range(12):
        ruling = world.a if world.a.resource.state.role.name == "PRIMARY" else world.b
        world.command(chance.choice((world.a, world.b)), "verify", start=8 * chance.randrange(2000))
        for _ in range(10):
            data = bytes([chance.randrange(256)]) * BLOCK
            world.submit(ruling, Op.WRITE, chance.randrange(2000) * BLOCK, BLOCK, data)
            world.run(chance.randrange(20))
        if chance.random() < 0.5:
            world.ok(ruling, "secondary")
            world.ok(ruling.peer, "primary")
    world.run_until(lambda: not any(h.resource.state.conn in VERIFYING for h in (world.a, world.b)))
    world.settle()
    assert marks(world.a) == marks(world.b) == [] and world.same_data()
    assert not said(world, "protocol-error")
