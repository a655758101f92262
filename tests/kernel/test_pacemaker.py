# SPDX-License-Identifier: GPL-2.0-or-later
"""The file server of docs/pacemaker.md in two guests: Debian's Pacemaker and corosync, our agent and fencing handlers,
ext3, an address, samba, a client outside who goes on all the time.

After each fault every file is there whose fsync had returned in the guest, or whose put was acknowledged to the client;
fsck finds nothing; both disks hold the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.e2e.waiting import wait_until
from tests.kernel.crm import AGENT, PLACE, SERVICE_S, SUPERVISE, Cluster, Member, events
from tests.kernel.guest import Command, Guest
from tests.kernel.pair import DEVICE
from tests.kernel.test_replication import STOP, WRITER, check_files, io_errors
from tests.kernel.test_restart import kill_engine
from tests.kernel.timeline import Row, rows

pytestmark = pytest.mark.timeout(1500)
TESTER_S = 600.0            # some thirty calls of the agent, each a second or three under an emulated processor
TOKEN_S = 3                 # corosync's default: so long nobody is declared dead


def test_ocf_tester(cluster: Cluster) -> None:
    """resource-agents' own judge, as shipped, of the agent as installed, beside a peer that is up."""
    cluster.backup.do("up", "r0")
    meta = "-o CRM_meta_clone_max=2 -o CRM_meta_notify=true -o CRM_meta_on_node=dados"
    said = cluster.dados.sh(f"ocf-tester -v -n r0 -o resource=r0 {meta} {AGENT}", TESTER_S)
    assert "passed all tests" in said, said


@pytest.mark.long
def test_moves(cluster: Cluster) -> None:
    """Start; standby and back; the service is sent away; samba dies on a healthy node."""
    day = Day(cluster)
    loaded_at = cluster.open()
    first = cluster.owner()
    day.note("configuration loaded", client=cluster.client.served_after(loaded_at, SERVICE_S) - loaded_at)
    other = cluster.partner(first)
    day.audit()

    day.moves(f"standby of {first.name}", lambda: crm(other, f"node standby {first.name}"))
    assert first.proc == "", "the standby node has the resource still"
    day.audit_files()
    other.crm("node", "online", first.name)
    cluster.settle()
    other.idle()
    assert cluster.owner() is other, "the service went back by itself"
    day.audit()

    day.moves("crm resource move", lambda: crm(other, f"resource move files {first.name}"))
    first.crm("resource", "clear", "files")
    day.audit()

    day.moves("samba killed", lambda: kill(first, "/run/samba/smbd.pid"))
    assert "samba: migration-threshold=1 fail-count=1" in other.status()
    other.crm("resource", "cleanup", "samba")
    day.audit()
    assert not cluster.switch.pulled
    for member in cluster.members:
        assert not io_errors(member.kernel_log())


