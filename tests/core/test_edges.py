# SPDX-License-Identifier: GPL-2.0-or-later
"""Edges that a review found: each of these lost data, broke an answer's promise or ended the engine once."""

from __future__ import annotations

import errno

import pytest

from replblock.core.host import Done
from replblock.core.metastore import MetaStore
from replblock.core.requests import Op, Request
from replblock.meta.superblock import Superblock
from replblock.state.names import Conn, Disk, Role
from replblock.wire.commands import Cmd
from replblock.wire.flags import ID_SYNCER
from replblock.wire.packets import BlockAck, BlockReq

from .simdisk import SimDisk
from .world import MIB, World

OLD, NEW = b"o" * 4096, b"N" * 4096


def test_a_target_promoted_in_mid_request_keeps_its_own_write() -> None:
    """The source read the block before the target became Primary and wrote it: the late reply must not win."""
    world = World(3, size_bytes=16 * MIB).pair()
    world.ok(world.b, "disconnect")
    world.write(world.a, 0, OLD * 256)
    world.flush(world.a)
    world.ok(world.a, "secondary")
    world.a.disk.slow_share, world.a.disk.slow_ms, world.b.disk.slow_share = 1, 2000, 0
    world.ok(world.b, "connect")
    source, target = world.a.resource.sync.source, world.b.resource.sync.target
    world.run_until(lambda: bool(target._outstanding and source.reading))
    world.ok(world.b, "primary")
    write = world.submit(world.b, Op.WRITE, 0, 4096, NEW)
    world.a.disk.slow_share = 0
    assert world.wait(write).errno == 0
    world.settle()
    assert world.same_data()
    assert world.read(world.b, 0, 4096) == NEW


@pytest.mark.parametrize("protocol", "AB")
def test_a_flush_whose_own_disk_failed_waits_for_the_peers(protocol: str) -> None:
    """Under A and B nobody waits for the peer's disk; when the local flush fails it is the only promise left."""
    world = World(2, protocol=protocol).pair()
    world.a.disk.slow_share, world.b.disk.slow_ms, world.delay_ms = 0, 400, 200
    world.write(world.a, 0, b"x" * 4096)
    world.a.disk.fail_flushes = True
    flush = world.wait(world.submit(world.a, Op.FLUSH))
    assert flush.errno or bytes(world.b.disk.durable[:4096]) == b"x" * 4096


@pytest.mark.parametrize(("cmd", "ident"), [(Cmd.NEG_ACK, b"12345678"), (Cmd.RS_WRITE_ACK, ID_SYNCER)])
def test_an_ack_beyond_the_device_costs_the_connection_only(cmd: Cmd, ident: bytes) -> None:
    """A peer's number must never end the engine."""
    world = World(1).pair()
    world.b.resource.links.send_meta(cmd, BlockAck(1 << 40, ident, 4096).pack())
    world.b.finish()
    world.run(100)
    if cmd == Cmd.NEG_ACK:
        assert any("[protocol-error]" in line for line in world.a.lines)
    world.settle()


def test_a_giant_read_of_the_peer_is_refused() -> None:
    """P_DATA_REQUEST is answered from memory."""
    world = World(1, size_bytes=16 * MIB).pair()
    world.a.resource.links.send(Cmd.DATA_REQUEST, BlockReq(0, b"12345678", 8 * MIB).pack())
    world.a.finish()
    world.run(100)
    assert any("[protocol-error]" in line for line in world.b.lines)
    world.settle()


def test_promotion_waits_for_what_the_dead_peer_sent() -> None:
    """B: RECV_ACK was given, the write still waits for a slow disk, the Primary dies: nobody may read the old data."""
    world = World(6, protocol="B").pair()
    world.write(world.a, 0, OLD)
    world.flush(world.a)
    world.settle()
    world.a.disk.slow_share, world.b.disk.slow_share, world.b.disk.slow_ms = 0, 1, 3000
    world.write(world.a, 0, NEW)
    world.run(10)
    world.kill(world.a, power=True)
    world.run_until(lambda: world.b.resource.state.conn < Conn.CONNECTED)
    world.b.disk.slow_ms = 2
    world.ok(world.b, "primary")
    assert not world.b.resource.secondary.unacked
    assert world.read(world.b, 0, 4096) == NEW


def test_a_demoted_node_takes_no_more_writes() -> None:
    """After a demotion by after-sb policy the device may still be open: its writes must not reach the winner."""
    world = World(7).pair()
    world.a.resource.change("after-sb-demote", forced=True, role=Role.SECONDARY)
    write = world.wait(world.submit(world.a, Op.WRITE, 0, 4096, NEW))
    assert write.errno == errno.EROFS
    assert bytes(world.a.disk.content[:4096]) != NEW and bytes(world.b.disk.content[:4096]) != NEW


def test_a_smaller_disk_does_not_shrink_the_device_in_use() -> None:
    """Attach refuses it with DRBD's 111; the Primary keeps its size."""
    world = World(4, size_bytes=16 * MIB).pair()
    size = world.a.resource.size_bytes
    world.ok(world.b, "detach")
    small = SimDisk(world, 8 * MIB, "b")
    g = small.geometry
    block = Superblock(
        md_size_sectors=g.md_size_sectors, al_offset_sectors=g.al_offset_sectors, bm_offset_sectors=g.bm_offset_sectors
    )
    small.content[g.superblock_offset_bytes : g.superblock_offset_bytes + 4096] = block.pack()
    small.durable[:] = small.content
    world.b.disk = small
    answer = world.command(world.b, "attach", **world.b.open_disk())
    assert answer.exit_code == 10 and "(111)" in answer.lines[0]
    assert world.a.resource.size_bytes == size


