# SPDX-License-Identifier: GPL-2.0-or-later
"""`tls yes`: an encrypted link between nodes that prove who they are, and a clear word where it does not come about."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replblock.engine.tls import Tls, TlsProblem, names_of
from tests.engine.authority import Authority
from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes

Port = Callable[[], int]
PATTERN = b"nobody else is to read this. "


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.node("alpha")
    made.node("beta")
    return made


def use(node: Node, line: str) -> None:
    """This node has a configuration of its own, with this in section replblock."""
    own = node.config.with_name(f"{node.host}.conf")
    own.write_text(re.sub(r"tls [^}]*", f"{line} ", node.config.read_text()))
    node.config = own


def each_its_own(pair: tuple[Node, Node], directory: Path) -> None:
    for node in pair:
        use(node, f"tls yes; tls-certificates {directory}/{node.host};")


def begin(pair: tuple[Node, Node]) -> None:
    for node in pair:
        node.start()
        node.do("attach")
        node.do("connect")


def connected(pair: tuple[Node, Node]) -> None:
    for node in pair:
        node.do("wait_connect")
        assert node.status()["connections"][0]["tls"] is True


def why(node: Node) -> str:
    return " ".join(one["text"] for one in node.status()["replblock-why"])


def synced(pair: tuple[Node, Node]) -> None:
    """Both say so: before a resync begins there is none to wait for."""
    for node in pair:
        wait_for(lambda node=node: "ds:UpToDate/UpToDate" in (node.run / "proc").read_text(), "the resync")


def first_bytes(node: Node, length: int) -> bytes:
    with node.disk.open("rb") as file:
        return file.read(length)


def qemu_io(node: Node, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "raw", *words, node.uri], check=True, capture_output=True)


def test_data_goes_over_and_nobody_can_read_it(
    tmp_path: Path, port: Port, authority: Authority, recorded: Any
) -> None:
    """A first synchronization and writes; not a word of either stands in what went over the wire."""
    with nodes(tmp_path, port, replblock="tls no;", disk="resync-rate 1G; c-plan-ahead 0;", size_bytes=8 << 20) as pair:
        each_its_own(pair, authority.directory)
        alpha, beta = pair
        with alpha.disk.open("r+b") as file:
            file.write(PATTERN * 2000)
        wire = recorded(pair)
        begin(pair)
        connected(pair)
        alpha.do("primary", force=True)
        synced(pair)
        qemu_io(alpha, "write -P 0x5a 1M 1M", "flush")
        assert first_bytes(beta, 2 << 20)[1 << 20 :] == b"\x5a" * (1 << 20)
        assert first_bytes(alpha, 6 << 20) == first_bytes(beta, 6 << 20)
        for node in pair:
            node.do("down")
    seen = wire()
    assert len(seen) > 1 << 20
    assert PATTERN not in seen and b"\x5a" * 64 not in seen
    assert b"\x83\x74\x02\x67" not in seen and b"\x86\x20\xec\x20" not in seen, "no header of DRBD's either"


@pytest.fixture
def recorded(tmp_path: Path) -> Any:
    """Relays between the nodes' ports; each node dials the relay, which remembers what passed."""
    import threading

    chunks: list[bytes] = []
    sockets: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                chunks.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(listener: socket.socket, to: int) -> None:
        while True:
            try:
                came, _ = listener.accept()
                went = socket.create_connection(("127.0.0.1", to))
            except OSError:
                return
            sockets.extend((came, went))
            for one, other in ((came, went), (went, came)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()

    def between(pair: tuple[Node, Node]) -> Callable[[], bytes]:
        for node in pair:
            text = node.config.read_text()
            peer = "beta" if node.host == "alpha" else "alpha"
            listener = socket.create_server(("127.0.0.1", 0))
            sockets.append(listener)
            there = re.search(rf"on {peer}\b.*?address 127\.0\.0\.1:(\d+)", text)
            assert there is not None
            span = there.span(1)
            threading.Thread(target=serve, args=(listener, int(there[1])), daemon=True).start()
            node.config.write_text(text[: span[0]] + str(listener.getsockname()[1]) + text[span[1] :])
        return lambda: b"".join(chunks)

    yield between
    for sock in sockets:
        sock.close()


def test_openssl_as_the_peer(tmp_path: Path, port: Port, authority: Authority) -> None:
    """TLS 1.3, this node's certificate; nobody without one of the peer's own gets any further."""
    with nodes(tmp_path, port, replblock="tls no;") as pair:
        each_its_own(pair, authority.directory)
        alpha = pair[0]
        alpha.start()
        alpha.do("attach")
        alpha.do("connect")
        where = re.search(r"on alpha\b.*?address (127\.0\.0\.1:\d+)", alpha.config.read_text())
        assert where is not None

        def client(*words: str | Path) -> str:
            command = ["openssl", "s_client", "-connect", where[1], "-CAfile", authority.certificate, *words]
            done = subprocess.run([*map(str, command)], input=b"", capture_output=True, timeout=20)
            return (done.stdout + done.stderr).decode(errors="replace")

        beta = authority.directory / "beta"
        said = client("-cert", beta / "cert.pem", "-key", beta / "key.pem", "-verify_hostname", "alpha")
        assert "TLSv1.3" in said and "Verify return code: 0 (ok)" in said
        client()
        wait_for(lambda: "tls-failed" in alpha.log(), "a word about the missing certificate")
        assert "peer did not return a certificate" in alpha.log()
        client("-tls1_2", "-cert", beta / "cert.pem", "-key", beta / "key.pem")
        wait_for(lambda: "unsupported protocol" in alpha.log(), "a word about TLS 1.2")
        own = authority.directory / "alpha"
        client("-cert", own / "cert.pem", "-key", own / "key.pem")
        wait_for(lambda: "certificate is for alpha, not for beta or 127.0.0.1" in alpha.log(), "a word about the name")


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_only_one_of_them(tmp_path: Path, port: Port, authority: Authority, who: str) -> None:
    """Neither says a word in the clear; both say what is wrong; it heals when both have it."""
    with nodes(tmp_path, port, net="connect-int 1;", replblock="tls no;") as pair:
        each_its_own(pair, authority.directory)
        other = next(node for node in pair if node.host != who)
        encrypted = other.config.read_text()
        other.config.write_text(re.sub(r"tls yes[^}]*", "", encrypted))
        begin(pair)
        one = next(node for node in pair if node.host == who)
        wait_for(lambda: "must be the same on both nodes" in why(one), lambda: one.log())
        wait_for(lambda: "TLS" in other.log(), lambda: other.log())
        assert one.status()["connections"][0]["tls"] is False
        other.config.write_text(encrypted)
        other.do("adjust")
        connected(pair)


def test_a_strangers_certificate(tmp_path: Path, port: Port, authority: Authority) -> None:
    """Of another authority, or of this one for another node: refused by both, with the reason."""
    stranger = Authority(tmp_path, "stranger").node("beta")
    gamma = authority.node("gamma")
    for place, words in ((stranger, "not accepted"), (gamma, "is for gamma, not for beta or 127.0.0.1")):
        directory = tmp_path / place.name / place.parent.name
        directory.mkdir(parents=True)
        with nodes(directory, port, net="connect-int 1;", replblock="tls no;") as pair:
            alpha, beta = pair
            use(alpha, f"tls yes; tls-certificates {authority.directory}/alpha;")
            use(beta, f"tls yes; tls-certificates {place};")
            begin(pair)
            wait_for(lambda alpha=alpha, words=words: words in why(alpha), alpha.log)
            assert all(not node.status()["connections"][0]["tls"] for node in pair)


def test_writes_survive_deaths_and_cuts(tmp_path: Path, port: Port, authority: Authority) -> None:
    """fio verifies what it wrote while the Secondary dies and comes back, twice; then both disks are equal."""
    with nodes(tmp_path, port, net="connect-int 1;", replblock="tls no;") as pair:
        each_its_own(pair, authority.directory)
        alpha, beta = pair
        begin(pair)
        connected(pair)
        alpha.do("primary", force=True)
        synced(pair)
        command = ["fio", "--name=w", "--ioengine=nbd", f"--uri={alpha.uri}", "--rw=randwrite", "--bsrange=4k-128k",
                   "--iodepth=16", "--size=16m", "--loops=6", "--rate=16m", "--verify=crc32c", "--do_verify=1",
                   "--fsync=16", "--output=/dev/null"]  # fmt: skip
        with subprocess.Popen(command) as fio:
            for _ in range(2):
                written = alpha.status()["devices"][0]["written"]
                wait_for(lambda w=written: alpha.status()["devices"][0]["written"] > w + 4096, "writes")
                beta.kill()
                beta.start()
                beta.do("attach")
                beta.do("connect")
                connected(pair)
            assert fio.wait() == 0
        synced(pair)
        for node in pair:
            node.do("down")
        assert first_bytes(alpha, 31 << 20) == first_bytes(beta, 31 << 20)


def test_adjust_encrypts_what_stands(tmp_path: Path, port: Port, authority: Authority) -> None:
    with nodes(tmp_path, port, net="connect-int 1;", replblock="tls no;") as pair:
        begin(pair)
        for node in pair:
            node.do("wait_connect")
            assert node.status()["connections"][0]["tls"] is False
        each_its_own(pair, authority.directory)
        for node in pair:
            node.do("adjust", config=str(node.config))
        connected(pair)


@pytest.mark.parametrize(("line", "words"), [
    ("tls yes;", "needs tls-certificates, a directory with ca-cert.pem, cert.pem and key.pem"),
    ("tls yes; tls-certificates /nowhere;", "/nowhere/ca-cert.pem: No such file or directory"),
    ("tls yes; tls-psk /keys;", "'tls-psk /keys' is not supported yet; use tls-certificates"),
])  # fmt: skip
def test_what_is_missing_is_named(tmp_path: Path, port: Port, line: str, words: str) -> None:
    """With file and line, before anything runs."""
    with nodes(tmp_path, port, replblock=line) as (alpha, _):
        with pytest.raises(Exception, match=r"drbd\.conf:") as caught:
            alpha.start()
        assert words in str(caught.value)


def test_a_key_of_another_certificate(authority: Authority, tmp_path: Path) -> None:
    mixed = authority.node("mixed")
    (mixed / "key.pem").write_bytes((authority.directory / "alpha" / "key.pem").read_bytes())
    with pytest.raises(TlsProblem, match=r"key\.pem: not usable: KEY_VALUES_MISMATCH"):
        Tls(mixed, ("alpha",)).context(server=True)
    (mixed / "cert.pem").write_text("nothing")
    with pytest.raises(TlsProblem, match="not usable"):
        Tls(mixed, ("alpha",)).context(server=False)


@pytest.mark.parametrize(("certificate", "names"), [
    ({"subjectAltName": (("DNS", "Beta.Example."), ("IP Address", "10.0.0.2"))}, ["Beta.Example.", "10.0.0.2"]),
    ({"subject": ((("countryName", "BR"),), (("commonName", "beta"),))}, ["beta"]),
    ({}, []),
])  # fmt: skip
def test_names(certificate: dict[str, Any], names: list[str]) -> None:
    assert names_of(certificate) == names
    tls = Tls(Path(), ("beta.example", "10.0.0.2"))
    if "10.0.0.2" in names:
        tls.expect_peer(certificate)
    else:
        with pytest.raises(TlsProblem, match=r"not for beta\.example or 10\.0\.0\.2"):
            tls.expect_peer(certificate)