@pytest.mark.long
def test_deaths(cluster: Cluster) -> None:
    """With STONITH: power cut, frozen node, all links cut, engine dead; each time the lost node comes back."""
    day = Day(cluster)
    cluster.open()
    active = cluster.owner()
    for fault, do in (("power cut", cluster.switch.cut), ("freeze", Guest.freeze)):
        writer = day.write(active)
        survivor = day.moves(f"{fault} of the active node", partial(do, active.guest))
        assert [one.name for one in cluster.switch.pulled] == [active.name]
        day.promised += writer.lines
        assert survivor.constraints() == [survivor.name], "the lost node may be promoted"
        day.audit_files()
        day.returns(active)
        assert cluster.owner() is survivor
        day.audit()
        active = survivor

    # All links cut: each node takes the other for dead. Who has the service shoots first, and has waited for that.
    standby = cluster.partner(active)
    writer = day.write(active)
    cluster.switch.pulled.clear()
    cut_at = time.time()
    for cable in ("eth0", "eth1"):
        standby.guest.cut(cable)
    wait_until(lambda: cluster.switch.pulled, active.status, SERVICE_S)
    shot = cluster.switch.pulled[0]
    assert shot.name == standby.name, "the node without the service shot the other"
    active.wait_state("ro:Primary/Unknown", "ds:UpToDate/Outdated")
    written = len(writer.lines)
    writer.wait_for(lambda lines: len(lines) > written + 10, "the writer goes on when the other is dead")
    day.note("all links cut: who has the service keeps it", shot=shot.at - cut_at,
             client=cluster.client.longest_wait(cut_at, SERVICE_S))  # fmt: skip
    day.stop(active, writer)
    for cable in ("eth0", "eth1"):
        standby.guest.heal(cable)
    day.returns(standby)
    assert cluster.owner() is active
    day.audit()

    # The engine dies. A supervisor brings it back and nobody notices; without one the node cannot be cleared.
    supervisor = active.guest.begin(SUPERVISE, "r0", timeout_s=3600)
    writer = day.write(active)
    for _ in range(6):              # one in two meets a monitor
        written = len(writer.lines)
        kill_engine(active)
        writer.wait_for(lambda lines: len(lines) > written + 20, "the writer goes on")      # noqa: B023
    assert cluster.owner() is active and "Failed" not in active.status(), active.status()
    supervisor.stop()
    survivor = day.moves("engine killed, no supervisor", lambda: kill_engine(active))
    assert [one.name for one in cluster.switch.pulled] == [active.name]
    day.promised += writer.lines
    day.returns(active)
    day.audit()

    # Both dead. One alone does nothing: of two nodes one cannot know whether the other went on without it.
    writer = day.write(survivor)
    kept = survivor.configuration()
    for member in cluster.members:
        cluster.switch.cut(member.guest)
    day.promised += writer.lines
    cluster.switch_on(active, kept)
    wait_until(lambda: "partition WITHOUT quorum" in active.status(), active.status, SERVICE_S)
    active.idle()
    assert active.has_nothing() and active.proc == ""
    back_at = time.time()
    cluster.switch_on(survivor, kept)
    day.note("both dead, one back: waits; the other back",
             client=cluster.client.served_after(back_at, SERVICE_S) - back_at)  # fmt: skip
    active.idle()
    day.audit()


@pytest.mark.long
@pytest.mark.cluster(resync_rate="600K")
def test_death_of_the_source(cluster: Cluster) -> None:
    """A node that is only half resynced must not have the service, whatever happens to the other."""
    day = Day(cluster)
    cluster.open()
    active = cluster.owner()
    target = cluster.partner(active)
    cluster.switch.cut(target.guest)
    wait_until(lambda: active.constraints() == [active.name], active.status, SERVICE_S)
    writer = day.write(active, files=400)        # more than half a minute at this rate, and room left for the client
    writer.wait()
    cluster.switch_on(target)
    target.wait_state("cs:SyncTarget")
    cluster.both_online()
    cluster.switch.pulled.clear()
    died_at = cluster.switch.cut(active.guest)
    day.promised += writer.lines
    wait_until(lambda: cluster.switch.pulled, target.status, SERVICE_S)
    target.idle()
    assert target.has_nothing() and "ro:Secondary/Unknown" in target.proc, target.status()
    assert "Inconsistent" in target.proc, "the resync had ended before"
    assert target.constraints() == [active.name]
    said = target.refused("primary", "r0", code=17)
    assert "Need access to UpToDate data" in said, said

    cluster.switch_on(active)
    day.note("source dead in mid-resync: no take-over; it is back",
             client=cluster.client.served_after(died_at, SERVICE_S) - died_at)  # fmt: skip
    assert cluster.owner() is active
    cluster.settle()
    day.audit()


