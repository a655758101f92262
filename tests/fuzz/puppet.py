# SPDX-License-Identifier: GPL-2.0-or-later
"""One real core in the simulated world, and a peer that is a puppet: it says whatever a fuzzer wants it to say."""

from __future__ import annotations

import json
from typing import Any

from replblock.core.settings import Settings
from replblock.meta.superblock import Flag, Superblock
from replblock.state.names import Conn, Disk, Role
from replblock.state.packed import State
from replblock.wire import packets as p
from replblock.wire.agreement import AFTER_SB
from replblock.wire.commands import Cmd, Stream, allowed_lengths
from replblock.wire.compression import unpack
from replblock.wire.digests import hmac_response
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import FEATURE_LZ4
from replblock.wire.headers import H80, H100, MAGIC_80, MAGIC_100, pack_packet
from replblock.wire.stream import StreamDecoder
from tests.core.simhost import Pipe, SimHost
from tests.core.world import World

DISK_BYTES = 1 << 20
GENERATION = 0x1111_2222_3333_4440
OLDER, OLDEST = 0x2222_0000_0000_0010, 0x3333_0000_0000_0020
MAX_EVENTS = 20_000
MAX_WAITING_BYTES = 192 << 20
"""What a node may keep of and for a peer: 64 MiB of its writes, as much of answers, and what is being read."""


class Strings:
    """Stands where the peer's core would: it only notes which sockets there are and what came on them."""

    def __init__(self) -> None:
        self.dialed: list[int] = []
        self.accepted: list[int] = []
        self.heard: dict[int, bytearray] = {}

    def on_dialed(self, sock: int, errno: int) -> None:
        if not errno:
            self.dialed.append(sock)

    def on_accepted(self, sock: int, address: str) -> None:
        self.accepted.append(sock)

    def on_bytes(self, sock: int, data: bytes) -> None:
        self.heard.setdefault(sock, bytearray()).extend(data)

    def room(self, sock: int) -> None:
        return None

    def on_closed(self, sock: int, errno: int) -> None:
        for known in (self.dialed, self.accepted):
            if sock in known:
                known.remove(sock)

    def on_sent(self, sock: int) -> bool:
        return False

    def end_wakeup(self) -> None:
        pass


