# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays a history: every kind of event is a method; in the end everything is mended and must be well."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from replblock.core.requests import Op, Request
from replblock.core.roles import UNFLUSHED
from replblock.core.settings import Settings
from replblock.state.names import Conn, Role
from tests.core.oracle import payload
from tests.sim.compared import spoilt_in_the_end, watch_verify
from tests.sim.history import Event, History
from tests.sim.ledger import Ledger
from tests.sim.mend import Mender
from tests.sim.node import Node
from tests.sim.oracle import Oracle
from tests.sim.world import Sim

DIALS_BY_OTHERS = 25
"""Within a minute: for connections that operators make, and the peer's dials that are answered."""
ENDS_CONNECTIONS = {"kill", "power", "fuse", "disconnect", "down", "cut", "cut_one_way", "forget", "fail_once", "when"}
"""With more of these in a history it may be as many: each makes a new connection in the end."""
CHECK_EVERY = 16
SETTINGS = {field.name for field in fields(Settings)}
ADDRESSES = {"a": ("10.0.0.1:7788", "10.0.0.2:7788"), "b": ("10.0.0.2:7788", "10.0.0.1:7788")}
MIRRORED = {"discard-local": "discard-remote", "discard-remote": "discard-local"}
COMMANDS = {
    "primary": ("primary", {}), "force": ("primary", {"force": True}), "secondary": ("secondary", {}),
    "disconnect": ("disconnect", {}), "connect": ("connect", {}), "discard": ("connect", {"discard_my_data": True}),
    "invalidate": ("invalidate", {}), "invalidate_remote": ("invalidate_remote", {}), "detach": ("detach", {}),
    "detach_force": ("detach", {"force": True}),
    "pause": ("pause_sync", {}), "resume": ("resume_sync", {}), "outdate": ("outdate", {}),
    "verify": ("verify", {}), "verify_part": ("verify", {"start": 8, "stop": 64}),
    "tentative": ("connect", {"tentative": True}), "new_uuid": ("new_current_uuid", {}),
}  # fmt: skip

OPS = {"write": Op.WRITE, "zero": Op.ZERO, "trim": Op.TRIM, "flush": Op.FLUSH, "read": Op.READ}
AT_ONCE = ("fuse", "fail", "fail_once", "slow")
"""What `when` can bring about in the middle of a wake-up."""
CHANGED_BY = {
    "secondary": "demoted", "disconnect": "disconnect", "connect": "connect", "detach": "detaching",
    "invalidate": "invalidate", "invalidate_remote": "invalidate-remote", "outdate": "outdate",
    "pause_sync": "pause-sync", "resume_sync": "resume-sync", "primary": "promoted", "verify": "verify",
}  # fmt: skip
"""The rule under which a command changes the state, if it is carried out."""


