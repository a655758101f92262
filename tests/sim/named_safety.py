# SPDX-License-Identifier: GPL-2.0-or-later
"""A history for every safety rule, and for what becomes of blocks that are still marked."""

from __future__ import annotations

from replblock.meta.superblock import Flag
from tests.sim.named import Named

GOOD = Flag.CONSISTENT | Flag.WAS_UP_TO_DATE | Flag.AL_CLEAN
BAD = Flag.AL_CLEAN
IDLE = {"start": "secondary"}
SPLIT = ("Split-Brain detected", "Split-Brain detected")
NO_HISTORY = "each node's data is the other's past: no history ends so"
CROSSED = (((0x5550, 0x4440, 0, 0), GOOD), ((0x4440, 0x5550, 0, 0), GOOD))
MISSED_THE_END = (
    "disconnect b, write a 1, connect b @{k}, cut_one_way b, write a 5, primary b, write b 9, secondary a, secondary b"
)
"""b became UpToDate, a did not hear of it: it goes on without a new generation."""
OUTDATED = "write a 1, cut a, write a 2, secondary a, disconnect a, outdate a, heal a"
TWICE_CUT_OFF = "both were the source of a resync whose end they missed: a matter of three crashes"
ALONE, CRASHED = GOOD | Flag.WENT_ON_ALONE, GOOD | Flag.CRASHED_PRIMARY
ONE_WENT_ON = (((0x5550, 0x4440, 0, 0), ALONE), ((0x5550, 0x3330, 0, 0), CRASHED))
BOTH_WENT_ON = (((0x5550, 0x4440, 0, 0), ALONE), ((0x5550, 0x3330, 0, 0), CRASHED | Flag.WENT_ON_ALONE))
LOSES = {"after_sb_0pri": "discard-least-changes", "after_sb_1pri": "call-pri-lost-after-sb"}
PARTED = "write a 1, cut a, write a 2, primary b, write b 5"
HALF_TOLD = "cut_one_way a @0, invalidate_remote b @{k}, forget a @0, heal a"
"""a Primary is told to give up its data, and its peer does not hear that it did."""
HALF_ORDERED = "cut_one_way a @0, fuse a {k}, invalidate b @3000, up a, heal a"
"""The one that is to be the source dies before it begins."""
OLD_PEER = {"offer_ordered": False}
"""Each node takes the other one for a kernel, which knows no safety rules."""
FLUSH_FAILED = (
    "write a 1, fail a flush @0, write a 2 @3, detach b @0, flush a @100, repair a @0, secondary a, attach a, "
    "disconnect a, disconnect b, attach b"
)
"""a Primary's flush fails when the peer has left: what was answered last is on the peer's disk, if anywhere."""
SERVED = "cut a, write a 1+3, secondary a, detach a, heal a @5000, primary a, write a 9, attach a"
"""a's users work on the peer's data when a's own disk comes back: it was alone, and changed more."""

SAFETY = (
    Named(("contradictory-generations",), "heal a", "StandAlone", IDLE, SPLIT, prepared=NO_HISTORY, disks=CROSSED),
    Named(("contradiction-resolved-by-order",), "disconnect a, discard a, heal a", "b", IDLE, prepared=NO_HISTORY,
          disks=CROSSED),
    Named(("contradiction-full-sync", "disk-states-decide"), "heal a", "a", IDLE, prepared=NO_HISTORY,
          disks=(CROSSED[0], ((0x4440, 0x5550, 0, 0), BAD))),
    Named(("nobody-can-be-source", "inconsistent-cannot-be-source"),
          "cut a, write a 1, secondary a, disconnect a, disconnect b, invalidate a, invalidate b, heal a, connect a, "
          "connect b", "StandAlone", {}, ("primary --force", "primary --force")),
    Named(("target-has-own-changes",), f"{MISSED_THE_END}, heal a", "StandAlone", {}, SPLIT, tries=40),
    Named(("target-gives-up-own-changes",), f"{MISSED_THE_END}, disconnect a, discard a, heal a", "b", tries=40),
    Named(("source-gives-up-its-changes",), f"{MISSED_THE_END}, disconnect b, discard b, heal a", "a", tries=40),
    Named(("who-went-on-is-the-source",), "heal a", "a", IDLE, prepared=TWICE_CUT_OFF, disks=ONE_WENT_ON, bits=(2, 0)),
    Named(("went-on-in-the-same-generation",), "heal a", "StandAlone", IDLE, SPLIT, prepared=TWICE_CUT_OFF,
          disks=BOTH_WENT_ON, bits=(2, 3)),
    Named(("who-went-on-gives-way",), "disconnect a, discard a, heal a", "b", IDLE, prepared=TWICE_CUT_OFF,
          disks=BOTH_WENT_ON, bits=(2, 3)),
    Named(("target-crashed-since-the-end",),
          "write a 1, invalidate a @{k}, cut_one_way a @50, write a 5, kill a @200, heal a, up a", "a", tries=120),
    Named(("target-serves-since-the-end",), "write a 1, invalidate a @{k}, forget b @5000", "a",
          {"fencing": "resource-and-stonith", "fence_exit": 1}, tries=120),
    Named(("source-lost-writes",), f"{FLUSH_FAILED}, connect a, connect b", "StandAlone", {}, SPLIT),
    Named(("target-gives-up-what-source-lost",), f"{FLUSH_FAILED}, discard b, connect a", "a"),
    Named(("who-lost-writes-gives-way",), f"{FLUSH_FAILED}, discard a, connect b", "b"),
    Named(("order-against-policy",), f"{PARTED}, hold b, secondary a, disconnect a, discard a, heal a", "StandAlone b",
          LOSES, SPLIT),
    Named(("stale-side-never-source",), f"{OUTDATED}, connect a", "StandAlone", {}, ("invalidate", "invalidate")),
    Named(("stale-side-gives-up",), f"{OUTDATED}, discard a", "b"),
    Named(("served-data-stays",), SERVED, "undone a",
          {"after_sb_0pri": "discard-least-changes", "after_sb_1pri": "violently-as0p"}, ("replctl secondary", "")),
    Named(("left-over-from-me-peer-stale", "left-over-from-peer-i-am-stale", "bits-left"), HALF_TOLD, "b", tries=20),
    Named(("outdated-with-bits-left",), HALF_TOLD, "StandAlone", OLD_PEER, ("invalidate", "invalidate"), tries=20),
    Named(("left-over-from-me-primary", "left-over-from-peer-primary"), "write a 1 @{k}, forget a @8000", "a",
          {"fencing": "resource-and-stonith", "fence_exit": 1}, tries=20),
    Named(("left-over-from-me-only-mine", "left-over-from-peer-only-its"), HALF_ORDERED, "one", IDLE, tries=30),
    Named(("bits-left-kept",), HALF_ORDERED, "Connected", {**IDLE, **OLD_PEER}, tries=30),
)
