# SPDX-License-Identifier: GPL-2.0-or-later
"""Which handler is called when, with what, and what its end does: real engines, shell scripts as handlers."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.recorder import Recorder
from tests.e2e.splits import (
    BLOCK,
    door,
    leave,
    meet,
    on_disk,
    said,
    secondary,
    settled,
    split,
    up,
    view,
    wait_view,
    write,
)
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node

Pair = tuple[Node, Node]
Engines = Callable[..., Pair]
LEAST = "after-sb-0pri discard-least-changes;"
RESYNC = ("before-resync-source", "before-resync-target", "after-resync-target")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def whom(recorder: Recorder, name: str) -> list[str]:
    return sorted(call["host"] for call in recorder.calls(name))


def resync_from_alpha(pair: Pair) -> None:
    """alpha has written alone; the two look for each other again."""
    alpha, beta = pair
    beta.do("disconnect")
    alpha.do("primary", force=True)
    write(alpha, 3)
    secondary(alpha)
    if view(alpha).conn == "StandAlone":
        alpha.do("connect")
    beta.do("connect")


@pytest.mark.parametrize(
    ("net", "called"),
    [("", ["initial-split-brain", "split-brain"]), (LEAST, ["initial-split-brain"])],
    ids=["unresolved", "resolved"],
)
def test_split_brain(engines: Engines, recorder: Recorder, net: str, called: list[str]) -> None:
    """initial-split-brain on both in any case, split-brain on both if nobody solves it."""
    names = ("initial-split-brain", "split-brain")
    pair = engines(net=net, handlers=recorder.handlers(*names))
    split(pair, (3, 1), primaries=())
    meet(pair)
    for name in called:
        wait_for(lambda name=name: whom(recorder, name) == ["alpha", "beta"], name)
    if net:
        settled(pair)
    assert [name for name in names if recorder.calls(name)] == called


def test_pri_lost_after_sb(engines: Engines, recorder: Recorder) -> None:
    """On the loser that cannot give up its role, and nowhere else."""
    handlers = recorder.handlers("pri-lost-after-sb", "pri-lost", "split-brain")
    pair = engines(net=LEAST + "after-sb-1pri call-pri-lost-after-sb;", handlers=handlers)
    beta = pair[1]
    split(pair, (3, 1), primaries=[beta])
    handle = door(beta)
    meet(pair)
    wait_view(beta, conn="StandAlone", role="Primary")
    recorder.wait("pri-lost-after-sb")
    wait_for(lambda: "beta" in whom(recorder, "split-brain"), "split-brain")
    handle.shutdown()
    assert whom(recorder, "pri-lost-after-sb") == ["beta"] and not recorder.calls("pri-lost")


@pytest.mark.parametrize("rr_conflict", ["disconnect", "call-pri-lost", "violently"])
def test_pri_lost_and_rr_conflict(engines: Engines, recorder: Recorder, rr_conflict: str) -> None:
    """A Primary that should become the target of a resync."""
    net = LEAST + f"after-sb-1pri violently-as0p; rr-conflict {rr_conflict};"
    alpha, beta = pair = engines(net=net, handlers=recorder.handlers("pri-lost"))
    split(pair, (3, 1), primaries=[beta])
    meet(pair)
    if rr_conflict == "violently":
        settled(pair)
        assert on_disk(beta).startswith(b"alpha") and view(beta).role == "Primary"
        assert "rr-conflict-violently" in said(beta)
    else:
        wait_view(beta, conn="StandAlone", role="Primary", disk="UpToDate")
        line = said(beta).splitlines()[-1]
        assert f"rr-conflict-{rr_conflict}" in line and "replctl secondary r0; replctl connect r0" in line
        assert on_disk(beta).startswith(b"beta")
        secondary(beta)  # the way out that it names
        beta.do("connect")
        if view(alpha).conn == "StandAlone":
            alpha.do("connect")
        settled(pair)
        assert on_disk(beta).startswith(b"alpha")
    if rr_conflict == "call-pri-lost":
        recorder.wait("pri-lost")
    assert whom(recorder, "pri-lost") == (["beta"] if rr_conflict == "call-pri-lost" else [])


def test_the_handlers_of_a_resync(engines: Engines, recorder: Recorder) -> None:
    """before-resync-source on the source, the two of the target there, in order."""
    pair = engines(handlers=recorder.handlers(*RESYNC))
    resync_from_alpha(pair)
    settled(pair)
    recorder.wait("after-resync-target")
    assert [whom(recorder, name) for name in RESYNC] == [["alpha"], ["beta"], ["beta"]]
    wait_for(lambda: "handler after-resync-target ended" in pair[1].log(), "its end in the log")
    order = ["handler before-resync-target ended with exit code 0: before-resync-target says hello",
             "Began resync as SyncTarget", "Resync done", "handler after-resync-target ended with exit code 0"]
    places = [pair[1].log().index(words) for words in order]
    assert places == sorted(places)


def test_before_resync_target_that_fails_keeps_the_node_from_becoming_target(
    engines: Engines, recorder: Recorder
) -> None:
    """Nothing was written to it; it is Outdated, StandAlone, and no Primary. The handler mended, it catches up."""
    alpha, beta = pair = engines(handlers=recorder.handlers("before-resync-target", code=1, gate=True))
    resync_from_alpha(pair)
    recorder.wait("before-resync-target", host="beta")
    assert view(beta).conn == "WFSyncUUID" and on_disk(beta) == bytes(BLOCK), "the loop goes on while it runs"
    recorder.open_gate()
    wait_view(beta, conn="StandAlone", disk="Outdated")
    line = said(beta).splitlines()[-1]
    assert "before-resync-target ended with exit code 1" in line and line.endswith("replctl connect r0")
    assert on_disk(beta) == bytes(BLOCK) and beta.ask("primary")["exit_code"] == 17
    recorder.answer("before-resync-target", 0)
    beta.do("connect")
    if view(alpha).conn == "StandAlone":
        alpha.do("connect")
    settled(pair)
    assert on_disk(beta).startswith(b"alpha")


@pytest.mark.parametrize(("code", "goes_on"), [(0, True), (3, True), (1, False)])
def test_before_resync_source(engines: Engines, recorder: Recorder, code: int, goes_on: bool) -> None:
    """3 is ignored, as in DRBD; anything else keeps the node from being the source."""
    alpha, beta = pair = engines(handlers=recorder.handlers("before-resync-source", code=code))
    resync_from_alpha(pair)
    if goes_on:
        settled(pair)
        assert on_disk(beta).startswith(b"alpha")
    else:
        wait_view(alpha, conn="StandAlone", disk="UpToDate")
        assert said(alpha).splitlines()[-1].endswith("replctl connect r0") and on_disk(beta) == bytes(BLOCK)


def test_pri_on_incon_degr(engines: Engines, recorder: Recorder) -> None:
    """A diskless Primary loses its peer."""
    alpha, beta = engines(handlers=recorder.handlers("pri-on-incon-degr"))
    alpha.do("primary")
    alpha.do("detach")
    assert not recorder.calls("pri-on-incon-degr")
    beta.kill()
    assert recorder.wait("pri-on-incon-degr")["host"] == "alpha"


@pytest.mark.parametrize("policy", ["call-local-io-error", "detach", "pass_on"])
def test_local_io_error(engines: Engines, recorder: Recorder, policy: str) -> None:
    """A file that became shorter cannot be read: the handler is called if so told; the peer serves."""
    alpha, beta = pair = engines(disk=f"on-io-error {policy};", handlers=recorder.handlers("local-io-error"))
    alpha.do("primary")
    write(alpha, 8)
    os.truncate(alpha.disk, BLOCK)
    handle = door(alpha)
    assert handle.pread(BLOCK, 4 * BLOCK).startswith(b"alpha")
    handle.shutdown()
    wait_view(alpha, disk="Inconsistent" if policy == "pass_on" else "Diskless")
    if policy == "call-local-io-error":
        assert recorder.wait("local-io-error")["host"] == "alpha"
    else:
        assert not recorder.calls("local-io-error")
    assert view(beta).disk == "UpToDate"
    leave(pair)


# ---- the environment


@pytest.mark.parametrize("name", ["split-brain", "fence-peer", "before-resync-target", "pri-lost-after-sb"])
def test_the_environment_is_drbdadms(engines: Engines, recorder: Recorder, name: str, tmp_path: Path) -> None:
    """drbdadm itself calls the same script with the same configuration, as the kernel would have it do."""
    net = LEAST + "after-sb-1pri call-pri-lost-after-sb;" if name == "pri-lost-after-sb" else ""
    disk = "fencing resource-only;" if name == "fence-peer" else ""
    pair = engines(net=net, disk=disk, handlers=recorder.handlers(name))
    beta = pair[1]
    if name == "before-resync-target":
        resync_from_alpha(pair)
    elif name == "fence-peer":
        beta.do("disconnect", force=True)
        beta.ask("primary")
    else:
        split(pair, (3, 1), primaries=[beta] if net else [])
        handle = door(beta) if net else None
        meet(pair)
        if handle is not None:
            wait_view(beta, conn="StandAlone")
            handle.shutdown()
    ours = recorder.wait(name, host="beta")
    if name == "split-brain":
        recorder.wait(name, host="alpha")  # both call it; not in the middle of what is counted below
    plain = tmp_path / "plain.conf"
    plain.write_text(re.sub(r"replblock \{.*?\}", "", beta.config.read_text()))
    known = len(recorder.calls(name))
    kernel = {"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin", "__DRBD_NODE__": "beta",
              "DRBD_PEER_AF": "ipv4", "DRBD_PEER_ADDRESS": "127.0.0.1"}
    whole = name == "fence-peer"
    command = ["/lib/drbd/drbdadm-84", "-c", str(plain), name, "r0" if whole else "minor-0"]
    subprocess.run(command, env=kernel, check=True, capture_output=True)
    theirs = recorder.calls(name)[known:][0]

    def of_drbd(call: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in call.items() if key.startswith("DRBD_") and key != "DRBD_CONF"}

    assert of_drbd(ours) == of_drbd(theirs) and len(of_drbd(theirs)) >= 6
    assert (ours["args"], ours["DRBD_CONF"]) == (theirs["args"], str(beta.config))


def test_a_handler_can_ask_the_node_it_runs_on(engines: Engines, tmp_path: Path) -> None:
    """replctl in a handler reaches this engine; and the engine answers while its handler runs."""
    answer, script = tmp_path / "answer", tmp_path / "ask.sh"
    replctl = Path(__file__).resolve().parents[2] / ".venv/bin/replctl"
    script.write_text(f"#!/bin/sh\n{replctl} -c $DRBD_CONF dstate $DRBD_RESOURCE > {answer}.part 2>&1\n"
                      f"mv {answer}.part {answer}.$REPLBLOCK_HOST\n".replace(".part", ".$REPLBLOCK_HOST.part"))
    script.chmod(0o755)
    pair = engines(handlers=f'split-brain "{script}";')
    split(pair, (3, 1), primaries=())
    meet(pair)
    for node in pair:
        path = tmp_path / f"answer.{node.host}"
        wait_for(path.exists, "the handler's answer")
        assert path.read_text() == "UpToDate/DUnknown\n"


# ---- the scripts of drbd-utils


def test_the_stock_notification_script(engines: Engines, tmp_path: Path) -> None:
    """drbd-utils' notify-split-brain.sh, with a mail program that writes to a file."""
    bin_dir, mailed = tmp_path / "bin", tmp_path / "mailed"
    bin_dir.mkdir()
    (bin_dir / "mail").write_text(f'#!/bin/sh\n{{ echo "$*"; cat; }} > {mailed}.$$\nmv {mailed}.$$ {mailed}\n')
    (bin_dir / "mail").chmod(0o755)
    command = f"PATH={bin_dir}:$PATH /usr/lib/drbd/notify-split-brain.sh admin"
    pair = engines(handlers=f'split-brain "{command}";')
    split(pair, (1, 1), primaries=())
    meet(pair)
    wait_for(mailed.exists, "the mail")
    text = mailed.read_text()
    assert text.startswith("-s DRBD split brain on resource r0/0 (drbd0) admin"), text
    assert "between" in text and ("and beta." in text or "and alpha." in text)


