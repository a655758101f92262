# SPDX-License-Identifier: GPL-2.0-or-later
"""What `explain` says before two nodes connect is what they then do; two real cores in a simulated world judge."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from replblock.state.forecast import VALUES
from replblock.state.names import Conn, Role
from replblock.status.explain import explain
from replblock.status.explain_text import render

from .simhost import SimHost
from .world import World

POLICIES = [(zero, one) for zero in VALUES[0] for one in VALUES[1]]


def facts(host: SimHost) -> dict[str, Any]:
    return dict(host.resource.status()["replblock-generations"])


def both_sides(world: World) -> dict[str, Any]:
    """The facts as they are, each node asked for its own: what an operator has who can reach both."""
    mine, theirs = facts(world.a), facts(world.b)
    return {**mine, "there": theirs["here"]}


def part(world: World) -> None:
    world.partition()
    for host in (world.a, world.b):
        if host.powered and host.resource.state.conn != Conn.STANDALONE:
            world.ok(host, "disconnect", force=True)
    world.heal()


def write_alone(world: World, host: SimHost, blocks: int) -> None:
    """Primary, some blocks, Secondary again."""
    if blocks < 0:
        return
    if host.resource.state.role != Role.PRIMARY:
        world.ok(host, "primary", force=True)
    for block in range(blocks):
        world.write(host, (block * 3 + (0 if host is world.a else 1)) * 4096, host.name.encode() * 4096)
    world.flush(host)
    world.ok(host, "secondary")


def connect(world: World) -> None:
    for host in (world.a, world.b):
        world.ok(host, "connect")


def happened(world: World) -> dict[str, Any]:
    """Run on until it is decided, and say what became of it: who was source, what was discarded."""
    seen: dict[str, str] = {}

    def watch(host: SimHost, old: Any, new: Any) -> None:
        if new.conn in (Conn.WF_BITMAP_S, Conn.WF_BITMAP_T):
            seen.setdefault(host.name, "S" if new.conn == Conn.WF_BITMAP_S else "T")

    world.watchers.append(watch)
    connect(world)
    states = [world.a.resource, world.b.resource]

    def ended() -> bool:
        if any(one.state.conn == Conn.STANDALONE for one in states):
            return True
        return world.in_sync() or all(
            one.state.conn == Conn.CONNECTED and not one.sync.running and one.meta is not None for one in states)

    world.run_until(ended)
    world.run(3000)
    world.watchers.remove(watch)
    if any(one.state.conn == Conn.STANDALONE for one in states):
        return {"what": "no-connection", "discards": None}
    what = {"S": "sync-from-here", "T": "sync-to-here"}.get(seen.get("a", ""), "connected")
    assert sorted(seen.values()) in ([], ["S", "T"]), seen
    return {"what": what}


def told(made: dict[str, Any]) -> set[str]:
    found = made["forecast"]
    return {one["what"] for one in (found["outcome"], found["otherwise"]) if one is not None}


def settings(world: World, **changes: Any) -> None:
    for host in (world.a, world.b):
        mirrored = dict(changes)
        swap = {"discard-local": "discard-remote", "discard-remote": "discard-local"}
        if host is world.b:
            mirrored["after_sb_0pri"] = swap.get(changes["after_sb_0pri"], changes["after_sb_0pri"])
        world.ok(host, "net_options", settings=replace(host.settings, **mirrored))  # type: ignore[attr-defined]


@pytest.mark.parametrize("zero", VALUES[0])
@pytest.mark.parametrize(("mine", "theirs"), [(3, 1), (1, 3), (2, 2), (0, 2), (2, 0), (-1, 2), (2, -1), (-1, -1)])
def test_two_secondaries(zero: str, mine: int, theirs: int) -> None:
    """Every after-sb-0pri policy on every kind of divergence: the outcome, and the blocks lost."""
    world = World(11).pair()
    world.ok(world.a, "secondary")
    part(world)
    write_alone(world, world.a, mine)
    write_alone(world, world.b, theirs)
    settings(world, after_sb_0pri=zero)
    made = explain(both_sides(world), "r0", "live")
    before = {host.name: bytes(host.disk.content) for host in (world.a, world.b)}
    got = happened(world)
    assert got["what"] in told(made), made["forecast"]
    if made["forecast"]["otherwise"] is None:
        assert told(made) == {got["what"]}
    if got["what"] == "no-connection":
        assert made["forecast"]["split-brain"] and made["ways-out"]
        data = world.a.resource.size_bytes
        assert all(before[host.name][:data] == host.disk.data(data) for host in (world.a, world.b))
    else:
        world.settle()
        assert world.same_data()


@pytest.mark.parametrize(("zero", "one"), POLICIES)
@pytest.mark.parametrize("primary", ["a", "b"])
def test_one_primary(zero: str, one: str, primary: str) -> None:
    """Every pair of after-sb-0pri and after-sb-1pri, the Primary on either side of the comparison."""
    world = World(12).pair()
    world.ok(world.a, "secondary")
    part(world)
    write_alone(world, world.a, 3)
    write_alone(world, world.b, 1)
    world.ok(world.a if primary == "a" else world.b, "primary", force=True)
    settings(world, after_sb_0pri=zero, after_sb_1pri=one)
    made = explain(both_sides(world), "r0", "live")
    assert made["forecast"]["policy"] == {"option": "after-sb-1pri", "value": one}
    got = happened(world)
    assert told(made) == {got["what"]}, (made["forecast"], world.lines[-30:])
    if got["what"] != "no-connection":
        world.settle()
        gives_up = made["forecast"]["outcome"]["gives-up-primary"]
        loser = {"here": world.a, "there": world.b}
        assert all(loser[side].resource.state.role == Role.SECONDARY for side in gives_up), "it kept the role"



@pytest.mark.parametrize("loser", ["here", "there"])
def test_the_way_out_that_is_named_leads_out(loser: str) -> None:
    """A split brain that was refused: each node knows the other's data afterwards; its commands discard that side."""
    world = World(13).pair()
    world.ok(world.a, "secondary")
    part(world)
    write_alone(world, world.a, 3)
    write_alone(world, world.b, 1)
    assert happened(world)["what"] == "no-connection"
    for host, peer in ((world.a, world.b), (world.b, world.a)):
        theirs, known = facts(peer)["here"], facts(host)["there"]
        assert {key: known[key] for key in ("uuids", "marked-blocks", "disk", "crashed-primary")} == {
            key: theirs[key] for key in ("uuids", "marked-blocks", "disk", "crashed-primary")}
        assert known["not-before-ms"] and facts(host)["here"]["since-ms"]
    made = explain(facts(world.a), "r0", "live", {"connection": "StandAlone"})
    assert [made[side]["loses"] for side in ("here", "there")] == [
        {"bound": "at-most", "blocks": 3, "bytes": 12288}, {"bound": "at-most", "blocks": 1, "bytes": 4096}]
    way = next(way for way in made["ways-out"] if way["gives-up"] == loser)
    kept = (world.b if loser == "here" else world.a).disk.data(world.a.resource.size_bytes)
    for step in way["steps"]:
        host = world.a if step["on"] == "here" else world.b
        verb = step["command"].split()[1]
        if not step["only-if"]:
            world.ok(host, verb, discard_my_data="--discard-my-data" in step["command"])
    world.settle()
    assert world.same_data() and world.a.disk.data(world.a.resource.size_bytes) == kept


