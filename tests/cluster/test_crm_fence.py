# SPDX-License-Identifier: GPL-2.0-or-later
"""Fencing by a location constraint: the decision as a table, and real engines, and Pacemaker's real cibadmin.

Which exit code does what to the engine is tested in tests/e2e/test_fencing.py.
"""

from __future__ import annotations

import itertools
import subprocess
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import nbd
import pytest

from replblock.cluster import layout
from tests.cluster.pacemaker import CIB, DEBIAN, Cluster
from tests.e2e.pair import Pair, make_pair
from tests.e2e.waiting import wait_until

# Not imported: what Python would cache beside it would be taken for something to install.
FENCE = layout.HERE / "lib" / "replblock-crm-fence"
crm: Any = types.ModuleType("crm_fence")
exec(compile(FENCE.read_text(), str(FENCE), "exec"), crm.__dict__)

DISKS = ("", "Diskless", "Inconsistent", "Outdated", "Consistent", "UpToDate")
PEERS = ("reachable", "fenced", "unreachable", "unknown", "no-dc")
UNKNOWN, OUTDATED, DOWN, SHOT = 1, 4, 5, 7


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with make_pair() as made:
        made.make_disks(8 << 20)
        yield made


# ---- the decision

DECISIONS = (
    # constraint disk         peer's       peer           stonith quorum  rule                      places code
    ("none",  "UpToDate",     "DUnknown",  "reachable",   True,   True,  "peer-obeys-this-cluster", True,  OUTDATED),
    ("none",  "Consistent",   "DUnknown",  "reachable",   True,   True,  "peer-obeys-this-cluster", True,  OUTDATED),
    ("none",  "UpToDate",     "DUnknown",  "fenced",      True,   True,  "peer-was-shot",           True,  SHOT),
    ("none",  "UpToDate",     "DUnknown",  "fenced",      True,   False, "peer-was-shot",           True,  SHOT),
    ("none",  "Consistent",   "DUnknown",  "fenced",      True,   True,  "this-data-may-be-old",    False, DOWN),
    ("none",  "Outdated",     "DUnknown",  "reachable",   False,  True,  "this-data-may-be-old",    False, DOWN),
    ("none",  "UpToDate",     "DUnknown",  "unreachable", False,  True,  "peer-is-gone",            True,  DOWN),
    ("none",  "UpToDate",     "DUnknown",  "unknown",     False,  True,  "peer-is-gone",            True,  DOWN),
    ("none",  "UpToDate",     "DUnknown",  "unknown",     True,   True,  "stonith-did-not-confirm", False, UNKNOWN),
    ("none",  "UpToDate",     "DUnknown",  "unknown",     False,  False, "no-quorum",               False, UNKNOWN),
    ("none",  "UpToDate",     "UpToDate",  "reachable",   True,   True,  "peer-is-up-to-date",      False, UNKNOWN),
    ("none",  "",             "",          "reachable",   True,   True,  "no-disk-here",            False, UNKNOWN),
    ("ours",  "UpToDate",     "DUnknown",  "unknown",     True,   True,  "already-placed",          False, OUTDATED),
    ("theirs", "UpToDate",    "DUnknown",  "fenced",      True,   True,  "another-node-fenced-us",  False, UNKNOWN),
)  # fmt: skip


@pytest.mark.parametrize("row", DECISIONS, ids=lambda row: f"{row[6]}-{row[1]}-{row[3]}")
def test_decision(row: tuple[str, str, str, str, bool, bool, str, bool, int]) -> None:
    *seen, name, place, code = row
    assert crm.decide(crm.Seen(*seen)) == next(rule for rule in crm.RULES if rule.name == name)
    rule = crm.decide(crm.Seen(*seen))
    assert (rule.place, rule.code) == (place, code)