def test_the_stock_script_that_outdates_by_ssh(engines: Engines, tmp_path: Path) -> None:
    """outdate-peer.sh with a fake ssh that runs the command it is given on the other node, and its exit codes."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    host = os.uname().nodename
    script = f"/usr/lib/drbd/outdate-peer.sh on {host} 127.0.0.1 on other 127.0.0.2"
    command = f"PATH={bin_dir}:$PATH {script}"
    alpha, beta = pair = engines(disk="fencing resource-only;", handlers=f'fence-peer "{command}";')
    replctl = Path(__file__).resolve().parents[2] / ".venv/bin/replctl"
    (bin_dir / "ssh").write_text(
        "#!/bin/sh\nshift 2\n"  # the address, drbdadm
        f"REPLBLOCK_HOST=beta REPLBLOCK_RUN={beta.run} exec {replctl} -c {beta.config} \"$@\"\n"
    )
    (bin_dir / "ssh").chmod(0o755)
    alpha.do("primary")
    beta.do("disconnect", force=True)
    wait_view(alpha, peer_disk="Outdated")
    assert "fence-peer exit 4" in said(alpha) and view(beta).disk == "Outdated"
    meet([beta])
    settled(pair)


def test_a_kill_and_a_restart_leave_no_handler_uncalled(engines: Engines, recorder: Recorder) -> None:
    """The target dies in the middle, comes back and is target again: both calls, both times."""
    pair = engines(handlers=recorder.handlers("before-resync-target", gate=True))
    beta = pair[1]
    resync_from_alpha(pair)
    recorder.wait("before-resync-target", host="beta")
    beta.kill()
    recorder.open_gate()
    up(beta)
    settled(pair)
    assert len(recorder.calls("before-resync-target")) == 2 and on_disk(beta).startswith(b"alpha")