@pytest.mark.parametrize(("mine", "expected"), [(-1, "sync-to-here"), (2, "no-connection")])
def test_a_peer_that_was_primary_and_went_on(mine: int, expected: str) -> None:
    """Only one side of the story is known here: what follows if the Primary went on writing is told, and follows."""
    world = World(14).pair()
    world.partition()
    world.run_until(lambda: all(host.resource.state.conn < Conn.CONNECTED for host in (world.a, world.b)))
    world.heal()
    for host in (world.a, world.b):
        world.ok(host, "disconnect", force=True)
    write_alone(world, world.b, mine)
    made = explain(facts(world.b), "r0", "live", {"connection": "StandAlone"})
    told_then = made["forecast"]["if-peer-wrote"]
    assert told_then["outcome"]["what"] == expected and told_then["otherwise"] is None
    for line in render(made).splitlines():
        assert len(line) <= 80
    write_alone(world, world.a, 3)
    got = happened(world)["what"]
    assert {"sync-from-here": "sync-to-here"}.get(got, got) == expected


def test_a_failover() -> None:
    """The Primary died, this node took over and wrote: the dead one will be brought up to date when it is back."""
    world = World(15).pair()
    world.write(world.a, 0, b"a" * 4096)
    world.flush(world.a)
    world.settle()
    world.kill(world.a, power=True)
    world.run_until(lambda: world.b.resource.state.conn < Conn.CONNECTED)
    world.ok(world.b, "primary")
    world.write(world.b, 4096, b"b" * 4096)
    made = explain(facts(world.b), "r0", "live", {"connection": "WFConnection"})
    assert made["there"]["role"] == "Primary" and made["forecast"]["primaries"] == 1
    assert told(made) == {"sync-from-here"} and made["forecast"]["rule"] == "i-moved-on"
    assert made["forecast"]["if-peer-wrote"]["outcome"]["what"] == "no-connection"
    world.up(world.a)
    world.settle()
    assert world.same_data() and world.read(world.b, 4096, 4096) == b"b" * 4096


