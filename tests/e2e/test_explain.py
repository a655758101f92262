# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl explain --images` on what drbdmeta wrote into two disks; then two real engines come up with them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbd
import pytest

from tests.e2e.pair import MIB, Node, Pair, make_pair
from tests.e2e.waiting import wait_until
from tests.meta.tools import INTERNAL, drbdmeta

DISK_BYTES = 24 * MIB
A, B, C, D, E, F, G, H = (f"{digit * 15}0" for digit in "ABCDE789")
NONE = "0" * 16
GOOD, OUTDATED, INCONSISTENT, CRASHED = "1:1:0:0:0:0:0", "1:0:0:0:0:0:0", "0:0:0:0:0:0:0", "1:1:0:0:0:0:1"


class Case(NamedTuple):
    """set-gi of both nodes, the policy, and what explain has to say (the engines say it afterwards)."""

    mine: str
    theirs: str
    rule: str
    number: int
    what: str
    net: dict[str, object] = {}
    full: bool = False


def gi(current: str, bitmap: str = NONE, history: str = NONE, older: str = NONE, flags: str = GOOD) -> str:
    return f"{current}:{bitmap}:{history}:{older}:{flags}"


CASES = {
    "ahead": Case(gi(B, A), gi(A), "i-moved-on", 70, "sync-from-here"),
    "behind": Case(gi(A), gi(B, A), "peer-moved-on", 50, "sync-to-here"),
    "far-behind": Case(gi(A), gi(C, B, A), "peer-moved-on-far", 60, "sync-to-here", full=True),
    "crashed": Case(gi(A, flags=CRASHED), gi(A), "i-crashed", 40, "sync-from-here"),
    "missed-the-end": Case(gi(B, A), gi(B, NONE, A), "source-missed-the-end", 34, "sync-from-here"),
    "inconsistent-but-newer": Case(gi(B, A, flags=INCONSISTENT), gi(A), "i-moved-on", 70, "sync-to-here"),
    "outdated-but-newer": Case(gi(B, A, flags=OUTDATED), gi(A, flags="1:1:0:0:0:1:0"), "i-moved-on", 70,
                               "no-connection"),
    "unrelated": Case(gi(A, B, C, D), gi(E, F, G, H), "unrelated", 100, "no-connection"),
    "split": Case(gi(B, A), gi(C, A), "both-moved-on", 90, "no-connection"),
    "split-discard-local": Case(gi(B, A), gi(C, A), "both-moved-on", 90, "sync-to-here",
                                {"after-sb-0pri": "discard-local"}),
    "split-younger": Case(gi(B, A[:-1] + "1"), gi(C, A), "both-moved-on", 90, "sync-from-here",
                          {"after-sb-0pri": "discard-younger-primary"}),
    "split-common-ancestor": Case(gi(B, A, D), gi(C, E, D), "common-ancestor", 100, "no-connection",
                                  {"after-sb-0pri": "discard-remote"}),
    "split-always-asbp": Case(gi(B, A, D), gi(C, E, D), "common-ancestor", 100, "sync-from-here",
                              {"after-sb-0pri": "discard-remote", "always-asbp": "yes"}, full=True),
}  # fmt: skip
MIRRORED = {"discard-local": "discard-remote", "discard-remote": "discard-local"}


@pytest.fixture(scope="module")
def used() -> Iterator[Pair]:
    """A pair that was connected and in sync once, now down; `clean` beside each disk is a copy of it."""
    with make_pair() as pair:
        pair.make_disks(DISK_BYTES)
        pair.clean()
        for node in pair.nodes:
            node.do("down", "r0")
            shutil.copyfile(node.disk, node.directory / "clean")
        yield pair


def explained(node: Node, *words: str) -> dict[str, Any]:
    found = json.loads(node.do("explain", "--json", *words))
    assert len(found) == 1 and found[0]["schema"] == "replblock-explain/1"
    return dict(found[0])


def swapped(made: dict[str, Any]) -> dict[str, Any]:
    """The outcome as the other side should tell it."""
    outcome = made["forecast"]["outcome"]
    swap = {"sync-from-here": "sync-to-here", "sync-to-here": "sync-from-here", "here": "there", "there": "here"}
    return {"what": swap.get(outcome["what"], outcome["what"]), "discards": swap.get(outcome["discards"])}


def parted_or_together(pair: Pair) -> str:
    """Wait for the end of the handshake and of a resync; what it came to, from alfa's side."""
    def ended() -> str:
        states = [node.state() for node in pair.nodes]
        if any("StandAlone" in state for state in states):
            return "no-connection"
        return "together" if all("Established UpToDate/UpToDate" in state for state in states) else ""
    end = wait_until(ended, lambda: f"an end: {[node.state() for node in pair.nodes]}")
    if end == "no-connection":
        return end
    log = pair.a.log()
    return "sync-from-here" if "-> WFBitMapS" in log else "sync-to-here" if "-> WFBitMapT" in log else "connected"


def follow(pair: Pair, way: dict[str, Any]) -> None:
    """Do what a way out says, step by step; it must lead to a pair in sync that holds the other side's data."""
    loser = pair.a if way["gives-up"] == "here" else pair.b
    for step in way["steps"]:
        node = pair.a if step["node"] == pair.a.name else pair.b
        done = node.try_(*step["command"].split()[1:])
        assert done.code == 0 or step["only-if"], done
    winner = pair.other(loser)
    current = int(winner.device["replblock-uuids"][0], 16) & ~1
    pair.assert_same_data()
    assert int(loser.device["replblock-uuids"][0], 16) & ~1 == current


