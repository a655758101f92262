# SPDX-License-Identifier: GPL-2.0-or-later
"""Random lives of a pair of nodes, one seed a life: everything that can happen to two real cores, and an oracle.

    python -m tests.core.campaign FIRST LAST [--keep-going] [--trace]

What is checked: replicas are byte-identical when connected and idle; what was acknowledged is there after a fail-over,
as the protocol promises; what was flushed survives power losses; reads never go back in time; every request is
answered once; both nodes reach mirror-image decisions; nobody decides a split brain where there is none; a node
whose disk is not UpToDate is not promoted without force; nobody dials in a storm.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from replblock.state.names import Conn, Disk
from tests.core.cluster import Cluster
from tests.core.oracle import acknowledged, durable
from tests.core.simhost import SimHost

IN_PASSING = (Disk.ATTACHING, Disk.FAILED, Disk.NEGOTIATING)
MIRROR = {Conn.WF_BITMAP_S: Conn.WF_BITMAP_T, Conn.WF_BITMAP_T: Conn.WF_BITMAP_S}
DIALS_A_MINUTE = 60


class Life(Cluster):
    """One seed."""

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
            self._rests(host)
            if host.resource.state.disk == Disk.DISKLESS:
                self._attach(host)
            elif host.resource.state.disk == Disk.INCONSISTENT:
                w.command(host, "invalidate")  # on-io-error pass_on left it so
        w.settle()

    def _rests(self, host: SimHost) -> None:
        """An operator judges what has become of a disk: an attach may be undone, a resync end without some blocks."""
        self.world.run_until(
            lambda: host.resource.state.conn == Conn.CONNECTED and host.resource.state.disk not in IN_PASSING
        )

    def _attach(self, host: SimHost) -> None:
        """Until it stays: while the peer has not heard of the disk that failed, it may be refused."""
        for _ in range(5):
            self.world.command(host, "attach", **host.open_disk())
            self.world.run(2000)
            self._rests(host)
            if host.resource.state.disk != Disk.DISKLESS:
                return

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
