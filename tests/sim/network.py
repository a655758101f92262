# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulated network: TCP connections whose directions can be slow, cut one by one, or forgotten by a middle box."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.node import Node

RETRANSMIT_MS = 200
CONNECT_TIMEOUT_MS = 3000


class Flow:
    """One direction of a connection: bytes in order, then perhaps an end."""

    __slots__ = ("blocked", "dst", "dst_sock", "ended", "items", "last_ms", "pipe", "src", "src_sock", "waiting")

    def __init__(self, pipe: Pipe, src: Node, src_sock: int, dst: Node, dst_sock: int) -> None:
        self.pipe = pipe
        self.src, self.src_sock = src, src_sock
        self.dst, self.dst_sock = dst, dst_sock
        self.items: deque[tuple[int, str, bytes]] = deque()
        self.waiting = 0
        """Bytes that TCP holds: handed in and not yet arrived."""
        self.last_ms = 0
        self.blocked = False
        self.ended = False

    def put(self, kind: str, data: bytes = b"") -> None:
        sim = self.src.sim
        net = sim.network
        at = max(self.last_ms, sim.now + sim.rng.randrange(0, net.delay_ms + 1))
        self.last_ms = at
        self.items.append((at, kind, data))
        self.waiting += len(data)
        sim.at(at, self.deliver)

    def deliver(self) -> None:
        """Hand over what has arrived, unless the way is cut."""
        if not self.items:
            return
        sim = self.src.sim
        if self.pipe.dead or not sim.network.passes(self.src) or not self.dst.machine_on:
            self.blocked = True
            return
        now = sim.now
        parts: list[bytes] = []
        while self.items and self.items[0][0] <= now:
            _, kind, data = self.items.popleft()
            self.waiting -= len(data)
            if kind == "data":
                parts.append(data)
                continue
            self._hand_over(b"".join(parts))
            parts = []
            self._signal(kind)
        if parts:
            self._hand_over(b"".join(parts))
        self.src.tcp_took(self.src_sock, self.pipe)

    def _hand_over(self, data: bytes) -> None:
        if not data:
            return
        dst = self.dst
        if dst.pipes.get(self.dst_sock) is self.pipe:
            dst.wake(dst.received, self.dst_sock, self.pipe, data)
        else:
            self.pipe.other(self).reset()

    def _signal(self, kind: str) -> None:
        dst = self.dst
        if kind == "accept":
            if dst.on and dst.listening:
                dst.pipes[self.dst_sock] = self.pipe
                dst.wake(dst.accepted, self.dst_sock)
            else:
                self.pipe.other(self).reset()
        elif dst.pipes.get(self.dst_sock) is self.pipe:
            dst.wake(dst.closed, self.dst_sock, self.pipe, errno.ECONNRESET if kind == "reset" else 0)

    def reset(self) -> None:
        """The machine at the source knows nothing (any more) of this connection, and says so."""
        if not self.ended:
            self.ended = True
            self.items.clear()
            self.waiting = 0
            self.put("reset")

    def finish(self, cut_short: bool) -> None:
        """The source closed it; `cut_short`: unread bytes were there, so TCP resets instead of finishing."""
        if self.ended:
            return
        if cut_short:
            keep = self.src.sim.rng.randrange(len(self.items) + 1)
            while len(self.items) > keep:
                self.waiting -= len(self.items.pop()[2])
        self.ended = True
        self.put("reset" if cut_short else "fin")


class Pipe:
    """One TCP connection."""

    def __init__(self, a: Node, a_sock: int, b: Node, b_sock: int) -> None:
        self.flows = (Flow(self, a, a_sock, b, b_sock), Flow(self, b, b_sock, a, a_sock))
        self.dead = False
        """Forgotten by a box in between: nothing crosses it ever again, and nobody is told."""

    def of(self, node: Node) -> Flow:
        return self.flows[0] if self.flows[0].src is node else self.flows[1]

    def other(self, flow: Flow) -> Flow:
        return self.flows[1] if flow is self.flows[0] else self.flows[0]


class Network:
    """Both directions between the two nodes."""

    def __init__(self) -> None:
        self.delay_ms = 2
        self.cut: set[str] = set()
        """Names of the nodes whose packets do not get through."""
        self.sndbuf_bytes = 1 << 20
        self.pipes: list[Pipe] = []

    def passes(self, src: Node) -> bool:
        return src.name not in self.cut

    def kick(self) -> None:
        """Something is well again: what was held up is sent once more."""
        self.pipes = [p for p in self.pipes if not p.dead and any(f.items or not f.ended for f in p.flows)]
        for pipe in self.pipes:
            for flow in pipe.flows:
                if flow.blocked:
                    flow.blocked = False
                    sim = flow.src.sim
                    sim.at(sim.now + sim.rng.randrange(1, RETRANSMIT_MS), flow.deliver)

    def forget(self) -> None:
        """A firewall forgets every connection."""
        for pipe in self.pipes:
            pipe.dead = True
        self.pipes = []

    def power_lost(self, node: Node) -> None:
        """What its TCP held is gone, except what is on the wire already."""
        rng = node.sim.rng
        for pipe in self.pipes:
            flow = pipe.of(node)
            keep = rng.randrange(len(flow.items) + 1) if self.passes(node) and flow.items else 0
            while len(flow.items) > keep:
                flow.waiting -= len(flow.items.pop()[2])
            flow.ended = True

    def dial(self, node: Node, sock: int) -> None:
        """SYN, SYN-ACK: the answer comes to `node`, the accept to the other side later."""
        other = node.peer
        if not (self.passes(node) and self.passes(other) and other.machine_on):
            node.later(CONNECT_TIMEOUT_MS, node.dialed, sock, errno.ETIMEDOUT)
        elif not (other.on and other.listening):
            node.later(1, node.dialed, sock, errno.ECONNREFUSED)
        else:
            pipe = Pipe(node, sock, other, other.new_sock())
            self.pipes.append(pipe)
            if len(self.pipes) > 16:
                self.pipes = [p for p in self.pipes if not p.dead and any(f.items or not f.ended for f in p.flows)]
            node.pipes[sock] = pipe
            pipe.flows[0].put("accept")
            node.wake(node.dialed, sock, 0)

    def key(self, node: Node, sock: int) -> object:
        """What names a connection on both sides."""
        return node.pipes.get(sock)
