# SPDX-License-Identifier: GPL-2.0-or-later
"""The out-of-sync bitmap in memory: one bit for 4 KiB of data, little-endian, exactly as on disk.

Ranges are half-open: [first, end). Short ranges are one integer operation; long ones and scans go by slices and
by comparing with constant blocks in place. Nothing here is thread-safe.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator

from replblock.meta.layout import Buffer

BLOCK_BYTES = 4096
BLOCK_BITS = 8 * BLOCK_BYTES
WORD_BYTES = 8
_BLOCK_SHIFT = 15             # bit number -> block number
_SHORT_BITS = 4096            # up to here one integer operation beats slicing (measured: 1.5 µs at 4096 bits)
_CHUNK_BYTES = 65_536         # large enough to be memory-bound, small enough to count without a huge integer
_STEPS = (65_536, 4_096, 256, 16)
_ZEROS = {n: bytes(n) for n in _STEPS}
_ONES = {n: b"\xff" * n for n in _STEPS}


class Bitmap:
    """``bits`` bits, all clear at first. ``count`` is always the number of set bits, at no cost.

    Memory: 32 MiB for each TiB of data. A search reads only the blocks of 4 KiB that ever held a set bit.
    """

    __slots__ = ("_bits", "_changed", "_data", "_used", "count")

    def __init__(self, bits: int) -> None:
        if bits < 0:
            raise ValueError(f"{bits} bits")
        self._bits = bits
        self._data = bytearray(-(-bits // BLOCK_BITS) * BLOCK_BYTES)
        self._used = bytearray(self.n_blocks)  # 0: nothing is set in this block of 4 KiB; 1: something is, or was
        self._changed: set[int] = set()
        self.count = 0

    def __len__(self) -> int:
        return self._bits

    @property
    def bits(self) -> int:
        """Bits in use."""
        return self._bits

    @property
    def n_blocks(self) -> int:
        """4 KiB blocks on disk."""
        return len(self._data) // BLOCK_BYTES

    @property
    def n_words(self) -> int:
        """64-bit words that hold bits in use."""
        return -(-self._bits // 64)

    # --- ranges -----------------------------------------------------------------------------------------------

    def set_range(self, first: int, end: int) -> int:
        """Set [first, end); how many were clear before. Raises ValueError outside of the bitmap."""
        if not 0 <= first <= end <= self._bits:
            raise ValueError(f"[{first}, {end}) is not within {self._bits} bits")
        data = self._data
        if end - first == 1:
            at, bit = first >> 3, 1 << (first & 7)
            old = data[at]
            if old & bit:
                return 0
            data[at] = old | bit
            self._used[first >> _BLOCK_SHIFT] = 1
            self._changed.add(first >> _BLOCK_SHIFT)
            self.count += 1
            return 1
        if end - first > _SHORT_BITS:
            return self._set_long(first, end)
        low, high = first >> 3, (end + 7) >> 3
        mask = ((1 << (end - first)) - 1) << (first & 7)
        word = int.from_bytes(data[low:high], "little")
        fresh = mask & ~word
        if not fresh:
            return 0
        data[low:high] = (word | mask).to_bytes(high - low, "little")
        for block in (first >> _BLOCK_SHIFT, (end - 1) >> _BLOCK_SHIFT):
            self._used[block] = 1
            self._changed.add(block)
        newly = fresh.bit_count()
        self.count += newly
        return newly

    def clear_range(self, first: int, end: int) -> int:
        """Clear [first, end); how many were set before. Raises ValueError outside of the bitmap."""
        if not 0 <= first <= end <= self._bits:
            raise ValueError(f"[{first}, {end}) is not within {self._bits} bits")
        if not self.count:
            return 0
        data = self._data
        if end - first == 1:
            at, bit = first >> 3, 1 << (first & 7)
            old = data[at]
            if not old & bit:
                return 0
            data[at] = old ^ bit
            self._changed.add(first >> _BLOCK_SHIFT)
            self.count -= 1
            return 1
        if end - first > _SHORT_BITS:
            return self._clear_long(first, end)
        low, high = first >> 3, (end + 7) >> 3
        word = int.from_bytes(data[low:high], "little")
        gone = word & ((1 << (end - first)) - 1) << (first & 7)
        if not gone:
            return 0
        data[low:high] = (word ^ gone).to_bytes(high - low, "little")
        self._changed.add(first >> _BLOCK_SHIFT)
        self._changed.add((end - 1) >> _BLOCK_SHIFT)
        newly = gone.bit_count()
        self.count -= newly
        return newly

    def any_set(self, first: int, end: int) -> bool:
        """True when a bit of [first, end) is set. Raises ValueError outside of the bitmap."""
        if not 0 <= first <= end <= self._bits:
            raise ValueError(f"[{first}, {end}) is not within {self._bits} bits")
        if not self.count:
            return False
        if end - first > _SHORT_BITS:
            return 0 <= self.next_set(first) < end
        word = int.from_bytes(self._data[first >> 3:(end + 7) >> 3], "little")
        return bool(word >> (first & 7) & ((1 << (end - first)) - 1))

    def count_range(self, first: int, end: int) -> int:
        """Set bits in [first, end). Raises ValueError outside of the bitmap."""
        if not 0 <= first <= end <= self._bits:
            raise ValueError(f"[{first}, {end}) is not within {self._bits} bits")
        if not self.count or first == end:
            return 0
        low, high = first >> 3, (end + 7) >> 3
        if high - low > _CHUNK_BYTES:
            middle, after = -(-first // 8), end >> 3
            return (self.count_range(first, middle * 8) + _count(self._data, middle, after)
                    + self.count_range(after * 8, end))
        word = int.from_bytes(self._data[low:high], "little")
        return (word >> (first & 7) & ((1 << (end - first)) - 1)).bit_count()

    def _set_long(self, first: int, end: int) -> int:
        """Whole bytes by slices, the ragged ends as short ranges."""
        low, high = -(-first // 8), end >> 3
        newly = self.set_range(first, low * 8) + self.set_range(high * 8, end)
        data = self._data
        for at in range(low, high, _CHUNK_BYTES):
            upto = min(at + _CHUNK_BYTES, high)
            fresh = (upto - at) * 8 - _count(data, at, upto)
            if fresh:
                data[at:upto] = _ONES[_CHUNK_BYTES][:upto - at]
                self._touched(at, upto)
                self.count += fresh
                newly += fresh
        return newly

    def _clear_long(self, first: int, end: int) -> int:
        low, high = -(-first // 8), end >> 3
        newly = self.clear_range(first, low * 8) + self.clear_range(high * 8, end)
        data = self._data
        for at in range(low, high, _CHUNK_BYTES):
            upto = min(at + _CHUNK_BYTES, high)
            gone = _count(data, at, upto)
            if gone:
                data[at:upto] = bytes(upto - at)
                self._changed.update(range(at // BLOCK_BYTES, (upto - 1) // BLOCK_BYTES + 1))
                self.count -= gone
                newly += gone
        if not self.count:
            self._used = bytearray(self.n_blocks)
        return newly

    def _touched(self, at: int, upto: int) -> None:
        """Bits were set somewhere in these bytes."""
        low, high = at // BLOCK_BYTES, (upto - 1) // BLOCK_BYTES + 1
        self._used[low:high] = b"\1" * (high - low)
        self._changed.update(range(low, high))

    # --- scans ------------------------------------------------------------------------------------------------

    def next_set(self, start: int) -> int:
        """The first set bit at or after ``start``; -1 when there is none."""
        if not self.count or start >= self._bits:
            return -1
        data, at = self._data, start >> 3
        word = int.from_bytes(data[at:at + WORD_BYTES], "little") >> (start & 7)
        if word:
            return start + (word & -word).bit_length() - 1
        at += WORD_BYTES
        block = at // BLOCK_BYTES
        while 0 <= block < len(self._used):
            if self._used[block]:
                word = int.from_bytes(data[at:(block + 1) * BLOCK_BYTES], "little")
                if word:
                    return at * 8 + (word & -word).bit_length() - 1
                if at == block * BLOCK_BYTES:
                    self._used[block] = 0
            block = self._used.find(1, block + 1)
            at = block * BLOCK_BYTES
        return -1

    def set_run(self, first: int, most: int) -> int:
        """How many bits are set from ``first`` on, without a gap; ``most`` (at most 4096) at the most."""
        end = min(first + most, self._bits)
        word = int.from_bytes(self._data[first >> 3:(end + 7) >> 3], "little") >> (first & 7)
        return min((~word & word + 1).bit_length() - 1, end - first)

    def next_clear(self, start: int) -> int:
        """The first clear bit at or after ``start``; -1 when there is none."""
        if self.count == self._bits or start >= self._bits:
            return -1
        if not self.count:
            return start
        data, at = self._data, start >> 3
        word = int.from_bytes(data[at:at + WORD_BYTES], "little") >> (start & 7)
        found = start + (~word & word + 1).bit_length() - 1
        if found >= min(at + WORD_BYTES, len(data)) * 8:
            at = _skip(data, at + WORD_BYTES, _ONES)
            word = int.from_bytes(data[at:at + 2 * WORD_BYTES], "little")
            found = at * 8 + (~word & word + 1).bit_length() - 1
        return found if found < self._bits else -1

    def runs(self, start: int = 0) -> Iterator[tuple[bool, int]]:
        """(value, length) of every run from ``start`` to the end. Do not change the bitmap meanwhile."""
        at = start
        value = at < self._bits and self.any_set(at, at + 1)
        while at < self._bits:
            upto = self.next_clear(at) if value else self.next_set(at)
            if upto < 0:
                upto = self._bits
            yield value, upto - at
            at, value = upto, not value

    # --- words and blocks, as on the wire and on disk ------------------------------------------------------------

    def merge_words(self, word_offset: int, data: Buffer) -> int:
        """Or ``data`` (little-endian 64-bit words) onto the words from ``word_offset``; how many bits were newly set.

        Bits beyond the end of the bitmap are ignored. Raises ValueError when whole words lie beyond it.
        """
        words, ragged = divmod(len(data), WORD_BYTES)
        if word_offset < 0 or ragged or word_offset + words > self.n_words:
            raise ValueError(f"{len(data)} bytes at word {word_offset} are not within {self.n_words} words")
        newly = 0
        for done in range(0, len(data), _CHUNK_BYTES):
            newly += self._merge_bytes(word_offset * WORD_BYTES + done, data[done:done + _CHUNK_BYTES])
        return newly

    def _merge_bytes(self, at: int, data: Buffer) -> int:
        upto = at + len(data)
        more = int.from_bytes(data, "little")
        if upto * 8 > self._bits:
            more &= (1 << (self._bits - at * 8)) - 1
        old = int.from_bytes(self._data[at:upto], "little")
        fresh = more & ~old
        if not fresh:
            return 0
        self._data[at:upto] = (old | more).to_bytes(upto - at, "little")
        self._touched(at, upto)
        newly = fresh.bit_count()
        self.count += newly
        return newly

    def words(self, word_offset: int, n_words: int) -> bytes:
        """``n_words`` little-endian 64-bit words from ``word_offset`` on. Raises ValueError beyond the bitmap."""
        if word_offset < 0 or n_words < 0 or word_offset + n_words > self.n_words:
            raise ValueError(f"{n_words} words at {word_offset} are not within {self.n_words}")
        return bytes(self._data[word_offset * WORD_BYTES:(word_offset + n_words) * WORD_BYTES])

    def block(self, index: int) -> bytes:
        """The 4096 bytes of on-disk block ``index``. Raises IndexError beyond the bitmap."""
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"block {index} of {self.n_blocks}")
        return bytes(self._data[index * BLOCK_BYTES:(index + 1) * BLOCK_BYTES])

    def load(self, data: Buffer) -> None:
        """Replace all bits by what was read from disk; missing bytes are zero, surplus ones are ignored.

        Nothing counts as changed afterwards, except a last block whose unused bits had to be cleared.
        """
        self._data = bytearray(len(self._data))
        self._used = bytearray(self.n_blocks)
        self._changed.clear()
        self.count = 0
        self.load_piece(0, data[:len(self._data)])

    def load_piece(self, at_bytes: int, data: Buffer) -> None:
        """The same for a part of what is clear so far.

        Raises ValueError where it reaches beyond the bitmap.
        """
        upto = at_bytes + len(data)
        if at_bytes < 0 or upto > len(self._data):
            raise ValueError(f"{len(data)} bytes at {at_bytes} are not within {len(self._data)}")
        if not len(data) or bytes(data) == bytes(len(data)):
            return
        self._data[at_bytes:upto] = data
        low, high = at_bytes // BLOCK_BYTES, (upto - 1) // BLOCK_BYTES + 1
        self._used[low:high] = b"\1" * (high - low)
        if upto * 8 > self._bits:
            self._clear_unused()
        self.count += _count(self._data, at_bytes, upto)

    # --- the whole --------------------------------------------------------------------------------------------

    def fill(self) -> int:
        """Set every bit; how many were clear."""
        return self.set_range(0, self._bits)

    def zero(self) -> int:
        """Clear every bit; how many were set."""
        return self.clear_range(0, self._bits)

    def resize(self, bits: int, set_new: bool) -> None:
        """Grow (new bits set or clear) or shrink (what is cut off is forgotten)."""
        if bits < 0:
            raise ValueError(f"{bits} bits")
        old, old_blocks = self._bits, self.n_blocks
        if bits < old:
            self.clear_range(bits, old)
        size = -(-bits // BLOCK_BITS) * BLOCK_BYTES
        if size < len(self._data):
            del self._data[size:]
            del self._used[size // BLOCK_BYTES:]
        else:
            self._data.extend(bytes(size - len(self._data)))
            self._used.extend(bytes(size // BLOCK_BYTES - len(self._used)))
        self._bits = bits
        self._changed = {block for block in self._changed if block < self.n_blocks}
        self._changed.update(range(old_blocks, self.n_blocks))
        if set_new and bits > old:
            self.set_range(old, bits)

    def _clear_unused(self) -> None:
        end = -(-self._bits // 8)
        tail = self._data[end:]
        ragged = self._bits & 7 and self._data[end - 1] >> (self._bits & 7)
        if any(tail) or ragged:
            self._data[end:] = bytes(len(tail))
            if self._bits & 7:
                self._data[end - 1] &= (1 << (self._bits & 7)) - 1
            self._changed.add(self.n_blocks - 1)

    # --- what must be written -----------------------------------------------------------------------------------

    @property
    def has_changes(self) -> bool:
        """True when ``take_changed_blocks`` would return something."""
        return bool(self._changed)

    def take_changed_blocks(self) -> list[int]:
        """On-disk blocks changed since the last call, ascending; from now on they count as unchanged."""
        blocks = sorted(self._changed)
        self._changed.clear()
        return blocks

    def mark_changed(self, blocks: Iterable[int]) -> None:
        """Have these blocks returned again (a write failed, or the area moved). ValueError beyond the bitmap."""
        wanted = set(blocks)
        if any(not 0 <= block < self.n_blocks for block in wanted):
            raise ValueError(f"a block is not within {self.n_blocks}")
        self._changed |= wanted


def _count(data: bytearray, low: int, high: int) -> int:
    """Set bits in bytes [low, high): constant chunks by comparison, others as integers."""
    total = 0
    for at in range(low, high, _CHUNK_BYTES):
        upto = min(at + _CHUNK_BYTES, high)
        if upto - at == _CHUNK_BYTES:
            if data.startswith(_ZEROS[_CHUNK_BYTES], at):
                continue
            if data.startswith(_ONES[_CHUNK_BYTES], at):
                total += _CHUNK_BYTES * 8
                continue
        total += int.from_bytes(data[at:upto], "little").bit_count()
    return total


def _skip(data: bytearray, at: int, constant: dict[int, bytes]) -> int:
    """From ``at`` on, pass over as much as equals the constant; what differs is within the next 16 bytes."""
    for step in _STEPS:
        pattern = constant[step]
        while data.startswith(pattern, at):  # compares in place, no copy
            at += step
    return at
