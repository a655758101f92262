# SPDX-License-Identifier: GPL-2.0-or-later
"""The four data generation identifiers (UUIDs) of one volume, and what each event does to them.

`current` names the data, `bitmap` the data the bitmap counts from (0: no bitmap in use), the two history slots what
both were before. Bit 0 of `current` says "is Primary"; `bitmap` inherits it and so tells who was Primary when the
nodes parted. Comparisons ignore bit 0.
"""

from __future__ import annotations

from typing import NamedTuple

PRIMARY_BIT = 1
NONE = 0                                # no generation, bitmap not in use
JUST_CREATED = 4                        # current generation of fresh metadata
RESYNC_OFFSET = 0x0001_0000_0000_0000   # added to the bitmap generation when a resync starts
MASK_64 = (1 << 64) - 1

SLOTS = ("current", "bitmap", "history0", "history1")


def plain(uuid: int) -> int:
    """A generation without its Primary bit."""
    return uuid & ~PRIMARY_BIT


def next_resync_uuid(base: int) -> int:
    """The generation a resync that starts from `base` gets, by DRBD's offset; wraps at 64 bits."""
    return (base + RESYNC_OFFSET) & MASK_64


class Generations(NamedTuple):
    """The identifiers as they stand in the superblock and in P_UUIDS. Every operation returns a new tuple."""

    current: int = JUST_CREATED
    bitmap: int = NONE
    history0: int = NONE        # younger
    history1: int = NONE        # older

    def __str__(self) -> str:
        return ":".join(f"{uuid:016X}" for uuid in self)

    @property
    def just_created(self) -> bool:
        """Has this data never been anybody's?"""
        return plain(self.current) == JUST_CREATED

    @property
    def was_primary_when_parted(self) -> bool:
        """Bit 0 of the bitmap generation: were we Primary when the bitmap began?"""
        return bool(self.bitmap & PRIMARY_BIT)

    def plain(self) -> Generations:
        """All four without the Primary bit, as comparisons see them."""
        return Generations(*(uuid & ~PRIMARY_BIT for uuid in self))

    def set_slot(self, slot: str, uuid: int) -> Generations:
        """Raw store. ValueError unless `slot` is one of SLOTS."""
        if slot not in SLOTS:
            raise ValueError(f"no generation slot '{slot}'; known: {', '.join(SLOTS)}")
        return self._replace(**{slot: uuid & MASK_64})

    def as_primary(self, primary: bool) -> Generations:
        """Bit 0 of the current generation follows the role."""
        return self._replace(current=plain(self.current) | int(primary))

    def set_current(self, uuid: int, primary: bool) -> Generations:
        """Another current generation, with the bit of the present role."""
        return self._replace(current=plain(uuid & MASK_64) | int(primary))

    def rotate_set(self, slot: str, uuid: int) -> Generations:
        """Store into `slot`; what stood there moves to the history, unless it was 0."""
        before = self._asdict()[slot] if slot in SLOTS else NONE
        moved = self._replace(history0=before, history1=self.history0) if before else self
        return moved.set_slot(slot, uuid)

    def new_current(self, random64: int, primary: bool) -> Generations:
        """The data moves on: the bitmap counts from the old current generation, a random one becomes current.

        ValueError for a random number that means something (0, 4): draw again.
        """
        if plain(random64 & MASK_64) in (NONE, JUST_CREATED):
            raise ValueError(f"{random64:#x} is reserved and cannot name a generation; draw another random number")
        return self._replace(bitmap=self.current).set_current(random64, primary)

    def moved_on_again(self, random64: int, primary: bool) -> Generations:
        """Another current generation, while the bitmap goes on to count from what it counted from."""
        renamed = self.new_current(random64, primary).current
        return self._replace(current=renamed, history0=self.current, history1=self.history0)

    def set_bitmap(self, uuid: int) -> Generations:
        """0: the bitmap's generation (if any) retires into the history. Else: it counts from `uuid` now."""
        if uuid:
            return self._replace(bitmap=plain(uuid & MASK_64))
        if self.bitmap == NONE:
            return self
        return self._replace(bitmap=NONE, history0=self.bitmap, history1=self.history0)

    def clear_for_new(self, random64: int, primary: bool) -> Generations:
        """`new-current-uuid`: the bitmap's generation retires, then a new current one."""
        return self.rotate_set("bitmap", NONE).new_current(random64, primary)

    def skip_initial_sync(self, current: int, primary: bool) -> Generations:
        """Both disks were declared equal while fresh: take the common generation, no bitmap in use."""
        return self.set_current(current, primary)._replace(bitmap=NONE)

    def resync_start_source(self, random64: int) -> tuple[Generations, int]:
        """We start to serve: (our generations, the identifier to send in P_SYNC_UUID)."""
        based = plain(self.bitmap) not in (NONE, JUST_CREATED)
        uuid = next_resync_uuid(self.bitmap) if based else random64 & MASK_64
        return self.rotate_set("bitmap", uuid), uuid

    def resync_start_target(self, uuid: int, primary: bool = False) -> Generations:
        """P_SYNC_UUID came: our data is on its way to the source's and belongs to neither generation meanwhile."""
        return self.set_current(uuid, primary)._replace(bitmap=NONE)

    def resync_done_source(self) -> Generations:
        """The target has everything: the bitmap's generation retires."""
        return self.set_bitmap(NONE)

    def resync_done_target(self, peers: Generations, primary: bool = False) -> Generations:
        """We have everything: become what the source will be. `peers` as last received in P_UUIDS."""
        mine = self._replace(bitmap=peers.bitmap, history0=peers.history0, history1=peers.history1)
        return mine.rotate_set("bitmap", self.current).set_current(peers.current, primary).set_bitmap(NONE)

    def finish_missed(self) -> Generations:
        """Rules 34 and 35: the end of a resync was missed; retire the bitmap's generation now."""
        return self._replace(bitmap=NONE, history0=self.bitmap, history1=self.history0)

    def undo_resync_start(self) -> Generations:
        """Rules 51 and 71: P_SYNC_UUID got lost; undo what the source did when it sent it."""
        return self._replace(bitmap=self.history0, history0=self.history1)