class Stage(World):
    """The node under test is `a`; `puppet` is `b`'s place in the world without a core."""

    def __init__(self, how: str = "fresh", **settings: Any) -> None:
        # not timers and chances of a real life: these stories are short, and replayed by their bytes alone
        super().__init__(1, DISK_BYTES, Settings(c_plan_ahead=0, resync_rate_kib=4 << 20, c_min_rate_kib=0, **settings))
        self.how = how
        self.handled = 0
        self.strings = Strings()
        self.puppet: SimHost = self.b
        self.puppet.resource = self.strings  # type: ignore[assignment]
        self.puppet.powered = self.puppet.listening = True
        self.data: int | None = None
        self.meta: int | None = None
        self.version = 101
        self._seen: dict[int, int] = {}
        if how not in ("fresh", "diskless"):
            self._give_data(self.a)
        self.boot(self.a)
        if how != "diskless":
            self.ok(self.a, "attach", **self.a.open_disk())
        if how == "primary":
            self.ok(self.a, "primary", force=True)
        self.quiet()

    @staticmethod
    def _give_data(host: SimHost) -> None:
        """As after a life with a peer: UpToDate data of a known generation."""
        where = host.disk.geometry
        at = where.superblock_offset_bytes
        block = Superblock.unpack(bytes(host.disk.content[at : at + 4096]))
        block = block._replace(
            la_size_sectors=where.data_sectors, uuid_current=GENERATION, uuid_history0=OLDER, uuid_history1=OLDEST,
            flags=Flag.CONSISTENT | Flag.WAS_UP_TO_DATE | Flag.PEER_OUT_DATED | Flag.AL_CLEAN,
        )
        host.disk.content[at : at + 4096] = block.pack()
        host.disk.content[: where.data_sectors * 512] = b"data" * (where.data_sectors * 128)
        host.disk.durable[:] = host.disk.content

    # --- time

    def at(self, when: int, action: Any) -> None:
        def counted() -> None:
            self.handled += 1
            assert self.handled < MAX_EVENTS, "the story does not end"
            action()

        super().at(when, counted)

    def quiet(self) -> None:
        """Until metadata rests."""
        self.run(20)
        self.run_until(lambda: not self.a.busy_with_metadata, 2000)

    # --- what must always hold

    @property
    def data_area(self) -> bytes:
        return self.a.disk.data()

    @property
    def identity(self) -> tuple[int, ...]:
        """What the metadata says about the data; the agreed size is not part of it."""
        at = self.a.disk.geometry.superblock_offset_bytes
        block = Superblock.unpack(bytes(self.a.disk.content[at : at + 4096]))
        kept = block.flags & ~(Flag.AL_CLEAN | Flag.CONNECTED_IND)
        return (block.uuid_current, block.uuid_bitmap, block.uuid_history0, block.uuid_history1, int(kept))

    def check(self) -> None:
        """The node lives, can say how it is, and keeps little for its peer."""
        a = self.a
        json.dumps(a.resource.status())
        waiting = sum(map(a.unsent_bytes, a.queues)) + sum(len(b) for _, _, b in a.resource.secondary._held)
        assert waiting < MAX_WAITING_BYTES, f"{waiting} bytes wait"
        # what will be heard was sent, and what was sent is small change: forget it
        for heard in self.strings.heard.values():
            del heard[: max(0, len(heard) - (1 << 20))]

    def finish_story(self) -> None:
        """Whatever happened: it can be told to let go, and then it stands alone with its metadata in order."""
        a = self.a
        self.run(100)
        self.check()
        a.resource.command("disconnect", {"force": True}, lambda answer: None)
        a.finish()
        self.run(2000)
        assert a.resource.state.conn == Conn.STANDALONE, a.resource.state
        self.check()
        if self.how != "diskless":
            at = a.disk.geometry.superblock_offset_bytes
            Superblock.unpack(bytes(a.disk.content[at : at + 4096]))

    # --- the puppet's hands

    def dial(self) -> int:
        """A new connection to the node's port, even if nobody should listen there; its number."""
        a, puppet = self.a, self.puppet
        puppet.numbers += 1
        sock = puppet.numbers
        if a.listening:
            a.numbers += 1
            pipe = Pipe(self, ((puppet, sock), (a, a.numbers)))
            puppet.pipes[sock] = a.pipes[a.numbers] = pipe
            self.strings.dialed.append(sock)
            a.resource.on_accepted(a.numbers, "b")
            a.finish()
        return sock

    def say_whole(self, sock: int | None, data: bytes) -> None:
        """The same, past a TCP that takes nothing: that weather is the node's alone."""
        pipe = self.puppet.pipes.get(sock or 0)
        if pipe is not None:
            pipe.carry(pipe.side(self.puppet, sock or 0), data)

    def say(self, sock: int | None, data: bytes) -> None:
        """Bytes on a connection, if it stands."""
        self.say_whole(sock, data)

    def packet(self, cmd: int, body: bytes = b"", *, meta: bool = False) -> None:
        """A packet under the agreed header, whatever its length and body are worth."""
        self.say(self.meta if meta else self.data, self.header_of(self.version, cmd, len(body)) + body)

    @staticmethod
    def header_of(version: int, cmd: int, length: int) -> bytes:
        """Also for commands and lengths that no honest node sends."""
        if version >= 100:
            return H100.pack(MAGIC_100, 0, cmd & 0xFFFF, length, 0)
        return H80.pack(MAGIC_80, cmd & 0xFFFF, length & 0xFFFF)

    # --- a peer that knows how

    def join(self) -> None:
        """Both connections: the node dialed one, the puppet the other."""
        if self.a.resource.state.conn == Conn.STANDALONE:
            self.ok(self.a, "connect")
        self.run(8)
        self.data = self.strings.accepted[-1] if self.strings.accepted else None
        if self.data is None:
            self.data = self.dial()
            self.say(self.data, pack_packet(0, Cmd.INITIAL_DATA))
            self.run(8)
            self.meta = self.strings.accepted[-1] if self.strings.accepted else None
        else:
            self.meta = self.dial()
            self.say(self.meta, pack_packet(0, Cmd.INITIAL_META))
        self.run(8)

    def own_settings(self) -> p.Protocol:
        s = self.a.settings  # type: ignore[attr-defined]
        return p.Protocol(
            "ABC".index(s.protocol) + 1, AFTER_SB[s.after_sb_0pri], AFTER_SB[s.after_sb_1pri],
            AFTER_SB[s.after_sb_2pri], 0, int(s.allow_two_primaries), s.data_integrity_alg,
        )  # fmt: skip

    def offer(self, low: int = 86, high: int = 101, features: int = 0x8000000D) -> None:
        """P_CONNECTION_FEATURES, and the log-in if the node wants one."""
        self.say(self.data, pack_packet(0, Cmd.CONNECTION_FEATURES, p.Features(low, features, high).pack()))
        self.version = min(101, high)
        self.run(5)
        settings = self.a.settings  # type: ignore[attr-defined]
        if settings.cram_hmac_alg and self.data is not None:
            said = bytes(self.strings.heard.get(self.data, b""))
            at = said.rfind(pack_packet(self.version, Cmd.AUTH_CHALLENGE, bytes(64))[:8])
            challenge = said[at + (16 if self.version >= 100 else 8) :][:64]
            self.packet(Cmd.AUTH_CHALLENGE, b"puppet" * 10 + b"puup")
            if len(challenge) == 64:
                answer = hmac_response(settings.cram_hmac_alg, settings.shared_secret, challenge)
                self.packet(Cmd.AUTH_RESPONSE, answer)
            self.run(5)

    def introduce(self, uuids: p.Uuids, state: State) -> None:
        """Everything a peer says before it is connected."""
        version = self.version
        self.packet(Cmd.PROTOCOL, self.own_settings().pack(version))
        cmd = Cmd.SYNC_PARAM89 if version >= 89 else Cmd.SYNC_PARAM
        self.packet(cmd, p.SyncParam(250).pack(version))
        features = self.a.resource.links.link.features if self.a.resource.links.link is not None else 0
        sectors = self.a.disk.geometry.data_sectors
        limits = p.Limits() if features & 4 else None
        self.packet(Cmd.SIZES, p.Sizes(sectors, 0, sectors, 1 << 20, 0, 0, limits).pack())
        if state.disk != Disk.DISKLESS:
            self.packet(Cmd.UUIDS, uuids.pack())
        self.packet(Cmd.STATE, p.StateWord(state.pack()).pack())
        self.run(10)

    def heard_now(self) -> list[tuple[bool, int, bytes]]:
        """The packets the node has sent since this was last asked: (on meta, command, body)."""
        found: list[tuple[bool, int, bytes]] = []
        for sock in (self.data, self.meta):
            heard = self.strings.heard.get(sock or 0)
            if not heard:
                continue
            decoder = StreamDecoder(Stream.DATA if sock == self.data else Stream.META)
            try:
                decoder.agreed(self.version, 0x8000000D | FEATURE_LZ4)
                packets = decoder.feed(bytes(heard))
            except (ProtocolError, ValueError) as error:
                packets = getattr(error, "packets", [])
            lengths = allowed_lengths(Stream.DATA, self.version, FEATURE_LZ4)
            plain = (unpack(body, lengths) if cmd == Cmd.LZ4 else (cmd, body) for cmd, _, body in packets)
            found += [(sock == self.meta, cmd, bytes(body)) for cmd, body in plain]
            heard.clear()
        return found


NEGOTIATING = State(Role.SECONDARY, Role.UNKNOWN, Conn.WF_REPORT_PARAMS, Disk.UP_TO_DATE, Disk.DUNKNOWN)
"""How a peer with good data introduces itself."""

CAST: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fresh", {}),
    ("data", {}),
    ("primary", {}),
    ("diskless", {}),
    ("primary", {"protocol": "A"}),
    ("primary", {"protocol": "B", "offer_ordered": False}),
    ("data", {"data_integrity_alg": "crc32c"}),
    ("data", {"cram_hmac_alg": "sha1", "shared_secret": "secret"}),
    ("primary", {"allow_two_primaries": True, "after_sb_0pri": "discard-zero-changes"}),
    ("primary", {"on_no_data_accessible": "suspend-io", "on_io_error": "pass_on"}),
    ("data", {"verify_alg": "sha1", "csums_alg": "sha1"}),
    ("primary", {"fencing": "resource-only", "handlers": frozenset({"fence-peer", "before-resync-target"})}),
)
"""The node under test: what it is, and settings that open other doors."""


def stage(number: int) -> Stage:
    how, settings = CAST[number % len(CAST)]
    return Stage(how, **settings)
