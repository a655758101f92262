# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that must not come about: different settings, wrong secrets, wrong sizes, unrelated data; dead peers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replblock.core.requests import Op
from replblock.state.names import Conn, Disk, Role

from .world import MIB, SimHost, World

STANDALONE = Conn.STANDALONE


def differing(b: dict[str, Any], a: dict[str, Any] | None = None, seed: int = 1) -> World:
    """Two nodes that are both UpToDate alone, the second with other settings."""
    world = World(seed)
    world.pair()
    for host in (world.a, world.b):
        world.command(host, "disconnect")
        if host.resource.state.conn != STANDALONE:
            world.command(host, "disconnect", force=True)
    for host, changes in ((world.a, a or {}), (world.b, b)):
        settings = replace(host.settings, **changes)  # type: ignore[attr-defined]
        world.ok(host, "net_options", settings=settings)
    return world


def connect(world: World) -> None:
    for host in (world.a, world.b):
        world.ok(host, "connect")


def said(host: SimHost, words: str) -> bool:
    return any(words in line for line in host.lines)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("protocol", "A", "protocol"),
        ("after_sb_0pri", "discard-zero-changes", "after-sb-0pri"),
        ("after_sb_1pri", "consensus", "after-sb-1pri"),
        ("after_sb_2pri", "call-pri-lost-after-sb", "after-sb-2pri"),
        ("allow_two_primaries", True, "allow-two-primaries"),
        ("data_integrity_alg", "crc32c", "data-integrity-alg"),
        ("verify_alg", "sha1", "verify-alg"),
        ("csums_alg", "sha1", "csums-alg"),
    ],
)
def test_settings_that_must_be_equal(option: str, value: object, named: str) -> None:
    """Both nodes refuse, end StandAlone and name the option; no data was touched."""
    world = differing({option: value})
    connect(world)
    world.run_until(lambda: world.a.resource.state.conn == STANDALONE or world.b.resource.state.conn == STANDALONE)
    world.run(30_000)
    refused = [h for h in (world.a, world.b) if said(h, "settings-differ")]
    assert refused and all(said(h, named) and said(h, "replctl adjust") for h in refused)
    assert all(h.resource.state.conn < Conn.CONNECTED for h in (world.a, world.b))
    assert all(h.resource.state.disk == Disk.UP_TO_DATE for h in (world.a, world.b))
    assert sum(len(h.dials_ms) for h in (world.a, world.b)) < 20


def test_mirrored_policies_are_equal() -> None:
    """discard-local here is discard-remote there."""
    world = differing({"after_sb_0pri": "discard-remote"}, {"after_sb_0pri": "discard-local"})
    connect(world)
    world.settle()


def test_wrong_secret() -> None:
    """Nobody gets through, and the sentence says what to compare."""
    world = differing(
        {"cram_hmac_alg": "sha256", "shared_secret": "there"}, {"cram_hmac_alg": "sha256", "shared_secret": "here"}
    )
    connect(world)
    world.run(30_000)
    assert any(said(h, "auth-failed") and said(h, "shared-secret") for h in (world.a, world.b))
    assert all(h.resource.state.conn < Conn.CONNECTED for h in (world.a, world.b))
    assert STANDALONE in (world.a.resource.state.conn, world.b.resource.state.conn)


@pytest.mark.parametrize("swapped", [False, True])
def test_secret_on_one_side_only(swapped: bool) -> None:
    """The node that was given no secret says so; the other never takes an unauthenticated packet."""
    secret = {"cram_hmac_alg": "sha256", "shared_secret": "x"}
    world = differing({}, secret) if swapped else differing(secret)
    if swapped:
        world.ok(world.b, "net_options", settings=replace(world.b.resource.settings, cram_hmac_alg=""))
    connect(world)
    world.run(60_000)
    assert all(h.resource.state.conn < Conn.CONNECTED for h in (world.a, world.b))
    without = world.b if swapped else world.a
    assert said(without, "auth-unexpected") and without.resource.state.conn == STANDALONE
    assert sum(len(h.dials_ms) for h in (world.a, world.b)) < 40


def test_no_common_protocol_version() -> None:
    """A node that speaks only old dialects is told so."""
    world = differing({"version_min": 86, "version_max": 90}, {"version_min": 95})
    connect(world)
    world.run(20_000)
    assert any(said(h, "incompatible DRBD dialects") for h in (world.a, world.b))
    assert all(h.resource.state.conn < Conn.CONNECTED for h in (world.a, world.b))


def test_smaller_fresh_disk_makes_the_device_small() -> None:
    """Two fresh nodes agree on what both can hold."""
    from .simdisk import SimDisk

    world = World(1, size_bytes=16 * MIB)
    small = World(1, size_bytes=8 * MIB).b.disk
    disk = SimDisk(world, 8 * MIB, "b")
    disk.content[:] = small.content
    disk.durable[:] = small.durable
    world.b.disk = disk
    world.pair()
    assert world.a.resource.size_bytes == world.b.resource.size_bytes == disk.geometry.data_sectors * 512
    assert world.same_data()


def test_peer_with_too_small_a_disk_is_refused() -> None:
    """The device never shrinks under its data."""
    from .simdisk import SimDisk

    world = World(1, size_bytes=16 * MIB).pair()
    world.kill(world.b)
    fresh = World(2, size_bytes=8 * MIB).b.disk
    disk = SimDisk(world, 8 * MIB, "b")
    disk.content[:] = fresh.content
    disk.durable[:] = fresh.durable
    world.b.disk = disk
    size = world.a.resource.size_bytes
    world.up(world.b)
    world.run_until(lambda: world.a.resource.state.conn == STANDALONE)
    assert said(world.a, "too small") and world.a.resource.size_bytes == size
    assert world.a.resource.state.disk == Disk.UP_TO_DATE


