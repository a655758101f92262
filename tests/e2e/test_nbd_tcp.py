# SPDX-License-Identifier: GPL-2.0-or-later
"""`door direct` by TCP: what NBD's own programs find there, who is let in and when, and ports that cannot be had."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.e2e.namespaces import Space, two_spaces
from tests.e2e.pair import MIB, Node, Pair
from tests.e2e.test_volumes import Two
from tests.e2e.waiting import wait_until

DISK_BYTES = 32 * MIB
PORT = 10809


def uri(node: Node, number: int = 0) -> str:
    return f"nbd://{node.address}:{PORT + number}/{number}"


def listen_on(node: Node, text: str) -> None:
    """In the node's own host section: so one file would do for both."""
    before = re.compile(rf"on {node.name} {{ (replblock {{[^}}]*}} )?")
    mine = f"on {node.name} {{ replblock {{ nbd-listen {text}; }} "
    node.config.write_text(before.sub(mine, node.config.read_text()))


@pytest.fixture
def both(pair: Pair) -> Pair:
    """Both configured, with disks."""
    for node in pair.nodes:
        node.door = "direct"
    pair.configure()
    for node in pair.nodes:
        listen_on(node, f"{node.address}:{PORT}")
    pair.make_disks(DISK_BYTES)
    return pair


@pytest.fixture
def primary(both: Pair) -> Pair:
    """`a` is Primary, both UpToDate."""
    both.clean()
    both.a.do("primary", "r0")
    return both


