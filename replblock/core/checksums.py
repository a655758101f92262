# SPDX-License-Identifier: GPL-2.0-or-later
"""csums-alg: a resync that sends only what differs. The target says what it has by a digest, the source compares.

The answer "in sync" comes on the other connection and may overtake writes of the application, or be overtaken. That is
no matter as long as they succeed: the source compares behind all it has sent before, and what it sends later both have.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.state.names import Conn
from replblock.wire.commands import Cmd
from replblock.wire.digests import Digest, proves_equality
from replblock.wire.digests import digest as digest_of
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import ID_SYNCER
from replblock.wire.packets import BlockAck, BlockReq

if TYPE_CHECKING:
    from replblock.core.resource import Resource

SINCE_VERSION = 89
BLOCK_BYTES = 4096


class Checksums:
    """Both sides of it, for one resync at a time."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._digest: Digest | None = None
        """Set while this node is a target that asks with digests."""
        self._alg = ""
        self._compare: Digest | None = None
        self._asked: set[int] = set()
        """Asked for with a digest, and not answered yet."""
        self._void: set[int] = set()
        """The same; a write of the application has failed there since: what was compared is not what is there."""
        self.reading = 0
        self.read_sectors = 0
        self.equal_blocks = 0
        self.took_part = False

    @property
    def asks(self) -> bool:
        """This target asks with digests."""
        return self._digest is not None

    # --- the target ---

    def begin_target(self) -> None:
        """A resync to here begins: are digests worth it, and to be believed?"""
        r = self._r
        s, link = r.settings, r.links.link
        wanted = s.csums_alg and link is not None and link.version >= SINCE_VERSION
        wanted = wanted and (not s.csums_after_crash_only or r.attachment.crashed_primary)
        self._digest = None
        if wanted and proves_equality(s.csums_alg):
            self._digest = digest_of(s.csums_alg)
        elif wanted:
            text = f"csums-alg {s.csums_alg} does not prove that two blocks are equal: all of them are copied"
            r.why("notice", "csums-alg-not-believed", text)
        self._begin(self.asks)

    def ask(self, link: Link, first: int, start: int, size: int) -> None:
        """Read what is here, and ask whether the source has the same."""
        disk = self._r.disk
        assert disk is not None
        result = disk.read(start, size, partial(self._read_later, link, first, start, size))
        if not isinstance(result, int):
            self._send(first, start, size, result)
        elif result == PENDING:
            self.reading += 1
        else:
            self._unreadable(link, first, start, size, result)

    def _read_later(self, link: Link, first: int, start: int, size: int, error: int, data: Buffer) -> None:
        self.reading -= 1
        if self._r.links.link is not link:
            return
        if not self._r.sync.target.still_wants(first):
            self._r.sync.target.forgo(first)
        elif error:
            self._unreadable(link, first, start, size, error)
        else:
            self._send(first, start, size, data)

    def _send(self, first: int, start: int, size: int, data: Buffer) -> None:
        self.read_sectors += size >> 9
        assert self._digest is not None
        self._asked.add(first)
        request = BlockReq(start >> 9, ID_SYNCER, size).pack() + self._digest(data)
        self._r.links.send(Cmd.CSUM_RS_REQUEST, request)

    def _unreadable(self, link: Link, first: int, start: int, size: int, error: int) -> None:
        """What cannot be read is asked for: written anew it may be readable."""
        self._r.disk_failed(error, f"reading {size} bytes at {start} for the resync")
        target = self._r.sync.target
        if self._r.links.link is not link:
            return
        if target.still_wants(first):
            self._r.links.send(Cmd.RS_DATA_REQUEST, BlockReq(start >> 9, ID_SYNCER, size).pack())
        else:
            target.forgo(first)

    def on_in_sync(self, body: memoryview) -> None:
        """P_RS_IS_IN_SYNC. Its block_id means nothing: a kernel sends garbage there."""
        ack = BlockAck.unpack(body)
        first = ack.sector >> 3
        if first not in self._asked:
            raise ProtocolError(f"equal checksums for sector {ack.sector}: nobody asked", Cmd.RS_IS_IN_SYNC)
        counts = first not in self._void
        if self._r.sync.target.equal(first, ack.size_bytes, counts) and counts:
            self.equal_blocks += -(-ack.size_bytes // BLOCK_BYTES)

    def answered(self, first: int) -> None:
        """With data, or refused, or the same."""
        self._asked.discard(first)
        self._void.discard(first)

    def write_failed(self, first: int) -> None:
        """A write of the peer failed here: what is asked about is in sync on the source at best."""
        self._void.add(first)

    # --- the source ---

    def begin_source(self) -> None:
        """A resync from here begins."""
        self._digest = None
        self._begin(False)

    def same(self, data: Buffer, theirs: bytes) -> bool:
        """Does the target have this already? A digest that only finds accidents says nothing."""
        alg = self._r.settings.csums_alg
        self.took_part = True
        if not proves_equality(alg):
            return False
        if alg != self._alg or self._compare is None:
            self._alg, self._compare = alg, digest_of(alg)
        self.read_sectors += len(data) >> 9
        if self._r.state.conn not in (Conn.SYNC_SOURCE, Conn.PAUSED_SYNC_S) or self._compare(data) != theirs:
            return False
        self.equal_blocks += -(-len(data) // BLOCK_BYTES)
        return True

    # --- both ---

    def _begin(self, takes_part: bool) -> None:
        self.equal_blocks = 0
        self.took_part = takes_part

    def summary(self, total_blocks: int) -> str:
        """What it spared, in DRBD's words; "" if there was nothing to spare."""
        if not self.took_part or not total_blocks:
            return ""
        equal = min(self.equal_blocks, total_blocks)
        return (
            f"{equal * 100 // total_blocks} % had equal checksums, eliminated: {equal * 4}K; "
            f"transferred {(total_blocks - equal) * 4}K total {total_blocks * 4}K"
        )

    def reset(self) -> None:
        """The connection is gone."""
        self._asked.clear()
        self._void.clear()