@pytest.mark.parametrize("name", CASES)
def test_what_is_explained_is_what_happens(used: Pair, name: str) -> None:
    """The verdict, DRBD's rule number and the direction, before; the engines' own log lines, after."""
    case = CASES[name]
    theirs = {key: MIRRORED.get(str(value), value) for key, value in case.net.items()}
    used.configure((used.a,), net=case.net)
    used.configure((used.b,), net=theirs)
    for node, text in ((used.a, case.mine), (used.b, case.theirs)):
        shutil.copyfile(node.directory / "clean", node.disk)
        assert drbdmeta(node.disk, INTERNAL, "set-gi", text).exit_code == 0
        (node.run_dir / "r0.log").unlink(missing_ok=True)
    made = explained(used.a, "--images", "r0", str(used.b.disk), "r0")
    forecast = made["forecast"]
    assert (forecast["rule"], forecast["drbd-rule"]) == (case.rule, case.number)
    assert (forecast["outcome"]["what"], forecast["outcome"]["full-sync"]) == (case.what, case.full)
    there = explained(used.b, "--images", "r0", str(used.a.disk), "r0")["forecast"]["outcome"]
    assert {"what": there["what"], "discards": there["discards"]} == swapped(made)
    try:
        for node in used.nodes:
            node.do("up", "r0")
        assert parted_or_together(used) == case.what
        told = {f"uuid_compare()={forecast['drbd-result']} by rule {case.number}"}
        assert told <= set(re.findall(r"uuid_compare\(\)=\S+ by rule \d+", used.a.log()))
        if case.what == "no-connection":
            follow(used, explained(used.a, "r0")["ways-out"][0])
    finally:
        for node in used.nodes:
            node.do("down", "r0")


def write(node: Node, *blocks: int) -> None:
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    for block in blocks:
        handle.pwrite(os.urandom(4096), block * 4096)
    handle.flush()
    handle.shutdown()


def test_a_real_split_brain_from_every_source_and_out_again(pair: Pair, tmp_path: Path) -> None:
    """Live, from disks, from dumps of drbdmeta, from the other node's JSON: one story. Then by its commands."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("disconnect", "r0")
    pair.b.try_("disconnect", "r0")
    for node, blocks in ((pair.a, (1, 2, 3)), (pair.b, (9,))):
        node.do("primary", "--force", "r0")
        write(node, *blocks)
        node.do("secondary", "r0")
    for node in pair.nodes:
        node.do("connect", "r0")
    for node in pair.nodes:
        node.wait_state("StandAlone")
    live = explained(pair.a, "r0")
    assert live["forecast"]["rule"] == "both-moved-on" and live["forecast"]["outcome"]["what"] == "no-connection"
    assert live["forecast"]["policy"] == {"option": "after-sb-0pri", "value": "disconnect"}
    assert [(live[side]["loses"]["bound"], live[side]["loses"]["bytes"]) for side in ("here", "there")] == [
        ("at-most", 12288), ("at-most", 4096)]
    assert live["here"]["since-ms"] and live["there"]["not-before-ms"]
    (tmp_path / "there.json").write_text(pair.b.do("explain", "--json", "r0"))
    stories = [live, explained(pair.a, "--images", "r0", str(tmp_path / "there.json"), "r0")]
    for node in pair.nodes:
        node.do("down", "r0")
        dump = drbdmeta(node.disk, INTERNAL, "dump-md").out + drbdmeta(node.disk, INTERNAL, "get-gi").out
        (tmp_path / f"{node.name}.txt").write_text(dump)
    stories.append(explained(pair.a, "--images", str(pair.a.disk), str(pair.b.disk), "r0"))
    stories.append(explained(pair.a, "--images", str(tmp_path / "alfa.txt"), str(tmp_path / "beta.txt"), "r0"))
    stories.append(explained(pair.a, "--images", "r0", str(tmp_path / "beta.txt"), "r0"))
    for made in stories:
        for side in ("here", "there"):
            assert all(made[side][key] == live[side][key] for key in ("uuids", "marked-blocks", "disk", "loses"))
        assert made["forecast"]["outcome"] == live["forecast"]["outcome"]
        alone = [row for row in made["policies"] if not row["primary"]]
        assert alone == live["policies"]
    from_log = stories[-1]["here"]
    assert from_log["uuids"] == live["here"]["uuids"]

    for node in pair.nodes:
        node.do("up", "r0")
    for node in pair.nodes:
        node.wait_state("StandAlone")
    again = explained(pair.a, "r0")
    second = abs(again["here"]["since-ms"] - live["here"]["since-ms"])
    assert second <= 1000, "the engine that came up new finds it in its log"
    kept = [bytes(piece) for piece in pair.a.data()]
    way = next(way for way in again["ways-out"] if way["gives-up"] == "there")
    for step in way["steps"]:
        node = pair.a if step["node"] == pair.a.name else pair.b
        if not step["only-if"]:
            node.do(*step["command"].split()[1:])
    pair.assert_same_data()
    assert [bytes(piece) for piece in pair.b.data()] == kept