class Player:
    """One history in one world."""

    def __init__(self, history: History, trace: bool = False) -> None:
        self.history = history
        self.trace = trace
        world = history.setup
        self.sim = sim = Sim(trace)
        sim.rng.seed(world.get("salt", 1))
        sim.network.delay_ms = world.get("delay_ms", 2)
        sim.network.sndbuf_bytes = world.get("sndbuf_bytes", 1 << 20)
        sim.oracle = self.oracle = Oracle(sim, world.get("protocol", "C"))
        sim.a, sim.b = self._node("a"), self._node("b")
        sim.a.peer, sim.b.peer = sim.b, sim.a
        self.numbers = 0
        self.primary = sim.a
        """Who is Primary, or was last."""
        self.mender = Mender(self)
        self.played = 0

    def _node(self, name: str) -> Node:
        world = self.history.setup
        own, peer = ADDRESSES[name]
        chosen = {k: v for k, v in world.items() if k in SETTINGS}
        if not world.get("compares"):
            chosen.pop("csums_alg", None)  # histories from before it had an effect stay what they were
        chosen.setdefault("offer_features", 0b1101)  # without THIN_RESYNC, from before it was built
        chosen.setdefault("c_plan_ahead", 0)
        chosen.setdefault("c_min_rate_kib", 0)  # as before it had an effect
        chosen.setdefault("resync_rate_kib", 4 << 20)
        if name == "b" and "after_sb_0pri" in chosen:
            chosen["after_sb_0pri"] = MIRRORED.get(chosen["after_sb_0pri"], chosen["after_sb_0pri"])
        handlers = frozenset({"fence-peer"} if chosen.get("fencing", "dont-care") != "dont-care" else ())
        settings = Settings(
            node=name, own_address=own, peer_address=peer, shared_secret="x", handlers=handlers, **chosen
        )
        node = Node(self.sim, name, settings, world.get("blocks", 2), world.get("created", False))
        node.batch = world.get("batch", 0.0)
        node.platter.slow_share = world.get("slow_share", 0.3)
        node.platter.slow_ms = world.get("slow_ms", 4)
        node.handlers = self._handler
        self.oracle.ledgers[name] = Ledger()
        return node

    # --- the whole of it ---

    def play(self) -> None:
        """Everything, in order. Raises AssertionError (or whatever the product raises)."""
        self.begin()
        for number, event in enumerate(self.history.events):
            self.event(number, event)
        self.finish()

    def begin(self) -> None:
        """Both nodes up and, unless told otherwise, `a` Primary."""
        sim = self.sim
        for node in sim.nodes:
            self.do_up(node, None)
        world = self.history.setup
        sim.run_until(lambda: all(n.state.conn == Conn.CONNECTED for n in sim.nodes), 5000)
        if world.get("start", "primary") == "primary":
            self.command(sim.a, "primary", {"force": True} if world.get("created") else {})
            sim.run(60)

    def finish(self) -> None:
        """Mend everything; both must be well, and again after both lost power."""
        sim, world = self.sim, self.history.setup
        sim.rng.seed(len(self.history.events))
        self.mender.mend(solve=True, most_rounds=40)
        self.oracle.quiet()
        if world.get("compares"):
            spoilt_in_the_end(self)
            self.mender.mend(solve=True, most_rounds=40)
            self.oracle.quiet()
        if world.get("last_power_cut", True):
            for node in sim.nodes:
                node.die(True)
            self.mender.mend(solve=True, most_rounds=40)
            self.oracle.quiet()
        for node in sim.nodes:
            self._no_storm(node)

    def event(self, number: int, event: Event) -> None:
        sim = self.sim
        sim.rng.seed(event.salt)
        if self.trace:
            sim.note(f"event {number}: {event}")
        self._carry_out(self._named(event.node), event.kind, event.arg)
        sim.run(event.wait_ms)
        self.played = number + 1
        if number % CHECK_EVERY == 0:
            for node in sim.nodes:
                self.oracle.check(node, "in passing")

    def _named(self, name: str) -> Node:
        if name in "ab":
            return self.sim.a if name == "a" else self.sim.b
        ruling = [n for n in (self.primary, self.primary.peer) if n.on and n.state.role == Role.PRIMARY]
        self.primary = ruling[0] if ruling else self.primary
        return self.primary if name == "p" else self.primary.peer

    def _no_storm(self, node: Node) -> None:
        """A dial of each kind every connect-int (give or take a seventh), and one at once after a command."""
        ended = sum(event.kind in ENDS_CONNECTIONS for event in self.history.events)
        most = max(DIALS_BY_OTHERS, ended) + 2 * 60_000 * 7 // (6 * node.settings.connect_int_ms)
        dials = node.dials_ms
        for index, at in enumerate(dials[most:]):
            assert at - dials[index] > 60_000, f"invariant 9: {node.name} dialed {most} times within a minute"

    # --- the application ---

    def _user(self, node: Node) -> Node | None:
        """The node whose doors are open; if both are, the one that was meant."""
        return next((n for n in (node, node.peer) if n.doors_open), None)

    def _submit(self, node: Node, op: Op, arg: Any) -> None:
        user = self._user(node)
        if user is not None:
            request = self._request(user, op, arg)
            user.wake(user.resource.submit, [request])

    def _request(self, user: Node, op: Op, arg: Any) -> Request:
        first, count, fua = arg or (0, 0, False)
        data = b""
        if op == Op.WRITE:
            self.numbers += 1
            data = payload(self.numbers, count)
        request = Request(op, first * 512, count * 512, self.oracle.answered, data, fua=fua)
        mark = self.oracle.submitted(user, request)
        if self.trace:
            self.sim.note(f"{user.name} submits {op.name} {mark}")
        return request

    def do_crowd(self, node: Node, arg: Any) -> None:
        """One wake-up of a busy engine: requests, an order, and requests that were handed in just after it."""
        verb, before, after = arg
        user = self._user(node)
        if user is not None:
            user.wake(self._crowd, user, verb, before, after)

    def _crowd(self, user: Node, verb: str | None, before: Any, after: Any) -> None:
        for kind, arg in before:
            user.resource.submit([self._request(user, OPS[kind], arg)])
        if verb is not None:
            self._command(user, *COMMANDS.get(verb, (verb, {})), None)
        for kind, arg in after:
            user.resource.submit([self._request(user, OPS[kind], arg)])

    def do_write(self, node: Node, arg: Any) -> None:
        self._submit(node, Op.WRITE, arg)

    def do_zero(self, node: Node, arg: Any) -> None:
        self._submit(node, Op.ZERO, arg)

    def do_trim(self, node: Node, arg: Any) -> None:
        self._submit(node, Op.TRIM, arg)

    def do_read(self, node: Node, arg: Any) -> None:
        self._submit(node, Op.READ, arg[:2] + (False,))

    def do_flush(self, node: Node, arg: Any) -> None:
        self._submit(node, Op.FLUSH, None)

    # --- the world ---

    def do_wait(self, node: Node, arg: Any) -> None:
        pass

    def do_cut(self, node: Node, arg: Any) -> None:
        self.sim.network.cut = {"a", "b"}

    def do_cut_one_way(self, node: Node, arg: Any) -> None:
        self.sim.network.cut = {node.name}

    def do_heal(self, node: Node, arg: Any) -> None:
        self.sim.network.cut = set()
        self.sim.network.kick()

    def do_forget(self, node: Node, arg: Any) -> None:
        self.sim.network.forget()

    def do_delay(self, node: Node, arg: Any) -> None:
        self.sim.network.delay_ms = arg

    def do_kill(self, node: Node, arg: Any) -> None:
        node.die(False)

    def do_power(self, node: Node, arg: Any) -> None:
        node.die(True)

    def do_fuse(self, node: Node, arg: Any) -> None:
        if node.on:
            node.fuse, node.fuse_power = arg

    def do_stall(self, node: Node, arg: Any) -> None:
        node.busy_until = self.sim.now + arg

    def do_hold(self, node: Node, arg: Any) -> None:
        node.resource.in_use = lambda: True

    def do_slow(self, node: Node, arg: Any) -> None:
        node.platter.slow_ms = arg

    def do_clock(self, node: Node, arg: Any) -> None:
        node.wall_offset_s += arg

    def do_fail(self, node: Node, arg: Any) -> None:
        node.platter.failing.add(arg)

    def do_fail_once(self, node: Node, arg: Any) -> None:
        kind, *death = arg
        node.platter.failing.add(kind)
        node.platter.once[kind] = tuple(death)

    def do_when(self, node: Node, arg: Any) -> None:
        """With the next change of this part of the state, or so many ms after it, something happens here or there."""
        field, value, (kind, here, more, after_ms) = arg

        def changed(old: Any, new: Any) -> bool:
            now = getattr(new, field)
            if now == getattr(old, field) or value not in (None, now.name):
                return False
            meant = node if here else node.peer
            if kind in AT_ONCE and not after_ms:
                getattr(self, "do_" + kind)(meant, more)
            else:
                self.sim.at(self.sim.now + after_ms, self._happens, meant, kind, more)
            return True

        node.watchers.append(changed)

    def _happens(self, node: Node, kind: str, arg: Any) -> None:
        if self.trace:
            self.sim.note(f"meanwhile: {kind} {node.name}")
        self._carry_out(node, kind, arg)

    def _carry_out(self, node: Node, kind: str, arg: Any) -> None:
        verb = COMMANDS.get(kind)
        if verb is not None:
            self.command(node, *verb)
        else:
            getattr(self, "do_" + kind)(node, arg)

    def do_repair(self, node: Node, arg: Any) -> None:
        node.platter.failing.clear()
        node.platter.once.clear()
        node.platter.slow_ms = self.history.setup.get("slow_ms", 4)

    def _handler(self, node: Node, name: str) -> int:
        """fence-peer reaches the peer by another way than the network between them."""
        if name != "fence-peer":
            return 0
        peer = node.peer
        if node.settings.fencing == "resource-and-stonith":
            peer.die(True)
            return 7
        if not peer.on:
            return 5
        if peer.state.role == Role.PRIMARY:
            return 6
        answers: list[Any] = []
        self.command(peer, "outdate", {}, answers.append)
        return 4 if answers and answers[0].exit_code == 0 else 5

    # --- operators ---

    def do_up(self, node: Node, arg: Any) -> None:
        """Start what is missing: machine, engine, disk, connection."""
        if not node.on:
            node.boot()
            if self.history.setup.get("compares"):
                watch_verify(self, node)

        def attached(answer: Any) -> None:
            if node.on and node.state.conn == Conn.STANDALONE:
                self.command(node, "connect", {})

        if node.resource.meta is None:
            self.command(node, "attach", {}, attached)
        else:
            attached(None)

    def do_attach(self, node: Node, arg: Any) -> None:
        self.command(node, "attach", {})

    def do_down(self, node: Node, arg: Any) -> None:
        def done(answer: Any) -> None:
            if answer.exit_code == 0:
                self.sim.at(self.sim.now, self._stop, node, node.life)

        self.command(node, "down", {}, done)

    def _stop(self, node: Node, life: int) -> None:
        if node.on and node.life == life:
            node.stop()

    def do_mend(self, node: Node, arg: Any) -> None:
        self.mender.mend(solve=self.sim.rng.random() < 0.5, most_rounds=5, must=False)

    def command(self, node: Node, verb: str, args: dict[str, Any], then: Any = None) -> None:
        """An operator's command; a refused one must not have changed anything."""
        if node.on:
            node.wake(self._command, node, verb, args, then)

    def _command(self, node: Node, verb: str, args: dict[str, Any], then: Any) -> None:
        oracle, name = self.oracle, node.name
        ordered: tuple[set[str], str] | None = None
        if verb == "primary" and args.get("force"):
            ordered = (oracle.forcing, name)
        elif verb == "invalidate" or args.get("discard_my_data"):
            ordered = (oracle.gives_up, name)
        elif verb == "invalidate_remote":
            ordered = (oracle.gives_up, node.peer.name)
        new_order = ordered is not None and ordered[1] not in ordered[0]
        if ordered is not None:
            ordered[0].add(ordered[1])
        answers: list[Any] = []
        resource = node.resource
        before = fingerprint(node)
        rule = CHANGED_BY.get(verb, "")
        node.orders[verb] += 1
        state, life = node.state, node.life
        order, said, undone = node.orders[verb], node.said[rule], self._undone(node)
        if verb == "primary":
            oracle.asked.add((name, life, order))

        def reply(answer: Any) -> None:
            assert not answers, f"invariant 8: {name}: {verb} was answered twice"
            answers.append(answer)
            oracle.asked.discard((name, life, order))
            if self.trace:
                self.sim.note(f"{name}: {verb} {args or ''} → {answer.exit_code} {answer.lines}")
            # the peer may have carried out what it was told by a connection that broke before its answer
            done_all_the_same = ("connection-lost-while-asking", "changed-while-asking")
            open_ended = verb == "invalidate_remote" and answer.data.get("rule") in done_all_the_same
            if ordered is not None and new_order and (verb == "primary" or answer.exit_code) and not open_ended:
                ordered[0].discard(ordered[1])
            alone = order == node.orders[verb]  # nobody gave the same command meanwhile
            if answer.exit_code and alone and node.said[rule] != said and self._undone(node) == undone:
                oracle.fail(8, f"{name}: {verb} was refused later on {answer.lines}, yet done")
            if verb == "primary" and not answer.exit_code and resource.state.role == Role.PRIMARY:
                oracle.promotion_done(node)
            if verb == "primary" and any("broke before the peer agreed" in line for line in answer.lines):
                oracle.promotion_unanswered(node)
            if verb in ("secondary", "down", "detach") and not answer.exit_code:
                oracle.left(node, verb, state, UNFLUSHED in answer.lines)
            if verb == "invalidate" and not answer.exit_code:
                oracle.invalidated(node)
            if then is not None:
                then(answer)

        resource.command(verb, node.open_disk() if verb == "attach" else dict(args), reply)
        if answers and answers[0].exit_code and then is None:
            after = fingerprint(node)
            if before != after:
                differ = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
                oracle.fail(8, f"{name}: {verb} was refused {answers[0].lines}, yet changed {differ}")

    def _undone(self, node: Node) -> int:
        """How often a promotion was undone because its disk failed, or a demotion overtook it."""
        demotions = node.orders["secondary"] + node.orders["down"] + node.said["after-sb-demote"]
        return node.said["promotion-failed"] + demotions


def fingerprint(node: Node) -> tuple[Any, ...]:
    """What a refused command must leave as it was."""
    resource = node.resource
    meta = resource.meta
    kept = (None, 0) if meta is None else (meta.superblock, meta.bitmap.count)
    return (resource.state, resource.size_sectors, resource.exposed_uuid, node.listening, *kept)
