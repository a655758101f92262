# SPDX-License-Identifier: GPL-2.0-or-later
"""Activity logs as a Primary leaves them, for the replay tests."""

from __future__ import annotations

from replblock.meta import activity_log as al


class Writer:
    """An activity log as a Primary keeps it: slots, rotating context, one block per transaction."""

    def __init__(self, stripes: int, size: int, slots: int, first_tr: int) -> None:
        self.stripes, self.size = stripes, size
        self.slots = [al.FREE_EXTENT] * slots
        self.blocks = [al.initialized_block()] * (stripes * size)
        self.tr, self.window = first_tr, 0

    def write(self, updates: list[tuple[int, int]]) -> None:
        context = self.slots[self.window : self.window + al.CONTEXT_PER_BLOCK]
        block = al.pack_transaction(self.tr, updates, self.window, context, len(self.slots))
        self.blocks[al.position(self.tr, self.stripes, self.size)] = block
        for slot, extent in updates:
            self.slots[slot] = extent
        self.window += al.CONTEXT_PER_BLOCK
        if self.window >= len(self.slots):
            self.window = 0
        self.tr = (self.tr + 1) & 0xFFFFFFFF

    @property
    def active(self) -> set[int]:
        return set(self.slots) - {al.FREE_EXTENT}

    def replay(self) -> al.Replay:
        return al.replay(self.blocks, self.stripes, self.size)
