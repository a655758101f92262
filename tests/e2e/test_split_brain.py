# SPDX-License-Identifier: GPL-2.0-or-later
"""Split brains between real engines: what every after-sb policy makes of them, and what nobody decides."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.e2e.splits import (
    BLOCK,
    attempts,
    door,
    leave,
    meet,
    on_disk,
    said,
    settled,
    split,
    view,
    wait_view,
)
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node

Pair = tuple[Node, Node]
Engines = Callable[..., Pair]
ALPHA, BETA, NOBODY, EITHER = "alpha", "beta", "nobody", "either"


def decided(pair: Pair, winner: str) -> Node:
    """Both in sync with the winner's data; the winner."""
    settled(pair)
    for node in pair:
        wait_for(lambda node=node: on_disk(node) == on_disk(pair[0]), "the same data on both")
    text = on_disk(pair[0])[:5].rstrip(b".").decode()
    assert winner in (text, EITHER), f"{text} won"
    return pair[0] if text == ALPHA else pair[1]


def undecided(pair: Pair, rule: str) -> None:
    """Both StandAlone, both disks untouched, one line in log and status that names rule and commands."""
    for node in pair:
        wait_view(node, conn="StandAlone", disk="UpToDate")
        lines = [line for line in node.log().splitlines() if "Split-Brain detected but unresolved" in line]
        assert lines, node.log()
        for text in (lines[-1], said(node).splitlines()[-1], node.status()["replblock-last-error"]):
            assert rule in text and "nothing was discarded" in text, text
            assert "run there: replctl " in text and "replctl connect --discard-my-data r0;" in text, text
            assert text.endswith("replctl connect r0"), text


# policy                      blocks written  who stays   rule named by the loser and the winner (or by both)
#                             alpha, beta
ZERO_PRIMARIES = [
    ("disconnect",              (3, 1), NOBODY, ("split-brain-unresolved",)),
    ("discard-younger-primary", (1, 3), ALPHA, ("i-am-the-younger-primary", "peer-is-the-younger-primary")),
    ("discard-older-primary",   (3, 1), BETA, ("i-am-the-older-primary", "peer-is-the-older-primary")),
    ("discard-zero-changes",    (3, 0), ALPHA, ("i-changed-nothing", "peer-changed-nothing")),
    ("discard-zero-changes",    (0, 1), BETA, ("i-changed-nothing", "peer-changed-nothing")),
    ("discard-zero-changes",    (3, 1), NOBODY, ("split-brain-unresolved",)),
    ("discard-zero-changes",    (0, 0), EITHER, ("neither-changed",)),
    ("discard-least-changes",   (3, 1), ALPHA, ("i-changed-less", "peer-changed-less")),
    ("discard-least-changes",   (1, 3), BETA, ("i-changed-less", "peer-changed-less")),
    ("discard-least-changes",   (2, 2), EITHER, ("changed-equally",)),
    ("discard-local",           (3, 1), BETA, ("discard-local", "discard-remote")),
    ("discard-remote",          (3, 1), ALPHA, ("discard-local", "discard-remote")),
]  # fmt: skip
MIRROR = {"discard-local": "discard-remote", "discard-remote": "discard-local"}


@pytest.mark.parametrize(("policy", "blocks", "winner", "rules"), ZERO_PRIMARIES)
def test_no_primary(
    engines: Engines, policy: str, blocks: tuple[int, int], winner: str, rules: tuple[str, ...]
) -> None:
    """after-sb-0pri."""
    pair = engines(net=f"after-sb-0pri {policy};", net_beta=f"after-sb-0pri {MIRROR.get(policy, policy)};")
    split(pair, blocks, primaries=())
    meet(pair)
    if winner == NOBODY:
        undecided(pair, rules[0])
        assert [on_disk(node)[:5] for node in pair] == [b"alpha", b"beta."]
        return
    if blocks == (0, 0):
        settled(pair)
        assert on_disk(pair[0]) == on_disk(pair[1])
    else:
        decided(pair, winner)
    words = [said(node).splitlines()[-1] for node in pair]
    assert all(any(rule in line for rule in rules) for line in words), words
    if len(rules) == 2:
        loser, victor = (pair[1], pair[0]) if winner == ALPHA else (pair[0], pair[1])
        assert rules[0] in said(loser).splitlines()[-1]
        assert rules[1] in said(victor).splitlines()[-1]


# after-sb-1pri           after-sb-0pri             who is Primary  blocks  who stays  rule
ONE_PRIMARY = [
    ("disconnect",              "discard-least-changes",   ALPHA, (3, 1), NOBODY, "split-brain-unresolved"),
    ("disconnect",              "discard-least-changes",   BETA,  (3, 1), NOBODY, "split-brain-unresolved"),
    ("consensus",               "discard-least-changes",   ALPHA, (3, 1), ALPHA, "consensus-reached"),
    ("consensus",               "discard-least-changes",   BETA,  (3, 1), NOBODY, "split-brain-unresolved"),
    ("consensus",               "discard-zero-changes",    BETA,  (3, 1), NOBODY, "split-brain-unresolved"),
    ("discard-secondary",       "disconnect",              ALPHA, (1, 3), ALPHA, "i-am-"),
    ("discard-secondary",       "disconnect",              BETA,  (3, 1), BETA, "i-am-"),
    ("violently-as0p",          "discard-younger-primary", ALPHA, (1, 3), ALPHA, "as-without-primaries"),
    ("violently-as0p",          "discard-older-primary",   BETA,  (3, 1), BETA, "as-without-primaries"),
    ("call-pri-lost-after-sb",  "discard-least-changes",   ALPHA, (3, 1), ALPHA, "as-without-primaries"),
    ("call-pri-lost-after-sb",  "discard-least-changes",   BETA,  (3, 1), ALPHA, "loser-gives-up-primary"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "policy0", "primary", "blocks", "winner", "rule"), ONE_PRIMARY)
