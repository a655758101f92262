# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is compared: one interface, and the peers that Debian ships.

Every replicating peer keeps a local file and a second one behind NBD over TCP on the loopback interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from bench.files import flush_file, make_file
from bench.processes import BenchError, Server, cpu_seconds, free_port, tcp_accepts, unix_accepts, wait_until
from bench.qmp import Qmp


class Contestant(ABC):
    """Something that serves a block device over NBD. Started once, measured many times, stopped once."""

    label: str
    legs = 2                # copies of each block; the unreplicated ceiling has 1
    yardstick = False       # a peer that our ratios are taken against

    def __init__(self, directory: Path, size_bytes: int, *, sparse: bool = False) -> None:
        self.directory = directory
        self.size_bytes = size_bytes
        self.sparse = sparse
        self.servers: list[Server] = []

    def files(self) -> list[Path]:
        return [self.directory / f"leg{n}.img" for n in range(self.legs)]

    def make_files(self) -> None:
        for path in self.files():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_file(path, self.size_bytes, sparse=self.sparse)

    @abstractmethod
    def start(self) -> str:
        """Make files, start servers, wait until both legs are in step; the NBD URI of the result."""

    def check(self) -> None:
        """Raises BenchError if the contestant no longer replicates as it should."""
        for server in self.servers:
            if server.process.poll() is not None:
                raise BenchError(f"{self.label}: a server ended; see {server.log}")

    def settle(self) -> None:
        for path in self.files():
            flush_file(path)

    def pids(self) -> list[int]:
        return [server.process.pid for server in self.servers]

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pids())

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
        self.servers.clear()

    # pieces that several peers are made of

    def socket_path(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def uri(self, name: str = "nbd") -> str:
        return f"nbd+unix:///?socket={self.socket_path(name)}"

    def serve(self, name: str, command: list[str]) -> Server:
        server = Server(command, self.directory / f"{name}.log")
        self.servers.append(server)
        return server

    def nbdkit_unix(self, path: Path, name: str = "nbd") -> None:
        socket = self.socket_path(name)
        server = self.serve(name, ["nbdkit", "--foreground", "--unix", str(socket), "file", str(path)])
        server.wait_ready(socket.exists)

    def nbdkit_tcp(self, path: Path, name: str = "remote") -> int:
        port = free_port()
        command = ["nbdkit", "--foreground", "--ipaddr", "127.0.0.1", "--port", str(port), "file", str(path)]
        self.serve(name, command).wait_ready(lambda: tcp_accepts(port))
        return port


class NbdkitFile(Contestant):
    """nbdkit's file plugin, written in C, without a second copy: the ceiling."""

    label = "nbdkit file (unreplicated)"
    legs = 1

    def start(self) -> str:
        self.make_files()
        self.nbdkit_unix(self.files()[0])
        return self.uri()


class QemuPeer(Contestant):
    """A qemu-storage-daemon with a local file node, a remote NBD node, and an export of one of its nodes."""

    yardstick = True

    def remote_leg(self) -> list[str]:
        """The second file behind nbdkit, and the daemon's options to reach it.

        Not behind a second storage daemon: qemu 7.2 as a TCP server waits 40 ms for a delayed acknowledgement every few
        requests, which would make the yardstick several times slower than qemu's client can be.
        """
        port = self.nbdkit_tcp(self.files()[1])
        return ["--blockdev", f"driver=nbd,node-name=remote,server.type=inet,server.host=127.0.0.1,server.port={port}"]

    def local_leg(self) -> list[str]:
        return ["--blockdev", f"driver=file,node-name=local,filename={self.files()[0]}"]

    def export(self, node: str) -> list[str]:
        return ["--nbd-server", f"addr.type=unix,addr.path={self.socket_path('nbd')}",
                "--export", f"type=nbd,id=export,node-name={node},name=,writable=on"]

    def storage_daemon(self, options: list[str]) -> None:
        server = self.serve("local", ["qemu-storage-daemon", *options])
        server.wait_ready(lambda: unix_accepts(self.socket_path("nbd")))


class QemuQuorum(QemuPeer):
    """quorum over both nodes, both must agree. Reads go to both and are compared."""

    label = "qemu quorum"

    def start(self) -> str:
        self.make_files()
        quorum = "driver=quorum,node-name=quorum,vote-threshold=2,children.0=local,children.1=remote"
        self.storage_daemon([*self.local_leg(), *self.remote_leg(), "--blockdev", quorum, *self.export("quorum")])
        return self.uri()


class QemuMirror(QemuPeer):
    """blockdev-mirror whose writes complete when both sides have them (copy-mode=write-blocking)."""

    label = "qemu mirror"

    def start(self) -> str:
        self.make_files()
        control = self.socket_path("qmp")
        self.storage_daemon([
            "--chardev", f"socket,id=qmp,path={control},server=on,wait=off", "--monitor", "chardev=qmp",
            *self.local_leg(), *self.remote_leg(), *self.export("local"),
        ])
        self.qmp = Qmp(control)
        self.qmp.command("blockdev-mirror", {
            "job-id": "mirror", "device": "local", "target": "remote", "sync": "full", "copy-mode": "write-blocking",
        })
        wait_until(self.in_step, f"{self.label}: job ready", timeout_s=600)
        return self.uri()

    def in_step(self) -> bool:
        """Ready and nothing dirty: from here on every write goes to both sides before it completes."""
        jobs = self.qmp.command("query-block-jobs")
        if len(jobs) != 1:
            raise BenchError(f"{self.label}: the mirror job is gone; see {self.directory}/local.log")
        return bool(jobs[0]["ready"]) and jobs[0]["offset"] == jobs[0]["len"]

    def check(self) -> None:
        super().check()
        wait_until(self.in_step, f"{self.label}: in step after a round", timeout_s=30)

    def stop(self) -> None:
        if hasattr(self, "qmp"):
            self.qmp.close()
        super().stop()


PEERS: tuple[type[Contestant], ...] = (NbdkitFile, QemuQuorum, QemuMirror)