@pytest.mark.parametrize("protocol", "AB")
def test_a_secondary_with_a_stuck_disk_does_not_take_everything_into_memory(protocol: str) -> None:
    """Beyond a bound the data connection is not read until the disk has caught up."""
    world = World(8, protocol=protocol, size_bytes=24 * MIB, max_in_flight_bytes=1 << 40).pair()
    world.b.disk.slow_share, world.b.disk.slow_ms = 1, 5000
    writes = [world.submit(world.a, Op.WRITE, n % 20 * MIB, MIB, bytes(MIB)) for n in range(120)]
    world.run(800)
    assert world.b.resource.secondary._pending_bytes <= 66 * MIB
    world.b.disk.slow_share = 0
    for write in writes:
        assert world.wait(write).errno == 0
    world.settle()
    assert world.same_data()


def test_no_direct_reads_while_frozen() -> None:
    """Until the peer is fenced it may be Primary: what this disk holds may be old."""
    world = World(9).pair()
    assert world.a.resource.local_reads_ok and not world.b.resource.local_reads_ok
    world.a.resource.primary.freeze("fencing")
    assert not world.a.resource.local_reads_ok


def test_a_primary_that_loses_a_split_brain_by_policy_stays_demoted() -> None:
    """call-pri-lost-after-sb: the loser gives up its role, and is no Primary again when the handshake ends."""
    world = World(12, after_sb_0pri="discard-least-changes", after_sb_1pri="call-pri-lost-after-sb").pair()
    world.ok(world.a, "disconnect", force=True)
    world.ok(world.b, "disconnect", force=True)
    world.write(world.a, 0, NEW)
    world.ok(world.b, "primary", force=True)
    for block in (8, 9):
        world.write(world.b, block * 4096, NEW)
    world.ok(world.b, "secondary")
    for host in (world.a, world.b):
        world.ok(host, "connect")
    world.settle()
    assert world.a.resource.state.role == Role.SECONDARY
    assert world.same_data() and bytes(world.a.disk.content[:4096]) != NEW


def test_an_exception_of_the_disk_ends_the_turn_it_came_in() -> None:
    """Whoever frees a range sends what waited for it, unless a turn is under way that will: there is none any more."""
    world = World(31).pair()
    world.write(world.a, 0, bytes(4096))
    primary, disk = world.a.resource.primary, world.a.resource.disk
    assert disk is not None

    def broken(offset: int, data: bytes, done: object) -> int:
        raise ValueError("no such place")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(disk, "write", broken)
        with pytest.raises(ValueError, match="no such place"):
            world.a.resource.submit([Request(Op.WRITE, 0, 4096, lambda request: None, bytes(4096))])
    assert not primary._going
    world.write(world.a, 8192, b"8" * 4096)


def test_a_promotion_of_a_diskless_peer_writes_the_superblock_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes waits for that."""
    world = World(32).pair()
    world.ok(world.a, "detach")
    world.run(2000)
    world.kill(world.a)
    world.boot(world.a)
    world.ok(world.a, "connect")
    b = world.b.resource
    world.run_until(lambda: b.state.peer == Role.SECONDARY and b.is_idle() and not world.b.busy_with_metadata)
    saves: list[int] = []
    save = MetaStore.save

    def counted(meta: MetaStore, done: Done | None = None) -> None:
        saves.append(world.now)
        save(meta, done)

    monkeypatch.setattr(MetaStore, "save", counted)
    assert b.change("peer-requests", forced=True, peer=Role.PRIMARY) is None
    assert len(saves) == 1 and b.secondary.holding
    world.run(100)
    assert not b.secondary.holding


def test_what_is_said_of_a_failed_disk_is_true_without_a_peer() -> None:
    """Nothing serves then."""
    world = World(33)
    world.up(world.a, connect=False)
    world.ok(world.a, "primary", force=True)
    resource = world.a.resource
    resource.disk_failed(errno.EIO, "writing")
    world.a.finish()
    assert resource.state.disk < Disk.INCONSISTENT
    said = next(line for line in world.a.lines if "io-error-detaches" in line and "error" in line)
    assert "only a good copy at a connected peer serves" in said


def test_a_read_that_ends_on_a_disk_given_up_meanwhile_is_asked_of_the_peer() -> None:
    """A disk that fails a flush may lose what it had in its cache, and a read under way there finds something older."""
    world = World(34).pair()
    world.a.disk.slow_share = world.b.disk.slow_share = 0
    world.write(world.a, 0, b"n" * 4096)
    world.a.disk.slow_share, world.a.disk.slow_ms = 1, 1000
    read = world.submit(world.a, Op.READ, 0, 4096)
    world.a.resource.disk_failed(errno.EIO, "flushing")
    world.a.finish()
    world.a.disk.content[:4096] = b"o" * 4096
    assert world.wait(read).errno == 0 and bytes(read.data) == b"n" * 4096
