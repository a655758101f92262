# SPDX-License-Identifier: GPL-2.0-or-later
"""Random lives of a pair of nodes, one seed a life: everything that can happen to two real cores, and an oracle.

    python -m tests.core.campaign FIRST LAST [--keep-going] [--trace]

What is checked: replicas are byte-identical when connected and idle; what was acknowledged is there after a fail-over,
as the protocol promises; what was flushed survives power losses; reads never go back in time; every request is
answered once; both nodes reach mirror-image decisions; nobody decides a split brain where there is none; a node
whose disk is not UpToDate is not promoted without force; nobody dials in a storm.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from replblock.core.requests import Op, Request
from replblock.state.names import Conn, Disk, Role
from tests.core.oracle import Oracle, Write, acknowledged, durable, payload
from tests.core.world import MIB, SimHost, World

MIRROR = {Conn.WF_BITMAP_S: Conn.WF_BITMAP_T, Conn.WF_BITMAP_T: Conn.WF_BITMAP_S}
DIALS_A_MINUTE = 60
WIDER_FROM = 10_000


class Life:
    """One seed."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.rng = rng = random.Random(seed)
        self.protocol = rng.choice("ABC")
        self.world = World(
            seed,
            protocol=self.protocol,
            offer_ordered=rng.random() < 0.6,
            al_extents=rng.choice([2, 7, 67]),
            size_bytes=rng.choice([8, 24]) * MIB,
            use_rle=rng.random() < 0.5,
            data_integrity_alg=rng.choice(["", "crc32c"]),
            cram_hmac_alg=rng.choice(["", "sha256"]),
            shared_secret="x",
            max_epoch_size=rng.choice([3, 100, 2048]),
            resync_rate_kib=rng.choice([4 << 20, 4 << 20, 20000]),
            offer_features=rng.choice([0b1101, 0b1101, 0, 1]),
        )
        if seed >= WIDER_FROM:
            self._widen(random.Random(seed + 1))
        w = self.world
        w.split = rng.random() < 0.3
        w.slow_tcp = rng.choice([0.0, 0.0, 0.3])
        w.delay_ms = rng.choice([1, 2, 15])
        share = rng.choice([0.0, 0.3, 1.0])
        w.a.disk.slow_share = w.b.disk.slow_share = share
        w.a.disk.slow_ms = w.b.disk.slow_ms = rng.choice([2, 5, 30])
        self.oracle = Oracle()
        self.pending: list[tuple[Request, Any, SimHost, int]] = []
        self.trace = trace
        self.splits_expected = False
        w.watchers.append(self._watch)
        w.pair()
        assert w.same_data()
        self.prim = w.a
        self.size = w.a.resource.size_bytes
        # few places, so that writes meet
        self.spots = [rng.randrange(0, self.size // 4096 - 40) for _ in range(rng.choice([3, 40]))]

    def _widen(self, rng: random.Random) -> None:
        """Settings that came later; older seeds keep the life they were recorded with."""
        for host in (self.world.a, self.world.b):
            host.settings = replace(  # type: ignore[attr-defined]
                host.settings,  # type: ignore[attr-defined]
                on_io_error=rng.choice(["detach", "detach", "pass_on"]),
                on_no_data_accessible=rng.choice(["io-error", "suspend-io"]),
                al_updates=rng.random() < 0.9,
                c_plan_ahead=rng.choice([0, 20]),
                max_in_flight_bytes=rng.choice([64 << 20, 300_000]),
                ping_int_ms=rng.choice([10_000, 700]),
            )

    # --- what is watched all the time

    def note(self, text: str) -> None:
        self.world.lines.append(f"{self.world.now:7} **** {text}")

    def _watch(self, host: SimHost, old: Any, new: Any) -> None:
        if old.role != Role.PRIMARY and new.role == Role.PRIMARY:
            assert new.disk == Disk.UP_TO_DATE or new.pdsk == Disk.UP_TO_DATE, "promoted without data"

    def _answered(self, request: Request) -> None:
        found = [entry for entry in self.pending if entry[0] is request]
        assert found, f"answered twice, or never asked: {request.op} at {request.offset_bytes}"
        self.pending.remove(found[0])
        _, what, host, life = found[0]
        if host.life != life:
            return
        if self.trace:
            self.note(f"answered {request.op.name} {request.offset_bytes // 4096} {what} errno {request.errno}")
        if isinstance(what, Write):
            self.oracle.ack(what, request.errno)
        elif request.op == Op.FLUSH:
            if not request.errno:
                self.oracle.flushed(what)
        elif request.op == Op.READ and not request.errno:
            first = request.offset_bytes // 512
            data = bytes(request.data)
            assert len(data) == request.length_bytes
            self.oracle.check(data, lambda w: w.acked is not None and w.acked < what, "a read", first)

    # --- what an application does

    def submit(self, op: Op, offset: int = 0, length: int = 0, fua: bool = False) -> None:
        """One request to the Primary."""
        host = self.prim
        if not (host.powered and host.resource.doors_open):
            return
        data = b""
        what: Any
        if op == Op.WRITE:
            what = self.oracle.begin(offset, length, False, fua)
            data = payload(what.number, length // 512)
        elif op in (Op.ZERO, Op.TRIM):
            what = self.oracle.begin(offset, length, True, fua)
            what.advice = op == Op.TRIM
        else:
            what = self.oracle.tick()
        if self.trace:
            self.note(f"{host.name} submits {op.name} block {offset / 4096} length {length} {what}")
        request = Request(op, offset, length, self._answered, data, fua=fua)
        self.pending.append((request, what, host, host.life))
        host.resource.submit([request])
        host.finish()

    def work(self, most: int) -> None:
        """Some requests, with some time in between."""
        rng = self.rng
        pace = rng.choice([1, 4, 60])
        for _ in range(rng.randrange(most + 1)):
            offset = rng.choice(self.spots) * 4096 + rng.choice([0, 0, 0, 512, 4096, 8192])
            length = rng.choice([512, 4096, 4096, 8192, 131072])
            kind = rng.random()
            if kind < 0.7:
                self.submit(Op.WRITE, offset, length, fua=kind < 0.05)
            elif kind < 0.85:
                self.submit(Op.READ, offset, length)
            elif kind < 0.93:
                self.submit(rng.choice([Op.TRIM, Op.ZERO]), offset, length, fua=kind < 0.86)
            else:
                self.submit(Op.FLUSH)
            self.world.run(rng.randrange(pace))

    def answers(self) -> None:
        """Every request to a living node is answered."""
        alive = [p for p in self.pending if p[2].powered and p[2].life == p[3]]
        self.pending = [p for p in self.pending if p in alive]
        self.world.run_until(lambda: not self.pending or self._stuck())
        if self._stuck():
            self.settle()

    def forget(self, host: SimHost) -> None:
        """It died: its requests get no answer."""
        self.pending = [p for p in self.pending if p[2] is not host]

    # --- what happens to nodes

    def kill(self, host: SimHost, power: bool) -> None:
        self.calm(host)
        self.note(f"kill {host.name} power={power}")
        other = host.peer
        if power and other.powered and other.resource.state.disk != Disk.UP_TO_DATE:
            self.oracle.only_copy_lost_power()
        self.world.kill(host, power)
        self.forget(host)

    def calm(self, host: SimHost) -> None:
        """A source that dies before the end of its resync is on its disk may have changes of its own.

        Nodes that do not know each other for replblock nodes have to treat that as a split brain.
        """
        if not host.settings.offer_ordered:  # type: ignore[attr-defined]
            self.world.run_until(lambda: not host.busy_with_metadata)

    def up(self, host: SimHost) -> None:
        """Start it again; sometimes it is shot again while it starts."""
        w = self.world
        self.note(f"up {host.name}")
        for _ in range(2):
            if self.rng.random() < 0.85:
                break
            w.boot(host)
            host.resource.command("attach", host.open_disk(), lambda answer: None)
            w.run(self.rng.randrange(20))
            self.kill(host, self.rng.random() < 0.5)
        w.up(host)

    def primary(self, host: SimHost) -> None:
        """Promote; a freshly started node may have to talk to its peer first."""
        w = self.world
        for _ in range(50):
            if w.command(host, "primary").exit_code == 0:
                return
            w.run(200)
        raise AssertionError("could not be promoted")

    def check_survivor(self, host: SimHost, what: str) -> None:
        """The Primary is gone: what does the survivor have?"""
        w = self.world
        w.run_until(lambda: host.resource.state.conn == Conn.WF_CONNECTION)
        w.run_until(host.resource.is_idle)
        data = host.disk.data(self.size)
        if self.protocol == "A":
            self.oracle.prefix(data, what)
        else:
            self.oracle.check(data, acknowledged, what)

    def stale(self) -> None:
        """After a fail-over under A the lost tail is history: what is there now is what counts."""
        if self.protocol != "A":
            return
        data = self.prim.disk.data(self.size)
        self.rebase(data)

    def rebase(self, data: bytes) -> None:
        """Forget promises about writes that are not there any more, after they were rightly lost."""
        oracle = self.oracle
        for sector, history in oracle.at.items():
            found = int.from_bytes(data[sector * 512 : sector * 512 + 8], "big")
            kept = [w for w in history if w.number == found]
            if not kept and not found:
                base = Write(0, sector, 1, 0, False)
                base.acked = base.durable = 0
                kept = [base]
            oracle.at[sector] = kept[-1:]
        for write in oracle.writes:
            write.acked = write.acked if write.acked is not None else oracle.tick()

    def step(self) -> None:
        """One thing happens."""
        rng, prim = self.rng, self.prim
        other = prim.peer
        name = rng.choice([
            "none", "kill_secondary", "power_secondary", "partition", "swap", "kill_primary", "power_primary",
            "both", "disconnect", "disconnect_secondary", "detach", "detach_secondary", "eio", "eio_secondary",
            "flush_fails_secondary", "invalidate", "invalidate_remote", "pause", "restart_primary", "cut_resync",
        ])  # fmt: skip
        self.note(f"step {name}, Primary is {prim.name}")
        getattr(self, "_" + name)(prim, other)

    def _none(self, prim: SimHost, other: SimHost) -> None:
        self.world.run(self.rng.randrange(2000))

    def _gone(self, prim: SimHost, other: SimHost, power: bool) -> None:
        w = self.world
        self.kill(other, power)
        if self.rng.random() < 0.7:
            w.run_until(lambda: prim.resource.state.conn == Conn.WF_CONNECTION)
        self.work(20)
        w.run(self.rng.randrange(30))
        self.up(other)

    def _kill_secondary(self, prim: SimHost, other: SimHost) -> None:
        self._gone(prim, other, False)

    def _power_secondary(self, prim: SimHost, other: SimHost) -> None:
        self._gone(prim, other, True)

    def _partition(self, prim: SimHost, other: SimHost) -> None:
        w = self.world
        w.partition()
        self.work(20)
        w.run(self.rng.choice([10, 3000, 40000]))
        self.work(10)
        w.heal()

    def _cut_resync(self, prim: SimHost, other: SimHost) -> None:
        """Cut again and again while the nodes find each other and resync."""
        w = self.world
        for _ in range(self.rng.randrange(1, 5)):
            w.partition()
            w.run(self.rng.randrange(4))
            w.heal()
            self.work(10)
            w.run(self.rng.randrange(60))

    def _swap(self, prim: SimHost, other: SimHost) -> None:
        w = self.world
        self.answers()
        self.settle()
        w.ok(prim, "secondary")
        assert w.a.disk.data(self.size) == w.b.disk.data(self.size), "differ after a demotion"
        w.ok(other, "primary")
        self.prim = other

    def _fail_over(self, prim: SimHost, other: SimHost, power: bool) -> None:
        w = self.world
        if self.rng.random() < 0.3:
            self.answers()
            self.settle()
        if w.links_down or not w.in_sync():
            return
        self.kill(prim, power)
        self.check_survivor(other, f"fail-over under {self.protocol}")
        self.primary(other)
        self.prim = other
        self.stale()
        self.work(20)
        w.run(10)
        self.up(prim)

    def _kill_primary(self, prim: SimHost, other: SimHost) -> None:
        self._fail_over(prim, other, False)

    def _power_primary(self, prim: SimHost, other: SimHost) -> None:
        self._fail_over(prim, other, True)

    def _restart_primary(self, prim: SimHost, other: SimHost) -> None:
        """The Primary dies and comes back as Primary, in sync or not."""
        w = self.world
        power = self.rng.random() < 0.5
        if prim.resource.state.disk != Disk.UP_TO_DATE:
            return
        self.kill(prim, power)
        self.oracle.check(prim.disk.data(self.size), durable if power else acknowledged, "restart")
        w.run(self.rng.choice([0, 5, 20000]))
        self.up(prim)
        w.run_until(lambda: prim.resource.state.disk == Disk.UP_TO_DATE)
        self.primary(prim)
        self.rebase(prim.disk.data(self.size))

    def _both(self, prim: SimHost, other: SimHost) -> None:
        """Both machines lose power, together or nearly."""
        w = self.world
        if not w.in_sync():
            return
        first, second = (prim, other) if self.rng.random() < 0.5 else (other, prim)
        self.kill(first, True)
        w.run(self.rng.choice([0, 0, 3]))
        self.kill(second, True)
        self.oracle.check(prim.disk.data(self.size), durable, "power loss of both, the Primary's disk")
        if self.protocol == "C":
            self.oracle.check(other.disk.data(self.size), durable, "power loss of both, the Secondary's disk")
        w.up(first)
        w.up(second)
        self.settle()
        self.primary(prim)
        self.rebase(prim.disk.data(self.size))

    def _disconnect(self, prim: SimHost, other: SimHost) -> None:
        w = self.world
        w.command(prim, "disconnect")
        self.work(20)
        w.run(self.rng.randrange(100))
        if prim.resource.state.conn == Conn.STANDALONE:
            w.command(prim, "connect")

    def _disconnect_secondary(self, prim: SimHost, other: SimHost) -> None:
        self._disconnect(other, prim)

    def _detach(self, prim: SimHost, other: SimHost) -> None:
        w = self.world
        if not w.in_sync():
            return
        if w.command(prim, "detach").exit_code:
            return
        self.work(20)
        w.run(self.rng.randrange(100))
        if prim.resource.state.disk == Disk.DISKLESS:
            prim.resource.command("attach", prim.open_disk(), lambda answer: None)
            prim.finish()
            self.work(10)

    def _detach_secondary(self, prim: SimHost, other: SimHost) -> None:
        self._detach(other, prim)

    def _eio(self, host: SimHost, other: SimHost) -> None:
        w = self.world
        if not w.in_sync():
            return
        self.calm(host)
        kind = self.rng.choice(["fail_writes", "fail_reads", "fail_meta", "fail_flushes"])
        setattr(host.disk, kind, True)
        self.work(15)
        w.run(self.rng.choice([5, 100, 3000]))
        setattr(host.disk, kind, False)
        if host.resource.state.disk == Disk.DISKLESS:
            self.work(5)
            if self.rng.random() < 0.5:
                # the machine is replaced in between: what was never flushed is gone
                self._medium_forgets(host)
            host.resource.command("attach", host.open_disk(), lambda answer: None)
            host.finish()

    def _medium_forgets(self, host: SimHost) -> None:
        host.disk.cut()

    def _eio_secondary(self, prim: SimHost, other: SimHost) -> None:
        self._eio(other, prim)

    def _flush_fails_secondary(self, prim: SimHost, other: SimHost) -> None:
        w = self.world
        if not w.in_sync():
            return
        other.disk.fail_flushes = True
        self.work(15)
        w.run(self.rng.choice([5, 100, 3000]))
        other.disk.fail_flushes = False
        if other.resource.state.disk == Disk.DISKLESS:
            self._medium_forgets(other)
            other.resource.command("attach", other.open_disk(), lambda answer: None)
            other.finish()

    def _invalidate(self, prim: SimHost, other: SimHost) -> None:
        self.world.command(other, "invalidate")
        self.work(10)
        self.world.run(self.rng.randrange(60))

    def _invalidate_remote(self, prim: SimHost, other: SimHost) -> None:
        self.world.command(prim, "invalidate_remote")
        self.work(10)
        self.world.run(self.rng.randrange(60))

    def _pause(self, prim: SimHost, other: SimHost) -> None:
        host = self.rng.choice([prim, other])
        w = self.world
        if self.rng.random() < 0.7:
            w.command(other, "invalidate")
            w.run(self.rng.randrange(40))
        w.command(host, "pause_sync")
        self.work(15)
        if self.rng.random() < 0.3:
            self._cut_resync(prim, other)
        w.command(host, "resume_sync")

    # --- a whole life

    def live(self) -> None:
        rng, w = self.rng, self.world
        for _ in range(rng.randrange(2, 9)):
            self.work(60)
            self.step()
            if rng.random() < 0.7:
                self.answers()
            if rng.random() < 0.5:
                self.settle()
                self.quiet()
        self.answers()
        w.run(3000)
        self.settle()
        self.quiet()
        assert w.same_data(), f"the replicas differ: {self.differences()}"
        self.oracle.check(self.prim.disk.data(self.size), acknowledged, "the end")
        for host in (w.a, w.b):
            self.no_storm(host)

    def settle(self) -> None:
        """In sync and idle; an operator attaches what lost its disk."""
        w = self.world
        w.run_until(
            lambda: all(h.resource.state.conn in (Conn.STANDALONE, Conn.CONNECTED) for h in (w.a, w.b))
            or w.in_sync()
            or self._diskless_alone()
            or any(h.resource.sync.running for h in (w.a, w.b))
        )
        if self._diskless_alone():
            # the peer's generation moved on in the moment the link broke: only a restart makes this node take it
            self.kill(self.prim, False)
            w.up(self.prim)
            w.run_until(w.in_sync)
            self.primary(self.prim)
        for host in (w.a, w.b):
            w.run_until(lambda host=host: host.resource.state.conn >= Conn.CONNECTED)  # type: ignore[misc]
            if host.resource.state.disk == Disk.DISKLESS:
                w.command(host, "attach", **host.open_disk())
            elif host.resource.state.disk == Disk.INCONSISTENT and host.resource.state.conn == Conn.CONNECTED:
                w.command(host, "invalidate")  # on-io-error pass_on left it so
        w.settle()

    def _stuck(self) -> bool:
        """Frozen for lack of data, and nothing but an operator brings it back."""
        return self.prim.powered and self.prim.resource.state.suspended and self._diskless_alone()

    def _diskless_alone(self) -> bool:
        state = self.prim.resource.state
        return state.disk == Disk.DISKLESS and state.conn == Conn.STANDALONE

    def quiet(self) -> None:
        """Connected, UpToDate, idle: both are each other's mirror image."""
        a, b = self.world.a.resource, self.world.b.resource
        assert a.meta is not None and b.meta is not None
        if not self.pending:
            assert self.world.same_data(), f"the replicas differ: {self.differences()}"
        assert (a.state.role, a.state.peer) == (b.state.peer, b.state.role), (a.state, b.state)
        mine, theirs = a.meta.uuids.plain(), b.meta.uuids.plain()
        assert mine[:2] == theirs[:2], (mine, theirs)
        assert a.meta.bitmap.count == b.meta.bitmap.count == 0
        if a.sync.decision is not None and b.sync.decision is not None:
            here, there = a.sync.decision.conn, b.sync.decision.conn
            assert MIRROR.get(here, here) == there, (here, there)

    def differences(self) -> list[int]:
        a, b = self.world.a.disk.data(self.size), self.world.b.disk.data(self.size)
        blocks = ((n, slice(n * 4096, n * 4096 + 4096)) for n in range(self.size // 4096))
        return [n for n, where in blocks if a[where] != b[where]][:20]

    def no_storm(self, host: SimHost) -> None:
        dials = host.dials_ms
        for index, at in enumerate(dials[DIALS_A_MINUTE:]):
            assert at - dials[index] > 60_000, f"{host.name} dialed {DIALS_A_MINUTE} times within a minute"


def inside(host: SimHost) -> str:
    """What keeps a node busy."""
    r = host.resource
    p, log = r.primary, r.primary.log
    ranges = {(b.start >> 12, b.end >> 12, b.why, b.blockers) for many in p.busy._regions.values() for b in many}
    activity = r.attachment.activity
    return (
        f"{host.name} powered {host.powered} {r.state.role.label} {r.state.conn.label} {r.state.disk.label} "
        f"{r.state.pdsk.label} frozen {p.frozen} in flight {p._in_flight} parked {len(p._parked)} held {len(p._held)} "
        f"local {p._local_pending} unacked {len(p._unacked)} unsent {len(p._unsent)} epochs {len(log.closed)} "
        f"open {len(log.current.requests)} busy {sorted(ranges)[:8]} secondary {r.secondary._pending} "
        f"{r.secondary.holding} activity {activity is not None and (len(activity._waiting), activity._busy)} "
        f"retries {len(p._retries)} target {r.sync.target.writing} {len(r.sync.target._outstanding)} "
        f"bits {r.meta.bitmap.count if r.meta else None} metadata {host.busy_with_metadata}"
    )


def run(seed: int, trace: bool = False) -> None:
    """Live one life; raises AssertionError with the last lines of both nodes' logs."""
    life: Life | None = None
    try:
        life = Life.__new__(Life)
        life.__init__(seed, trace)  # type: ignore[misc]
        life.live()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if trace and life is not None and hasattr(life, "world"):
            print("\n".join(life.world.lines))
            for host in (life.world.a, life.world.b):
                print(inside(host))
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {str(error)[:3000]}") from error


def main(arguments: list[str]) -> int:
    """A range of seeds."""
    numbers = [int(a) for a in arguments if a.isdigit()]
    trace = "--trace" in arguments
    bad = 0
    summary: Callable[[BaseException], str] = lambda e: "\n      ".join(  # noqa: E731
        f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in traceback.extract_tb(e.__traceback__)[-4:])
    for seed in range(numbers[0], numbers[-1]):
        try:
            run(seed, trace)
        except AssertionError as error:
            bad += 1
            text = str(error)
            tail = "" if "never came true" not in text else " " + text[-250:]
            print(text[:500] + tail, "\n     ", summary(error.__cause__ or error), flush=True)
            if "--keep-going" not in arguments and bad >= 5:
                break
    print(f"{bad} bad of seeds {numbers[0]}..{seed}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
