# SPDX-License-Identifier: GPL-2.0-or-later
"""The in-memory bitmap against a plain set of numbers."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replblock.meta.bitmap import BLOCK_BITS, Bitmap

SIZES = (1, 2, 7, 8, 9, 63, 64, 65, 4095, 4096, 4097, BLOCK_BITS - 1, BLOCK_BITS, BLOCK_BITS + 1, 3 * BLOCK_BITS + 77)


def ones(bitmap: Bitmap) -> set[int]:
    """What is set, read from the on-disk form, independent of next_set and friends."""
    word = int.from_bytes(b"".join(bitmap.block(i) for i in range(bitmap.n_blocks)), "little")
    return {i for i, digit in enumerate(reversed(f"{word:b}")) if digit == "1"}


class BitmapMachine(RuleBasedStateMachine):
    """Any sequence of operations gives the same answers as the set model, and reports every changed block."""

    @initialize(bits=st.sampled_from(SIZES) | st.integers(0, 2 * BLOCK_BITS))
    def start(self, bits: int) -> None:
        self.bitmap = Bitmap(bits)
        self.bits = bits
        self.model: set[int] = set()
        self.disk: dict[int, bytes] = {}

    def pair(self, data: st.DataObject) -> tuple[int, int]:
        first = data.draw(st.integers(0, self.bits))
        length = data.draw(st.integers(0, 3) | st.integers(0, 300) | st.integers(0, self.bits - first))
        return first, min(first + length, self.bits)

    @rule(data=st.data())
    def set_range(self, data: st.DataObject) -> None:
        first, end = self.pair(data)
        wanted = set(range(first, end))
        assert self.bitmap.set_range(first, end) == len(wanted - self.model)
        self.model |= wanted

    @rule(data=st.data())
    def clear_range(self, data: st.DataObject) -> None:
        first, end = self.pair(data)
        wanted = set(range(first, end))
        assert self.bitmap.clear_range(first, end) == len(wanted & self.model)
        self.model -= wanted

    @rule(data=st.data())
    def merge_words(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.bitmap.n_words))
        words = data.draw(st.binary(max_size=64).map(lambda raw: raw[: len(raw) // 8 * 8]))
        words = words[: (self.bitmap.n_words - offset) * 8]
        bits = {offset * 64 + i for i in range(len(words) * 8) if words[i >> 3] >> (i & 7) & 1}
        bits = {bit for bit in bits if bit < self.bits}
        assert self.bitmap.merge_words(offset, memoryview(words)) == len(bits - self.model)
        self.model |= bits

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        first, end = self.pair(data)
        inside = self.model & set(range(first, end))
        assert self.bitmap.any_set(first, end) == bool(inside)
        assert self.bitmap.count_range(first, end) == len(inside)
        assert self.bitmap.next_set(first) == min((bit for bit in self.model if bit >= first), default=-1)
        assert self.bitmap.next_clear(first) == next((i for i in range(first, self.bits) if i not in self.model), -1)
        clear = next((i for i in range(first, self.bits) if i not in self.model), self.bits)
        for most in (1, 7, 256, 4096):
            assert self.bitmap.set_run(first, most) == min(clear - first, most)

    @rule()
    def fill(self) -> None:
        assert self.bitmap.fill() == self.bits - len(self.model)
        self.model = set(range(self.bits))

    @rule()
    def zero(self) -> None:
        assert self.bitmap.zero() == len(self.model)
        self.model = set()

    @rule(bits=st.sampled_from(SIZES), set_new=st.booleans())
    def resize(self, bits: int, set_new: bool) -> None:
        self.bitmap.resize(bits, set_new)
        grown = set(range(self.bits, bits)) if set_new else set()
        self.model = {bit for bit in self.model if bit < bits} | grown
        self.bits = bits
        self.disk = {block: data for block, data in self.disk.items() if block < self.bitmap.n_blocks}

    @rule()
    def write_out(self) -> None:
        changed = self.bitmap.take_changed_blocks()
        assert changed == sorted(set(changed)) and not self.bitmap.has_changes
        self.disk.update({block: self.bitmap.block(block) for block in changed})
        for block in range(self.bitmap.n_blocks):
            assert self.disk.get(block, bytes(4096)) == self.bitmap.block(block)

    @rule()
    def reload(self) -> None:
        raw = b"".join(self.bitmap.block(i) for i in range(self.bitmap.n_blocks))
        again = Bitmap(self.bits)
        again.load(raw)
        assert again.count == self.bitmap.count and not again.take_changed_blocks()
        assert [again.block(i) for i in range(again.n_blocks)] == [self.bitmap.block(i) for i in range(again.n_blocks)]

    @rule(piece_bytes=st.sampled_from([512, 4096, 5120, 1 << 20]))
    def reload_in_pieces(self, piece_bytes: int) -> None:
        raw = b"".join(self.bitmap.block(i) for i in range(self.bitmap.n_blocks))
        again = Bitmap(self.bits)
        for at in range(0, len(raw), piece_bytes):
            again.load_piece(at, raw[at : at + piece_bytes])
        assert again.count == self.bitmap.count and not again.has_changes
        assert ones(again) == self.model
        again.mark_changed(self.bitmap.take_changed_blocks())
        self.bitmap = again

    @precondition(lambda self: self.bits <= 5000)
    @rule(start=st.integers(0, 5000))
    def runs(self, start: int) -> None:
        found = list(self.bitmap.runs(start))
        assert all(length > 0 for _, length in found)
        assert all(a != b for (a, _), (b, _) in itertools.pairwise(found))
        flat = [value for value, length in found for _ in range(length)]
        assert flat == [bit in self.model for bit in range(start, self.bits)]

    @invariant()
    def same(self) -> None:
        assert self.bitmap.count == len(self.model)
        assert self.bitmap.bits == len(self.bitmap) == self.bits
        assert ones(self.bitmap) == self.model


TestBitmapMachine = BitmapMachine.TestCase
TestBitmapMachine.settings = settings(stateful_step_count=25, max_examples=40)


@given(bits=st.integers(600_000, 700_000), seed=st.binary(min_size=1, max_size=40), data=st.data())
@settings(max_examples=15)
def test_long_ranges_equal_integer_arithmetic(bits: int, seed: bytes, data: st.DataObject) -> None:
    """Ranges beyond one chunk of 64 KiB, with ragged ends, over a mixed content."""
    bitmap = Bitmap(bits)
    bitmap.load(seed * (bits // 8 // len(seed) + 1))
    model = int.from_bytes(seed * (bits // 8 // len(seed) + 1), "little") & ((1 << bits) - 1)
    assert bitmap.count == model.bit_count()
    bitmap.take_changed_blocks()
    disk = [bitmap.block(i) for i in range(bitmap.n_blocks)]
    for _ in range(4):
        first = data.draw(st.integers(0, bits))
        end = data.draw(st.integers(first, bits))
        mask = ((1 << end) - 1) & ~((1 << first) - 1)
        assert bitmap.count_range(first, end) == (model & mask).bit_count()
        if data.draw(st.booleans()):
            assert bitmap.set_range(first, end) == (mask & ~model).bit_count()
            model |= mask
        else:
            assert bitmap.clear_range(first, end) == (mask & model).bit_count()
            model &= ~mask
        assert bitmap.count == model.bit_count()
        low = model >> first
        assert bitmap.next_set(first) == (first + (low & -low).bit_length() - 1 if low else -1)
        for block in bitmap.take_changed_blocks():
            disk[block] = bitmap.block(block)
        assert disk == [bitmap.block(i) for i in range(bitmap.n_blocks)]
    raw = b"".join(bitmap.block(i) for i in range(bitmap.n_blocks))
    assert int.from_bytes(raw, "little") == model


def test_a_whole_terabyte() -> None:
    """32 MiB of bitmap: scans find a lonely bit anywhere, runs cover everything, counting stays right."""
    bitmap = Bitmap(1 << 28)
    lonely = (0, 1, 8191, 65_536 * 8 - 1, 65_536 * 8, (1 << 27) + 12_345, (1 << 28) - 1)
    for bit in lonely:
        assert bitmap.set_range(bit, bit + 1) == 1
    found, at = [], -1
    while (at := bitmap.next_set(at + 1)) >= 0:
        found.append(at)
    assert tuple(found) == lonely
    assert sum(length for _, length in bitmap.runs()) == 1 << 28
    assert bitmap.take_changed_blocks() == sorted({bit >> 15 for bit in lonely})
    assert bitmap.fill() == (1 << 28) - len(lonely)
    assert bitmap.next_clear(0) == -1
    assert bitmap.clear_range(lonely[-2], lonely[-2] + 1) == 1
    assert bitmap.next_clear(0) == lonely[-2]
    assert bitmap.take_changed_blocks() == list(range(bitmap.n_blocks))
    assert bitmap.zero() == (1 << 28) - 1 and bitmap.next_set(0) == -1


def test_order_of_bits_is_the_one_on_disk() -> None:
    """Bit n is bit n & 7 of byte n >> 3, and 64-bit words are little-endian (drbdmeta prints these words)."""
    bitmap = Bitmap(4096)
    for bit in (0, 1, 63, 64, 100, 4095):
        bitmap.set_range(bit, bit + 1)
    words = [int.from_bytes(bitmap.words(i, 1), "little") for i in range(64)]
    assert (words[0], words[1], words[63]) == (0x8000000000000003, 0x0000001000000001, 0x8000000000000000)


def test_unused_bits_on_disk_are_ignored_and_rewritten() -> None:
    """A block with bits beyond the device does not count them, and is written again without them."""
    bitmap = Bitmap(10)
    bitmap.load(b"\xff" * 4096)
    assert bitmap.count == 10 and bitmap.take_changed_blocks() == [0]
    assert bitmap.block(0) == b"\xff\x03" + bytes(4094)
    assert bitmap.merge_words(0, b"\xff" * 8) == 0 and bitmap.block(0)[2] == 0


def test_blocks_marked_by_hand_come_back() -> None:
    """After a failed write the blocks are put back and offered again."""
    bitmap = Bitmap(3 * BLOCK_BITS)
    bitmap.set_range(BLOCK_BITS - 1, BLOCK_BITS + 1)
    taken = bitmap.take_changed_blocks()
    assert taken == [0, 1] and bitmap.take_changed_blocks() == []
    bitmap.mark_changed(taken)
    assert bitmap.take_changed_blocks() == taken
    assert bitmap.set_range(BLOCK_BITS, BLOCK_BITS + 1) == 0 and bitmap.take_changed_blocks() == []


@pytest.mark.parametrize(("first", "end"), [(-1, 1), (0, 101), (101, 101), (5, 4)])
def test_outside_is_an_error_even_when_nothing_is_set(first: int, end: int) -> None:
    """A wrong range is a mistake of the caller, whatever shortcut would answer first."""
    for full in (False, True):
        bitmap = Bitmap(100)
        if full:
            bitmap.fill()
        for operation in (bitmap.set_range, bitmap.clear_range, bitmap.any_set, bitmap.count_range):
            with pytest.raises(ValueError):
                operation(first, end)
    with pytest.raises(ValueError):
        Bitmap(-1)
    with pytest.raises(ValueError):
        Bitmap(100).merge_words(1, bytes(16))
    with pytest.raises(ValueError):
        Bitmap(100).words(1, 2)
    with pytest.raises(ValueError):
        Bitmap(100).mark_changed([1])
    with pytest.raises(IndexError):
        Bitmap(100).block(1)


def test_random_content_survives_words_and_merge() -> None:
    """words() of one bitmap merged into an empty one gives the same bitmap (plain bitmap exchange)."""
    source, target = Bitmap(70_001), Bitmap(70_001)
    source.load(os.urandom(8751))
    for offset in range(0, source.n_words, 500):
        target.merge_words(offset, source.words(offset, min(500, source.n_words - offset)))
    assert target.count == source.count
    assert [target.block(i) for i in range(3)] == [source.block(i) for i in range(3)]


def test_few_bits_of_a_large_device_are_found() -> None:
    """1 TiB, among blocks that never held a set bit, or do no more."""
    bitmap = Bitmap(1 << 28)
    wanted = [5, 1 << 20, (1 << 27) + 77, (1 << 28) - 1]
    for bit in (*wanted, 3 << 20):
        bitmap.set_range(bit, bit + 1)
    bitmap.clear_range(3 << 20, (3 << 20) + 1)
    bitmap.load_piece(1 << 24, bytes(1 << 20))
    for _ in range(3):
        found, at = [], -1
        while (at := bitmap.next_set(at + 1)) >= 0:
            found.append(at)
        assert found == wanted
    for bit in wanted:
        bitmap.clear_range(bit, bit + 1)
    assert bitmap.next_set(0) == -1
    with pytest.raises(ValueError, match="not within"):
        bitmap.load_piece((1 << 25) - 512, bytes(1024))
