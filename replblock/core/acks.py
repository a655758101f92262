# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node says to the peer about the peer's writes: gathered, and sent at the end of the wake-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.core.link import Link
from replblock.core.pieces import Ident, Whole
from replblock.wire.commands import Cmd
from replblock.wire.headers import MAGIC_100, pack_header
from replblock.wire.packets import BLOCK_ACK_BODY, BLOCK_ACK_PACKET_100, BarrierAck, BlockAck

if TYPE_CHECKING:
    from replblock.core.resource import Resource


class PeerAcks:
    """The acknowledgements of one connection after the other."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._host = resource.host
        self._link: Link | None = None
        self._acks: list[bytes] = []
        self._acks_wait = 0
        """Saves of the metadata that acknowledgements wait for."""
        self._seq = 0

    def ack_epoch(self, link: Link, barrier: bytes, size: int) -> None:
        """P_BARRIER_ACK, behind the acknowledgements of its writes."""
        self._acks.append(pack_header(link.version, Cmd.BARRIER_ACK, 8) + BarrierAck(barrier, size).pack())
        self.end_wakeup()

    def hold_acks(self) -> Callable[[], None]:
        """Nothing is acknowledged, nor refused, until what this returns is called."""
        self._acks_wait += 1

        def release() -> None:
            self._acks_wait -= 1

        return release

    def ack(self, link: Link, cmd: Cmd, sector: int, ident: Ident, size_bytes: int) -> None:
        """Queue a p_block_ack for the end of the wake-up."""
        if self._link is not link:
            return
        if type(ident) is Whole:
            if (last := ident.piece(cmd)) is None:
                return
            cmd, sector, ident, size_bytes = last
        if link.version >= 100:
            self._ack_100(cmd, sector, ident, size_bytes)
            return
        self._seq = seq = (self._seq + 1) & 0xFFFFFFFF
        self._acks.append(pack_header(link.version, cmd, 24) + BLOCK_ACK_BODY.pack(sector, ident, size_bytes, seq))

    def _ack_100(self, cmd: int, sector: int, ident: Ident, size_bytes: int) -> None:
        """On this connection, which speaks protocol 100 or newer."""
        self._seq = seq = (self._seq + 1) & 0xFFFFFFFF
        volume = self._r.settings.volume
        self._acks.append(BLOCK_ACK_PACKET_100.pack(MAGIC_100, volume, cmd, 24, 0, sector, ident, size_bytes, seq))

    def end_wakeup(self) -> None:
        """One send for all acks of the wake-up."""
        if self._acks and self._link is not None and not self._acks_wait:
            self._host.send(self._link.meta, [b"".join(self._acks)])
            self._acks.clear()

    def _nack(self, link: Link, sector: int, ident: Ident, size: int) -> None:
        self.ack(link, Cmd.NEG_ACK, sector, ident, size)

    def ack_resync(self, link: Link, cmd: Cmd, ack: BlockAck) -> None:
        """P_RS_WRITE_ACK and friends go the way of all acks, in order."""
        self.ack(link, cmd, ack.sector, ack.block_id, ack.size_bytes)
