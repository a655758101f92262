# SPDX-License-Identifier: GPL-2.0-or-later
"""Still more of `test_once_failed.py`: the newest."""

from __future__ import annotations

import pytest

from tests.sim.false_alarms import Found
from tests.sim.history import Event, History
from tests.sim.shrink import play

FOUND = (
    Found("half-of-an-order-to-discard",
          "a node with changes of its own was told to connect with --discard-my-data; the connection broke before the "
          "resync began, the other one came without its disk, and this one was UpToDate; then its changes were "
          "overwritten unasked",
          {"batch": 0.3, "blocks": 40},
          (("kill", "s"), ("up", "s", None, 60, 547779837), ("disconnect", "b"), ("wait", "b", None, 4000),
           ("primary", "b"), ("write", "p", (45, 8, True)), ("mend", "a"), ("fail_once", "p", ("write", -1, True)),
           ("write", "p", (312, 8, False)), ("wait", "p", None, 60), ("kill", "p"), ("up", "p"),
           ("up", "s", None, 300), ("discard", "a"), ("up", "b", None, 15, 782009009), ("down", "b", None, 3))),
    *(Found(f"source-lost-what-only-the-targets-marks-told-{peer}",
            "what a dead Primary had written was on the source in a cache only, and a resync cleared the Primary's "
            "marks; a power loss of the source in the middle of it left a difference that nothing told",
            {"blocks": 64, "offer_ordered": peer == "replblock", "resync_rate_kib": 400},
            (("write", "a", (0, 8, False), 9), ("cut", "a"), ("fail_once", "a", ("flush", -10, False)),
             ("flush", "a", None, 12000), ("heal", "a"), ("up", "a", None, 300), ("power", "b", None, 4000)))
      for peer in ("replblock", "kernel")),
    Found("primary-ordered-at-a-diskless-primary",
          "B: `primary` at a Primary that had lost its disk promotes nobody: what the peer's process has may still be "
          "on its way to the disk (the oracle)",
          {"blocks": 16, "protocol": "B", "slow_share": 0.0},
          (("slow", "b", 300), ("write", "a", (8, 8, True), 12), ("fail_once", "a", ("write", None, False)),
           ("write", "a", (40, 8, False), 8), ("primary", "a", None, 1500))),
    Found("detached-with-a-received-write-in-line",
          "B: a detach refused what had been received before and waited for an older write to the same block; attached "
          "again when the Primary was dead, the disk served without it",
          {"blocks": 16, "protocol": "B", "slow_share": 0.0},
          (("slow", "b", 300), ("write", "a", (8, 8, True)), ("write", "a", (1, 8, False), 15),
           ("detach", "b", None, 1000), ("cut", "a"), ("power", "a", None, 10), ("repair", "b"),
           ("disconnect", "b", None, 9000), ("attach", "b", None, 300), ("primary", "b", None, 1000))),
    Found("written-to-the-disk-that-came-after",
          "a diskless Primary wrote for the peer's disk, which had failed and was attached again before it heard: "
          "taken and acknowledged while it was being attached, the write was overwritten by the Primary's own disk",
          {"batch": 0.6, "blocks": 16, "slow_ms": 2},
          (("fail", "b", "flush"), ("cut_one_way", "b"), ("cut_one_way", "b"),
           ("write", "p", (88, 8, False), 0, 1931257067), ("write", "p", (37, 8, False)),
           ("detach_force", "p", None, 8), ("write", "p", (32, 8, False), 1), ("read", "p", (16, 40, False), 2),
           ("attach", "p", None, 20), ("write", "p", (88, 8, False)))),
    Found("older-word-settled-an-attach",
          "the same, and the Primary's word that it had no disk any more was taken for an answer to the attach",
          {"batch": 0.3, "blocks": 16, "delay_ms": 15, "slow_ms": 2},
          (("fail", "b", "flush"), ("cut_one_way", "b"), ("write", "p", (88, 8, False), 0, 1774924827),
           ("detach_force", "p", None, 8), ("write", "p", (32, 8, False), 1), ("read", "p", (16, 40, False), 2),
           ("attach", "p", None, 20), ("write", "p", (88, 8, False), 0, 2676563960))),
    Found("flushed-for-a-promotion-before-the-peer-wrote-more",
          "a promotion flushed without its peer, which came back, wrote and died before it agreed: the promotion "
          "went on without another flush, and a power loss took what the peer had been answered",
          {"batch": 0.6, "blocks": 16, "cram_hmac_alg": "sha256", "ping_int_ms": 700, "slow_ms": 30},
          (("power", "p", None, 20), ("up", "p", None, 60), ("connect", "s", None, 60), ("heal", "b", None, 40),
           ("primary", "a", None, 5, 4191388552), ("primary", "b"), ("heal", "a", None, 5),
           ("write", "b", (96, 32, False), 40, 2241752828), ("write", "b", (120, 8, False), 2),
           ("mend", "p", None, 0, 4196327548), ("primary", "p", None, 40), ("write", "p", (96, 8, False), 2),
           ("cut", "p", None, 8), ("primary", "s", None, 20), ("wait", "p", None, 20), ("heal", "a"),
           ("write", "a", (56, 16, False), 2), ("up", "a", None, 40), ("fail_once", "b", ("write", None, False), 40),
           ("kill", "a", None, 3), ("write", "a", (88, 40, False), 1), ("write", "b", (8, 8, False), 8, 4039044343),
           ("write", "p", (104, 1, False)), ("flush", "p", None, 100), ("write", "p", (56, 8, True)),
           ("power", "p"))),
    Found("demoted-by-a-policy-with-a-write-in-the-wings",
          "a write waited for the activity log when a policy demoted its Primary and made it a target: begun all the "
          "same, it went to the source, which had read older data for the resync; that came after it, and lay on top",
          {"after_sb_0pri": "discard-older-primary", "after_sb_1pri": "call-pri-lost-after-sb", "al_extents": 2,
           "batch": 0.6, "blocks": 2064, "cram_hmac_alg": "sha256", "delay_ms": 15, "slow_share": 1.0},
          (("flush", "a"), ("repair", "a"), ("resume", "b"), ("fail", "a", "meta"), ("repair", "a"),
           ("crowd", "a", ("disconnect", (("write", (11825, 8, False)), ("read", (10424, 8, False)),
                                          ("write", (3576, 2, False))), (("write", (8288, 1, False)),))),
           ("primary", "b"), ("mend", "p"), ("slow", "p", 300), ("write", "p", (16504, 8, False), 0, 1370787626),
           ("zero", "p", (6512, 8, False)), ("zero", "p", (3445, 8, False)), ("kill", "s", None, 20),
           ("write", "p", (11829, 8, False)))),
    Found("a-verdict-that-the-roles-forbade-took-effect",
          "a Primary that had missed the end of the resync it was the source of met its peer, promoted meanwhile; both "
          "being Primary the connection ended at once, but the mark that it is on its own was gone: what it wrote then "
          "was overwritten unasked",
          {"batch": 0.6, "blocks": 40, "cram_hmac_alg": "sha256", "max_in_flight_bytes": 20000, "resync_rate_kib": 400,
           "rr_conflict": "violently"},
          (("crowd", "a", ("connect", (), (("write", (112, 8, False)), ("write", (81, 8, False))))),
           ("disconnect", "s", None, 50), ("write", "p", (232, 40, False), 0, 3528640476),
           ("write", "p", (168, 40, False)), ("connect", "s", None, 250, 2621042766), ("slow", "s", 2),
           ("kill", "s", None, 60), ("up", "s", None, 60, 2862333399), ("primary", "b"), ("invalidate", "a", None, 300),
           ("write", "p", (304, 8, False)))),
    # found with a bug planted, which `test_noticed.py` names: what had been found for it had become blind
    Found("answered-before-its-disk-said-outdated",
          "a Primary told to be a target answered with the peer's copy before its metadata said so; both were "
          "killed, and it came back as the source",
          {"blocks": 16},
          (("write", "p", (113, 1, False)), ("slow", "p", 100), ("write", "p", (0, 16, False)),
           ("when", "p", ("disk", None, ("kill", True, None, 8))),
           ("when", "p", ("disk", None, ("kill", False, None, 8))), ("invalidate_remote", "s"),
           ("write", "p", (112, 1, False), 4, 3718548744))),
    Found("crashed-target-of-a-source-that-did-not-hear",
          "a Primary had just ended a resync and answered, and was killed; the source, which had not heard of the "
          "end, lost power, and overwrote it",
          {"batch": 0.3, "blocks": 2, "delay_ms": 1, "slow_ms": 2},
          (("detach", "p", None, 60), ("attach", "p"), ("when", "p", ("conn", "CONNECTED", ("kill", True, None, 7))),
           ("when", "p", ("conn", "CONNECTED", ("power", False, None, 16))), ("write", "p", (8, 2, False), 60))),
    Found("generation-of-a-promotion-that-failed",
          "a promotion alone began a generation, and then failed to flush: the disk that lacked what that lost "
          "overwrote the other one",
          {"blocks": 2, "slow_ms": 2, "slow_share": 0.0},
          (("write", "p", (8, 2, False)), ("write", "p", (5, 8, False), 3, 3646347648), ("kill", "p", None, 1500),
           ("fail_once", "s", ("flush", None, False)), ("primary", "s", None, 300))),
    Found("generation-before-its-data",
          "a Primary's disk failed a read and was given up; its peer began a generation, lost power before its data "
          "was durable, and overwrote the Primary's disk",
          {"batch": 0.05, "blocks": 16},
          (("write", "p", (121, 7, False)), ("wait", "p", None, 15),
           ("when", "s", ("pdsk", "FAILED", ("power", True, None, 16))),
           ("when", "s", ("pdsk", "FAILED", ("kill", False, None, 30))), ("fail_once", "p", ("read", None, False)),
           ("read", "p", (1, 16, False)))),
    Found("answer-from-before-the-detach",
          "a target's disk was detached and attached while a block was on its way, which was written meanwhile: the "
          "older block cleared the mark",
          {"batch": 0.3, "blocks": 2, "slow_share": 1.0, "sndbuf_bytes": 3000},
          (("disconnect", "s"), ("write", "p", (0, 8, False), 0, 1110068751), ("delay", "a", 40, 20, 1294226243),
           ("when", "s", ("conn", "SYNC_TARGET", ("detach_force", True, None, 30))),
           ("when", "s", ("disk", "DISKLESS", ("attach", True, None, 10))),
           ("when", "p", ("pdsk", "FAILED", ("write", True, (5, 8, False), 2))), ("connect", "s", None, 600))),
    Found("kernel-heard-of-a-refused-disk",
          "a killed Primary's attach could not flush; the next one told a kernel peer of a disk that was refused "
          "then",
          {"al_updates": False, "blocks": 40, "offer_ordered": False},
          (("write", "p", (176, 1, False), 3, 753879459), ("kill", "p"), ("fail_once", "p", ("flush", None, False)),
           ("up", "p", None, 60))),
    Found("failed-under-a-detach-and-unheard",
          "a write failed on a disk that was being detached, and was answered with the copy of a peer that heard of "
          "nothing; killed, the Primary was the source",
          {"al_updates": False, "batch": 0.3, "blocks": 16},
          (("slow", "p", 30), ("write", "p", (0, 40, False)),
           ("when", "p", ("disk", "FAILED", ("fail_once", True, ("write", None, False), 0))),
           ("when", "p", ("disk", "FAILED", ("cut_one_way", True, None, 0))), ("detach_force", "p"),
           ("wait", "p", None, 60), ("kill", "p", None, 20))),
    Found("read-failed-under-writes",
          "a read failed while writes were on their way to the disk; they were answered, the peer was killed before "
          "it had moved on, and the disk came back as the better one",
          {"blocks": 16, "slow_share": 1.0},
          (("write", "p", (97, 8, False), 60), ("slow", "p", 30), ("write", "p", (5, 8, False)),
           ("write", "p", (0, 40, False)), ("write", "p", (113, 15, False), 3), ("slow", "s", 300),
           ("when", "s", ("pdsk", None, ("kill", True, None, 50))), ("fail_once", "p", ("read", None, False)),
           ("read", "p", (1, 8, False), 5, 401014403))),
    Found("last-write-of-a-failing-disk-uncounted",
          "A: a Primary's disk failed its last write, which the peer had; promoted again it discarded that peer's "
          "data as unchanged",
          {"after_sb_0pri": "discard-zero-changes", "blocks": 2, "protocol": "A"},
          (("fail_once", "p", ("write", -8, False)), ("write", "p", (0, 1, False), 20, 1175578351), ("cut", "p"),
           ("up", "p", None, 60), ("primary", "p"))),
    Found("held-write-of-a-loser",
          "a write waited for the metadata of a Primary that was told to lose: it was answered when its data was "
          "being discarded",
          {"after_sb_0pri": "discard-local", "after_sb_1pri": "call-pri-lost-after-sb",
           "after_sb_2pri": "call-pri-lost-after-sb", "blocks": 16, "protocol": "A", "sndbuf_bytes": 3000},
          (("write", "p", (96, 8, False)), ("wait", "p", None, 60), ("slow", "p", 2000),
           ("write", "p", (0, 8, False)), ("disconnect", "s", None, 8, 2382143682), ("primary", "s"),
           ("connect", "s"), ("wait", "a", None, 500))),
    Found("under-way-to-a-losers-disk",
          "a write was on its way to the disk of a Primary that a policy demoted: it was answered when its data was "
          "being discarded",
          {"after_sb_0pri": "discard-older-primary", "after_sb_1pri": "consensus", "blocks": 16,
           "after_sb_2pri": "call-pri-lost-after-sb", "sndbuf_bytes": 3000},
          (("write", "p", (0, 40, False)), ("slow", "p", 2000), ("write", "p", (0, 8, True), 3),
           ("disconnect", "s", None, 30), ("primary", "s"), ("connect", "s", None, 20))),
    Found("acknowledged-by-an-inconsistent-disk",
          "suspend-io: a write without a disk here was acknowledged by a peer that had become Inconsistent, and was "
          "held back; then this node's own disk was made the good one by force, and it was answered without it",
          {"blocks": 40, "on_no_data_accessible": "suspend-io", "slow_ms": 2},
          (("primary", "a"), ("fail", "a", "flush"), ("write", "a", (125, 3, False), 40), ("invalidate_remote", "a"),
           ("flush", "b", None, 5), ("write", "a", (109, 8, False)))),
    Found("nothing-changed-but-the-source-lost-writes",
          "discard-zero-changes: a disk known to have lost writes was the source of a split brain, because the other "
          "one, which has those writes, had changed nothing since",
          {"after_sb_0pri": "discard-zero-changes", "blocks": 40, "offer_ordered": False},
          (("write", "a", (104, 2, False), 15), ("kill", "a"), ("fail", "a", "flush"), ("up", "a"),
           ("heal", "b", None, 15), ("mend", "a"), ("primary", "a", None, 60), ("fail", "a", "meta"), ("kill", "a"),
           ("up", "a", None, 300), ("primary", "a", None, 300))),
    Found("forced-with-a-write-that-only-the-peer-took",
          "suspend-io: the last copy was no good one any more when it took a write; then the Primary's own disk, which "
          "came back without it, was made UpToDate by force, and the write was answered at the thaw",
          {"blocks": 16, "on_no_data_accessible": "suspend-io", "slow_ms": 2},
          (("fail", "a", "flush"), ("write", "a", (125, 3, False), 40), ("invalidate_remote", "a"),
           ("write", "a", (0, 40, False)), ("flush", "b", None, 5))),
    Found("flush-before-a-resync-failed-when-the-target-was-gone",
          "the flush before a resync failed when the connection was lost already: nobody looked at it, the disk went "
          "on as UpToDate, and what only its cache had went with its next power loss, after the next resync",
          {"batch": 0.3, "blocks": 16},
          (("fail", "b", "flush"), ("write", "b", (125, 3, False), 40), ("invalidate_remote", "b"),
           ("repair", "a", None, 15), ("kill", "a", None, 0, 620130349), ("flush", "a", None, 2))),
    Found("outdated-before-it-was-an-order",
          "a Primary told to be a target answered with the peer's copy when its metadata said Outdated, but not yet "
          "that all is to come from there; dead, it met the peer without its disk, was good again, and the source",
          {"batch": 0.05, "blocks": 40},
          (("write", "p", (0, 40, True), 60), ("slow", "p", 300), ("slow", "s", 30),
           ("when", "p", ("disk", None, ("power", True, None, 60))),
           ("when", "p", ("disk", None, ("kill", False, None, 62))), ("invalidate", "p", None, 4, 3818300074),
           ("write", "p", (0, 1, False), 4, 2389843798), ("wait", "p", None, 60, 548284286), ("repair", "p"),
           ("up", "p"), ("up", "s", None, 0, 1389883880), ("repair", "p"))),
    Found("ended-when-the-target-was-gone",
          "a target's disk was detached while the source flushed at the end of the resync: the source took it for "
          "UpToDate and forgot that it had gone on alone; attached again it waited for ever",
          {"blocks": 2},
          (("slow", "p", 100), ("write", "p", (5, 11, False)), ("wait", "p", None, 300),
           ("write", "p", (8, 8, False), 0, 1133028377),
           ("when", "s", ("disk", "UP_TO_DATE", ("detach", True, None, 16))), ("detach", "p"),
           ("detach", "s", None, 300), ("attach", "s", None, 300))),
    Found("asked-round-and-round",
          "pass_on: behind a block that could not be written another one was marked: a resync's target went round "
          "in circles for ever, and its engine with it",
          {"blocks": 16, "on_io_error": "pass_on"},
          (("fail", "a", "read"), ("forget", "b"), ("force", "b"), ("read", "a", (16, 40, True)), ("mend", "b"),
           ("write", "b", (120, 8, False)), ("mend", "a", None, 0, 3360371828), ("fail", "a", "write"),
           ("crowd", "a", (None, (("flush", None), ("write", (56, 8, False)), ("flush", None)),
                           (("write", (112, 8, False)), ("flush", None), ("zero", (96, 8, False)))), 2, 4096217972),
           ("up", "a"), ("wait", "a", None, 100), ("write", "b", (104, 16, False), 15))),
    Found("attached-in-the-middle-of-a-promotion",
          "A: promoted without a disk, which was attached before the peer's answer: refused, but the peer had begun a "
          "generation for it, and overwrote that disk",
          {"blocks": 16, "delay_ms": 15, "protocol": "A"},
          (("write", "b", (93, 1, False), 8), ("kill", "a", None, 0, 1991532964), ("fail", "a", "meta"), ("up", "a"),
           ("wait", "a", None, 300), ("primary", "a"))),
    Found("ended-by-the-one-before",
          "a source could not read and came back: the end of its first resync, still being flushed, ended the second "
          "one with the blocks that had failed in the first; the source stayed SyncSource for ever",
          {"blocks": 16},
          (("slow", "b", 300), ("write", "a", (72, 1, False)), ("heal", "b"), ("forget", "a"), ("fail", "b", "flush"),
           ("flush", "a"), ("write", "b", (0, 1, False)), ("flush", "b"), ("write", "a", (61, 16, False)),
           ("mend", "a"), ("primary", "a", None, 60), ("invalidate_remote", "a", None, 7, 7),
           ("fail", "a", "read", 4, 7), ("fail", "a", "read", 4, 7), ("cut_one_way", "a", None, 4),
           ("read", "a", (112, 16, False)))),
    Found("failed-its-flush-when-the-peer-was-gone",
          "a Primary's disk failed its flush while it was detached by force; the connection had broken in the middle "
          "of that, and nothing was noted: attached again it was a crashed Primary, and overwrote what the peer had",
          {"batch": 0.3, "blocks": 16},
          (("write", "p", (112, 8, False), 60),
           ("when", "p", ("disk", "FAILED", ("fail_once", True, ("flush", None, True), 0))),
           ("when", "s", ("pdsk", None, ("kill", True, None, 1))), ("detach_force", "p"),
           ("write", "p", (93, 2, False)), ("wait", "p", None, 60, 1823330452))),
    Found("resynced-after-an-order-to-discard",
          "kernel peer, A: invalidated by order, a node got all from a disk that had lost writes; promoted, it was "
          "asked for what it had received before (the oracle)",
          {"batch": 0.3, "blocks": 16, "delay_ms": 15, "offer_ordered": False, "protocol": "A"},
          (("write", "p", (8, 16, False), 0, 3647450758), ("write", "p", (56, 1, False)),
           ("write", "p", (24, 1, False), 2, 1571881914), ("write", "p", (96, 8, False), 0, 1086950062),
           ("kill", "p", None, 60), ("fail_once", "p", ("flush", None, False)), ("up", "p", None, 20),
           ("mend", "a", None, 0, 206694703), ("primary", "b"), ("kill", "a"))),
    Found("logged-before-the-log-counted",
          "a diskless Primary's disk was attached; a write that only the peer got was in its activity log before its "
          "metadata said that the log counts: killed then, nothing told of that block",
          {"batch": 0.05, "blocks": 2064, "connect_int_ms": 500},
          (("crowd", "a", ("detach", (("write", (7041, 2, False)),),
                           (("write", (7040, 40, False)), ("write", (3064, 40, False)), ("flush", None)))),
           ("write", "b", (8, 8, False), 300), ("fuse", "a", (13, False)), ("attach", "a", None, 2, 1286312320),
           ("write", "b", (40, 8, False), 15, 712354424), ("detach", "b", None, 2),
           ("connect", "a", None, 5, 3922224721),
           ("repair", "b", None, 1500, 1833470018), ("write", "b", (8, 8, False), 40),
           ("up", "b", None, 0, 1193811576), ("connect", "b", None, 1), ("fuse", "b", (13, True), 5, 3336611759),
           ("up", "a", None, 0, 2049267836), ("write", "b", (8, 8, False), 15, 849994659))),
    Found("failed-its-flush-in-good-order-when-the-peer-was-gone",
          "as failed-its-flush-when-the-peer-was-gone, detached in good order while writes waited",
          {"blocks": 16, "delay_ms": 1},
          (("write", "p", (69, 8, False), 60), ("slow", "p", 30),
           ("when", "p", ("disk", "FAILED", ("fail_once", True, ("flush", -10, False), 0))),
           ("when", "s", ("pdsk", None, ("kill", True, None, 1))), ("detach", "p"), ("write", "p", (0, 16, False)),
           ("write", "p", (24, 8, False)), ("wait", "p", None, 60, 2860829171))),
)  # fmt: skip


@pytest.mark.parametrize("found", FOUND, ids=lambda f: f.name)
def test_stays_mended(found: Found) -> None:
    """The schedule that once failed keeps every promise."""
    failure = play(History(found.setup, tuple(Event(*event) for event in found.events)))
    assert failure is None, f"{found.what}\n{failure.text}"
