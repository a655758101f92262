# SPDX-License-Identifier: GPL-2.0-or-later
"""The product broken on purpose, one line at a time: what the simulator must notice.

`before` stands exactly once in `file` (a test sees to it); `breaks` names the promise that is gone, by its number in
docs/invariants.md.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One way to break it."""

    name: str
    file: str
    before: str
    after: str
    breaks: str


MUTATIONS: tuple[Mutation, ...] = (
    # ---- activity log
    Mutation("activity-log-not-written", "core/activity.py",
             "return self.disabled or all(extent in hot for extent in range(first, last + 1))", "return True",
             "4: after a crash nobody knows what was being written"),
    Mutation("activity-log-not-waited-for", "core/activity.py",
             "self._store.disk.meta_write([(where, block)], written)",
             "self._store.disk.meta_write([(where, block)], lambda errno: None)\n        written(0)",
             "4: a write begins before its extent is in the log on disk"),
    Mutation("evicted-before-flush", "core/activity.py",
             "self._store.flush(flushed)", "flushed(0)",
             "data before metadata: an extent leaves the log before its writes are durable"),
    Mutation("evicted-before-its-bitmap", "core/activity.py",
             "self._store.save_bitmap(bits_on_disk, {extent >> first for extent in victims})", "bits_on_disk(0)",
             "4: an extent leaves the log, and its bits are only in memory"),
    Mutation("evicted-while-in-use", "core/activity.py",
             "if extent not in batch and not self._pins.pinned(extent):", "if extent not in batch:",
             "4: an extent leaves the log before the peer has its writes"),
    Mutation("activity-log-not-replayed", "meta/recovery.py",
             "for extent in log.extents:", "for extent in ():",
             "4: after a Primary's crash its last writes are not resynced"),

    # ---- acknowledgements
    Mutation("c-asks-for-a-receive-ack", "core/path.py",
             'elif protocol == "C" or not self._alone_ok:\n            flags |= DP_SEND_WRITE_ACK',
             'elif protocol == "C" or not self._alone_ok:\n            flags |= DP_SEND_RECEIVE_ACK',
             "1: acknowledged before the peer has written it"),
    Mutation("write-ack-before-the-write", "core/secondary.py",
             "        else:\n            self._written(link, sector, size, ident, flags, result)\n            if turn is not None:\n                busy.free(turn)",
             "        else:\n            self._written(link, sector, size, ident, flags, result)\n            if turn is not None:\n                busy.free(turn)\n        if result == PENDING and flags & DP_SEND_WRITE_ACK:\n            done.args = (link, sector, size, ident, flags & ~DP_SEND_WRITE_ACK)\n            self.ack(link, Cmd.WRITE_ACK, sector, ident, size)",
             "1: acknowledged while the peer's disk is still at it"),
    Mutation("complete-without-the-local-disk", "core/primary.py",
             "request._waits = waits | LOCAL\n", "request._waits = waits or LOCAL\n",
             "1: acknowledged before it is on the disk it was written through"),
    Mutation("received-is-enough-without-a-good-disk", "core/completion.py",
             "if not self._alone_ok and self._only_received(request):", "if False:",
             "1: acknowledged under A or B for a disk that stopped to count meanwhile"),
    Mutation("failed-write-counts-as-written", "core/primary.py",
             "        if error:\n            if self._r.meta is not None:\n                self._mark(request)",
             "        if False:\n            if self._r.meta is not None:\n                self._mark(request)",
             "1, 4: an error of the local disk is ignored"),
    Mutation("peers-failed-write-acked", "core/secondary.py",
             "self._nack(link, sector, ident, size)\n            r.disk_failed(error,",
             "self.ack(link, Cmd.WRITE_ACK, sector, ident, size)\n            r.disk_failed(error,",
             "1: the peer could not write it and says it has"),
    Mutation("neg-ack-taken-for-an-ack", "core/completion.py",
             "meta.bitmap.set_range(sector >> 3, -(-(sector * 512 + size) // 4096))", "pass",
             "4: what the peer could not write is not marked"),

    # ---- flushes, epochs
    Mutation("barrier-ack-before-the-flush", "core/secondary.py",
             "r.flush_disk(flushed)", "flushed(0)",
             "2: a barrier is acknowledged, a power loss takes it back"),
    Mutation("barrier-ack-before-the-writes", "core/secondary.py",
             "self.when_written(written)", "written()",
             "2: a barrier is acknowledged before slow writes of its epoch are there"),
    Mutation("epochs-run-into-each-other", "core/secondary.py",
             "self.hold_until(partial(self._flush_epoch, link, barrier, size))",
             "self._flush_epoch(link, barrier, size, lambda: None)",
             "1 under A: after its power loss the peer holds a mixture"),
    Mutation("flush-does-not-flush-here", "core/flushing.py",
             "waits |= LOCAL\n        if self._link is not None:", "waits |= 0\n        if self._link is not None:",
             "2: a flush is acknowledged, a power loss takes it back"),
    Mutation("flush-does-not-ask-the-peer", "core/flushing.py",
             'if self.log.closed and (self._r.settings.protocol == "C" or not self._alone_ok or request.fua):', "if False:",
             "2 under C: the peer's disk may lack what was flushed"),
    Mutation("failed-flush-is-success", "core/flushing.py",
             '        if error:\n            self._r.disk_failed(error, "flushing")', '        if False:\n            self._r.disk_failed(error, "flushing")',
             "2: a failed fdatasync is not told"),
    Mutation("peers-failed-flush-acked", "core/secondary.py",
             "            if error:\n                # no ack", "            if False:\n                # no ack",
             "2: the peer's fdatasync failed and it says it has it"),

    # ---- bitmap
    Mutation("unflushed-not-marked-at-the-loss", "core/completion.py",
             "        self._mark_unflushed()\n        epochs = self.log.reset()", "        epochs = self.log.reset()",
             "4: what the peer had not flushed is forgotten when the link breaks"),
    Mutation("alone-not-marked", "core/primary.py",
             "elif self._alone_ok:\n            self._mark(request)", "elif self._alone_ok:\n            pass",
             "4: written while disconnected and not marked"),
    Mutation("bit-cleared-before-the-write", "core/target.py",
             "        disk = r.disk\n        if disk is None or r.links.link is not link:",
             "        disk = r.disk\n        r.sync.clear_bits(sector << 9, len(payload))\n        if disk is None or r.links.link is not link:",
             "5: cleared when the block has come, not when it is written"),
    Mutation("bit-cleared-on-disk-before-the-flush", "core/metastore.py",
             "        if not held:\n            return block", "        if True:\n            return block",
             "data before metadata: a bit is cleared on disk before its block is durable"),
    Mutation("part-of-a-block-clears-its-bit", "core/sync.py",
             "first = -(-offset_bytes // BLOCK_BYTES)", "first = offset_bytes // BLOCK_BYTES",
             "5: half a block was written, its bit is cleared"),
    Mutation("every-ack-clears-bits", "core/completion.py",
             "if request._net == NET_IN_SYNC and not (request.errno", "if request._net in (NET_OK, NET_IN_SYNC) and not (request.errno",
             "5: a write without leave to clear clears"),
    Mutation("peers-bitmap-not-merged", "core/bitmaps.py",
             "            if value:\n                meta.bitmap.set_range(at, at + length)", "            if False:\n                meta.bitmap.set_range(at, at + length)",
             "4: what only the peer knows to differ is not copied"),
    Mutation("peers-plain-bitmap-not-merged", "core/bitmaps.py",
             "meta.bitmap.merge_words(offset, body)", "pass",
             "4: the same without the run-length code"),

    # ---- resync
    Mutation("resync-ends-before-the-flush", "core/target.py",
             "        r.flush_disk(flushed)", "        flushed(0)",
             "data before metadata: UpToDate before the last block is durable"),
    Mutation("resync-starts-before-it-is-known", "core/target.py",
             "        meta.save_bitmap()\n        meta.save(durable)", "        meta.save_bitmap()\n        meta.save()\n        durable(0)",
             "3: foreign blocks land on a disk that still calls itself UpToDate"),
    Mutation("peers-writes-do-not-wait-for-inconsistent", "core/sync.py",
             "r.secondary.hold_until(begin)", "begin(lambda: None)",
             "3: a write of the source's Primary lands on a disk that still calls itself UpToDate"),
    Mutation("own-writes-do-not-wait-for-inconsistent", "core/path.py",
             "self._begins_here = self._has_disk and not becoming_target", "self._begins_here = self._has_disk",
             "3: a Primary's own write lands on an older disk that still calls itself UpToDate"),
    Mutation("up-to-date-during-the-resync", "state/sanitizing.py",
             "Conn.SYNC_TARGET: Clip(Disk.INCONSISTENT, Disk.INCONSISTENT,", "Conn.SYNC_TARGET: Clip(Disk.UP_TO_DATE, Disk.UP_TO_DATE,",
             "3: a half-copied disk calls itself UpToDate"),
    Mutation("resync-reads-what-is-being-written", "core/source.py",
             "        if busy is not None:\n            busy.waiters.append(partial(self._serve, link, request))\n            return",
             "        if False:\n            return",
             "4: an old block overtakes a new write"),
    Mutation("overlapping-writes-not-in-order", "core/secondary.py",
             'if busy.count and busy.queue(start, end, "waiting", partial(self._again, size, again)):', "if False:",
             "4: the older of two writes to a block comes last on the peer"),
    Mutation("resync-over-a-write", "core/target.py",
             'if turn is None and busy.count and busy.queue(start, end, "local", begin, ON_DISK):', "if False:",
             "4: a resync's block and the peer's write race for the disk"),

    # ---- generations
    Mutation("new-generation-forgotten", "core/aftermath.py",
             "        meta.put(uuids)  # whoever calls saves, if we do not", "        pass",
             "6: two nodes that both went on look alike"),
    Mutation("new-generation-not-durable", "core/aftermath.py",
             "        self._r.primary.freeze(reason)\n", "", "6: writes are acknowledged before the new generation is on disk"),
    Mutation("moved-on-alone-not-noted", "core/aftermath.py",
             "if not alone(new) or meta.flags & Flag.WENT_ON_ALONE or not uuids.bitmap or new.disk < Disk.INCONSISTENT:",
             "if True:",
             "6: going on alone after a cut-off resync leaves no trace"),
    Mutation("split-brain-not-seen", "state/uuids.py",
             "lambda x: x.m.bitmap == x.p.bitmap != NONE, SPLIT_BRAIN,", "lambda x: x.m.bitmap == x.p.bitmap != NONE, lambda x: SOURCE_BITMAP if x.resolve_conflicts else TARGET_BITMAP,",
             "6: one of two data sets is discarded without being asked"),
    Mutation("stale-side-is-the-source", "state/uuids.py",
             "lambda x: x.m.current == x.p.bitmap, TARGET_BITMAP,", "lambda x: x.m.current == x.p.bitmap, SOURCE_BITMAP,",
             "7: old data overwrites new"),
    Mutation("crashed-primary-forgotten", "core/attachment.py",
             "self.crashed_primary = verdict.crashed_primary", "self.crashed_primary = False",
             "4: the peers look alike after a Primary's crash"),
    Mutation("crash-needs-no-resync", "state/uuids.py",
             "lambda x: x.same and not x.crash, NO_SYNC,", "lambda x: x.same, NO_SYNC,",
             "4: after a crash nothing is copied"),
    Mutation("resync-end-not-recorded", "core/sync.py",
             "        meta.put(meta.uuids.resync_done_source())", "        pass",
             "6: the next loss of the peer makes no new generation"),

    # ---- roles
    Mutation("promotion-does-not-flush", "core/roles.py",
             "r.secondary.when_written(written)", "flushed(0)",
             "data before metadata: the doors open on data that is not durable yet"),
    Mutation("promotion-of-outdated-data", "state/sanitizing.py",
             '_AS_TARGET = Clip(Disk.INCONSISTENT, Disk.OUTDATED,', '_AS_TARGET = Clip(Disk.INCONSISTENT, Disk.UP_TO_DATE,',
             "3: who waits for a resync still calls itself UpToDate"),
    Mutation("demotion-does-not-flush", "core/roles.py",
             "r.primary.submit([Request(Op.FLUSH, 0, 0, flushed, fua=True)])", "self._demote(reply)",
             "2: a demoted node's writes are not durable on both"),
    Mutation("primary-flag-cleared-before-the-bitmap", "core/aftermath.py",
             "            meta.save_bitmap()  # the activity log does not count any more: what it covered stands in the bitmap first",
             "            pass",
             "4: the log does not count any more and the bitmap on disk is old"),

    # ---- bounds
    Mutation("dials-in-a-storm", "core/rendezvous.py", "BACKOFF_CAP_MS = 30000", "BACKOFF_CAP_MS = 5",
             "9: a lost peer is dialed without pause"),
)  # fmt: skip
