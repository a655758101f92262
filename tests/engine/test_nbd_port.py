# SPDX-License-Identifier: GPL-2.0-or-later
"""The direct door's TCP port: the same door for whoever cannot come to the Unix socket."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nbd
import pytest

from replblock.engine.loop import Loop
from replblock.engine.network import Addresses
from tests.engine.clients import MemoryCore, Served
from tests.engine.conftest import Lines, wait_for

MIB = 1 << 20
LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.fixture
def served(start_loop: Callable[..., Loop], tmp_path: Path) -> Iterator[Served]:
    core = MemoryCore()
    served = Served(start_loop(core), core, tmp_path / "r0.direct")
    yield served
    served.end()


def listen(served: Served, where: Addresses | None) -> str:
    """The URI there."""
    served.in_loop(lambda: served.door.port.use(where))
    return served.door.port.uri


def connect(uri: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def tool(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize(("family", "host"), LOOPBACKS)
def test_the_same_device_by_both_ways(
    served: Served, port: Callable[[], int], log: Lines, tmp_path: Path, family: socket.AddressFamily, host: str
) -> None:
    uri = listen(served, Addresses(family, host, port()))
    for way in (uri, served.uri()):
        (export,) = json.loads(tool("nbdinfo", "--no-content", "--json", way))["exports"]
        assert (export["export-name"], export["export-size"]) == ("0", 8 * MIB)
    (tmp_path / "there").write_bytes(b"by TCP  " * MIB)
    tool("nbdcopy", "--connections=4", str(tmp_path / "there"), uri)
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, served.uri())
    assert "identical" in tool("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, str(tmp_path / "there"))
    wait_for(lambda: served.door.clients == 0)
    assert not log.lines


def test_replies_do_not_wait_for_more_and_a_dead_machine_is_noticed(served: Served, port: Callable[[], int]) -> None:
    """The system itself tells: a keep-alive timer runs on the idle connection."""
    number = port()
    handle = connect(listen(served, Addresses(socket.AF_INET, "127.0.0.1", number)))
    (session,) = wait_for(lambda: list(served.door._sessions.values()))
    assert session._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    look = ("ss", "-Htno", "state", "established", f"( sport = :{number} )")
    wait_for(lambda: "timer:(keepalive," in tool(*look))  # at first what was said is not acknowledged yet
    handle.shutdown()


def test_a_port_in_use_is_named_once_and_tried_again(served: Served, port: Callable[[], int], log: Lines) -> None:
    number = port()
    squatter = socket.create_server(("127.0.0.1", number))
    assert listen(served, Addresses(socket.AF_INET, "127.0.0.1", number)) == ""
    (said,) = log.with_rule("nbd-listen-failed")
    assert f"127.0.0.1:{number}" in said and "another program uses this port" in said and "Unix socket" in said
    assert served.door.port.notes == {"nbd-listen-failed": said}
    served.connect().shutdown()
    squatter.close()
    wait_for(lambda: log.with_rule("nbd-listening-again"))
    connect(f"nbd://127.0.0.1:{number}/0").shutdown()
    assert len(log.lines) == 2 and not served.door.port.notes


def test_nobody_waits_for_a_port_that_is_not_wanted_any_more(
    served: Served, port: Callable[[], int], log: Lines
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        listen(served, Addresses(socket.AF_INET, "127.0.0.1", squatter.getsockname()[1]))
        assert len(log.with_rule("nbd-listen-failed")) == 1
        uri = listen(served, Addresses(socket.AF_INET, "127.0.0.1", port()))
        assert not served.door.port.notes
    connect(uri).shutdown()
    assert len(log.lines) == 1


def test_who_is_there_stays_when_the_port_goes(served: Served, port: Callable[[], int]) -> None:
    old, new = (Addresses(socket.AF_INET, "127.0.0.1", port()) for _ in range(2))
    first, uri = connect(listen(served, old)), served.door.port.uri
    second = connect(listen(served, new))
    assert listen(served, None) == ""
    for gone in (uri, f"nbd://{new.place}/0"):
        with pytest.raises(nbd.Error, match="refused"):
            connect(gone)
    first.pwrite(b"x" * 512, 0)
    assert second.pread(512, 0) == b"x" * 512 and served.door.clients == 2
    for handle in (first, second):
        handle.shutdown()


def test_the_other_family_is_another_matter(served: Served, port: Callable[[], int], log: Lines) -> None:
    """[::] is IPv6 alone; and both are open to anybody, which the log says."""
    number = port()
    uri = listen(served, Addresses(socket.AF_INET6, "::", number))
    assert uri == f"nbd://[::]:{number}/0"
    with pytest.raises(nbd.Error, match="refused"):
        connect(f"nbd://127.0.0.1:{number}/0")
    connect(f"nbd://[::1]:{number}/0").shutdown()
    (said,) = log.with_rule("nbd-for-everybody")
    assert f"[::]:{number} has no authentication" in said
    connect(listen(served, Addresses(socket.AF_INET, "0.0.0.0", number))).shutdown()
    assert len(log.with_rule("nbd-for-everybody")) == 2


@pytest.mark.parametrize(("family", "host", "words"), [
    (socket.AF_INET, "192.0.2.1", "no interface of this node has this address"),
    (socket.AF_INET6, "fe80::1%nowhere", "cannot listen on [fe80::1%25nowhere]:"),
])  # fmt: skip
def test_an_address_that_is_not_here_yet(
    served: Served, port: Callable[[], int], log: Lines, family: socket.AddressFamily, host: str, words: str
) -> None:
    assert listen(served, Addresses(family, host, port())) == ""
    assert words in log.with_rule("nbd-listen-failed")[0]
    served.connect().shutdown()


def test_a_refused_client_hears_why(served: Served, port: Callable[[], int]) -> None:
    uri = listen(served, Addresses(socket.AF_INET, "127.0.0.1", port()))
    served.core.doors_open = False
    for words in ("this node is not primary", "secondary is under way"):
        said = subprocess.run(["qemu-img", "info", uri], capture_output=True, text=True, timeout=60)
        assert said.returncode and words in said.stderr
        served.core.doors_open = True
        assert served.in_loop(lambda: served.door.shut("secondary is under way"))
