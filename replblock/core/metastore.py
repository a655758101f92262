# SPDX-License-Identifier: GPL-2.0-or-later
"""The metadata of an attached disk: superblock, bitmap and generation UUIDs, in memory and on their way to disk."""

from __future__ import annotations

from collections.abc import Callable

from replblock.core.host import Disk, Done
from replblock.meta.activity_log import initialized_block
from replblock.meta.bitmap import Bitmap
from replblock.meta.geometry import Geometry
from replblock.meta.recovery import bits_of, recover
from replblock.meta.superblock import MAGIC_UNCLEAN, MAGIC_V08, Flag, Superblock
from replblock.state.uuids import Generations

BLOCK_BYTES = 4096
BLOCK_BITS = 8 * BLOCK_BYTES
BLOCK_SECTORS = 8
WRITE_BATCH_BLOCKS = 256


class MetaStore:
    """What the superblock and the bitmap say. Every `save_…` is carried out in the order of the calls."""

    def __init__(self, disk: Disk, geometry: Geometry, superblock: Superblock, failed: Callable[[int], None]) -> None:
        self.disk = disk
        self.geometry = geometry
        self.superblock = superblock
        self.bitmap = Bitmap(0)
        self.al_replayed_extents = 0
        self.al_corrupt = 0
        self.bitmap_writes = 0
        self.writing = 0
        """Calls of `save_…` that are under way."""
        self._failed = failed
        self._behind_flush: list[Done] | None = None
        """Saves of the superblock that wait for a flush of the data."""
        self._cleared: dict[int, int] = {}
        """Bitmap block → its bits that were cleared since the last flush of the data began."""
        self._flushing: list[dict[int, int]] = []

    # --- reading ---

    @property
    def uuids(self) -> Generations:
        """The generation UUIDs."""
        s = self.superblock
        return Generations(s.uuid_current, s.uuid_bitmap, s.uuid_history0, s.uuid_history1)

    @property
    def flags(self) -> Flag:
        """The MDF_* flags."""
        return Flag(self.superblock.flags)

    @property
    def la_size_sectors(self) -> int:
        """The device size last agreed upon."""
        return self.superblock.la_size_sectors

    def load(self, size_sectors: int) -> None:
        """Read the bitmap, apply the activity log where the last Primary crashed. Raises OSError.

        Same effect as drbdmeta's apply-al: with PRIMARY_IND every extent of the log becomes out-of-sync bits.
        Nothing is written yet: `settle` does.
        """
        found = recover(self.disk.meta_read, self.geometry, self.superblock, size_sectors)
        self.bitmap, self.al_replayed_extents, self.al_corrupt = found.bitmap, found.replayed_extents, found.corrupt

    # --- changing ---

    def put(self, uuids: Generations) -> None:
        """Change the UUIDs in memory; `save` makes it durable."""
        self.superblock = self.superblock._replace(
            uuid_current=uuids.current,
            uuid_bitmap=uuids.bitmap,
            uuid_history0=uuids.history0,
            uuid_history1=uuids.history1,
        )

    def put_flags(self, value: int, mask: int) -> None:
        """Replace the flags under `mask`."""
        self.superblock = self.superblock._replace(flags=self.superblock.flags.without(mask) | Flag(value & mask))

    def put_size(self, size_sectors: int) -> None:
        """The agreed size changed."""
        self.superblock = self.superblock._replace(la_size_sectors=size_sectors)
        if bits_of(size_sectors) != self.bitmap.bits:
            self.bitmap.resize(bits_of(size_sectors), True)

    def grow(self, size_sectors: int, set_new: bool) -> None:
        """The device became larger. The bitmap is on disk before the size: a crash between leaves the old size."""
        old = self.la_size_sectors
        self.superblock = self.superblock._replace(la_size_sectors=size_sectors)
        self.bitmap.resize(bits_of(size_sectors), set_new)
        if set_new and old % BLOCK_SECTORS:
            self.bitmap.set_range(old // BLOCK_SECTORS, old // BLOCK_SECTORS + 1)
        self.save_bitmap()
        self.save()

    # --- clearing ---

    def clear_bits(self, first: int, end: int) -> None:
        """These blocks are equal on both nodes. On disk their bits are cleared only after the data was flushed."""
        cleared = self._cleared
        at = first
        while at < end:
            block = at // BLOCK_BITS
            upto = min(end, (block + 1) * BLOCK_BITS)
            cleared[block] = cleared.get(block, 0) | ((1 << (upto - at)) - 1) << (at - block * BLOCK_BITS)
            at = upto
        self.bitmap.clear_range(first, end)

    def flush(self, done: Done) -> None:
        """fdatasync of the data area; afterwards the bits cleared before this call may be cleared on disk."""
        if not self._cleared:
            self.disk.flush(done)
            return
        covered, self._cleared = self._cleared, {}
        self._flushing.append(covered)

        def flushed(errno: int) -> None:
            if not errno:
                self._flushing.remove(covered)
            done(errno)

        self.disk.flush(flushed)

    def _block(self, number: int) -> bytes:
        """A block of the bitmap as it may stand on disk now."""
        block = self.bitmap.block(number)
        held = self._cleared.get(number, 0)
        for cleared in self._flushing:
            held |= cleared.get(number, 0)
        if not held:
            return block
        self.bitmap.mark_changed([number])  # to be written again after the flush
        return (int.from_bytes(block, "little") | held).to_bytes(BLOCK_BYTES, "little")

    # --- writing ---

    def _then(self, done: Done | None) -> Done:
        self.writing += 1

        def finished(errno: int) -> None:
            self.writing -= 1
            if errno:
                self._failed(errno)
            if done is not None:
                done(errno)

        return finished

    def save(self, done: Done | None = None) -> None:
        """Write the superblock as of now (or of a flush that is under way); durable when `done(0)` comes."""
        if self._behind_flush is not None:
            self._behind_flush.append(self._then(done))
            return
        self.disk.meta_write([(self.geometry.superblock_offset_bytes, self.superblock.pack())], self._then(done))

    def save_after_flush(self) -> None:
        """The generation that was just put says that this disk has what its peer has: the data must be durable first.

        Until then no save is carried out; if the data cannot be flushed, the superblock stays as it was.
        """
        if self._behind_flush is not None:
            return
        self._behind_flush = []

        def flushed(errno: int) -> None:
            waiting, self._behind_flush = self._behind_flush or [], None

            def saved(error: int) -> None:
                for done in waiting:
                    done(error)

            if errno:
                saved(errno)
            else:
                self.save(saved)

        self.save()
        self.flush(flushed)

    def save_bitmap(self, done: Done | None = None, only: set[int] | None = None) -> None:
        """Write every bitmap block that changed since it was last written; durable when `done(0)` comes.

        `only`: none but these. Bits cleared since the last flush of the data stay set on disk.
        """
        changed = self.bitmap.take_changed_blocks()
        if only is not None:
            self.bitmap.mark_changed(n for n in changed if n not in only)
            changed = [n for n in changed if n in only]
        base = self.geometry.bm_offset_bytes
        self.bitmap_writes += len(changed)
        batches = [changed[i : i + WRITE_BATCH_BLOCKS] for i in range(0, len(changed), WRITE_BATCH_BLOCKS)] or [[]]
        for batch in batches[:-1]:
            self.disk.meta_write([(base + BLOCK_BYTES * n, self._block(n)) for n in batch], self._then(None))
        last = [(base + BLOCK_BYTES * n, self._block(n)) for n in batches[-1]]
        self.disk.meta_write(last, self._then(done))

    @property
    def settling(self) -> bool:
        """The superblock in memory is ahead of what may stand on disk: it waits for a flush."""
        return self._behind_flush is not None

    def move(self, geometry: Geometry, log: Callable[[Geometry], list[bytes]] | None, done: Done) -> None:
        """The metadata device grew: everything is written where it belongs now, the superblock last.

        Until that one is durable the old place counts, with all that was written there. `log`: the activity log in
        its new place; None where only the room for the bitmap changed.
        """
        self.geometry = geometry
        self.superblock = self.superblock._replace(
            md_size_sectors=geometry.md_size_sectors,
            al_offset_sectors=geometry.al_offset_sectors,
            bm_offset_sectors=geometry.bm_offset_sectors,
        )
        if log is not None:
            self.bitmap.mark_changed(range(self.bitmap.n_blocks))
            self.save_bitmap()
            blocks = [(geometry.al_offset_bytes + BLOCK_BYTES * n, block) for n, block in enumerate(log(geometry))]
            self.disk.meta_write(blocks, self._then(None))
        self.save(done)

    def settle(self, done: Done) -> None:
        """After `load`: bitmap, an empty activity log and the superblock, marked as in use, in this order."""
        g = self.geometry
        self.save_bitmap()
        empty = initialized_block()
        log = [(g.al_offset_bytes + i, empty) for i in range(0, g.al_size_bytes, BLOCK_BYTES)]
        self.disk.meta_write(log, self._then(None))
        self.put_flags(0, Flag.AL_CLEAN)
        self.superblock = self.superblock._replace(magic=MAGIC_UNCLEAN)
        self.save(done)

    def retire(self, done: Done) -> None:
        """Orderly end: what is left is what drbdmeta's apply-al leaves, clean and with an empty log."""
        g = self.geometry
        self.save_bitmap()
        empty = initialized_block()
        log = [(g.al_offset_bytes + i, empty) for i in range(0, g.al_size_bytes, BLOCK_BYTES)]
        self.put_flags(Flag.AL_CLEAN, Flag.AL_CLEAN)
        self.superblock = self.superblock._replace(magic=MAGIC_V08)
        self.disk.meta_write(log, self._then(None))
        self.save(done)
