# SPDX-License-Identifier: GPL-2.0-or-later
"""The OCF agent: judged by resource-agents' ocf-tester, and each action in each state of two real engines.

Promotion scores are written by Pacemaker's crm_attribute into a configuration file (tests/cluster/pacemaker.py).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbd
import pytest

from replblock.cluster import layout
from tests.cluster.pacemaker import DEBIAN, Cluster
from tests.e2e.pair import Node, Pair, make_pair

AGENT = layout.HERE / "ocf" / "replblock"
JUDGES = DEBIAN / "usr/share/resource-agents"
OK, ERROR, ARGS, UNIMPLEMENTED, INSTALLED, CONFIGURED, NOT_RUNNING, PROMOTED = 0, 1, 2, 3, 5, 6, 7, 8


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both nodes have disks with metadata; nothing is up."""
    with make_pair() as made:
        made.make_disks(8 << 20)
        yield made


# ---- what needs no engine


def test_scripts_are_clean() -> None:
    scripts = [str(AGENT), *(str(path) for path in sorted((layout.HERE / "lib").iterdir())
               if path.read_bytes().startswith(b"#!/bin/sh"))]  # fmt: skip
    done = subprocess.run(["shellcheck", "--shell=sh", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("judge", [("--dtdvalid", "ra-api-1.dtd"), ("--relaxng", "metadata.rng")])
def test_the_description_is_valid(tmp_path: Path, judge: tuple[str, str]) -> None:
    made = subprocess.run([AGENT, "meta-data"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert made.returncode == 0
    (tmp_path / "meta.xml").write_text(made.stdout)
    done = subprocess.run(["xmllint", "--noout", "--nonet", judge[0], str(JUDGES / judge[1]), "meta.xml"], cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


MISTAKES = (
    # parameters                                            action          exit code
    ({"resource": ""},                                      "start",        CONFIGURED),
    ({"resource": "r0; id"},                                "monitor",      CONFIGURED),
    ({"resource": "$(id)"},                                 "stop",         CONFIGURED),
    ({"resource": "-h"},                                    "stop",         CONFIGURED),
    ({"resource": "all"},                                   "stop",         CONFIGURED),
    ({"drbdconf": "/etc/x y"},                              "start",        CONFIGURED),
    ({"drbdconf": "/nowhere/drbd.conf"},                    "start",        INSTALLED),
    ({"CRM_meta_clone_max": "3"},                           "start",        CONFIGURED),
    ({"CRM_meta_clone_max": ""},                            "start",        CONFIGURED),
    ({"CRM_meta_clone_node_max": "2"},                      "monitor",      CONFIGURED),
    ({"CRM_meta_promoted_max": "2"},                        "promote",      CONFIGURED),
    ({"CRM_meta_promoted_max": "", "CRM_meta_master_max": "2"}, "promote",  CONFIGURED),
    ({"CRM_meta_notify": "false"},                          "start",        CONFIGURED),
    ({"resource": "r9"},                                    "start",        INSTALLED),
    ({"resource": "r9"},                                    "monitor",      INSTALLED),
    ({"resource": "r9"},                                    "validate-all", INSTALLED),
    ({"resource": "r9"},                                    "stop",         OK),
    ({},                                                    "validate-all", OK),
    ({"resource": "", "drbd_resource": "r0"},               "validate-all", OK),
    ({},                                                    "migrate_to",   UNIMPLEMENTED),
)  # fmt: skip


@pytest.mark.parametrize(("parameters", "action", "code"), MISTAKES)
def test_mistakes_in_the_configuration(
    cluster: Cluster, pair: Pair, parameters: dict[str, str], action: str, code: int
) -> None:
    done = cluster.ocf(pair.a, action, **parameters)
    assert done.code == code, done
    assert code in (OK, UNIMPLEMENTED) or "ocf-exit-reason:" in done.err


def test_a_probe_where_the_resource_is_not_configured(cluster: Cluster, pair: Pair) -> None:
    """Pacemaker probes every node of the cluster."""
    for parameters in ({"resource": "r9"}, {"drbdconf": "/nowhere/drbd.conf"}):
        assert cluster.ocf(pair.a, "monitor", interval="0", **parameters).code == NOT_RUNNING


def test_without_replctl(cluster: Cluster, pair: Pair) -> None:
    for action in ("monitor", "start", "stop"):
        variables = {"OCF_RESKEY_resource": "r0", "REPLCTL": "/nowhere/replctl"}
        assert cluster.run(pair.a, str(cluster.agent), action, **variables).code == INSTALLED


# ---- a judge that is not ours


@pytest.mark.root
def test_ocf_tester(cluster: Cluster, pair: Pair) -> None:
    """resource-agents' own, against two engines; its DTD lies where the packages are unpacked."""
    pair.clean()
    tester, agent = (pair.directory / name for name in ("ocf-tester", "replblock"))
    text = (DEBIAN / "usr/sbin/ocf-tester").read_text()
    assert "DATADIR=/usr/share\n" in text
    tester.write_text(text.replace("DATADIR=/usr/share\n", f"DATADIR={DEBIAN}/usr/share\n"))
    tester.chmod(0o755)
    shutil.copy(cluster.agent, agent)
    pair.directory.chmod(0o755)     # its first look is whether anybody may read the description
    meta = {"clone_max": "2", "notify": "true", "on_node": "alfa"}
    words = [word for key, value in meta.items() for word in ("-o", f"CRM_meta_{key}={value}")]
    done = cluster.run(pair.a, str(tester), "-v", "-n", "p-r0", "-o", "resource=r0", *words, str(agent))
    assert done.code == 0, done.out + done.err
    assert "passed all tests" in done.out
    assert "* Your agent does not support" not in done.out.replace("support the migrate action", ""), done.out


# ---- each action in each state


def down(pair: Pair) -> None:
    pass


def alone(pair: Pair) -> None:
    pair.clean()
    pair.b.do("down", "r0")
    pair.a.wait_state("UpToDate/DUnknown")


def connected(pair: Pair) -> None:
    pair.clean()


def primary(pair: Pair) -> None:
    pair.clean()
    pair.a.do("primary", "r0")


def primary_alone(pair: Pair) -> None:
    primary(pair)
    pair.b.do("down", "r0")
    pair.a.wait_state("UpToDate/DUnknown")


def beside_a_primary(pair: Pair) -> None:
    pair.clean()
    pair.b.do("primary", "r0")


def target(pair: Pair) -> None:
    """Resync that stands still: this node is Inconsistent, the peer UpToDate."""
    pair.up()
    pair.a.do("pause-sync", "r0")
    pair.b.do("primary", "--force", "r0")
    pair.a.wait_state("PausedSyncT Inconsistent/UpToDate")


def source(pair: Pair) -> None:
    pair.up()
    pair.b.do("pause-sync", "r0")
    pair.a.do("primary", "--force", "r0")
    pair.a.wait_state("PausedSyncS UpToDate/Inconsistent")


def inconsistent(pair: Pair) -> None:
    pair.a.do("up", "r0")


def diskless(pair: Pair) -> None:
    pair.clean()
    pair.a.do("detach", "r0")


def outdated(pair: Pair) -> None:
    pair.clean()
    for node in pair.nodes:
        node.do("disconnect", "r0")
    pair.a.do("outdate", "r0")


@contextmanager
def door(node: Node) -> Iterator[None]:
    """The device in use."""
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    yield
    handle.shutdown()


def killed(pair: Pair) -> None:
    primary(pair)
    pair.a.kill()


def silent(pair: Pair) -> None:
    pair.clean()
    pair.a.signal(signal.SIGSTOP)


State = Callable[[Pair], None]
STATES: tuple[tuple[State, int, str], ...] = (
    # state            monitor      score
    (down,             NOT_RUNNING, ""),
    (alone,            OK,          "1000"),
    (connected,        OK,          "10000"),
    (primary,          PROMOTED,    "10000"),
    (primary_alone,    PROMOTED,    "10000"),
    (beside_a_primary, OK,          "10000"),
    (target,           OK,          "10"),
    (source,           PROMOTED,    "10000"),
    (inconsistent,     OK,          ""),
    (diskless,         OK,          "10"),
    (outdated,         OK,          ""),
    (killed,           NOT_RUNNING, ""),
    (silent,           ERROR,       "5"),
)  # fmt: skip


@pytest.mark.parametrize(("state", "code", "score"), STATES)
def test_monitor(cluster: Cluster, pair: Pair, state: State, code: int, score: str) -> None:
    state(pair)
    cluster.run(pair.a, "crm_attribute", "--promotion=p-r0", "--node", "alfa", "--lifetime", "reboot", "--update", "5")
    assert cluster.score(pair.a) == "5"
    done = cluster.ocf(pair.a, "monitor")
    assert (done.code, cluster.score(pair.a)) == (code, score), done
    assert cluster.ocf(pair.a, "monitor", interval="0").code == code
    if state is silent:
        pair.a.signal(signal.SIGCONT)


@pytest.mark.parametrize(("expected", "third", "code", "looks"), [
    ("Unpromoted", "role",            OK,       2),
    ("Promoted",   "role",            OK,       4),
    ("Promoted",   "primary --force", PROMOTED, 3),
    ("Master",     "primary --force", PROMOTED, 3),
])  # fmt: skip
def test_monitor_has_patience_with_a_supervisor(
    cluster: Cluster, pair: Pair, expected: str, third: str, code: int, looks: int
) -> None:
    """The engine is dead at the first look, back at the second, and at the third perhaps what Pacemaker expects."""
    killed(pair)
    replctl, seen = " ".join(pair.a.command()), cluster.directory / "seen"
    seen.touch()
    cluster.tool("replctl", f"""
        if [ $1 = role ]; then
            case $(cat {seen}) in .) {replctl} up r0;; ..) {replctl} {third} r0;; esac >/dev/null
            printf . >>{seen}
        fi
        exec {replctl} "$@\"""")
    cluster.more = {"REPLCTL": str(cluster.tools / "replctl"), "SUPERVISOR_S": "3"}
    done = cluster.ocf(pair.a, "monitor", CRM_meta_role=expected)
    assert (done.code, len(seen.read_text())) == (code, looks), done


@pytest.mark.parametrize("back", [False, True], ids=["dead", "without-its-disk-yet"])
def test_a_primary_whose_engine_dies_amid_a_monitor_keeps_its_score(cluster: Cluster, pair: Pair, back: bool) -> None:
    """Role and disks are asked one after the other."""
    primary(pair)
    cluster.run(pair.a, "crm_attribute", "--promotion=p-r0", "--node", "alfa", "--lifetime", "reboot", "--update", "5")
    replctl, killed_it = " ".join(pair.a.command()), cluster.directory / "killed"
    restarted = f"{replctl} up r0 >/dev/null; {replctl} detach r0 >/dev/null" if back else ":"
    cluster.tool("replctl", f"""
        if [ $1 = dstate ] && ! [ -e {killed_it} ]; then
            touch {killed_it}
            kill -9 $(cat {pair.a.run_dir / 'r0.pid'})
            {restarted}
        fi
        exec {replctl} "$@\"""")
    cluster.more = {"REPLCTL": str(cluster.tools / "replctl")}
    done = cluster.ocf(pair.a, "monitor", CRM_meta_role="Promoted")
    assert killed_it.exists()
    assert (done.code, cluster.score(pair.a)) == (PROMOTED, "5"), done


def test_a_probe_of_what_is_down_leaves_the_scores_alone(cluster: Cluster, pair: Pair) -> None:
    cluster.run(pair.a, "crm_attribute", "--promotion=p-r0", "--node", "alfa", "--lifetime", "reboot", "--update", "5")
    assert cluster.ocf(pair.a, "monitor", interval="0").code == NOT_RUNNING
    assert cluster.score(pair.a) == "5"


ACTIONS: tuple[tuple[State, str, int, str], ...] = (
    # state            action     code         this node afterwards
    (down,             "start",   OK,          "Secondary"),
    (alone,            "start",   OK,          "Secondary"),
    (connected,        "start",   OK,          "Secondary Connected"),
    (primary,          "start",   OK,          "Secondary Connected"),
    (target,           "start",   OK,          "PausedSyncT"),
    (killed,           "start",   OK,          "Secondary Connected"),
    (down,             "stop",    OK,          "down"),
    (connected,        "stop",    OK,          "down"),
    (primary,          "stop",    OK,          "down"),
    (target,           "stop",    OK,          "down"),
    (source,           "stop",    OK,          "down"),
    (diskless,         "stop",    OK,          "down"),
    (killed,           "stop",    OK,          "down"),
    (down,             "promote", NOT_RUNNING, "down"),
    (alone,            "promote", OK,          "Primary"),
    (connected,        "promote", OK,          "Primary Connected Established UpToDate/UpToDate"),
    (primary,          "promote", OK,          "Primary Connected"),
    (beside_a_primary, "promote", ERROR,       "Secondary Connected"),
    (inconsistent,     "promote", ERROR,       "Secondary Connecting"),
    (outdated,         "promote", ERROR,       "Secondary StandAlone"),
    (diskless,         "promote", OK,          "Primary Connected"),
    (killed,           "promote", NOT_RUNNING, "down"),
    (down,             "demote",  NOT_RUNNING, "down"),
    (connected,        "demote",  OK,          "Secondary Connected"),
    (primary,          "demote",  OK,          "Secondary Connected"),
    (source,           "demote",  OK,          "Secondary"),
    (target,           "demote",  OK,          "PausedSyncT"),
    (down,             "reload",  NOT_RUNNING, "down"),
    (connected,        "reload",  OK,          "Secondary Connected"),
    (primary,          "reload",  OK,          "Primary Connected"),
    (down,             "notify",  OK,          "down"),
    (primary,          "notify",  OK,          "Primary Connected"),
)  # fmt: skip


@pytest.mark.parametrize(("state", "action", "code", "after"), ACTIONS)
def test_actions(cluster: Cluster, pair: Pair, state: State, action: str, code: int, after: str) -> None:
    """And the same once more: a repeated action finds its work done, or is refused again."""
    state(pair)
    for _ in range(2):
        done = cluster.ocf(pair.a, action, CRM_meta_notify_type="post", CRM_meta_notify_operation="start",
                           wfc_timeout="5" if state is killed or "Connected" in after else "1")  # fmt: skip
        assert done.code == code, done
        if "Connected" in after:
            pair.a.wait_state(after)
        assert after in pair.a.state(), pair.a.state()
    if action == "stop":
        assert cluster.score(pair.a) == ""


@pytest.mark.parametrize("action", ["stop", "demote"])
def test_a_device_in_use_is_not_given_up(cluster: Cluster, pair: Pair, action: str) -> None:
    """A stop that fails makes Pacemaker fence this node; one that lies would let the other write too."""
    primary(pair)
    with door(pair.a):
        done = cluster.ocf(pair.a, action)
        assert done.code == ERROR and "ocf-exit-reason:" in done.err, done
        assert pair.a.state().startswith("Primary")
    assert cluster.ocf(pair.a, action).code == OK


def test_stopping_with_a_broken_configuration(cluster: Cluster, pair: Pair) -> None:
    connected(pair)
    pair.a.config.write_text("resource {\n")
    assert cluster.ocf(pair.a, "monitor").code == OK
    assert cluster.ocf(pair.a, "stop").code == OK
    assert not pair.a.alive()
    assert cluster.ocf(pair.a, "stop").code == OK
    assert cluster.ocf(pair.a, "start").code == INSTALLED


def test_starting_without_a_disk(cluster: Cluster, pair: Pair) -> None:
    """It may come back: no error that bans the resource from this node for good."""
    aside = pair.a.disk.rename(pair.a.directory / "aside")
    done = cluster.ocf(pair.a, "start")
    assert done.code == ERROR and "Can not open backing device" in done.err.split("ocf-exit-reason:")[-1], done
    assert not pair.a.alive() and cluster.ocf(pair.a, "stop").code == OK
    aside.rename(pair.a.disk)
    assert cluster.ocf(pair.a, "start", wfc_timeout="").code == OK


# ---- parameters


def test_scores_of_the_administrators_own(cluster: Cluster, pair: Pair) -> None:
    """Four numbers; anything else is said and replaced."""
    alone(pair)
    for given, wanted in (("1 2 3 4", "3"), ("4 3 2 1", "1000"), ("1 2 3", "1000"), ("a b c d", "1000")):
        assert cluster.ocf(pair.a, "monitor", adjust_master_score=given).code == OK
        assert cluster.score(pair.a) == wanted, given
    pair.a.do("down", "r0")
    pair.b.do("up", "r0")
    pair.b.do("primary", "r0")
    pair.b.kill()
    pair.b.do("up", "r0")   # a Primary that crashed has data which is only known to be Consistent
    pair.b.wait_state("Secondary Connecting")
    cluster.ocf(pair.b, "monitor", adjust_master_score="7 8 9 10")
    assert cluster.score(pair.b) == {"Consistent": "7", "UpToDate": "9"}[pair.b.device["disk-state"]]


def test_a_score_is_hidden_beside_a_primary(cluster: Cluster, pair: Pair) -> None:
    """Where Pacemaker has lost the peer and the replication link has not. This Pacemaker knows of no promoted node."""
    beside_a_primary(pair)
    for value, score in (("false", "10000"), ("true", ""), ("unexpected", "")):
        assert cluster.ocf(pair.a, "monitor", remove_master_score_if_peer_primary=value).code == OK
        assert cluster.score(pair.a) == score, value
    assert cluster.ocf(pair.b, "monitor", remove_master_score_if_peer_primary="true").code == PROMOTED
    assert cluster.score(pair.b) == "10000", "the Primary itself keeps its own"


@pytest.mark.parametrize("known", ["Master", "Promoted", ""])
def test_promotion_is_given_up_early_only_beside_an_unknown_primary(cluster: Cluster, pair: Pair, known: str) -> None:
    beside_a_primary(pair)
    cluster.tool("crm_resource", f"echo 'resource p-r0 is running on: beta {known}'")
    done = cluster.ocf(pair.a, "promote", fail_promote_early_if_peer_primary="true")
    assert done.code == ERROR
    assert ("Pacemaker does not know of it" in done.err) == (known == "")
    assert pair.a.state().startswith("Secondary")


OUTDATES = (
    # parameter  promoted     being stopped  outdated
    ("true",     "beta",      "",            True),
    ("true",     "alfa beta", "",            True),
    ("true",     "alfa",      "",            False),
    ("true",     "",          "",            False),
    ("true",     "beta",      "beta",        False),
    ("false",    "beta",      "",            False),
)  # fmt: skip


@pytest.mark.parametrize(("parameter", "promoted", "stopped", "outdated"), OUTDATES)
@pytest.mark.parametrize("name", ["promoted", "master"])
def test_stop_outdates_a_secondary(
    cluster: Cluster, pair: Pair, name: str, parameter: str, promoted: str, stopped: str, outdated: bool
) -> None:
    beside_a_primary(pair)
    more = {f"CRM_meta_notify_{name}_uname": promoted, "CRM_meta_notify_stop_uname": stopped,
            "stop_outdates_secondary": parameter}  # fmt: skip
    assert cluster.ocf(pair.a, "stop", **more).code == OK
    assert (pair.a.do("dstate", "r0") == "Outdated\n") == outdated


def test_a_notification_outdates_a_secondary_that_lost_the_primary(cluster: Cluster, pair: Pair) -> None:
    beside_a_primary(pair)
    more = {"CRM_meta_notify_type": "post", "CRM_meta_notify_operation": "promote",
            "CRM_meta_notify_promoted_uname": "beta", "stop_outdates_secondary": "true"}  # fmt: skip
    assert cluster.ocf(pair.a, "notify", **more).code == OK
    assert pair.a.state() == "Secondary Connected Established UpToDate/UpToDate", "while connected nothing is outdated"
    pair.b.do("disconnect", "r0")
    pair.a.wait_state("UpToDate/DUnknown")
    assert cluster.ocf(pair.a, "notify", **more).code == OK
    assert "Outdated" in pair.a.state()
    assert cluster.score(pair.a) == ""
