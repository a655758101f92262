# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody at the peer's own address who means no good: what he does to a live node over real sockets."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Callable

from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire import packets as p
from replblock.wire.commands import Cmd
from replblock.wire.headers import H100, MAGIC_100, pack_packet
from tests.fuzz.mutate import CORPUS, inputs_of, mutated
from tests.wire.samples import samples

PATIENCE_S = 5.0
FEATURES = 0xD
STATE = State(Role.SECONDARY, Role.UNKNOWN, Conn.WF_REPORT_PARAMS, Disk.INCONSISTENT, Disk.DUNKNOWN)
DATA, META = pack_packet(0, Cmd.INITIAL_DATA), pack_packet(0, Cmd.INITIAL_META)
OFFER = pack_packet(0, Cmd.CONNECTION_FEATURES, p.Features(86, FEATURES, 101).pack())


def client_hello() -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="example.org")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


STRANGERS = (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", client_hello(), b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
             b"\x16\x03\x01" + bytes(4000), bytes(70_000), b"NBDMAGICIHAVEOPT\0\3" * 20)
HARM = (
    (Cmd.DATA, p.Data(0, bytes(8), 0, p.DP_SEND_WRITE_ACK).pack() + b"\xee" * 4096),
    (Cmd.TRIM, p.Trim(0, bytes(8), 0, p.DP_DISCARD, 4096).pack()),
    (Cmd.ZEROES, p.Trim(8, bytes(8), 0, p.DP_ZEROES, 4096).pack()),
    (Cmd.OUT_OF_SYNC, p.BlockDesc(0, 4096).pack()),
)
"""In range and well formed: what changes data or bitmap once a peer was accepted."""