@pytest.mark.long
@pytest.mark.cluster(fencing="resource-only", properties="stonith-enabled=false")
def test_replication_link_cut(cluster: Cluster) -> None:
    """No STONITH, fencing by the constraint alone: the cluster still talks, the replication does not. The node left
    behind must not be promoted, not even when the other one dies; then it comes back with everything.
    """
    day = Day(cluster)
    cluster.open()
    active = cluster.owner()
    stale = cluster.partner(active)
    writer = day.write(active)
    cut_at = time.time()
    stale.guest.cut("eth0")          # corosync has eth1, too: the cluster stays one
    wait_until(lambda: active.constraints() == [active.name], active.status, SERVICE_S)
    fenced_s = time.time() - cut_at
    active.wait_state("ro:Primary/Unknown", "ds:UpToDate/Outdated")
    written = len(writer.lines)
    writer.wait_for(lambda lines: len(lines) > written + 20, "the writer goes on alone")
    day.note(f"replication cut: constraint after {fenced_s:.1f}", client=cluster.client.longest_wait(cut_at, SERVICE_S))

    cluster.switch.cut(active.guest)
    day.promised += writer.lines
    wait_until(lambda: f"OFFLINE: [ {active.name} ]" in stale.status(), stale.status, SERVICE_S)
    stale.idle()
    assert stale.has_nothing() and "ro:Primary" not in stale.proc, stale.status()
    assert stale.constraints() == [active.name]
    said = stale.refused("primary", "r0", code=11)
    assert "outdated" in said, said

    stale.guest.heal("eth0")
    back_at = time.time()
    cluster.switch_on(active)
    active.wait_owner()
    day.note("it comes back", client=cluster.client.served_after(back_at, SERVICE_S) - back_at)
    cluster.settle()
    wait_until(lambda: not active.constraints(), lambda: active.log()[-3000:], SERVICE_S)
    day.audit()

    # Healed, it may be promoted again.
    day.moves("crm resource move", lambda: crm(active, f"resource move files {stale.name}"))
    stale.crm("resource", "clear", "files")
    day.audit()


# ---- what each of them does


def crm(member: Member, words: str) -> None:
    member.crm(*words.split())


def kill(member: Member, pid_file: str) -> None:
    member.sh(f"kill -9 $(cat {pid_file})")


class Day:
    """A working day of the cluster: faults, and what was promised before them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.promised: list[str] = []
        self._writers = 0
        self._rows: list[Row] = []      # those of which is not known yet whether anything was lost

    def write(self, member: Member, files: int = 100_000) -> Command:
        """A program on the server that syncs each file; into a directory of its own."""
        self._writers += 1
        place = f"{PLACE}/{self._writers}"
        member.sh(f"mkdir {place} && sync {PLACE}")
        writer = member.begin_python(WRITER, place, str(files), "100000", STOP)
        writer.wait_for(lambda lines: len(lines) >= 30, "files are written")
        return writer

    def stop(self, member: Member, writer: Command) -> None:
        member.sh(f"touch {STOP}")
        done = writer.wait()
        member.sh(f"rm {STOP}")
        assert done.code == 0, done.err
        self.promised += writer.lines

    def moves(self, fault: str, do: Callable[[], float | None]) -> Member:
        """The fault, and the service on the other node; who has it then."""
        to = self.cluster.partner(self.cluster.owner())
        self.cluster.switch.pulled.clear()
        watch = to.watch()
        began_at = time.time()
        fault_at = do() or began_at
        steps = events(watch, fault_at)
        served_s = self.cluster.client.served_after(fault_at + steps["samba"], SERVICE_S) - fault_at
        for shot in self.cluster.switch.pulled:
            steps["shot"] = shot.at - fault_at
        steps["client"] = served_s
        del steps["watching"]
        self.note(fault, **steps)
        to.idle()
        assert self.cluster.owner() is to
        return to

    def returns(self, member: Member) -> None:
        """The lost node is switched on again, joins, is resynced; the constraint goes."""
        began_at = time.time()
        self.cluster.switch_on(member)
        self.cluster.settle()
        there = self.cluster.partner(member)
        wait_until(lambda: not there.constraints(), lambda: there.log()[-3000:], SERVICE_S)
        print(f"\n{member.name} is back and UpToDate after {time.time() - began_at:.1f} s")
        there.idle()

    def audit_files(self) -> Member:
        owner = self.cluster.owner()
        owner.sh(check_files(self.promised + self.cluster.client.promised(PLACE)), SERVICE_S)
        for row in self._rows:
            row.lost = 0
        self._rows.clear()
        return owner

    def note(self, fault: str, **seconds: float) -> None:
        """A line of the table."""
        self._rows.append(Row(fault, seconds))
        rows.append(self._rows[-1])

    def audit(self) -> None:
        """Files, fsck, both disks. The service is taken down for that, by the cluster."""
        owner = self.audit_files()
        owner.crm("resource", "stop", "files")
        owner.idle()
        owner.sh(f"e2fsck -fn {DEVICE}")
        self.cluster.assert_same_data()
        owner.crm("resource", "start", "files")
        owner.idle()
        assert self.cluster.owner() is owner