class Life:
    """A random past of two nodes, by one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        zero, one = rng.choice(VALUES[0]), rng.choice(VALUES[1])
        self.world = World(
            seed, after_sb_1pri=one, rr_conflict=rng.choice(["disconnect", "violently"]),
            always_asbp=rng.random() < 0.5, offer_ordered=rng.random() < 0.7, al_extents=7,
        )
        settings_at_rest(self.world, zero)
        self.world.pair()

    def node(self) -> SimHost:
        return self.rng.choice([self.world.a, self.world.b])

    def up(self) -> None:
        for host in (self.world.a, self.world.b):
            if not host.powered:
                self.world.up(host, connect=False)

    def alone(self) -> None:
        """Something that one node does without the other."""
        world, rng = self.world, self.rng
        host = self.node()
        if not host.powered:
            world.up(host, connect=False)
        state = host.resource.state
        if rng.random() < 0.2:
            world.kill(host, power=rng.random() < 0.5)
            return
        if state.role != Role.PRIMARY and world.command(host, "primary", force=rng.random() < 0.3).exit_code:
            return
        for _ in range(rng.randrange(4)):
            world.write(host, rng.randrange(40) * 4096, bytes([rng.randrange(1, 256)]) * 4096)
        world.flush(host)
        if rng.random() < 0.6:
            world.ok(host, "secondary")

    def meet(self) -> None:
        """Forecast, then the act; both must agree, and so must the forecast of the other side."""
        world = self.world
        made = explain(both_sides(world), "r0", "live")
        mirror = explain({**facts(world.b), "there": facts(world.a)["here"]}, "r0", "live")
        swap = {"sync-from-here": "sync-to-here", "sync-to-here": "sync-from-here"}
        assert {swap.get(what, what) for what in told(made)} == told(mirror)
        got = happened(world)
        assert got["what"] in told(made), (made["forecast"], world.lines[-40:])
        if made["forecast"]["otherwise"] is None:
            assert len(told(made)) == 1


def settings_at_rest(world: World, zero: str) -> None:
    """Policies before the nodes start."""
    swap = {"discard-local": "discard-remote", "discard-remote": "discard-local"}
    for host, value in ((world.a, zero), (world.b, swap.get(zero, zero))):
        host.settings = replace(host.settings, after_sb_0pri=value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(100))
def test_random_lives(seed: int) -> None:
    """Partings, writes alone, crashes, resyncs that were cut off: before every meeting the forecast is asked."""
    life = Life(seed)
    world, rng = life.world, life.rng
    for _ in range(3):
        part(world)
        for _ in range(rng.randrange(4)):
            life.alone()
        life.up()
        life.meet()
        if rng.random() < 0.4 and world.a.resource.state.conn >= Conn.CONNECTED:
            world.run(rng.randrange(40))