def tool(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


def connect(where: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(where)
    return handle


def test_what_programs_find_there(primary: Pair, tmp_path: Path) -> None:
    """nbdinfo, nbdcopy with several connections, qemu-img beside the Unix socket; both disks as witnesses."""
    a = primary.a
    assert a.do("sh-nbd", "r0").split() == [a.uri, uri(a)]
    assert f"nbd:{uri(a)}" in a.do("status", "--verbose", "r0").split()
    assert json.loads(a.do("status", "--json", "r0"))[0]["devices"][0]["replblock-nbd"] == uri(a)
    size = a.device["size"] * 1024
    (found,) = json.loads(tool("nbdinfo", "--no-content", "--json", uri(a)))["exports"]
    assert (found["export-size"], found["can_multi_conn"], found["is_read_only"]) == (size, True, False)
    assert json.loads(tool("qemu-img", "info", "--output=json", uri(a)))["virtual-size"] == size
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        file.write(os.urandom(5 * MIB))
        file.truncate(size)
    tool("nbdcopy", "--flush", "--connections=4", str(source), uri(a))
    tool("nbdcopy", "--connections=4", uri(a), str(copy))
    assert source.read_bytes() == copy.read_bytes()
    assert "identical" in tool("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(a), a.uri)
    primary.assert_same_data()
    assert b"".join(primary.b.data()) == source.read_bytes()
    assert "nbd-for-everybody" not in a.log()


@pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")
def test_fio_verifies_what_it_wrote(primary: Pair, tmp_path: Path) -> None:
    command = [
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={uri(primary.a)}", "--rw=randwrite", "--bsrange=4k-128k",
        "--blockalign=4k", "--iodepth=16", "--size=16m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        "--fsync=32",
    ]  # fmt: skip
    tool(*command, cwd=tmp_path)
    primary.assert_same_data()


def test_roles(primary: Pair) -> None:
    """A Secondary says why it refuses; a Primary is not demoted under a client; after that the ways change over."""
    a, b = primary.nodes
    said = subprocess.run(["qemu-img", "info", uri(b)], capture_output=True, text=True, timeout=60)
    assert said.returncode and "this node is not primary" in said.stderr
    assert "no door is open" in b.refused("sh-nbd", "r0", code=20)
    handle = connect(uri(a))
    for verb in ("secondary", "down"):
        assert "1 NBD client connected" in a.refused(verb, "r0", code=11)
        handle.pwrite(verb.encode().ljust(512), 0)
    assert "Primary Connected" in a.state()
    handle.shutdown()
    primary.swap(a)
    with pytest.raises(nbd.Error):
        connect(uri(a))
    handle = connect(uri(b))
    assert handle.pread(512, 0) == b"down".ljust(512)
    handle.shutdown()
    b.do("down", "r0")
    with pytest.raises(nbd.Error, match="refused"):
        connect(uri(b))


def test_a_port_in_use_does_not_stop_the_rest(both: Pair) -> None:
    """Said once, in log and status; the Unix socket serves; when the port is free it is taken."""
    a = both.a
    with socket.create_server((a.address, PORT)):
        both.clean()
        a.do("primary", "r0")
        line = a.wait_log("nbd-listen-failed")
        assert f"{a.address}:{PORT}: another program uses this port" in line
        assert "another program uses this port" in a.do("status", "--verbose", "r0")
        assert a.do("sh-nbd", "r0").split() == [a.uri]
        connect(a.uri).shutdown()
    a.wait_log("nbd-listening-again")
    connect(uri(a)).shutdown()
    assert a.log().count("nbd-listen-failed") == 1 and "nbd-listen-failed" not in a.why()
    assert a.do("sh-nbd", "r0").split() == [a.uri, uri(a)]


def test_after_a_kill_the_port_is_there_at_once(primary: Pair) -> None:
    """Connections of the dead engine linger in the system and are not in the way."""
    a = primary.a
    handles = [connect(uri(a)) for _ in range(3)]
    handles[0].pwrite(b"before".ljust(512), 0)
    a.kill()
    with pytest.raises(nbd.Error):
        handles[0].pread(512, 0)
    handles.clear()
    lingering = ("ss", "-Htan", "state", "time-wait", "src", f"{a.address}:{PORT}")
    wait_until(lambda: tool(*lingering), "connections in TIME_WAIT")
    a.do("up", "r0")
    a.do("primary", "r0")
    handle = connect(uri(a))
    assert handle.pread(512, 0) == b"before".ljust(512)
    handle.shutdown()
    assert "nbd-listen-failed" not in a.log()


def test_adjust_moves_the_port(primary: Pair) -> None:
    a = primary.a
    handle = connect(uri(a))
    assert not a.ask("adjust", config=str(a.config), dry_run=True)["data"]["changed"]
    listen_on(a, f"{a.address}:{PORT + 5}")
    assert a.ask("adjust", config=str(a.config), dry_run=True)["data"]["what"] == ["nbd-listen"]
    a.do("adjust", "r0")
    moved = f"nbd://{a.address}:{PORT + 5}/0"
    assert a.do("sh-nbd", "r0").split() == [a.uri, moved]
    with pytest.raises(nbd.Error, match="refused"):
        connect(uri(a))
    other = connect(moved)
    handle.pwrite(b"still here".ljust(512), 0)
    assert other.pread(512, 0) == b"still here".ljust(512)
    listen_on(a, "none")
    a.do("adjust", "r0")
    assert a.do("sh-nbd", "r0").split() == [a.uri]
    with pytest.raises(nbd.Error, match="refused"):
        connect(moved)
    for one in (handle, other):
        one.pread(512, 0)
        one.shutdown()
    assert "Established" in a.state()


def test_a_restart_is_not_made_under_a_client(primary: Pair) -> None:
    """Without a device in the kernel nothing would keep what the client waits for. Without him it is quick."""
    a = primary.a
    handle = connect(uri(a))
    assert "1 NBD client connected" in a.refused("restart", "r0", code=11)
    handle.pwrite(b"restart".ljust(512), 0)
    handle.shutdown()
    wait_until(lambda: not a.device["open"], "the client gone")
    a.do("restart", "r0")
    a.wait_state("Connected Established UpToDate/UpToDate")
    if "Primary" not in a.state():
        a.do("primary", "r0")
    handle = connect(uri(a))
    assert handle.pread(512, 0) == b"restart".ljust(512)
    handle.shutdown()


@pytest.mark.root
def test_a_client_that_the_system_gave_up_is_none_any_more(primary: Pair) -> None:
    """What keep-alives do after a while, `ss -K` does at once: his connection ends, and the demotion is free."""
    a = primary.a
    handle = connect(uri(a))
    a.refused("secondary", "r0", code=11)
    tool("ss", "-K", "state", "established", "src", f"{a.address}:{PORT}")
    wait_until(lambda: not a.device["open"], "the client gone")
    a.do("secondary", "r0")
    with pytest.raises(nbd.Error):
        handle.pread(512, 0)


def test_nbdkit_has_no_such_port(both: Pair) -> None:
    """Refused before anything starts, with file and line."""
    a = both.a
    text = a.config.read_text().replace("door direct", "door nbdkit")
    a.config.write_text(text)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "nbd-listen" in line)
    for verb in ("dump", "up"):
        said = a.refused(verb, "r0", code=10)
        assert f"{a.config}:{line}: resource r0: nbd-listen needs 'door direct', found nbdkit" in said
    assert not a.alive()


def test_two_volumes_have_a_port_each(pair: Pair) -> None:
    for node in pair.nodes:
        node.door = f"direct; nbd-listen {node.address}:{PORT}"     # a file for each node here
    two = Two(pair)
    two.begin()
    try:
        assert two.a.do("sh-nbd", "r0").split()[1::2] == [uri(two.a, 0), uri(two.a, 1)]
        for number in (0, 1):
            handle = connect(uri(two.a, number))
            handle.pwrite(bytes([number + 1]) * 4096, 0)
            handle.shutdown()
            with pytest.raises(nbd.Error, match="no export named"):
                connect(f"nbd://{two.a.address}:{PORT + number}/{1 - number}")
        two.assert_same_data()
        assert [next(volume.b.data())[:2] for volume in two.volumes] == [b"\1\1", b"\2\2"]
        two.a.do("secondary", "r0")
    finally:
        for volume in two.volumes:
            for node in volume.nodes:
                node._note_pid()
            volume.clean_up()


# ---- to other machines


@pytest.fixture
def apart(both: Pair) -> Iterator[tuple[Pair, Space, Space]]:
    """Two machines; both nodes on the first one, so that the second one is a client alone."""
    with two_spaces(both.directory / "spaces") as spaces:
        for node in both.nodes:
            node.enter = spaces[0].enter
        yield both, *spaces
        both.clean_up()


@pytest.mark.netns
def test_from_another_machine(apart: tuple[Pair, Space, Space]) -> None:
    """Told at `up` and in the log; an address that comes later is taken when it comes."""
    pair, here, there = apart
    a = pair.a
    listen_on(a, f"10.0.0.7:{PORT}")
    said = a.try_("up", "r0")
    assert said.code == 0 and f"NBD on 10.0.0.7:{PORT} has no authentication" in said.err
    a.wait_log("nbd-for-everybody")
    assert "no interface of this node has this address" in a.wait_log("nbd-listen-failed")
    pair.b.do("up", "r0")
    a.wait_state("Connected")
    a.do("primary", "--force", "r0")
    assert a.do("sh-nbd", "r0").split() == [a.uri]
    here.run("ip", "address", "add", "10.0.0.7/24", "dev", "eth0")
    a.wait_log("nbd-listening-again")
    (pair.directory / "there").write_bytes(os.urandom(3 * MIB))
    there.run("nbdcopy", "--flush", str(pair.directory / "there"), f"nbd://10.0.0.7:{PORT}/0")
    there.run("nbdinfo", "--no-content", f"nbd://10.0.0.7:{PORT}/0")
    pair.assert_same_data()
    assert b"".join(pair.b.data())[:3 * MIB] == (pair.directory / "there").read_bytes()
