# SPDX-License-Identifier: GPL-2.0-or-later
"""The exchange of bitmaps: both nodes end with the union of what each knows to differ; and single blocks later on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.wire.bitmap_code import Transfer, decode, encode
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.packets import BlockDesc

if TYPE_CHECKING:
    from replblock.core.resource import Resource

COMPRESSED_SINCE_VERSION = 90


class BitmapExchange:
    """Sends ours, merges the peer's; `received` is called when all of the peer's is in."""

    def __init__(self, resource: Resource, received: Callable[[], None]) -> None:
        self._r = resource
        self._received = received
        self._incoming: Transfer | None = None
        self.packets_sent = 0
        self.bytes_sent = 0

    @property
    def expected(self) -> bool:
        """The peer's bitmap is not complete yet."""
        return self._incoming is not None

    def reset(self) -> None:
        """The connection is gone."""
        self._incoming = None

    def expect(self) -> None:
        """The peer's bitmap comes next."""
        meta, link = self._r.meta, self._r.links.link
        assert meta is not None and link is not None
        self._incoming = Transfer(meta.bitmap.bits, link.version)

    def send(self) -> None:
        """Send the whole bitmap, packet by packet in whichever form is shorter."""
        meta, link = self._r.meta, self._r.links.link
        assert meta is not None and link is not None
        bitmap = meta.bitmap
        transfer = Transfer(bitmap.bits, link.version)
        compress = self._r.settings.use_rle and link.version >= COMPRESSED_SINCE_VERSION
        while not transfer.finished:
            if compress and transfer.bit_offset < bitmap.bits:
                code = encode(bitmap.runs(transfer.bit_offset), transfer.max_bytes)
                if code.bits and code.worthwhile:
                    self._send(Cmd.COMPRESSED_BITMAP, code.payload)
                    transfer.compressed(code.bits)
                    continue
            length = transfer.plain_bytes()
            self._send(Cmd.BITMAP, bitmap.words(transfer.word_offset, length // 8) if length else b"")
            transfer.plain(length)

    def _send(self, cmd: Cmd, body: bytes) -> None:
        self.packets_sent += 1
        self.bytes_sent += len(body)
        self._r.links.send(cmd, body)

    def _transfer(self, cmd: Cmd) -> Transfer:
        if self._incoming is None or self._r.meta is None:
            raise ProtocolError("a bitmap although none was agreed to be exchanged", cmd)
        return self._incoming

    def on_plain(self, body: memoryview) -> None:
        """P_BITMAP."""
        transfer = self._transfer(Cmd.BITMAP)
        offset = transfer.word_offset
        transfer.plain(len(body))
        meta = self._r.meta
        if len(body) and meta is not None:
            meta.bitmap.merge_words(offset, body)
        self._check(transfer)

    def on_compressed(self, body: memoryview) -> None:
        """P_COMPRESSED_BITMAP."""
        transfer = self._transfer(Cmd.COMPRESSED_BITMAP)
        meta = self._r.meta
        assert meta is not None
        at = start = transfer.bit_offset
        for value, length in decode(body, transfer.bits - start):
            if value:
                meta.bitmap.set_range(at, at + length)
            at += length
        transfer.compressed(at - start)
        self._check(transfer)

    def on_out_of_sync(self, body: memoryview) -> None:
        """P_OUT_OF_SYNC: the peer wrote this without sending it."""
        desc = BlockDesc.unpack(body)
        meta = self._r.meta
        if meta is not None:
            self._r.secondary.check_range(desc.sector, desc.size_bytes, Cmd.OUT_OF_SYNC)
            end = (desc.sector << 9) + desc.size_bytes
            meta.bitmap.set_range(desc.sector >> 3, -(-end // 4096))

    def _check(self, transfer: Transfer) -> None:
        if transfer.finished:
            self._incoming = None
            self._received()
