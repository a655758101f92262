# SPDX-License-Identifier: GPL-2.0-or-later
"""The activity log of DRBD 8.4: a ring of 4 KiB transactions that says which 4 MiB extents may be being written.

``pack_transaction`` writes one, ``replay`` finds out which extents were active. drbdmeta apply-al agrees.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from replblock.meta.layout import Buffer, Field, Layout

BLOCK_BYTES = 4096
MAGIC = 0x69CB65A2
TYPE_UPDATE = 0
TYPE_INITIALIZED = 0xFFFF
UPDATES_PER_BLOCK = 64
CONTEXT_PER_BLOCK = 919
FREE_EXTENT = 0xFFFFFFFF      # in an update: the slot becomes free; in the context: free, or beyond the last slot
UNUSED_SLOT = 0xFFFF
MAX_SLOT = 65_534
MAX_SLOTS = 65_534            # al-extents may not be larger
EXTENT_BYTES = 4 << 20
EXTENT_SECTORS = EXTENT_BYTES // 512
EXTENT_BM_BYTES = 128         # bytes of bitmap that describe one extent

TRANSACTION = Layout("activity-log transaction", BLOCK_BYTES, ">", (
    #     name                type  offset meaning
    Field("magic",              "I",     0, "MAGIC"),
    Field("tr_number",          "I",     4, "counts up, wraps at 2**32"),
    Field("crc32c",             "I",     8, "of the block with this field zero; see raw_crc32c"),
    Field("transaction_type",   "H",    12, "TYPE_UPDATE or TYPE_INITIALIZED"),
    Field("n_updates",          "H",    14, "0..64"),
    Field("context_size",       "H",    16, "slots in all (al-extents)"),
    Field("context_start_slot", "H",    18, "slot of the first context entry"),
    # 20..35 reserved
    Field("update_slot",        "64H",  36, "slots changed; UNUSED_SLOT when unused"),
    Field("update_extent",      "64I", 164, "their new extents"),
    Field("context",            "919I", 420, "extents in the slots from context_start_slot on, before the updates"),
))
_CRC_AT = TRANSACTION.offset("crc32c")
_FIRST_SLOT, _FIRST_EXTENT, _FIRST_CONTEXT = 7, 7 + UPDATES_PER_BLOCK, 7 + 2 * UPDATES_PER_BLOCK  # in unpack's tuple
_CRC = struct.Struct(">I")
_HEAD = struct.Struct(">II")
_ZERO_CRC = bytes(4)


Register = Callable[[Buffer, int], int]   # (data, register before) -> register after


def _make_raw_crc32c() -> Register:
    """CRC-32C as the bare register: initial value 0, no final inversion (what DRBD's activity log uses).

    Libraries invert before and after; giving them the inverted register and inverting back undoes both.
    """
    try:
        from crc32c import crc32c
    except ImportError:
        return make_raw_crc32c_from_crcmod()
    return lambda data, register: int(crc32c(data, register ^ 0xFFFFFFFF)) ^ 0xFFFFFFFF


def make_raw_crc32c_from_crcmod() -> Register:
    """The same from crcmod, which every distribution packages: slower, otherwise equal."""
    import crcmod

    update = crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0)
    return lambda data, register: int(update(bytes(data), register))


_raw_crc32c = _make_raw_crc32c()


def raw_crc32c(data: Buffer, register: int = 0) -> int:
    """CRC-32C register after ``data``, without the usual inversions; ``register`` continues an earlier call."""
    return _raw_crc32c(data, register)


def usable_slots(al_stripes: int, al_stripe_size_4k: int) -> int:
    """The most slots a log of this size can hold and still survive one torn block."""
    return min((al_stripes * al_stripe_size_4k - 1) * CONTEXT_PER_BLOCK, MAX_SLOTS)


def position(tr_number: int, al_stripes: int = 1, al_stripe_size_4k: int = 8) -> int:
    """Index of the 4 KiB block inside the log area that transaction ``tr_number`` goes to."""
    turn = tr_number % (al_stripes * al_stripe_size_4k)
    return (turn % al_stripes) * al_stripe_size_4k + turn // al_stripes


def pack_transaction(tr_number: int, updates: Sequence[tuple[int, int]], context_start: int, context: Sequence[int],
                     nr_slots: int) -> bytes:
    """One transaction of 4096 bytes.

    ``updates`` are (slot, extent) with FREE_EXTENT for a slot that becomes free, at most 64; ``context`` the extents
    in the slots from ``context_start`` on as they were before these updates, at most 919. Raises ValueError when a
    number is out of range (the caller's mistake).
    """
    if len(updates) > UPDATES_PER_BLOCK or len(context) > CONTEXT_PER_BLOCK:
        raise ValueError(f"{len(updates)} updates and {len(context)} context entries do not fit a transaction")
    if not 0 <= context_start <= nr_slots <= MAX_SLOTS or any(not 0 <= slot < nr_slots for slot, _ in updates):
        raise ValueError(f"slot outside of 0..{nr_slots - 1}")
    unused = UPDATES_PER_BLOCK - len(updates)
    try:
        block = bytearray(TRANSACTION.pack(
            MAGIC, tr_number & 0xFFFFFFFF, 0, TYPE_UPDATE, len(updates), nr_slots, context_start,
            *[slot for slot, _ in updates], *(UNUSED_SLOT,) * unused,
            *[extent for _, extent in updates], *(FREE_EXTENT,) * unused,
            *context, *(FREE_EXTENT,) * (CONTEXT_PER_BLOCK - len(context))))
    except struct.error as error:
        raise ValueError(f"extent out of range: {error}") from None
    _CRC.pack_into(block, _CRC_AT, raw_crc32c(block))
    return bytes(block)


def initialized_block() -> bytes:
    """A block without content, as create-md and apply-al leave all of them."""
    block = bytearray(BLOCK_BYTES)
    _HEAD.pack_into(block, 0, MAGIC, 0)
    struct.pack_into(">H", block, 12, TYPE_INITIALIZED)
    _CRC.pack_into(block, _CRC_AT, raw_crc32c(block))
    return bytes(block)


class Transaction(NamedTuple):
    """A valid block, decoded."""

    tr_number: int
    transaction_type: int
    n_updates: int
    context_size: int
    context_start_slot: int
    update_slots: tuple[int, ...]
    update_extents: tuple[int, ...]
    context: tuple[int, ...]


def unpack_transaction(block: Buffer) -> Transaction | None:
    """The transaction in a block of 4096 bytes; None when magic or checksum is wrong (torn or never written)."""
    if len(block) != BLOCK_BYTES:
        return None
    magic, tr_number = _HEAD.unpack_from(block)
    if magic != MAGIC:
        return None
    raw = bytes(block)
    register = raw_crc32c(raw[:_CRC_AT])
    register = raw_crc32c(raw[_CRC_AT + 4:], raw_crc32c(_ZERO_CRC, register))
    flat = TRANSACTION.unpack(raw)
    if flat[2] != register:
        return None
    return Transaction(tr_number, flat[3], flat[4], flat[5], flat[6], flat[_FIRST_SLOT:_FIRST_EXTENT],
                       flat[_FIRST_EXTENT:_FIRST_CONTEXT], flat[_FIRST_CONTEXT:])


class Replay(NamedTuple):
    """What a log says. ``rule`` is one of the names below.

    never-used: every block INITIALIZED. first-transaction-torn: only the very first write of the log is damaged, so
    nothing it announced was ever written. replayed: valid updates found. corrupt-only, no-usable-log: the log
    cannot tell; after a crash of a Primary everything must count as changed.
    """

    rule: str
    slots: dict[int, int]              # slot -> active extent
    corrupt: int                       # blocks with wrong magic or checksum
    last_tr_number: int | None         # of the newest valid update
    gap: bool = False                  # transaction numbers are not contiguous around the ring
    remarks: tuple[str, ...] = ()      # in drbdmeta's words

    @property
    def usable(self) -> bool:
        """True when ``extents`` is all that may have been in flight."""
        return self.rule in ("never-used", "first-transaction-torn", "replayed")

    @property
    def suspect(self) -> bool:
        """More is damaged than the one transaction a crash can tear."""
        return not self.usable or self.corrupt > 1 or self.gap

    @property
    def extents(self) -> tuple[int, ...]:
        """Active extents (4 MiB each), ascending, each once."""
        return tuple(sorted(set(self.slots.values())))


def replay(blocks: Sequence[Buffer], al_stripes: int = 1, al_stripe_size_4k: int | None = None) -> Replay:
    """Decode a whole log, ``blocks`` in the order of the disk. Never raises on content.

    Without a geometry one stripe of ``len(blocks)`` is assumed; ValueError when the geometry does not match.
    """
    stripe_4k = len(blocks) if al_stripe_size_4k is None else al_stripe_size_4k
    if al_stripes * stripe_4k != len(blocks):
        raise ValueError(f"{len(blocks)} blocks are not {al_stripes} x {stripe_4k}")
    ring = [unpack_transaction(blocks[position(turn, al_stripes, stripe_4k)]) for turn in range(len(blocks))]
    corrupt = ring.count(None)
    updates = [turn for turn, tr in enumerate(ring) if tr is not None and tr.transaction_type != TYPE_INITIALIZED]
    if updates:
        return _replay_updates(ring, updates, corrupt)
    if not corrupt:
        return Replay("never-used", {}, 0, None)
    remark = f"{corrupt} corrupt AL transactions found"
    if corrupt == 1 and ring[0] is None and len(ring) > 1:
        return Replay("first-transaction-torn", {}, corrupt, None, remarks=(remark,))
    if any(_has_magic(blocks[position(turn, al_stripes, stripe_4k)]) for turn in range(min(2, len(blocks)))):
        return Replay("corrupt-only", {}, corrupt, None, remarks=(remark, "No valid AL update transaction found."))
    return Replay("no-usable-log", {}, corrupt, None, remarks=("No usable activity log found.",))


def _has_magic(block: Buffer) -> bool:
    return int.from_bytes(block[:4], "big") == MAGIC


def _replay_updates(ring: Sequence[Transaction | None], updates: Sequence[int], corrupt: int) -> Replay:
    """Apply from the oldest to the newest, going round the ring as it was written."""
    oldest = newest = updates[0]
    for turn in updates[1:]:
        if _later(ring, turn, newest):
            newest = turn
        elif _later(ring, oldest, turn):
            oldest = turn
    slots: dict[int, int] = {}
    remarks = [f"{corrupt} corrupt AL transactions found"] if corrupt else []
    gap = False
    turn, first = oldest, ring[oldest]
    while True:
        tr = ring[turn]
        if tr is not None and tr.transaction_type != TYPE_INITIALIZED:
            gap |= first is not None and (tr.tr_number - first.tr_number - turn + oldest) % len(ring) != 0
            _apply(tr, slots, remarks)
        if turn == newest:
            break
        turn = (turn + 1) % len(ring)
    last = ring[newest]
    return Replay("replayed", slots, corrupt, last.tr_number if last else None, gap, tuple(remarks))


def _later(ring: Sequence[Transaction | None], a: int, b: int) -> bool:
    """Signed 32-bit comparison, so that it survives the wrap of tr_number."""
    one, other = ring[a], ring[b]
    return one is not None and other is not None and 0 < (one.tr_number - other.tr_number) & 0xFFFFFFFF < 1 << 31


def _apply(tr: Transaction, slots: dict[int, int], remarks: list[str]) -> None:
    for slot, extent in enumerate(tr.context, tr.context_start_slot):
        if extent == FREE_EXTENT:
            if slot < tr.context_size:
                slots.pop(slot, None)
        elif slot > MAX_SLOT:
            remarks.append(f"slot number out of range: tr:{tr.tr_number} slot:{slot}")
        else:
            slots[slot] = extent
    for i, (slot, extent) in enumerate(zip(tr.update_slots, tr.update_extents, strict=True)):
        if slot > MAX_SLOT:
            if i < tr.n_updates:
                remarks.append(f"update slot number out of range: tr:{tr.tr_number} slot:{slot}")
        elif extent == FREE_EXTENT:
            slots.pop(slot, None)
        else:
            slots[slot] = extent