def test_what_no_decision_may_do() -> None:
    """Over all of them: I/O goes on only where the other node can no longer be promoted with other data."""
    constraints, peer_disks, either = ("none", "ours", "theirs"), (*DISKS[1:], "DUnknown"), (True, False)
    for each in itertools.product(constraints, DISKS, peer_disks, PEERS, either, either):
        seen = crm.Seen(*each)
        rule = crm.decide(seen)
        assert rule.code in (UNKNOWN, OUTDATED, DOWN, SHOT)
        if rule.place:
            assert seen.constraint == "none" and seen.disk in crm.GOOD, seen
        if seen.constraint == "theirs":
            assert rule.code == UNKNOWN, seen
        if rule.code in (OUTDATED, SHOT):
            assert rule.place or seen.constraint == "ours", seen
        if rule.code == SHOT:
            assert seen.peer == "fenced" and seen.disk == "UpToDate", seen
        if rule.code == DOWN and seen.disk == "UpToDate":   # otherwise DOWN changes nothing
            assert rule.place and seen.quorate and not seen.stonith, seen


NODE_STATES = (
    # in_ccm        crmd          expected  stonith  view
    ("true",        "online",     "member", "true",  "reachable"),
    ("1700000000",  "1700000001", "member", "true",  "reachable"),
    ("false",       "offline",    "down",   "true",  "fenced"),
    ("0",           "0",          "down",   "true",  "fenced"),
    ("false",       "offline",    "member", "true",  "unknown"),
    ("false",       "offline",    "member", "false", "unreachable"),
    ("false",       "online",     "member", "false", "unknown"),
    ("true",        "offline",    "down",   "true",  "unknown"),
)  # fmt: skip


@pytest.mark.parametrize(("member", "crmd", "expected", "stonith", "view"), NODE_STATES)
def test_what_the_cluster_knows_of_a_node(member: str, crmd: str, expected: str, stonith: str, view: str) -> None:
    """Words, or times as Pacemaker 2.1.7 writes them."""
    base = xml.fromstring(CIB.replace('-enabled" value="false"', f'-enabled" value="{stonith}"'))
    state = base.find("status/node_state[@uname='beta']")
    assert state is not None
    state.attrib.update({"in_ccm": member, "crmd": crmd, "expected": expected})
    assert crm.node_state(base, "beta") == view
    assert crm.node_state(base, "gamma") == "unknown"


def test_whose_clone_it_is() -> None:
    base = xml.fromstring(CIB)
    assert [crm.promotable(base, name) for name in ("r0", "r00", "r")] == ["ms-r0", "ms-other", ""]
    old = CIB.replace("clone", "master").replace('type="replblock"', 'type="drbd"')
    old = old.replace('name="resource"', 'name="drbd_resource"')
    assert crm.promotable(xml.fromstring(old), "r0") == "ms-r0"
    assert crm.peer_name(base, "alfa", "beta") == "beta"
    assert crm.peer_name(base, "alfa", "beta.example.org") == "beta", "the only other one"


# ---- with engines


def alone(pair: Pair) -> None:
    """alfa is Primary and has lost its peer."""
    pair.clean()
    pair.a.do("primary", "r0")
    pair.b.kill()
    pair.a.wait_state("UpToDate/DUnknown")


def test_a_peer_that_the_cluster_reaches(cluster: Cluster, pair: Pair) -> None:
    alone(pair)
    done = cluster.handler(pair.a, "replblock-crm-fence")
    assert (done.code, cluster.constraints()) == (OUTDATED, ["alfa"]), done
    again = cluster.handler(pair.a, "replblock-crm-fence")
    assert (again.code, cluster.constraints()) == (OUTDATED, ["alfa"]), again
    assert "already-placed" in again.out
    cluster.handler(pair.a, "replblock-crm-unfence")
    assert cluster.constraints() == ["alfa"], "the peer is not UpToDate"
    pair.b.do("up", "r0")
    pair.settle()
    assert cluster.handler(pair.a, "replblock-crm-unfence").code == 0
    assert cluster.constraints() == []
    assert cluster.handler(pair.a, "replblock-crm-unfence").code == 0