class Enemy:
    """Dials the node's port; refused connections are the node's good right."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.rng = random.Random(seed)
        self.frames = [data for _, data in inputs_of(CORPUS, "wire-decoder")]
        self.open: list[socket.socket] = []
        self.early = 0

    def come(self) -> socket.socket | None:
        sock = socket.socket()
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            return None
        self.open.append(sock)
        return sock

    def say(self, sock: socket.socket | None, data: bytes) -> bool:
        """False if the node would hear no more."""
        if sock is None:
            return False
        try:
            sock.sendall(data)
        except OSError:
            return False
        return True

    def hear(self, sock: socket.socket | None, least: int) -> bytes:
        said = b""
        try:
            while sock is not None and len(said) < least:
                piece = sock.recv(65536)
                if not piece:
                    break
                said += piece
        except OSError:
            pass
        return said

    def go(self) -> None:
        """Everything is dropped, some of it with a reset."""
        for sock in self.open:
            if self.rng.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        self.open.clear()

    def noise(self) -> bytes:
        return mutated(self.rng, self.frames, 4000)

    def pair(self) -> tuple[socket.socket | None, socket.socket | None]:
        """The two connections of a peer, this node's features heard."""
        data, meta = self.come(), self.come()
        self.say(data, DATA)
        self.say(meta, META)
        self.hear(data, 80)
        return data, meta

    def damaged(self, packet: bytes) -> bytes:
        """Half of the time as it is."""
        return packet if self.rng.random() < 0.5 else mutated(self.rng, [packet], 8000)

    # --- before anybody accepted him

    def stranger(self) -> None:
        self.say(self.come(), self.rng.choice(STRANGERS))

    def frames_of_others(self) -> None:
        for _ in range(3):
            self.say(self.come(), self.noise())

    def crowd(self) -> None:
        for _ in range(60):
            self.say(self.come(), self.rng.choice((b"", b"", DATA[:5], DATA, META)))

    def half_and_silence(self) -> None:
        data, _ = self.pair()
        self.say(data, OFFER[: self.rng.randrange(80)])

    def drip(self) -> None:
        data, _ = self.pair()
        whole = OFFER + self.introduction()
        for byte in whole[: self.rng.randrange(len(whole))]:
            if not self.say(data, bytes((byte,))):
                break

    def odd_features(self) -> None:
        data, _ = self.pair()
        low, high = self.rng.choice(((86, 101), (0, 0), (200, 300), (101, 86), (0xFFFFFFFF, 0xFFFFFFFF), (86, 86)))
        body = p.Features(low, self.rng.getrandbits(32), high).pack()
        self.say(data, self.damaged(pack_packet(0, Cmd.CONNECTION_FEATURES, body)))
        self.say(data, self.noise())

    def too_early(self) -> None:
        """Everything there is, before generations and states were compared."""
        data, meta = self.pair()
        self.say(data, OFFER)
        self.say(data, self.introduction()[: -len(pack_packet(101, Cmd.STATE, bytes(4)))])
        self.early += 1
        kind = self.early % 3
        if kind == 0:
            self.say(data, pack_packet(101, *self.rng.choice(HARM)))
        elif kind == 1:
            self.say(data, b"".join(pack_packet(101, *harm) for harm in HARM))
        else:
            others = [(s.cmd, s.body) for s in samples(101, FEATURES) if s.cmd != Cmd.STATE]
            for _ in range(20):
                self.say(self.rng.choice((data, data, meta)), pack_packet(101, *self.rng.choice([*others, *HARM])))

    def flood(self) -> None:
        """Megabytes of what cannot be taken."""
        data, meta = self.pair()
        pings = H100.pack(MAGIC_100, 0, Cmd.PING, 0, 0) * 4096
        piece = self.rng.choice((bytes(1 << 16), self.rng.randbytes(1 << 16), pings))
        for _ in range(64):
            if not self.say(self.rng.choice((data, meta)), piece):
                break

    # --- after he was accepted

    def introduction(self) -> bytes:
        sectors = 1 << 20       # more than the node's own, so that it has no reason to refuse
        return b"".join(pack_packet(101, cmd, body) for cmd, body in (
            (Cmd.PROTOCOL, p.Protocol(3).pack()), (Cmd.SYNC_PARAM89, p.SyncParam(250).pack()),
            (Cmd.SIZES, p.Sizes(sectors, 0, sectors, 1 << 20, 0, 0, p.Limits()).pack()),
            (Cmd.UUIDS, p.Uuids(4, 0, 0, 0, 0).pack()), (Cmd.STATE, p.StateWord(STATE.pack()).pack()),
        ))  # fmt: skip

    def friend(self) -> None:
        """A right handshake, then anything."""
        data, meta = self.pair()
        self.say(data, OFFER)
        self.say(data, self.introduction())
        self.hear(data, 300)
        for _ in range(self.rng.randrange(1, 40)):
            sample = self.rng.choice(samples(101, FEATURES))
            packet = self.damaged(pack_packet(101, sample.cmd, sample.body))
            if not self.say(self.rng.choice((data, data, meta)), packet):
                break

    def glutton(self) -> None:
        """Asks for a hundred times what he reads, and pings without listening."""
        data, meta = self.pair()
        self.say(data, OFFER)
        self.say(data, self.introduction())
        self.hear(data, 300)
        ask = pack_packet(101, Cmd.DATA_REQUEST, p.BlockReq(0, bytes(8), 1 << 20).pack())
        ping = pack_packet(101, Cmd.PING)
        for sock in (data, meta):
            if sock is not None:
                sock.settimeout(0.2)
        for _ in range(4):
            self.say(data, ask * 400)
            self.say(meta, ping * 20_000)


BEFORE: tuple[Callable[[Enemy], None], ...] = (
    Enemy.stranger, Enemy.frames_of_others, Enemy.crowd, Enemy.half_and_silence, Enemy.drip, Enemy.odd_features,
    Enemy.too_early, Enemy.too_early, Enemy.too_early, Enemy.flood,
)
AFTER: tuple[Callable[[Enemy], None], ...] = (Enemy.friend, Enemy.friend, Enemy.friend, Enemy.glutton, Enemy.too_early)
