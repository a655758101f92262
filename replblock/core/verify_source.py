# SPDX-License-Identifier: GPL-2.0-or-later
"""The side of an online verify that asks and compares.

Between the question and the comparison no write of this node's application touches the block, and what the peer has
sent is on this disk before it is read. Where a comparison still fails, both disks are asked again a little later: the
kernel sends pages that their application changes while they are on their way, and writes them anew soon after.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from replblock.core.host import PENDING, Buffer
from replblock.core.link import Link
from replblock.core.overlap import ON_DISK, Busy
from replblock.core.rate import STEP_MS, RateController
from replblock.state.names import Role
from replblock.wire.commands import Cmd
from replblock.wire.digests import Digest, digest
from replblock.wire.errors import ProtocolError
from replblock.wire.flags import ID_SYNCER, OV_IN_SYNC, OV_OUT_OF_SYNC
from replblock.wire.packets import BLOCK_REQ_BODY, BlockAck, BlockReq

if TYPE_CHECKING:
    from replblock.core.resource import Resource
    from replblock.core.verify import OnlineVerify

BLOCK_BYTES = 4096
PAGE_SECTORS = 8
START_SINCE_VERSION = 90
LOOK_AGAIN_MS = 1000
MOST_LATER = 4096
"""Blocks that are to be looked at again. A difference beyond that counts at once."""


class Asked(NamedTuple):
    """A question that waits for its answer, or for writes before it. `again`: the block differed once."""

    again: bool
    busy: Busy | None = None
    sent: bool = False


class VerifySource:
    """Asks for every block in order, as fast as it is allowed to."""

    def __init__(self, resource: Resource, verify: OnlineVerify) -> None:
        self._r = resource
        self._verify = verify
        self._digest: Digest | None = None
        self._controller: RateController | None = None
        self._first = 0
        self._position = 0
        self._end = 0
        self._budget_sectors = self._arrived_sectors = 0
        self._asked: dict[int, Asked] = {}
        self._later: dict[int, int] = {}
        """Blocks that differed once, and when they are asked for again."""
        self._stale: dict[int, int] = {}
        """Questions of a verify that is over, whose answers still come; the peer waits for the result of each."""
        self._owed: list[tuple[int, bytes]] = []
        """Results of second questions to a peer that counts results, and is through when it has one for each block."""
        self._looked_again = self._equal_then = 0
        self._run = 0
        """Of a verify that is over reads may still be under way while the next one asks for the same blocks."""
        self.reading = 0

    @property
    def asking(self) -> bool:
        """Answers are awaited, or blocks are read."""
        return bool(self._asked) or self.reading > 0

    @property
    def want_kib(self) -> int:
        """What the controller wanted last, KiB/s."""
        return self._controller.want_kib if self._controller is not None else 0

    @property
    def left_blocks(self) -> int:
        """Not yet compared, up to the end of the device."""
        meta = self._r.meta
        bits = meta.bitmap.bits if meta is not None else self._position
        return bits - self._position + len(self._asked) + len(self._later)

    # --- begin and end ---

    def begin(self) -> None:
        """The peer has agreed."""
        r = self._r
        meta, link, s = r.meta, r.links.link, r.settings
        assert meta is not None and link is not None
        start = self._verify.start_sector // PAGE_SECTORS if link.version >= START_SINCE_VERSION else 0
        self._first = self._position = min(start, meta.bitmap.bits - 1)
        self._digest = digest(s.verify_alg)
        self._controller = RateController.of(s)
        self._budget_sectors = self._arrived_sectors = 0
        self._looked_again = self._equal_then = 0
        self._set_end()
        r.sync.progress.begin(meta.bitmap.bits - self._position)
        text = f"Starting Online Verify from sector {self._position * PAGE_SECTORS}"
        r.host.log("info", "verify-started", text)
        r.host.timer("verify", 1)

    def _set_end(self) -> None:
        meta, stop = self._r.meta, self._verify.stop_sector
        assert meta is not None
        self._end = meta.bitmap.bits
        if stop is not None and self._verify.peer_hears_the_end:
            self._end = min(self._end, max(-(-stop // PAGE_SECTORS), self._first + 1))

    def stop_changed(self) -> None:
        """The operator wants less, or more, of it."""
        self._set_end()
        self._r.host.timer("verify", 1)

    def over(self) -> int | None:
        """It ended: up to which sector everything is compared."""
        if self._controller is None:
            return None
        reached = min([self._position, *self._asked, *self._later])
        self._say_what_is_owed()
        self._controller = None
        self._run += 1
        self._later.clear()
        for first, asked in self._asked.items():
            if asked.sent:
                self._stale[first] = self._stale.get(first, 0) + 1
            self._free(asked)
        self._asked.clear()
        self._r.host.timer("verify", None)
        return min(reached * PAGE_SECTORS, self._r.size_sectors)

    def reset(self) -> None:
        """The connection is gone, and every answer with it."""
        self._stale.clear()

    def role_changed(self, role: Role) -> None:
        """A Primary's own writes wait for what is asked for; a Secondary's come with the answers, in their order."""
        busy = self._r.primary.busy
        for first, asked in list(self._asked.items()):
            if role == Role.PRIMARY and asked.sent and asked.busy is None:
                start, size = self._extent(first)
                self._asked[first] = asked._replace(busy=busy.add(start, start + size, "verify"))
            elif role != Role.PRIMARY and asked.busy is not None:
                self._asked[first] = asked._replace(busy=None)
                self._free(asked)

    def second_looks(self) -> str:
        """For the log: how often looking again was worth it."""
        if not self._looked_again:
            return ""
        return f"; {self._looked_again} blocks were compared twice, {self._equal_then} of them were equal then"

    # --- asking ---

    def settings_changed(self) -> None:
        """Of a verify that runs, too."""
        if self._controller is not None:
            self._controller = RateController.of(self._r.settings)

    def on_timer(self) -> None:
        """Every 100 ms."""
        controller = self._controller
        if controller is None:
            return
        in_flight = len(self._asked) * PAGE_SECTORS
        owed = min(0, self._budget_sectors)
        wanted = controller.step(in_flight, self._arrived_sectors)
        self._budget_sectors = min(owed + wanted, self._r.sync.aside.room())
        self._arrived_sectors = 0
        self._r.host.timer("verify", STEP_MS)
        self._pump(due=True)

    def _pump(self, due: bool = False) -> None:
        r = self._r
        if self._controller is None or (r.state.role == Role.PRIMARY and r.primary.resending):
            return
        most = r.settings.max_buffers // 2
        if due and self._later:
            now = r.host.now_ms()
            for first in [first for first, at_ms in self._later.items() if at_ms <= now]:
                if self._budget_sectors <= 0 or len(self._asked) >= most:
                    break
                del self._later[first]
                self._ask(first, True)
        while self._budget_sectors > 0 and len(self._asked) < most and self._position < self._end:
            if self._first in self._asked and not self._asked[self._first].sent:
                break  # by the first question the peer knows where it begins
            self._position += 1
            self._ask(self._position - 1, False)
        done = self._position >= self._end and not self._asked and not self._later
        if done and self._controller is not None:
            self._verify.finish()

    def _ask(self, first: int, again: bool) -> None:
        """In line with this node's own writes: those before it come first, and later ones wait for the comparison."""
        start, size = self._extent(first)
        self._asked[first] = Asked(again)
        self._budget_sectors -= size >> 9
        self._r.sync.aside.took(size >> 9)
        busy = self._r.primary.busy
        link, begin = self._r.links.link, partial(self._send, self._r.links.link, self._run, first)
        if link is None or self._r.state.role != Role.PRIMARY:
            begin(None)
        elif not busy.count or not busy.queue(start, start + size, "verify", begin):
            begin(busy.add(start, start + size, "verify"))

    def _send(self, link: Link | None, run: int, first: int, turn: Busy | None) -> None:
        r = self._r
        if link is None or not self._current(link, run, first):
            if turn is not None:
                r.primary.busy.free(turn)
            return
        if turn is not None and r.state.role != Role.PRIMARY:
            r.primary.busy.free(turn)  # demoted meanwhile: what the peer writes from now on comes with its answers
            turn = None
        self._asked[first] = self._asked[first]._replace(busy=turn, sent=True)
        start, size = self._extent(first)
        r.links.send(Cmd.OV_REQUEST, BlockReq(start >> 9, ID_SYNCER, size).pack())
        if first == self._first:
            self._pump()

    def _extent(self, first: int) -> tuple[int, int]:
        start = first * BLOCK_BYTES
        return start, min(BLOCK_BYTES, self._r.size_bytes - start)

    # --- comparing ---

    def on_reply(self, body: memoryview) -> None:
        """P_OV_REPLY."""
        link = self._r.links.link
        request, theirs = BlockReq.unpack(body), bytes(body[BLOCK_REQ_BODY.size :])
        first = request.sector // PAGE_SECTORS
        if self._late(first):
            self._say(first, OV_IN_SYNC)  # it marks nothing, and clears nothing
            return
        if not self._sent(first) or request.size_bytes != self._extent(first)[1] or link is None:
            text = f"a digest of {request.size_bytes} bytes at sector {request.sector}, which nobody asked for"
            raise ProtocolError(text, Cmd.OV_REPLY)
        start, size = self._extent(first)
        self._r.primary.go()  # what this node has sent is on this disk before it is read
        begin = partial(self._read, link, self._run, first, theirs)
        busy = self._r.primary.busy
        if not busy.count or not busy.queue(start, start + size, "verify-read", begin, ON_DISK):
            begin(None)

    def _sent(self, first: int) -> bool:
        return first in self._asked and self._asked[first].sent

    def _late(self, first: int) -> bool:
        count = self._stale.get(first, 0)
        if count > 1:
            self._stale[first] = count - 1
        elif count:
            del self._stale[first]
        return count > 0

    def _read(self, link: Link, run: int, first: int, theirs: bytes, turn: Busy | None) -> None:
        r = self._r
        disk, busy = r.disk, r.primary.busy
        if disk is None or not self._current(link, run, first):
            self._leave(link, first, turn)
            return
        start, size = self._extent(first)
        box: list[Busy] = []
        result = disk.read(start, size, partial(self._read_later, link, run, first, theirs, box))
        if isinstance(result, int) and result == PENDING:
            self.reading += 1
            box.append(turn or busy.add(start, start + size, "verify-read"))
            return
        if isinstance(result, int):
            self._compare(link, first, theirs, result, b"")
        else:
            self._compare(link, first, theirs, 0, result)
        if turn is not None:
            busy.free(turn)

    def _read_later(
        self, link: Link, run: int, first: int, theirs: bytes, box: list[Busy], error: int, data: Buffer
    ) -> None:
        self.reading -= 1
        if self._current(link, run, first):
            self._compare(link, first, theirs, error, data)
            self._r.primary.busy.free(box[0])
        else:
            self._leave(link, first, box[0])
        self._r.primary.go()

    def _current(self, link: Link, run: int, first: int) -> bool:
        return self._r.links.link is link and self._run == run and first in self._asked

    def _leave(self, link: Link, first: int, turn: Busy | None) -> None:
        """The verify ended while the block was being read."""
        if self._r.links.link is link and self._late(first):
            self._say(first, OV_IN_SYNC)
        if turn is not None:
            self._r.primary.busy.free(turn)

    def _compare(self, link: Link, first: int, theirs: bytes, error: int, data: Buffer) -> None:
        assert self._digest is not None
        equal = not error and self._digest(data) == theirs
        asked = self._asked.pop(first)
        self._arrived_sectors += PAGE_SECTORS
        if asked.again:
            self._looked_again += 1
            self._equal_then += equal
        if not equal and not error and not asked.again and len(self._later) < MOST_LATER:
            self._later[first] = self._r.host.now_ms() + LOOK_AGAIN_MS
            if not self._counts_results:
                self._say(first, OV_IN_SYNC)  # what is said the next time counts
        else:
            verdict = OV_IN_SYNC if equal else OV_OUT_OF_SYNC
            if not equal:
                self._verify.differs(first)
            self._say(first, verdict)
            if asked.again and self._counts_results:
                self._owed.append((first, verdict))
        self._free(asked)
        if error:
            start, size = self._extent(first)
            self._r.disk_failed(error, f"reading {size} bytes at {start} for the online verify")
        self._pump()

    def on_neg_reply(self, body: memoryview) -> bool:
        """P_NEG_RS_DREPLY: what the peer cannot read counts as different. False: nobody here asked for it."""
        first = BlockAck.unpack(body).sector // PAGE_SECTORS
        if self._late(first):
            return True
        if not self._sent(first):
            return False
        asked = self._asked.pop(first)
        self._verify.differs(first)
        if asked.again and self._counts_results:
            self._say(first, OV_OUT_OF_SYNC)  # of the first time
        self._free(asked)
        self._pump()
        return True

    @property
    def _counts_results(self) -> bool:
        """Such a peer, a kernel, hears of a block that is looked at twice when it is known what comes of it."""
        return not self._r.secondary.ordered

    def _say_what_is_owed(self) -> None:
        """One result for each question: what came of the second ones, and what nobody will look at again."""
        owed, self._owed = self._owed, []
        if self._counts_results:
            again = (first for first, asked in self._asked.items() if asked.again)
            owed += [(first, OV_IN_SYNC) for first in (*again, *self._later)]
        for first, verdict in owed:
            self._say(first, verdict)

    def _say(self, first: int, verdict: bytes) -> None:
        link = self._r.links.link
        start, size = self._extent(first)
        if link is not None:
            self._r.secondary.ack_resync(link, Cmd.OV_RESULT, BlockAck(start >> 9, verdict, size))

    def _free(self, asked: Asked) -> None:
        if asked.busy is not None:
            self._r.primary.busy.free(asked.busy)
            self._r.primary.go()
