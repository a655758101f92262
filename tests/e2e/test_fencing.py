# SPDX-License-Identifier: GPL-2.0-or-later
"""Fencing with real engines and real handlers: what fence-peer is told, what its exit code does, what waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import nbd
import pytest

from tests.e2e.recorder import Recorder
from tests.e2e.splits import BLOCK, door, leave, meet, on_disk, said, settled, up, view, wait_view, write
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node

Pair = tuple[Node, Node]
Engines = Callable[..., Pair]
STONITH, ONLY = "fencing resource-and-stonith;", "fencing resource-only;"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


class Writer(threading.Thread):
    """One write that may take its time."""

    def __init__(self, node: Node, text: bytes) -> None:
        super().__init__(daemon=True)
        self.handle = door(node)
        self.text = text
        self.error = ""
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self.handle.pwrite(self.text.ljust(BLOCK, b"."), 0)
        except nbd.Error as error:
            self.error = str(error)
        self.done.set()

    def ended(self) -> bool:
        assert self.done.wait(30), "the write was never answered"
        self.handle.shutdown()
        return not self.error


def primary_without_peer(pair: Pair) -> None:
    alpha, beta = pair
    alpha.do("primary")
    beta.kill()


def frozen(node: Node) -> bool:
    return bool(node.status()["suspended-fencing"])


def generation(node: Node) -> str:
    uuid: str = node.status()["devices"][0]["replblock-uuids"][0]
    return uuid


# exit  peer disk    success
MEANINGS = [
    (3, "Inconsistent", True),
    (4, "Outdated", True),
    (5, "Outdated", True),
    (7, "Outdated", True),
    (6, "DUnknown", False),
    (1, "DUnknown", False),
    (0, "DUnknown", False),
    (127, "DUnknown", False),
]


@pytest.mark.parametrize(("code", "peer_disk", "success"), MEANINGS)
def test_stonith_freezes_until_the_handler_says_so(
    engines: Engines, recorder: Recorder, code: int, peer_disk: str, success: bool
) -> None:
    """resource-and-stonith: while the handler runs no write is answered; after it, only if the peer is fenced."""
    pair = alpha, beta = engines(disk=STONITH, handlers=recorder.handlers("fence-peer", code=code, gate=True))
    before = generation(alpha)
    primary_without_peer(pair)
    call = recorder.wait("fence-peer", host="alpha")
    assert call["DRBD_RESOURCE"] == "r0" and call["DRBD_PEER"] == "beta" and call["DRBD_MINOR"] == "0"
    assert frozen(alpha) and generation(alpha)[:-1] == before[:-1]
    writer = Writer(alpha, b"waits")
    assert not writer.done.wait(0.3) and view(alpha).role == "Primary"  # the loop answers meanwhile
    recorder.open_gate()
    if success:
        assert writer.ended(), writer.error
        assert not frozen(alpha) and generation(alpha)[:-1] != before[:-1]
        assert view(alpha).peer_disk == peer_disk
    else:
        wait_for(lambda: f"fence-peer exit {code}" in said(alpha), "the verdict")
        assert frozen(alpha) and view(alpha)[2:] == ("UpToDate", "DUnknown") and not writer.done.is_set()
        assert "replctl resume-io r0" in said(alpha).splitlines()[-1]
        up(beta)  # the peer is back: everything goes on
        assert writer.ended(), writer.error
    if success:
        up(beta)
    settled(pair)
    wait_for(lambda: on_disk(beta).startswith(b"waits"), "the write on the peer")
    assert not frozen(alpha) and len(recorder.calls("fence-peer")) == 1


@pytest.mark.parametrize("handlers", ["", "split-brain true;"])
def test_stonith_without_a_handler_stays_frozen_until_told(engines: Engines, handlers: str) -> None:
    """The line says what is missing and how to go on; resume-io begins a new generation first."""
    pair = alpha, beta = engines(disk=STONITH, handlers=handlers)
    before = generation(alpha)
    primary_without_peer(pair)
    wait_for(lambda: frozen(alpha), "frozen")
    assert "no handler fence-peer" in said(alpha) and "replctl resume-io r0" in said(alpha)
    writer = Writer(alpha, b"told")
    assert not writer.done.wait(0.3)
    alpha.do("resume_io")
    assert writer.ended(), writer.error
    assert generation(alpha)[:-1] != before[:-1]
    up(beta)
    settled(pair)
    assert on_disk(beta).startswith(b"told")


def test_stonith_is_over_when_only_the_link_was_cut(engines: Engines, recorder: Recorder) -> None:
    """The peer comes back before the handler ends: I/O goes on, and the late verdict changes nothing."""
    pair = alpha, beta = engines(disk=STONITH, handlers=recorder.handlers("fence-peer", code=7, gate=True))
    alpha.do("primary")
    beta.do("disconnect", force=True)
    recorder.wait("fence-peer", host="alpha")
    writer = Writer(alpha, b"again")
    beta.do("connect")
    assert writer.ended(), writer.error
    settled(pair)
    recorder.open_gate()
    wait_for(lambda: "fence-peer-too-late" in alpha.log(), "the late verdict")
    assert view(alpha) == ("Established", "Primary", "UpToDate", "UpToDate")


@pytest.mark.parametrize("code", [4, 1])
def test_resource_only_goes_on_at_once(engines: Engines, recorder: Recorder, code: int) -> None:
    """The handler is called, nobody waits for it; a failure leaves the peer unknown."""
    pair = alpha, beta = engines(disk=ONLY, handlers=recorder.handlers("fence-peer", code=code, gate=True))
    before = generation(alpha)
    primary_without_peer(pair)
    recorder.wait("fence-peer", host="alpha")
    write(alpha, text="alone")
    assert generation(alpha)[:-1] != before[:-1] and not frozen(alpha)
    recorder.open_gate()
    wait_for(lambda: f"fence-peer exit {code}" in said(alpha), "the verdict")
    assert view(alpha).peer_disk == ("Outdated" if code == 4 else "DUnknown")
    up(beta)
    settled(pair)
    assert on_disk(beta).startswith(b"alone")


PROMOTIONS = [
    # exit   force  exit code  role         text
    (4, False, 0, "Primary", ""),
    (7, False, 0, "Primary", ""),
    (6, False, 17, "Secondary", "(-2) Need access to UpToDate data"),
    (1, False, 11, "Secondary", "(-7) Refusing to be Primary while peer is not outdated"),
    (1, True, 0, "Primary", ""),
]


@pytest.mark.parametrize(("code", "force", "exit_code", "role", "text"), PROMOTIONS)
def test_a_promotion_fences_first(
    engines: Engines, recorder: Recorder, code: int, force: bool, exit_code: int, role: str, text: str
) -> None:
    """Of an UpToDate Secondary whose peer is out of reach."""
    pair = alpha, beta = engines(disk=ONLY, handlers=recorder.handlers("fence-peer", code=code))
    alpha.do("primary")
    write(alpha, text="first")
    beta.do("disconnect", force=True)
    found = beta.ask("primary", **({"force": True} if force else {}))
    assert found["exit_code"] == exit_code and text in "".join(found["lines"]), found
    assert len([call for call in recorder.calls("fence-peer") if call["host"] == "beta"]) == 1
    assert view(beta).role == role
    if code == 6:
        assert view(beta).disk == "Outdated", "the peer is Primary: what is here is old"
    if code == 1 and force:
        assert "Forced into split brain situation!" in beta.log()
    leave(pair)


def test_two_that_want_the_peer_fenced_share_one_run(engines: Engines, recorder: Recorder) -> None:
    alpha, beta = engines(disk=ONLY, handlers=recorder.handlers("fence-peer", code=5, gate=True))
    alpha.kill()
    wait_view(beta, conn="Connecting")
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(beta.ask("primary")["exit_code"]))
    asking.start()
    recorder.wait("fence-peer", host="beta")
    assert beta.ask("primary")["exit_code"] == 11, "one promotion at a time"
    recorder.open_gate()
    asking.join(30)
    assert answers == [0] and len(recorder.calls("fence-peer")) == 1
    assert view(beta)[1:] == ("Primary", "UpToDate", "Outdated")


def test_a_restarted_node_is_only_consistent_and_fences_before_it_is_primary(
    engines: Engines, recorder: Recorder
) -> None:
    """Exit 5 (peer down) is not enough for a disk that may be old; 4 is."""
    alpha, beta = engines(disk=ONLY, handlers=recorder.handlers("fence-peer", code=5))
    for node in (alpha, beta):
        node.kill()
    up(beta)
    assert view(beta).disk == "Consistent"
    found = beta.ask("primary")
    assert found["exit_code"] == 17 and "(-2)" in found["lines"][0], found
    recorder.answer("fence-peer", 4)
    beta.do("primary")
    assert view(beta)[1:] == ("Primary", "UpToDate", "Outdated")


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_an_orderly_disconnect_outdates_the_one_that_is_not_in_use(
    engines: Engines, recorder: Recorder, who: str
) -> None:
    """Whoever of the two leaves, the Secondary knows that it is Outdated, and the Primary knows it: no fencing."""
    alpha, beta = engines(disk=ONLY, handlers=recorder.handlers("fence-peer", code=1))
    alpha.do("primary")
    (alpha if who == "alpha" else beta).do("disconnect")
    wait_view(beta, disk="Outdated")
    wait_view(alpha, role="Primary", disk="UpToDate", peer_disk="Outdated")
    write(alpha, text="alone")
    assert not recorder.calls("fence-peer")
    found = beta.ask("primary")
    assert found["exit_code"] == 17 and view(beta).role == "Secondary", found
    leave((alpha, beta))
    meet((alpha, beta))
    settled((alpha, beta))
    assert on_disk(beta).startswith(b"alone")


def test_unfence_peer_is_called_when_both_are_good_again(engines: Engines, recorder: Recorder) -> None:
    handlers = recorder.handlers("fence-peer", code=4) + recorder.handlers("unfence-peer")
    pair = alpha, beta = engines(disk=ONLY, handlers=handlers)
    primary_without_peer(pair)
    recorder.wait("fence-peer", host="alpha")
    write(alpha, text="alone")
    up(beta)
    settled(pair)
    call = recorder.wait("unfence-peer", host="alpha")
    assert "DRBD_VOLUME" not in call and "DRBD_LL_DISK" not in call
    assert os.path.exists(call["DRBD_CONF"])
