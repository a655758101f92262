# SPDX-License-Identifier: GPL-2.0-or-later
"""Barriers of several volumes as one connection's: every ack comes after what it speaks of, and counts right."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.core.bundled_epochs import SentEpochs, TakenEpochs
from replblock.wire.errors import ProtocolError
from replblock.wire.packets import Barrier, BarrierAck

VOLUMES = st.integers(0, 2)
STEPS = st.lists(st.tuples(st.sampled_from(["write", "write", "write", "close", "ack", "flush"]), VOLUMES), max_size=80)


@given(STEPS)
def test_from_volumes_to_volumes(steps: list[tuple[str, int]]) -> None:
    """One node's volumes write, the other's take: each closed epoch is acknowledged once, in order, with its own count,
    and never before all its writes were flushed there; what comes behind a barrier waits for it."""
    sent, taken = SentEpochs(), TakenEpochs()
    stream: deque[tuple[str, int, bytes]] = deque()
    number = dict.fromkeys(range(3), 0)
    open_writes: dict[int, list[int]] = {volume: [] for volume in range(3)}
    expected: dict[int, deque[tuple[bytes, list[int]]]] = {volume: deque() for volume in range(3)}
    arrived: dict[int, list[int]] = {volume: [] for volume in range(3)}
    flushed: set[int] = set()
    owed: list[tuple[int, bytes, int]] = []
    writes = 0

    def told(acks: list) -> None:
        for volume, ack in acks:
            barrier, all_of_it = expected[volume].popleft()
            assert (ack.barrier, ack.set_size) == (barrier, len(all_of_it))
            assert flushed.issuperset(all_of_it)

    def deliver() -> None:
        while stream and not taken.waiting:
            what, volume, body = stream.popleft()
            if what == "write":
                taken.wrote(volume)
                arrived[volume].append(int.from_bytes(body, "big"))
                continue
            sizes = {volume: len(arrived[volume]) for volume in range(3)}
            for hears in taken.close(memoryview(body)):
                owed.append((hears, Barrier.unpack(body).barrier, sizes[hears]))

    for what, volume in [*steps, *(("close", v) for v in range(3)), *(("flush", 0) for _ in range(200))]:
        if what == "write":
            writes += 1
            open_writes[volume].append(writes)
            sent.wrote(volume)
            stream.append(("write", volume, writes.to_bytes(8, "big")))
        elif what == "close" and open_writes[volume]:
            number[volume] += 1
            cookie = bytes([volume, 0, 0, number[volume]])
            expected[volume].append((cookie, open_writes[volume]))
            open_writes[volume] = []
            barrier, ack = sent.close(volume, cookie)
            assert not (barrier and ack)
            if barrier is not None:
                stream.append(("barrier", 0, barrier.pack()))
            if ack is not None:
                told([ack])
        elif what in ("ack", "flush") and owed:
            hears, cookie, size = owed.pop(volume % len(owed))
            flushed.update(arrived[hears])
            assert len(arrived[hears]) == size, "what belongs to the next epoch came before the ack"
            arrived[hears] = []
            whole = taken.acknowledge(hears, memoryview(BarrierAck(cookie, size).pack()))
            if whole is not None:
                told(sent.acknowledge(memoryview(whole.pack())))
        deliver()
    assert not stream and not owed and not any(expected.values())


def test_wrong_acks_are_refused() -> None:
    sent, taken = SentEpochs(), TakenEpochs()
    with pytest.raises(ProtocolError, match="no barrier is outstanding"):
        sent.acknowledge(memoryview(BarrierAck(b"\0\0\0\1", 0).pack()))
    sent.wrote(3)
    sent.wrote(5)
    barrier, _ = sent.close(3, b"abcd")
    assert barrier is not None
    for wrong in (BarrierAck(barrier.barrier, 1), BarrierAck(b"\0\0\0\7", 2)):
        with pytest.raises(ProtocolError, match="was to come next"):
            sent.acknowledge(memoryview(wrong.pack()))
    taken.wrote(3)
    assert taken.close(memoryview(barrier.pack())) == [3]
    for volume, wrong in ((5, BarrierAck(barrier.barrier, 1)), (3, BarrierAck(barrier.barrier, 2))):
        with pytest.raises(ProtocolError, match=f"volume {volume} acknowledges"):
            taken.acknowledge(volume, memoryview(wrong.pack()))


def test_an_empty_epoch_gets_no_ack() -> None:
    taken = TakenEpochs()
    assert taken.close(memoryview(Barrier(b"\0\0\0\1").pack())) == []
    assert not taken.waiting
