# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories in which disks are compared: resyncs by checksums, pauses, online verify amid writes, failures and deaths.

In the end of each a block is spoilt behind the product's back: a verify must find it, and mark it on both nodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from replblock.state.names import Conn
from tests.sim import crossings
from tests.sim.history import MIN_RATES_KIB, Event, History, argument, setup
from tests.sim.scenes import Argument, Step, back_again, burst, end, slow, trouble

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.play import Player

SOON = (0, 1, 2, 5, 20, 60, 120)
VERIFY_MS = 300_000
SETTLED_MS = 20_000


def verified(rng: random.Random, argument: Argument) -> list[Step]:
    """A verify under load, and what can come between."""
    steps = [*slow(rng, rng.choice("ps")), *burst(rng, argument, 0, 4)]
    steps += [(rng.choice(("verify", "verify", "verify_part")), rng.choice("ps"), None, rng.choice(SOON))]
    for _ in range(rng.randrange(1, 4)):
        steps += [*burst(rng, argument, 0, 4), *trouble(rng)]
    what = rng.randrange(8)
    if what == 0:
        steps += [("secondary", "p", None, rng.choice(SOON)), ("primary", "s", None, rng.choice(SOON))]
    elif what == 1:
        steps += [end(rng, rng.choice("ps")), ("wait", "p", None, rng.choice(SOON))]
    elif what == 2:
        steps += [(rng.choice(("invalidate", "detach", "disconnect")), rng.choice("ps"), None, rng.choice(SOON))]
    elif what == 3:
        steps += [("verify_part", rng.choice("ps"), None, rng.choice(SOON))]
    elif what == 4:
        steps += [("fail_once", rng.choice("ps"), ("read", None, False), rng.choice(SOON))]
    steps += [*burst(rng, argument, 0, 4), ("verify", rng.choice("ps"), None, rng.choice((*SOON, 1500)))]
    steps += [*crossings.back(rng), ("attach", "p", None, 0), ("attach", "s", None, 0)]
    return [*steps, ("connect", "s", None, 20)]


def met(rng: random.Random, argument: Argument) -> list[Step]:
    """Something happens in the moment in which a verify begins or ends."""
    value = rng.choice(("VERIFY_S", "VERIFY_T", "CONNECTED", None))
    kind, arg = rng.choice((
        ("secondary", None), ("detach", None), ("disconnect", None), ("invalidate", None), ("pause", None),
        ("kill", None), ("power", None), ("fail_once", ("read", None, False)), ("fail_once", ("write", None, False)),
        ("verify_part", None), ("write", argument("write")),
    ))  # fmt: skip
    what = (kind, rng.random() < 0.5, arg, rng.choice(crossings.AFTER))
    steps = [crossings.at(rng.choice("ps"), "conn", value, what), *burst(rng, argument, 0, 3)]
    steps += [("verify", rng.choice("ps"), None, rng.choice(SOON)), *burst(rng, argument, 1, 5)]
    return [*steps, ("wait", "p", None, rng.choice(SOON)), *crossings.back(rng), ("attach", "p", None, 20),
            ("attach", "s", None, 20), ("connect", "s", None, 60)]  # fmt: skip


def paused(rng: random.Random, argument: Argument) -> list[Step]:
    """A resync that is paused by one node or both, at its beginning or in its middle."""
    steps: list[Step] = [("disconnect", rng.choice("ps"), None, 50), *burst(rng, argument, 1, 8)]
    first = rng.choice("ps")
    early = rng.random() < 0.4
    steps += [("pause", first, None, 0)] if early else []
    steps += [("connect", "p", None, 0), ("connect", "s", None, rng.choice((20, 60, 150)))]
    steps += [] if early else [("pause", first, None, rng.choice(SOON))]
    steps += [*burst(rng, argument, 1, 6), ("pause", rng.choice("ps"), None, rng.choice(SOON)), *trouble(rng)]
    steps += [*burst(rng, argument, 0, 4), ("resume", "p", None, rng.choice(SOON)), *burst(rng, argument, 0, 3)]
    return [*steps, ("resume", "s", None, rng.choice(SOON)), *trouble(rng), *crossings.back(rng)]


def whole(rng: random.Random, argument: Argument) -> list[Step]:
    """A resync of everything, most of which is equal, meets writes."""
    order = rng.choice(("invalidate", "invalidate", "wait"))
    steps = [*burst(rng, argument, 0, 4), (order, "s", None, rng.choice(SOON))]
    steps += [*slow(rng, rng.choice("ps")), *burst(rng, argument, 1, 8), *trouble(rng), *burst(rng, argument, 0, 6)]
    return [*steps, *trouble(rng), *crossings.back(rng)]


SCENES = (verified, verified, verified, met, met, paused, paused, whole, whole, back_again, crossings.late_answers,
          crossings.whatever, crossings.missed_end)  # fmt: skip