def test_one_primary(
    engines: Engines, policy: str, policy0: str, primary: str, blocks: tuple[int, int], winner: str, rule: str
) -> None:
    """after-sb-1pri, whoever of the two is Primary."""
    pair = engines(net=f"after-sb-0pri {policy0}; after-sb-1pri {policy};")
    who = pair[0] if primary == ALPHA else pair[1]
    split(pair, blocks, primaries=[who])
    meet(pair)
    if winner == NOBODY:
        undecided(pair, rule)
        assert view(who).role == "Primary"
        assert [on_disk(node)[:5] for node in pair] == [b"alpha", b"beta."]
        return
    decided(pair, winner)
    assert any(rule in said(node) for node in pair), [said(node) for node in pair]
    gave_up = rule == "loser-gives-up-primary"
    assert view(who).role == ("Secondary" if gave_up else "Primary")


TWO = "after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p; after-sb-2pri {}; rr-conflict violently;"


def test_two_primaries_and_no_policy(engines: Engines) -> None:
    """after-sb-2pri disconnect: both stay Primary and alone."""
    pair = engines(net=TWO.format("disconnect"))
    split(pair, (3, 1), primaries=pair)
    meet(pair)
    undecided(pair, "split-brain-unresolved")
    assert [view(node).role for node in pair] == ["Primary", "Primary"]


def test_two_primaries_that_may_not_meet(engines: Engines) -> None:
    """after-sb-2pri violently-as0p: a loser is found, but two Primaries connect only with allow-two-primaries."""
    pair = engines(net=TWO.format("violently-as0p"))
    split(pair, (3, 1), primaries=pair)
    meet(pair)
    for node in pair:
        wait_view(node, conn="StandAlone", role="Primary", disk="UpToDate")
        line = said(node).splitlines()[-1]
        assert line.startswith("state-not-allowed: both nodes are Primary") and "replctl secondary r0" in line
    assert [on_disk(node)[:5] for node in pair] == [b"alpha", b"beta."]


def test_two_primaries_of_which_one_gives_up(engines: Engines) -> None:
    """after-sb-2pri call-pri-lost-after-sb: the loser is Secondary now; the winner needs one more connect."""
    alpha, beta = pair = engines(net=TWO.format("call-pri-lost-after-sb"))
    split(pair, (3, 1), primaries=pair)
    meet(pair)
    wait_view(alpha, conn="StandAlone", role="Primary", disk="UpToDate")
    wait_view(beta, role="Secondary")
    assert "loser-gives-up-primary" in said(beta) and "replctl connect r0" in said(alpha).splitlines()[-1]
    assert [on_disk(node)[:5] for node in pair] == [b"alpha", b"beta."]
    alpha.do("connect")
    if view(beta).conn == "StandAlone":
        beta.do("connect")
    decided(pair, ALPHA)
    assert view(alpha).role == "Primary"


def test_nobody_tries_again(engines: Engines) -> None:
    """Unresolved: one handshake each and no dial afterwards, while three connect-ints pass by the engine's clock."""
    pair = engines(net="")
    split(pair, (1, 1), primaries=())
    before = [attempts(node) for node in pair]
    meet(pair)
    undecided(pair, "split-brain-unresolved")
    logs = [node.log() for node in pair]
    dials_nobody(pair)
    assert [attempts(node) - was for node, was in zip(pair, before)] == [1, 1]
    assert [node.log() for node in pair] == logs, "somebody went on trying"


def dials_nobody(pair: Pair) -> None:
    """In each one's place somebody else listens now: nobody comes for two and a half connect-ints."""
    with ExitStack() as stack:
        ears = []
        for node in pair:
            ear = stack.enter_context(socket.socket())
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ear.bind(("127.0.0.1", port_of(node)))
            ear.listen()
            ears.append(ear)
        heard, _, _ = select.select(ears, [], [], 2.5)
        assert not heard, "a StandAlone node dials"


def port_of(node: Node) -> int:
    return int(node.status()["connections"][0]["paths"][0]["this_host"]["port"])


def test_one_that_seeks_a_standalone_peer_does_not_hammer(engines: Engines) -> None:
    """The peer refused and is StandAlone: this one dials about once per connect-int."""
    alpha, beta = pair = engines(net="")
    leave(pair)
    alpha.do("connect")
    before = alpha.status()["connections"][0]["replblock-attempts"]
    assert alpha.ask("wait_connect", timeout_s=3)["exit_code"] == 5
    assert alpha.status()["connections"][0]["replblock-attempts"] - before <= 6
    assert view(alpha).conn == "Connecting" and view(beta).conn == "StandAlone"


def test_the_loser_keeps_its_role_while_the_device_is_open(engines: Engines) -> None:
    """call-pri-lost-after-sb: who holds the device open cannot be made to lose it: nothing is discarded."""
    alpha, beta = pair = engines(net="after-sb-0pri discard-least-changes; after-sb-1pri call-pri-lost-after-sb;")
    split(pair, (3, 1), primaries=[beta])
    handle = door(beta)
    meet(pair)
    wait_view(beta, conn="StandAlone", role="Primary")
    assert "loser-stays-primary" in beta.log()
    handle.pwrite(b"still mine".ljust(BLOCK), 0)
    handle.shutdown()
    assert on_disk(beta).startswith(b"still mine") and on_disk(alpha).startswith(b"alpha")
