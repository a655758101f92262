# SPDX-License-Identifier: GPL-2.0-or-later
"""One life of a pair under torture: the application, the roles, and what each loss leaves promised."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tests.e2e.waiting import PATIENCE_S, wait_until
from tests.torture.faults import SCENARIOS
from tests.torture.nodes import Node, Torture
from tests.torture.oracle import Oracle, Violation, Write, acknowledged, durable, nothing
from tests.torture.writer import Application

PACE_S = 0.002


def own_disk(node: Node) -> str:
    """The state of its disk; "down" if its engine does not run."""
    return node.state().split()[-1].split("/")[0]


class Life:
    """The pair, its present primary, the application on it, and the account."""

    what = "raw device"
    attach_kind = "none"
    pair_class: type[Torture] = Torture
    wants_cable = True
    scenarios = SCENARIOS

    def __init__(self, pair: Torture, protocol: str | None, seed: int, log: TextIO | None = None,
                 out: TextIO = sys.stdout) -> None:
        self.pair = pair
        self.rng = random.Random(seed)
        self.seed = seed
        self.out = out
        self.begun = time.monotonic()
        self.timeline: list[str] = []
        self.lost_power = 0
        self.cuts: set[str] = set()
        self.note(f"settings: {self.what}, {pair.settings(self.rng, protocol, self.attach_kind)}")
        self.oracle = Oracle(log)
        pair.clean()
        self.primary: Node = pair.nodes[0]
        self.primary.do("primary", "r0")
        self.size = self.primary.device["size"] * 1024
        self.application = Application(self.oracle, self.rng, self.size, PACE_S)

    @property
    def secondary(self) -> Node:
        return self.pair.nodes[1] if self.primary is self.pair.nodes[0] else self.pair.nodes[0]

    def note(self, text: str) -> None:
        line = f"{time.monotonic() - self.begun:8.2f} {text}"
        self.timeline.append(line)
        print(line, file=self.out, flush=True)

    # ---- the application

    def start(self) -> None:
        self.begin()

    def abandon(self) -> None:
        """The run is over, in whatever state."""
        self.application.abandon()

    def summary(self) -> str:
        oracle = self.oracle
        return f"{oracle.acks} writes and {oracle.flushes} flushes acknowledged, {oracle.reads} reads"

    def goes_on(self) -> bool:
        """Whether the application still has its device."""
        return self.application.look()

    def begin(self) -> None:
        node = self.primary
        self.application.begin(node.uri, lambda: f"{node.name} {node.view}")

    def end(self) -> None:
        self.application.end()

    def some(self) -> None:
        """It works for a while."""
        if self.application.clients:
            self.application.work(self.rng.randrange(5, 400))
            self.pair.follow()

    def rest(self, flush: bool = False) -> None:
        """The application stops, perhaps after a flush; every epoch is closed, nothing is under way."""
        self.end()
        if flush or self.rng.random() < 0.6:
            self.note("a flush, on a peer whose flushes are slow, and then rest")
            self.secondary.fault(sync_delay_s=0.3)
            self.application.flush(self.primary.uri)
        else:
            self.note("rest")
            time.sleep(1.3)     # longer than an epoch is left open

    @contextmanager
    def perhaps_at_rest(self, sensible: bool) -> Iterator[None]:
        """Sometimes the blow falls when nothing is under way: then nothing may be lost in the noise."""
        resting = sensible and self.rng.random() < 0.5
        if resting:
            self.rest()
        yield
        if resting:
            self.begin()

    # ---- commands that a busy pair may refuse for a moment

    def insist(self, node: Node, *words: str, patience_s: float = PATIENCE_S) -> None:
        """replctl, again and again until it succeeds."""
        end = time.monotonic() + patience_s
        while True:
            result = node.try_(*words)
            if result.code == 0:
                return
            if time.monotonic() > end:
                raise Violation(f"{node.name}: replctl {' '.join(words)} goes on to fail: exit {result.code}: "
                                f"{result.err} in {node.state()}")  # fmt: skip
            time.sleep(0.1)

    def up(self, node: Node) -> None:
        """Start it; or, where it runs, give it back what it lacks."""
        self.insist(node, "up", "r0")

    def attach(self, node: Node) -> None:
        """Give a disk back to a node that runs without one."""
        if not node.running():
            self.up(node)
        elif own_disk(node) == "Diskless":
            self.insist(node, "up", "r0")

    def promote(self, node: Node) -> None:
        """Become or be primary, and serve."""
        self.insist(node, "primary", "r0", patience_s=60)
        self.primary = node

    # ---- losses

    def cut(self, *senders: Node) -> None:
        self.pair.cut(*senders)
        self.cuts.update(node.name for node in senders)

    def heal(self, *senders: Node) -> None:
        for node in senders:
            if node.name in self.cuts:
                self.cuts.discard(node.name)
                self.pair.heal(node)

    def power(self, node: Node) -> None:
        """The machine is off at once: half of the time not even the sockets are closed."""
        silent = self.pair.wired and not self.cuts and self.rng.random() < 0.5
        if silent:
            self.cut(*self.pair.nodes)
        alone = node is self.secondary and own_disk(self.primary) not in ("UpToDate", "down")
        said = node.lose_power(self.rng)
        self.lost_power += 1
        self.note(f"{node.name} lost power{', silently' if silent else ''}: {said}")
        if alone:
            # the primary has no disk: an application is not told that its only copy lost its cache
            self.note("it was the only copy")
            self.oracle.only_copy_lost_power()
        if silent:
            self.heal(*self.pair.nodes)

    def die(self, node: Node) -> None:
        """kill -9 at an exact point: before, in the middle of, or after the n-th write or flush from now."""
        kind = self.rng.choice(("write", "meta", "sync"))
        when, count = self.rng.choice(("before", "half", "after")), self.rng.choice((1, 2, 3, 10, 40))
        self.note(f"{node.name} dies {when} {kind} number {count}")
        node.fault(die={"kind": kind, "when": when, "count": count})
        end = time.monotonic() + 5
        while node.running() and time.monotonic() < end and (node is not self.primary or self.goes_on()):
            time.sleep(0.01)
        node.kill_9()

    def _lose(self, node: Node, how: str) -> Callable[[Write], bool]:
        """What its disk must hold afterwards."""
        if how == "power":
            self.power(node)
            return durable
        if how == "die":
            self.die(node)
        else:
            node.kill_9()
        return acknowledged

    def lose_secondary(self, how: str) -> None:
        """Under C it held what was acknowledged, and for good what was flushed, as long as both were in sync."""
        node = self.secondary
        if self.rng.random() < 0.5 and not self.pair.stopped(node):
            node.fault(sync_delay_s=self.rng.choice((0.05, 0.3)))       # what waits for its flushes has to wait
            self.some()
        strict = self.pair.protocol == "C" and self.pair.is_in_sync()
        now = self.oracle.tick()        # acknowledged while they were: the two moments are next to each other
        if self._lose(node, how) is durable:
            promised = lambda w: w.durable is not None and w.durable < now  # noqa: E731
        else:
            promised = lambda w: w.acked is not None and w.acked < now  # noqa: E731
        if strict:
            self.check(node, promised, f"the secondary's disk after {how}")

    def lose_primary(self, how: str) -> None:
        diskless = own_disk(self.primary) == "Diskless"
        promised = self._lose(self.primary, how)
        self.application.end()
        if not diskless:
            self.check(self.primary, promised, f"the lost primary's own disk after {how}")
        self.heal(*self.pair.nodes)

    def primary_returns(self, how: str) -> None:
        """It dies, and is primary again as soon as it can."""
        node = self.primary
        if own_disk(node) != "UpToDate":
            self.note("not now: its own disk is not good")
            return
        promised = self._lose(node, how)
        self.application.end()
        self.check(node, promised, f"primary's own disk after {how}")
        self.oracle.rebase(node.content(self.size)) if promised is durable else None
        if self.rng.random() < 0.3:
            time.sleep(self.rng.choice((0.1, 2.0)))
        self.up(node)
        self.promote(node)
        if promised is acknowledged:
            self.application.flush(node.uri)
        self.begin()

    def survivor_takes_over(self, other_is_diskless: bool = False) -> bool:
        """The secondary becomes primary; unless the lost one had moved on alone, then that one returns instead."""
        old, new = self.primary, self.secondary
        self.pair.wait_gone(new)
        uuid = int(new.device["replblock-uuids"][0], 16) & ~1
        fine = own_disk(new) == "UpToDate"
        if not other_is_diskless and (not fine or old.generation() != uuid):
            self.note(f"{old.name} had moved on alone: it returns instead")
            self.oracle.rebase(old.content(self.size))
            self.up(old)
            self.promote(old)
            self.application.flush(old.uri)
            self.begin()
            return False
        wait_until(lambda: new.device["replblock-counters"]["lo"] == 0, "the survivor has written what it got")
        data = new.content(self.size)
        what = f"take-over by {new.name} under {self.pair.protocol}"
        if self.pair.protocol == "A":
            self.oracle.prefix(data, what)
        else:
            self.oracle.check(data, acknowledged, what)
        flushed_there = self.pair.protocol == "C" and self.rng.random() < 0.5
        if not flushed_there:
            self.promote(new)
            self.application.flush(new.uri)
            self.oracle.rebase(data)
        else:   # what was flushed before must do
            self.promote(new)
        self.begin()
        return True

    def both_lost(self, how: str, first: Node, delay_s: float) -> None:
        old, other = self.primary, self.secondary
        first_promise = self._lose(first, how)
        time.sleep(delay_s)
        self._lose(self.pair.other(first), how)
        self.application.end()
        self.check(old, first_promise, f"the primary's disk after both were lost: {how}")
        protocol = self.pair.protocol
        same = old.generation() == other.generation()
        promised = first_promise if protocol == "C" and same else nothing
        self.check(other, promised, f"the secondary's disk after both were lost: {how}")
        new = old
        if protocol == "C" and same and self.rng.random() < 0.5:
            self.note(f"{other.name} takes over")
            new = other
        self.oracle.rebase(new.content(self.size))
        if new is old:
            for node in self.rng.sample(self.pair.nodes, 2):
                self.up(node)
        else:
            self.up(new)
        self.promote(new)
        self.application.flush(new.uri)
        self.begin()
        self.some()
        self.up(self.secondary)

    # ---- judging

    def check(self, node: Node, promised: Callable[[Write], bool], what: str) -> None:
        self.oracle.check(node.content(self.size), promised, f"{what} ({node.name}, protocol {self.pair.protocol})")

    def calm(self) -> None:
        """No engine may have met what nobody expected."""
        for node in self.pair.nodes:
            if "engine-crashed" in node.log() or "Traceback" in node.log():
                raise Violation(f"{node.name}: its engine met what nobody expected; see its log")

    def reckon(self) -> None:
        """At rest: both disks are the same, and hold what was acknowledged."""
        self.application.end()
        self.pair.assert_same_data()
        self.application.flush(self.primary.uri)
        self.pair.follow()
        for node in self.pair.nodes:
            self.check(node, acknowledged, "at rest")
        self.oracle.rebase(self.primary.content(self.size))
        self.calm()

    def step(self) -> None:
        scenario = self.rng.choices([s for _, s in self.scenarios], [w for w, _ in self.scenarios])[0]
        self.note(f"== {scenario.__name__} (primary {self.primary.name})")
        scenario(self)
        self.step_ends()

    def step_ends(self) -> None:
        """Whatever happened is over: the pair must find together, and be in order."""
        self.some()
        for node in self.pair.nodes:
            node.fault()
        self.heal(*self.pair.nodes)
        for node in self.pair.nodes:
            node.wait_state("Established UpToDate/UpToDate", 120)
        self.some()
        self.reckon()
        self.begin()

    def finish(self) -> None:
        """The application ends; both are at rest; both go down in good order, and what was acknowledged stands."""
        self.reckon()
        for node in self.pair.nodes:
            node.do("down", "r0") if node is self.secondary else None
        self.primary.do("down", "r0")
        for node in self.pair.nodes:
            node.medium.follow()
            node.medium.check()
            said = node.medium.power_loss(self.rng)
            self.note(f"{node.name} down, then power loss: {said}")
            self.check(node, durable, "after down and power loss")

    def report(self) -> str:
        """Everything that helps: timeline, states, the ends of both logs."""
        parts = [f"SEED={self.seed}", "timeline:", *self.timeline[-60:]]
        for node in self.pair.nodes:
            parts += [f"---- {node.name}: {node.state()}; its log ends:", *node.log().splitlines()[-25:]]
        parts.append(f"kept: {self.pair.directory}")
        return os.linesep.join(parts)
