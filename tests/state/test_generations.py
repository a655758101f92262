# SPDX-License-Identifier: GPL-2.0-or-later
"""What each event does to the generations, against values seen on a kernel node."""

from __future__ import annotations

import pytest

from replblock.state.generations import RESYNC_OFFSET, Generations

FRESH = Generations()


def test_fresh_metadata_prints_as_drbdmeta_does():
    assert str(FRESH) == "0000000000000004:0000000000000000:0000000000000000:0000000000000000"
    assert FRESH.just_created and FRESH.as_primary(True).just_created


def test_kernel_example_of_a_lost_peer_and_its_resync():
    """Values of a live kernel pair: Primary disconnected, then bitmap resync; both sets equal at the end."""
    primary = Generations(0x12C3D6A6021F3F8F, 0, 0, 0)
    secondary = primary.as_primary(False)
    primary = primary.new_current(0xDC3CD8FADDB9DF62, primary=True)
    assert primary == Generations(0xDC3CD8FADDB9DF63, 0x12C3D6A6021F3F8F, 0, 0)
    told = primary
    primary, uuid = primary.resync_start_source(0)
    assert primary == Generations(0xDC3CD8FADDB9DF63, 0x12C4D6A6021F3F8F, 0x12C3D6A6021F3F8F, 0)
    assert uuid == primary.bitmap
    secondary = secondary.resync_start_target(uuid)
    assert secondary == Generations(0x12C4D6A6021F3F8E, 0, 0, 0)
    primary = primary.resync_done_source()
    assert primary == Generations(0xDC3CD8FADDB9DF63, 0, 0x12C4D6A6021F3F8F, 0x12C3D6A6021F3F8F)
    secondary = secondary.resync_done_target(told)
    assert secondary == Generations(0xDC3CD8FADDB9DF62, 0, 0x12C4D6A6021F3F8E, 0x12C3D6A6021F3F8F)
    assert secondary.plain() == primary.plain()


def test_new_current_keeps_who_was_primary():
    g = Generations(0x100, 0, 0, 0).as_primary(True).new_current(0x200, primary=True)
    assert g.was_primary_when_parted and g.current == 0x201
    assert not Generations(0x100, 0, 0, 0).new_current(0x200, primary=False).was_primary_when_parted


@pytest.mark.parametrize("reserved", [0, 1, 4, 5, 1 << 64])
def test_reserved_random_numbers_are_refused(reserved):
    with pytest.raises(ValueError, match="reserved"):
        FRESH.new_current(reserved, primary=True)


def test_set_bitmap():
    g = Generations(1 << 8, 0x31, 0x20, 0x10)
    assert g.set_bitmap(0) == Generations(1 << 8, 0, 0x31, 0x20)
    assert g.set_bitmap(0).set_bitmap(0) == g.set_bitmap(0)
    assert g.set_bitmap(0x41).bitmap == 0x40


def test_rotate_set_keeps_history_only_of_something():
    assert Generations(8, 0, 2, 6).rotate_set("bitmap", 10) == Generations(8, 10, 2, 6)
    assert Generations(8, 12, 2, 6).rotate_set("bitmap", 10) == Generations(8, 10, 12, 2)
    with pytest.raises(ValueError, match="history2"):
        FRESH.rotate_set("history2", 1)


def test_first_full_sync_uses_the_random_number():
    forced = FRESH.new_current(0xABC0, primary=True)
    assert forced.bitmap == 4
    g, uuid = forced.resync_start_source(0x5550)
    assert uuid == 0x5550 and g == Generations(0xABC1, 0x5550, 4, 0)


def test_resync_generation_wraps_at_64_bits():
    g, uuid = Generations(8, (1 << 64) - RESYNC_OFFSET + 2, 0, 0).resync_start_source(99)
    assert uuid == 2 and g.bitmap == 2


def test_clear_for_new_and_skip_initial_sync():
    g = Generations(0x100, 0x60, 0x20, 0).clear_for_new(0x200, primary=False)
    assert g == Generations(0x200, 0x100, 0x60, 0x20)
    assert FRESH.skip_initial_sync(0x301, primary=False) == Generations(0x300, 0, 0, 0)


def test_undo_and_finish():
    assert Generations(8, 5, 3, 2).finish_missed() == Generations(8, 0, 5, 3)
    assert Generations(8, 5, 3, 2).undo_resync_start() == Generations(8, 3, 2, 2)
