# SPDX-License-Identifier: GPL-2.0-or-later
"""A little world in which each node has several volumes on one connection: a core for each, a bundle between them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from replblock.core.bundle import Bundle
from replblock.core.settings import Settings
from replblock.state.names import Conn, Disk
from tests.core.simhost import Pipe, SimHost
from tests.core.world import MIB, World

ASK_MS = 200
"""How often a node looks whether all its volumes wait for the peer."""


class VolumeHost(SimHost):
    """One volume's engine: nobody but the bundle comes to it."""

    def dial(self) -> int:
        self.numbers += 1
        sock, life = self.numbers, self.life

        def run() -> None:
            if sock in self.closed_dials:
                self.closed_dials.discard(sock)
            elif self.life == life and self.powered:
                self.dialing.discard(sock)
                self.resource.on_dialed(sock, errno.ECONNREFUSED)
                self.finish()

        self.dialing.add(sock)
        self.world.after(1, run)
        return sock


class Inside:
    """The bundle's streams to the engines of its node."""

    def __init__(self, node: SimHost) -> None:
        self.node = node
        self.world = node.world
        self.name = f"{node.name} inside"
        self.numbers = 0
        self.pipes: dict[int, Pipe] = {}
        self.queues: dict[int, list[bytes]] = {}
        self.volumes: dict[int, VolumeHost] = {}
        self.resource = self

    def dial(self, volume: int) -> tuple[int, int] | None:
        host = self.volumes[volume]
        if not (host.powered and host.listening):
            return None
        socks = []
        for _ in range(2):
            self.numbers += 1
            host.numbers += 1
            pipe = Pipe(self.world, ((self, self.numbers), (host, host.numbers)))  # type: ignore[arg-type]
            self.pipes[self.numbers] = host.pipes[host.numbers] = pipe
            host.resource.on_accepted(host.numbers, "inside")
            socks.append(self.numbers)
        return socks[0], socks[1]

    def send(self, sock: int, parts: Sequence[Any]) -> None:
        if sock in self.pipes:
            self.queues.setdefault(sock, []).extend(bytes(part) for part in parts)

    def unsent_bytes(self, sock: int) -> int:
        return sum(map(len, self.queues.get(sock, ())))

    def hold(self, sock: int, held: bool) -> None:
        pass

    def close(self, sock: int) -> None:
        self._push(sock)
        pipe = self.pipes.pop(sock, None)
        if pipe is not None:
            pipe.close(pipe.side(self, sock))  # type: ignore[arg-type]

    def _push(self, sock: int) -> None:
        parts, pipe = self.queues.pop(sock, None), self.pipes.get(sock)
        if parts and pipe is not None:
            pipe.carry(pipe.side(self, sock), b"".join(parts))  # type: ignore[arg-type]

    # what a pipe asks of an end
    def on_bytes(self, sock: int, data: bytes) -> None:
        self.node.resource.on_local_bytes(sock, data)  # type: ignore[attr-defined]

    def room(self, sock: int) -> None:
        return None

    def on_closed(self, sock: int, error: int) -> None:
        self.node.resource.on_local_closed(sock)  # type: ignore[attr-defined]

    def finish(self) -> None:
        self.node.finish()

    def push_all(self) -> None:
        for sock in list(self.queues):
            self._push(sock)


class NodeHost(SimHost):
    """The node as its peer sees it."""

    inside: Inside

    def finish(self) -> None:
        super().finish()
        self.inside.push_all()


class BundledWorld(World):
    """`a` and `b` are bundles; `volumes["a"][0]` and so on the cores behind them."""

    def __init__(
        self, seed: int = 1, numbers: Sequence[int] = (0, 1), size_bytes: int = 4 * MIB,
        numbers_there: Sequence[int] = (), **changes: Any,
    ) -> None:  # fmt: skip
        self.numbers = {"a": tuple(numbers), "b": tuple(numbers_there or numbers)}
        super().__init__(seed, size_bytes, **changes)
        base = replace(Settings(c_plan_ahead=0, resync_rate_kib=4 << 20, c_min_rate_kib=0), **changes)
        self.volumes: dict[str, dict[int, VolumeHost]] = {}
        for node in (self.a, self.b):
            assert isinstance(node, NodeHost)
            node.inside = Inside(node)
            self.volumes[node.name] = node.inside.volumes
            for number in self.numbers[node.name]:
                own = World._node(self, f"{node.name}{number}", "10.1.0.1:1", "10.1.0.2:1", base, size_bytes)
                own.__class__ = VolumeHost
                assert isinstance(own, VolumeHost)
                own.settings = replace(base, node=own.name, own_address="10.1.0.1:1", peer_address="10.1.0.2:1",  # type: ignore[attr-defined]
                                       volume=number, cram_hmac_alg="")  # fmt: skip
                own.peer = node
                node.inside.volumes[number] = own

    def _node(self, name: str, own: str, peer: str, base: Settings, size_bytes: int) -> SimHost:
        host = super()._node(name, own, peer, base, size_bytes)
        host.__class__ = NodeHost
        return host

    def start(self, node: SimHost) -> None:
        """The bundle of a node, and its volumes, attached and connecting."""
        self.start_bundle(node)
        for volume in self.volumes[node.name].values():
            self.up(volume)

    def start_bundle(self, node: SimHost) -> None:
        assert isinstance(node, NodeHost)
        node.life += 1
        node.powered = True
        node.resource = Bundle(node.settings, node, self.numbers[node.name], node.inside)  # type: ignore[attr-defined,arg-type,assignment]
        life = node.life

        def look() -> None:
            if node.life == life:
                bundle: Any = node.resource
                if all(host.powered and host.listening for host in node.inside.volumes.values()):
                    bundle.seek()
                elif bundle.links.link is None:
                    bundle.leave("volumes-not-there", "not every volume waits for its peer")
                node.finish()
                self.after(ASK_MS, look)

        look()

    def begin(self) -> BundledWorld:
        """Both nodes up, all volumes in sync, those of `a` Primary."""
        for node in (self.a, self.b):
            self.start(node)
        self.run_until(lambda: all(host.resource.state.conn == Conn.CONNECTED for host in self.everybody))
        for host in self.volumes["a"].values():
            self.ok(host, "primary", force=True)
        self.settle()
        return self

    @property
    def everybody(self) -> list[VolumeHost]:
        return [host for volumes in self.volumes.values() for host in volumes.values()]

    def in_sync(self) -> bool:
        return all(
            host.powered and host.resource.state.conn == Conn.CONNECTED
            and host.resource.state.disk == host.resource.state.pdsk == Disk.UP_TO_DATE for host in self.everybody
        )  # fmt: skip

    def settle(self) -> None:
        self.run_until(lambda: self.in_sync() and all(
            host.resource.is_idle() and host.resource.primary.log.empty and not host.busy_with_metadata
            for host in self.everybody
        ))  # fmt: skip

    def same_data(self) -> bool:
        return all(
            here.disk.data(here.resource.size_bytes) == there.disk.data(here.resource.size_bytes)
            for here, there in zip(self.volumes["a"].values(), self.volumes["b"].values(), strict=True)
        )

