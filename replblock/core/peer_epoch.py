# SPDX-License-Identifier: GPL-2.0-or-later
"""The open epoch of the peer's writes on this node, and the flush that its barrier stands for.

Nothing of the next epoch begins before the fdatasync has returned: see secondary.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from replblock.core.link import Link
from replblock.state.names import Conn
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.packets import Barrier

if TYPE_CHECKING:
    from replblock.core.metastore import MetaStore
    from replblock.core.secondary import SecondaryPath

GONE = -2
"""Instead of an errno: the disk that took the writes of an epoch was lost before it was flushed."""


class PeerEpoch:
    """How many writes came since the last barrier, and which disk took them."""

    def __init__(self, path: SecondaryPath) -> None:
        self._path = path
        self.size = 0
        self._barriers = 0
        """Barriers of this connection that wait for their flush."""
        self.taken_by: MetaStore | None = None
        """The disk that took the writes of this epoch."""

    @property
    def unflushed(self) -> bool:
        """Writes came that no barrier ack covers."""
        return self.size > 0 or self._barriers > 0

    def begin(self) -> None:
        """A new connection."""
        self.size = self._barriers = 0
        self.taken_by = None

    def flushed_all(self) -> None:
        """The disk is detached in good order: what it took is on it for good."""
        self.taken_by = None

    def on_barrier(self, body: memoryview) -> None:
        """P_BARRIER: ack after everything of the epoch is durable here; what follows waits."""
        link = self._path.link
        if link is None:
            raise ProtocolError("P_BARRIER before the handshake", Cmd.BARRIER)
        barrier = Barrier.unpack(body).barrier
        size, self.size = self.size, 0
        if size:  # an empty epoch gets no ack
            self._barriers += 1
            self._path.hold_until(partial(self._flush, link, barrier, size))

    def _flush(self, link: Link, barrier: bytes, size: int, go_on: Callable[[], None]) -> None:
        path = self._path
        r = path.resource

        def written() -> None:
            if path.link is not link:
                return  # what was taken since belongs to an epoch of another connection
            taken, self.taken_by = self.taken_by, None
            if taken is None or not r.settings.disk_flushes:
                flushed(0)  # none of them was written here: each got its P_NEG_ACK
            elif r.meta is taken:
                r.flush_disk(flushed)
            else:
                flushed(GONE)

        def flushed(error: int) -> None:
            if error:
                # no ack: what the peer has not seen acknowledged it keeps as different
                if error != GONE:
                    r.disk_failed(error, "flushing an epoch of the peer")
                if path.link is link:
                    text = "an epoch of the peer could not be flushed: it gets no ack, connecting anew"
                    r.links.drop(Conn.NETWORK_FAILURE, "epoch-not-flushed", text)
                return
            if path.link is link:
                self._barriers -= 1
                path.ack_epoch(link, barrier, size)
            go_on()

        path.when_written(written)