def test_unrelated_data_is_refused() -> None:
    """Two disks without a common generation: both StandAlone, nothing copied."""
    world = World(6)
    for host in (world.a, world.b):
        world.up(host, connect=False)
        world.ok(host, "primary", force=True)
        for _ in range(3):
            world.ok(host, "new_current_uuid")
        world.write(host, 0, host.name.encode() * 4096)
        world.ok(host, "secondary")
    connect(world)
    world.run_until(lambda: all(h.resource.state.conn == STANDALONE for h in (world.a, world.b)))
    assert all(said(h, "Unrelated data") for h in (world.a, world.b))
    assert world.a.disk.data(4096) == b"a" * 4096 and world.b.disk.data(4096) == b"b" * 4096


def test_two_primaries_part_again() -> None:
    """Without allow-two-primaries a connection of two Primaries does not come about."""
    world = World(8).pair()
    world.partition()
    world.run_until(lambda: world.b.resource.state.conn == Conn.WF_CONNECTION)
    world.ok(world.b, "primary")
    world.heal()
    world.run(60_000)
    assert all(h.resource.state.role == Role.PRIMARY for h in (world.a, world.b))
    assert all(h.resource.state.conn < Conn.CONNECTED for h in (world.a, world.b))
    assert sum(len(h.dials_ms) for h in (world.a, world.b)) < 60


# --- peers that are there and yet dead ---


def test_silent_peer_is_found_dead_by_ping() -> None:
    """Nothing comes any more: noticed within ping-int plus ping-timeout, whoever is idle."""
    world = World(11, ping_int_ms=2000, ping_timeout_ms=400).pair()
    world.run(1000)
    cut_at = world.now
    world.partition()
    world.run_until(lambda: all(h.resource.state.conn == Conn.WF_CONNECTION for h in (world.a, world.b)))
    assert world.now - cut_at <= 2000 + 2 * 400 + 500
    assert said(world.a, "ping-timeout") and said(world.b, "ping-timeout")


def test_ko_count_gives_up_a_peer_that_only_pings() -> None:
    """A peer whose disk hangs answers pings for ever: ko-count ends it, the write is then done alone."""
    world = World(12, timeout_ms=1000, ko_count=3).pair()
    world.b.disk.slow_share = 1.0
    world.b.disk.slow_ms = 1_000_000_000
    request = world.submit(world.a, Op.WRITE, 0, 4096, b"k" * 4096)
    begun = world.now
    world.run(2500)
    assert not world.answered(request) and world.a.resource.state.conn == Conn.CONNECTED
    world.wait(request)
    assert request.errno == 0
    assert 3000 <= world.now - begun <= 4500
    assert said(world.a, "ko-count") and world.a.resource.state.pdsk != Disk.UP_TO_DATE  # maybe met again by now


def test_no_ko_count_waits_for_ever() -> None:
    """ko-count 0: the write waits as long as the peer lives."""
    world = World(12, timeout_ms=1000, ko_count=0).pair()
    world.b.disk.slow_share = 1.0
    world.b.disk.slow_ms = 60_000
    request = world.submit(world.a, Op.WRITE, 0, 4096, b"k" * 4096)
    world.run(500)
    world.wait(request)
    assert request.errno == 0 and world.a.resource.state.conn == Conn.CONNECTED


def test_silence_in_the_handshake_ends() -> None:
    """A peer that connects and then says nothing does not block the node for ever."""
    world = World(13)
    world.up(world.a)
    world.up(world.b)
    world.run_until(lambda: world.a.resource.links.link is not None)
    world.partition()
    world.run_until(lambda: world.a.resource.links.link is None, 30_000)
    assert world.a.resource.state.conn == Conn.WF_CONNECTION
    world.heal()
    world.run_until(lambda: world.a.resource.state.conn == Conn.CONNECTED)


@pytest.mark.parametrize("verb", ["invalidate", "invalidate_remote"])
def test_bad_data_is_never_declared_the_source(verb: str) -> None:
    """A disk that on-io-error pass_on left Inconsistent cannot be made the source of a full resync by order."""
    world = World(14, on_io_error="pass_on").pair()
    world.a.disk.fail_writes = True
    world.write(world.a, 0, b"p" * 4096)
    world.a.disk.fail_writes = False
    world.run(50)
    assert world.a.resource.state.disk == Disk.INCONSISTENT
    answer = world.command(world.b if verb == "invalidate" else world.a, verb)
    assert answer.exit_code == 17
    assert world.a.resource.state.disk == Disk.INCONSISTENT and world.b.resource.state.disk == Disk.UP_TO_DATE
    world.ok(world.a, "invalidate")
    world.settle()
    assert world.same_data() and world.read(world.a, 0, 4096) == b"p" * 4096


@pytest.mark.parametrize("secret", [{}, {"cram_hmac_alg": "sha256", "shared_secret": "x"}], ids=["open", "proved"])
def test_a_peer_with_another_volume_is_left(secret: dict[str, str]) -> None:
    """Its writes to that volume would land on ours: neither data nor generations change, and both say why."""
    world = World(4, **secret)
    world.b.settings = replace(world.b.settings, volume=1)  # type: ignore[attr-defined]
    for host in (world.a, world.b):
        world.up(host, connect=False)
    before = bytes(world.a.disk.content), bytes(world.b.disk.content)
    for host in (world.a, world.b):
        world.ok(host, "connect")
    world.run(2000)
    for host in (world.a, world.b):
        assert host.resource.state.conn == Conn.STANDALONE
    assert any("the peer has a volume 1, of which this node serves none" in line for line in world.lines)
    assert (bytes(world.a.disk.content), bytes(world.b.disk.content)) == before