def test_the_configuration_is_valid_with_the_constraint(cluster: Cluster, pair: Pair) -> None:
    """By Pacemaker's own schema."""
    alone(pair)
    assert cluster.handler(pair.a, "replblock-crm-fence").code == OUTDATED
    schema = DEBIAN / "usr/share/pacemaker/pacemaker-3.9.rng"
    done = subprocess.run(["xmllint", "--noout", "--relaxng", str(schema), str(cluster.path)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_old_clusters_say_master(cluster: Cluster, pair: Pair) -> None:
    alone(pair)
    cluster.path.write_text(CIB.replace("pacemaker-3.9", "pacemaker-3.0"))
    assert cluster.handler(pair.a, "replblock-crm-fence").code == OUTDATED
    assert 'role="Master"' in cluster.path.read_text()


VIEWS = (
    # what the cluster knows of beta                                  stonith  code     places
    ({"in_ccm": "false", "crmd": "offline", "expected": "down"},      "true",  SHOT,    True),
    ({"in_ccm": "false", "crmd": "offline", "expected": "member"},    "true",  UNKNOWN, False),
    ({"in_ccm": "false", "crmd": "offline", "expected": "member"},    "false", DOWN,    True),
)  # fmt: skip


@pytest.mark.parametrize(("view", "stonith", "code", "places"), VIEWS)
def test_a_peer_that_is_gone(
    cluster: Cluster, pair: Pair, view: dict[str, str], stonith: str, code: int, places: bool
) -> None:
    alone(pair)
    cluster.state("beta", **view)
    cluster.set(stonith=stonith)
    done = cluster.handler(pair.a, "replblock-crm-fence")
    assert (done.code, cluster.constraints()) == (code, ["alfa"] if places else []), done


def test_a_peer_that_says_nothing(cluster: Cluster, pair: Pair) -> None:
    """A member by the books; until somebody knows better, with STONITH nothing is acknowledged."""
    alone(pair)
    cluster.peer_answers(False)
    cluster.set(stonith="true")
    assert cluster.handler(pair.a, "replblock-crm-fence").code == UNKNOWN
    assert cluster.constraints() == []


def test_of_two_that_fence_each_other_one_wins(cluster: Cluster, pair: Pair) -> None:
    pair.clean()
    for node in pair.nodes:
        node.do("disconnect", "r0")
    for node in pair.nodes:
        node.wait_state("UpToDate/DUnknown")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda node: cluster.handler(node, "replblock-crm-fence"), pair.nodes))
    assert len(cluster.constraints()) == 1
    winner = 0 if cluster.constraints() == ["alfa"] else 1
    assert done[winner].code == OUTDATED, done
    assert done[1 - winner].code == UNKNOWN, done


def test_a_peer_that_is_back_meanwhile(cluster: Cluster, pair: Pair) -> None:
    """Connected and in sync again while the constraint was being placed: it must not stay."""
    stub = cluster.directory / "replctl"
    stub.write_text('#!/bin/sh\ngrep -q rsc_location "$CIB_file" && echo UpToDate/UpToDate || echo UpToDate/DUnknown\n')
    stub.chmod(0o755)
    done = cluster.handler(pair.a, "replblock-crm-fence", REPLCTL=str(stub))
    assert "taken out" in done.out
    assert (done.code, cluster.constraints()) == (UNKNOWN, []), done


def test_the_others_constraint_is_kept_if_told_so(cluster: Cluster, pair: Pair) -> None:
    alone(pair)
    assert cluster.handler(pair.a, "replblock-crm-fence").code == OUTDATED
    pair.b.do("up", "r0")
    pair.settle()
    assert cluster.handler(pair.b, "replblock-crm-unfence", "--unfence-only-if-owner-match").code == 0
    assert cluster.constraints() == ["alfa"]
    assert cluster.handler(pair.b, "replblock-crm-unfence").code == 0
    assert cluster.constraints() == [], "as handler after-resync-target"


def test_the_agent_takes_out_a_stale_constraint(cluster: Cluster, pair: Pair) -> None:
    alone(pair)
    assert cluster.handler(pair.a, "replblock-crm-fence").code == OUTDATED
    cluster.ocf(pair.a, "monitor", unfence_if_all_uptodate="true")
    assert cluster.constraints() == ["alfa"]
    pair.b.do("up", "r0")
    pair.settle()
    cluster.ocf(pair.a, "monitor")
    assert cluster.constraints() == ["alfa"]
    cluster.ocf(pair.a, "monitor", unfence_if_all_uptodate="true")
    assert cluster.constraints() == []