def compared_history(seed: int, aside: bool = False) -> History:
    """Some of these scenes, begun with both nodes well."""
    rng = random.Random(seed)
    world = setup(rng)
    world["compares"] = True
    world["batch"] = rng.choice((0.0, 0.0, 0.05, 0.3))
    world["created"] = False
    world["start"] = "primary"
    world["blocks"] = blocks = rng.choice((2, 16, 16, 40))
    world["verify_alg"] = rng.choice(("md5", "crc32c"))
    world["csums_alg"] = rng.choice(("", "sha256", "sha1", "crc32c"))
    world["csums_after_crash_only"] = rng.random() < 0.15
    world["resync_rate_kib"] = rng.choice((40, 400, 400, 4 << 20))
    world["max_buffers"] = rng.choice((32, 2048))
    if aside:
        world["c_min_rate_kib"] = MIN_RATES_KIB[seed % 4]
    if rng.random() < 0.7:
        world["fencing"] = "dont-care"
    spots = [0, *(rng.randrange(blocks) for _ in range(rng.choice((1, 4))))]
    made: list[Event] = []
    for number in range(rng.choice((1, 2, 3, 4))):
        if number:
            made += [Event("mend", "a", None, 0, rng.getrandbits(32)), Event("primary", "a", None, 60)]
        steps = rng.choice(SCENES)(rng, lambda kind: argument(kind, rng, spots, blocks))
        made += [Event(*step, rng.getrandbits(32)) for step in steps]
    return History(world, tuple(made))


def watch_verify(player: Player, node: Node) -> None:
    """What a comparison marks differs, or was marked before: writes under way are no differences."""
    verify = node.resource.sync.verify
    mark, compare = verify.differs, verify.source._compare
    compared = [False]

    def comparing(*args: Any) -> None:
        before, compared[0] = compared[0], not args[-2]  # what could not be read counts as different as well
        compare(*args)
        compared[0] = before

    def differs(first: int) -> None:
        where = slice(first * 4096, first * 4096 + 4096)
        a, b = (n.platter.content[where] for n in player.sim.nodes)
        if compared[0] and a == b and not _marked(player, first):
            player.oracle.fail(4, f"{node.name}: verify calls block {first} different, which is the same on both")
        mark(first)

    verify.differs = differs  # type: ignore[method-assign]
    verify.source._compare = comparing  # type: ignore[method-assign]


def _marked(player: Player, block: int) -> bool:
    found = [n.resource.meta.bitmap for n in player.sim.nodes if n.on and n.resource.meta is not None]
    return any(bitmap.count_range(block, block + 1) for bitmap in found)


def spoilt_in_the_end(player: Player) -> None:
    """Both are well: a byte of one disk turns, a verify must find the block; then the byte is what it was."""
    sim = player.sim
    for _ in range(5):
        cut = sum(node.said["verify-cut-short"] for node in sim.nodes)
        player.mender.heal()
        victim, asks = sim.nodes[sim.rng.randrange(2)], sim.nodes[sim.rng.randrange(2)]
        block = sim.rng.randrange(victim.platter.size_bytes // 4096)
        at = block * 4096 + 100
        said: list[Any] = []
        spoil = _Spoilt(sim.nodes, victim, at)
        player.command(asks, "verify", {"start": 0}, said.append)
        sim.run_until(partial(_over, said, sim.nodes), VERIFY_MS)
        spoil.mended()
        if said and not said[0].exit_code and cut == sum(node.said["verify-cut-short"] for node in sim.nodes):
            break
        sim.run(SETTLED_MS)  # a connection that a box in between forgot, or a failure of before, comes to light now
        player.mender.mend(solve=True, most_rounds=40)
    if not said or said[0].exit_code:
        player.oracle.fail(8, f"{asks.name}: both nodes are well, and verify is refused: {said}")
    for node in sim.nodes:
        bitmap = node.resource.meta.bitmap  # type: ignore[union-attr]
        if not bitmap.count_range(block, block + 1):
            player.oracle.fail(4, f"{node.name}: a verify did not mark the spoilt block {block} of {victim.name}")


class _Spoilt:
    """A byte that is not what was written; a death ends it, because those who look then take it for a loss."""

    def __init__(self, nodes: tuple[Node, Node], victim: Node, at: int) -> None:
        self.nodes, self.content, self.at = nodes, victim.platter.content, at
        self.content[at] ^= 1
        for node in nodes:
            node.die = partial(self._dies, node.die)  # type: ignore[method-assign]

    def _dies(self, die: Callable[[bool], None], power: bool) -> None:
        self.mended()
        die(power)

    def mended(self) -> None:
        """As it was."""
        if self.nodes:
            self.content[self.at] ^= 1
            for node in self.nodes:
                del node.die
        self.nodes = ()  # type: ignore[assignment]


def _over(said: list[Any], nodes: tuple[Node, Node]) -> bool:
    return bool(said) and all(node.state.conn <= Conn.CONNECTED for node in nodes)
