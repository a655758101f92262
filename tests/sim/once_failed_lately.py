# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest of `once_failed.py`. What is found is appended."""

from __future__ import annotations

from tests.sim.false_alarms import Found

FOUND = (
    Found("told-without-a-disk-to-note-it-on",
          "a Primary whose peer had just been detached failed a flush, its metadata could not be written, and it was "
          "killed: as after a power loss it is the source (the oracle took the diskless peer for one that knew)",
          {"blocks": 2, "slow_ms": 2},
          (("write", "a", (0, 8, False), 40), ("flush", "a", None, 40), ("fail", "a", "flush"),
           ("write", "a", (8, 8, False)), ("write", "a", (1, 8, False), 3, 2442302702), ("detach", "b", None, 2),
           ("heal", "b", None, 2, 2027444193), ("fail", "a", "meta", 3), ("flush", "b"),
           ("read", "b", (0, 2, False), 8), ("kill", "a"))),
    Found("demoted-by-a-policy-without-a-flush",
          "what both disks had acknowledged was in the cache of a Primary that a split-brain policy demoted: its "
          "activity log counted no more, nothing was marked, and a power loss left a difference",
          {"after_sb_0pri": "discard-older-primary", "after_sb_1pri": "violently-as0p",
           "after_sb_2pri": "call-pri-lost-after-sb", "batch": 0.05, "blocks": 16, "offer_ordered": False,
           "slow_ms": 30, "slow_share": 0.0},
          (("up", "b", None, 12000), ("write", "a", (80, 16, False)), ("write", "b", (121, 7, False)),
           ("write", "a", (120, 1, False)), ("write", "b", (125, 3, False)), ("read", "a", (80, 2, False), 40),
           ("primary", "b"), ("cut_one_way", "a"), ("wait", "a", None, 700), ("mend", "b"),
           ("up", "b", None, 0, 2908288884), ("secondary", "b"), ("fuse", "a", (5, True), 1),
           ("read", "b", (0, 1, False), 15, 1742405989))),
    Found("target-that-is-worse-without-its-source",
          "a crashed Primary was detached while it connected: the target to be was Inconsistent then, and did not say; "
          "promoted without a disk, the other one wrote to it as to a good copy",
          {"batch": 0.05, "blocks": 2},
          (("disconnect", "a", None, 0, 1996222897), ("fuse", "a", (5, False)),
           ("write", "b", (0, 16, False), 15, 3327052563), ("up", "a", None, 15, 2176407759), ("detach", "a", None, 40),
           ("primary", "a", None, 40), ("write", "b", (0, 8, False), 300))),
    Found("crash-of-before-the-resync",
          "a disk was attached again, and its node still took the peer, its source since, for a crashed Primary: it "
          "waited for a resync that the other one saw no reason for",
          {"blocks": 16},
          (("kill", "a"), ("mend", "b"), ("pause", "a"), ("detach", "b", None, 8), ("stall", "a", 50, 8))),
    Found("promoted-on-a-copy-that-forgot-it",
          "a crashed Primary without a disk was promoted on its peer's copy, and that disk failed before the new "
          "generation was on it: met again, the crashed one's older disk was the source",
          {"batch": 0.3, "blocks": 16, "ping_int_ms": 700, "slow_ms": 2},
          (("write", "b", (41, 8, False)), ("wait", "b"), ("write", "a", (0, 8, False), 5), ("power", "a"),
           ("fail", "a", "meta"), ("up", "a"), ("wait", "a", None, 4000), ("primary", "a"),
           ("write", "b", (0, 2, False), 1, 3845500936), ("write", "a", (45, 8, False), 1),
           ("fail", "b", "write", 15, 3048725192))),
    Found("flush-that-failed-before-the-write-came",
          "the last copy's disk failed a flush while it was attached, and took a waiting write only later, on a sound "
          "disk; a policy gave that disk's data up then (the oracle wanted a flush to fail for it)",
          {"after_sb_0pri": "discard-least-changes", "blocks": 16, "ping_int_ms": 700},
          (("down", "b", None, 8), ("fail", "a", "flush", 8), ("secondary", "a"), ("up", "b", None, 1, 2096472348),
           ("heal", "b", None, 15, 2132450150), ("primary", "a"), ("wait", "a", None, 4000), ("fail", "b", "flush"),
           ("write", "a", (104, 2, False)), ("wait", "b", None, 12000), ("attach", "b"),
           ("write", "b", (64, 8, False), 2), ("flush", "b", None, 2, 3853369742), ("primary", "b", None, 5),
           ("wait", "a", None, 1500, 3711476520), ("wait", "b", None, 4000), ("cut_one_way", "b", None, 1),
           ("wait", "b", None, 100), ("write", "b", (89, 16, False), 8), ("secondary", "a"), ("mend", "a"),
           ("force", "a", None, 1), ("primary", "b", None, 8), ("flush", "b"))),
)  # fmt: skip