@pytest.mark.parametrize("what", ["no-clone", "no-cib", "no-engine", "no-resource"])
def test_when_nothing_can_be_known(cluster: Cluster, pair: Pair, what: str) -> None:
    """Exit 1: frozen I/O stays frozen."""
    more = {}
    if what == "no-clone":
        cluster.path.write_text(CIB.replace('value="r0"', 'value="r1"'))
    elif what == "no-cib":
        more = {"CIB_file": "/nowhere/cib.xml"}
    elif what == "no-resource":
        more = {"DRBD_RESOURCE": ""}
    elif what == "no-engine":
        more = {"REPLCTL": "/nowhere/replctl"}
    done = cluster.handler(pair.a, "replblock-crm-fence", **more)
    assert done.code == UNKNOWN and done.out + done.err, done
    assert cluster.constraints() == []


def fencing(cluster: Cluster, pair: Pair) -> None:
    for node in pair.nodes:
        pair.configure([node], disk={"fencing": "resource-and-stonith"}, handlers={
            "fence-peer": cluster.command(node, "replblock-crm-fence"),
            "unfence-peer": cluster.command(node, "replblock-crm-unfence")})  # fmt: skip


def test_an_engine_calls_them(cluster: Cluster, pair: Pair) -> None:
    """Primary loses its peer: writes wait for the constraint, which goes when the peer has caught up."""
    fencing(cluster, pair)
    alone(pair)
    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    handle.pwrite(b"acknowledged behind the constraint".ljust(4096), 0)
    assert cluster.constraints() == ["alfa"], pair.a.log()
    assert "UpToDate/Outdated" in pair.a.state()
    handle.shutdown()
    pair.b.do("up", "r0")
    pair.assert_same_data()
    wait_until(lambda: cluster.constraints() == [], lambda: pair.a.log()[-2000:])


def test_failover(cluster: Cluster, pair: Pair) -> None:
    """The Primary was shot: the agent promotes the other, whose engine forbids the first to come back as Primary."""
    fencing(cluster, pair)
    pair.clean()
    pair.a.do("primary", "r0")
    pair.a.kill()
    pair.b.wait_state("Secondary Connecting")
    cluster.set(stonith="true")
    cluster.peer_answers(False)
    refused = cluster.ocf(pair.b, "promote")
    assert refused.code == 1 and cluster.constraints() == [], "the cluster still takes alfa for alive, and it is silent"
    cluster.state("alfa", in_ccm="false", crmd="offline", expected="down")
    done = cluster.ocf(pair.b, "promote")
    assert (done.code, cluster.constraints()) == (0, ["beta"]), done
    assert cluster.score(pair.b) == "10000"
    assert cluster.ocf(pair.a, "start").code == 0
    pair.assert_same_data()
    wait_until(lambda: cluster.constraints() == [], lambda: pair.b.log()[-2000:])
    cluster.ocf(pair.a, "monitor")
    assert cluster.score(pair.a) == "10000"


def test_who_may_be_behind_is_not_promoted(cluster: Cluster, pair: Pair) -> None:
    """Restarted alone it cannot know what the peer wrote meanwhile, though the cluster says that the peer is down."""
    fencing(cluster, pair)
    pair.clean()
    pair.a.do("primary", "r0")
    pair.b.kill()
    pair.a.wait_state("UpToDate/Outdated")
    pair.a.kill()
    cluster.path.write_text(CIB)    # the constraint was lost with the disk it stood on
    cluster.state("alfa", in_ccm="false", crmd="offline", expected="down")
    assert cluster.ocf(pair.b, "start", wfc_timeout="1").code == 0
    assert (pair.b.device["disk-state"], cluster.score(pair.b)) == ("Consistent", "0")
    done = cluster.ocf(pair.b, "promote")
    assert (done.code, cluster.constraints()) == (1, []), done
    assert "no UpToDate data" in done.err
    assert done.err.count("replctl primary r0 ended with 17") == 1, "trying again cannot help"
    assert pair.b.state().startswith("Secondary")
