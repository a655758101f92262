# SPDX-License-Identifier: GPL-2.0-or-later
"""More of `test_once_failed.py`: what was found later."""

from __future__ import annotations

import pytest

from replblock.state.names import Conn, Disk
from tests.sim.exhaustive import SETUP
from tests.sim.false_alarms import Found
from tests.sim.history import Event, History
from tests.sim.play import Player
from tests.sim.shrink import play

FOUND = (
    Found("own-disk-failed-while-the-peer-was-told-to-discard",
          "pass_on: the disk of a Primary failed a write between its invalidate-remote and the peer's yes, and the "
          "order called it UpToDate: the source, without what was answered with the peer's copy",
          {"batch": 0.05, "blocks": 16, "cram_hmac_alg": "sha256", "on_io_error": "pass_on"},
          (("kill", "a", None, 3), ("primary", "b", None, 3), ("mend", "b", None, 0, 3833241981),
           ("write", "a", (120, 8, False)), ("invalidate_remote", "b"), ("fail", "b", "write"), ("stall", "a", 400),
           ("write", "a", (72, 16, False), 1500))),
    Found("refusal-from-the-resync-before",
          "a source could not read, was detached and attached; its refusal came (on the other connection) when the "
          "next resync had begun: the target ended that without the blocks, and the source never heard why",
          SETUP,
          (("invalidate_remote", "b", None, 4, 7), ("fail", "b", "read", 4, 7), ("cut_one_way", "b", None, 4, 7))),
    Found("forced-as-primary",
          "primary --force at a Primary that has lost its good data and its peer's did nothing: no command led out",
          {"blocks": 2, "on_no_data_accessible": "suspend-io"},
          (("fail", "b", "write"), ("fail", "a", "write"), ("trim", "a", (0, 8, False), 1500))),
    Found("flush-fails-at-the-attach-of-a-crashed-primary",
          "what a killed Primary's engine had written could not be made durable at the attach; attached once more the "
          "disk was the source, without what was answered under C, over the peer that had it",
          {"blocks": 16},
          (("fail", "a", "flush"), ("write", "a", (72, 1, False)), ("slow", "a", 30, 40),
           ("kill", "a", None, 3, 606244058), ("up", "a"), ("up", "a"), ("write", "b", (24, 8, False), 700))),
    Found("promoted-between-two-demotions",
          "secondary, secondary, primary: the second demotion, ordered before, undid the promotion",
          {"batch": 0.3, "blocks": 2, "created": True, "slow_ms": 30},
          (("mend", "b"), ("secondary", "a", None, 0, 485221253), ("secondary", "a", None, 5),
           ("primary", "a", None, 0, 1827374110))),
    Found("dead-before-the-source-heard-of-the-end",
          "A: a Primary that had just ended a resync answered a write and died; the source had not heard of the end, "
          "and overwrote it",
          {"blocks": 2, "protocol": "A", "slow_share": 0.0},
          (("secondary", "a", None, 30), ("primary", "b", None, 60), ("invalidate", "b", None, 28), ("cut", "a"),
           ("write", "b", (8, 8, False), 3), ("flush", "b", None, 12), ("kill", "b", None, 5),
           ("disconnect", "a", None, 20), ("heal", "a"), ("wait", "b", None, 1500))),
    Found("demoted-without-good-data",
          "pass_on: a Primary whose disk was Inconsistent was demoted without its peer and did not flush: a power loss "
          "took what the activity log told no more, and the resync that made it UpToDate left it out",
          {"blocks": 2, "on_io_error": "pass_on"},
          (("primary", "b"), ("write", "a", (5, 8, False)), ("fail", "a", "read"), ("read", "b", (13, 1, False)),
           ("slow", "a", 300, 1500), ("down", "b"), ("cut_one_way", "b", None, 12000), ("up", "b"),
           ("secondary", "a"), ("heal", "b"), ("wait", "a", None, 700), ("fuse", "a", (5, True)),
           ("fail", "a", "meta"), ("wait", "a", None, 4000))),
    Found("refused-by-the-last-copy",
          "pass_on and suspend-io: a write that the last copy could not take began anew in every wake-up; every resync "
          "ended with its blocks marked again, and the connection was made anew, all in 40 ms",
          {"blocks": 40, "on_io_error": "pass_on", "on_no_data_accessible": "suspend-io", "slow_share": 1.0},
          (("kill", "a", None, 8), ("primary", "b", None, 0, 2220904643), ("disconnect", "b", None, 8),
           ("fail", "b", "write"), ("write", "b", (240, 16, False), 5), ("connect", "b"), ("up", "a"),
           ("write", "a", (229, 8, False), 4000))),
    Found("older-peer-raised-by-a-late-report",
          "A: the disk of a Primary failed while its peer became a target; that one's report from before, Outdated, "
          "made it UpToDate: the users went on with older data, and the next flush was answered",
          {"blocks": 16, "cram_hmac_alg": "sha256", "ping_int_ms": 700, "protocol": "A"},
          (("power", "b"), ("write", "a", (121, 7, True)), ("wait", "b", None, 1500), ("fail", "a", "meta"),
           ("up", "b"), ("wait", "b", None, 100, 1883009305), ("flush", "b"))),
    Found("told-to-a-flush-that-was-older",
          "A: writes were lost with disk and connection; the flush that failed for them had been handed in before, the "
          "one that was handed in after them was answered",
          {"batch": 0.05, "blocks": 16, "on_no_data_accessible": "suspend-io", "ping_int_ms": 3000, "protocol": "A",
           "start": "secondary"},
          (("primary", "b", None, 0, 3666726889), ("write", "a", (120, 2, False), 15), ("slow", "b", 300),
           ("write", "a", (72, 1, False), 8, 2015591360), ("heal", "b", None, 40), ("forget", "a", None, 15),
           ("fail", "b", "flush", 8), ("flush", "a", None, 8, 1813037740), ("write", "b", (0, 1, False), 3),
           ("flush", "b"), ("write", "a", (61, 16, False), 4000))),
    Found("older-data-of-the-same-generation",
          "the source of a resync by order lost its disk, and its target was detached and attached: of the same "
          "generation, without what had been answered since the order",
          {"batch": 0.3, "blocks": 2, "slow_ms": 2},
          (("invalidate_remote", "a", None, 2, 1922967018), ("write", "b", (4, 8, False), 3, 4012780949),
           ("write", "a", (2, 8, True), 15, 3722287591), ("fail", "a", "meta"),
           ("write", "b", (1, 1, False), 0, 4179320809), ("detach_force", "b", None, 0, 2052329292),
           ("write", "a", (6, 1, False), 300), ("fail", "a", "write"))),
    Found("detached-by-force-before-the-peer-had-flushed",
          "detach --force at a Primary did not wait for the peer's flush: without power it came back with less, in the "
          "same generation, and the detached disk was overwritten",
          {"blocks": 40, "delay_ms": 15, "protocol": "A"},
          (("write", "b", (209, 8, False)), ("up", "b", None, 5), ("power", "b"), ("detach_force", "a"))),
    Found("detached-by-force-as-the-source-by-order",
          "detach --force at a Primary whose target by order had not begun: older data of the same generation",
          {"blocks": 16, "delay_ms": 15, "slow_ms": 30},
          (("write", "a", (30, 1, False), 15), ("invalidate_remote", "a", None, 0, 2721527101),
           ("flush", "a", None, 15, 1997079832), ("detach_force", "a"), ("fail", "b", "meta"),
           ("fail", "a", "meta", 300))),
    Found("crashed-before-the-source-knew-of-the-end",
          "C: a Primary had just ended a resync, and died; its source, which had not recorded the end, lost power, and "
          "with it what was not flushed, and overwrote the Primary's disk that had it",
          {"blocks": 16, "delay_ms": 1, "slow_ms": 30},
          (("write", "a", (2, 1, False), 15), ("invalidate", "a"), ("wait", "a", None, 200), ("power", "a", None, 0,
           1790155758), ("power", "b"))),
    Found("attach-refused-before-a-kernel-hears-of-it",
          "the flush of a killed Primary's attach failed, and a peer that is not told began to be its target at each "
          "attach; the first was refused here, the second found the peer Inconsistent, and overwrote it",
          {"blocks": 40, "offer_ordered": False},
          (("write", "a", (104, 2, False), 15), ("kill", "a"), ("fail", "a", "flush"), ("up", "a", None, 1),
           ("heal", "a", None, 15))),
    Found("source-failed-before-its-target-began",
          "a Primary's disk failed a flush before the resync of its peer had begun; that one was Inconsistent then, "
          "though whole, and was overwritten without what only it had",
          {"batch": 0.05, "blocks": 40, "slow_ms": 30},
          (("write", "b", (240, 16, False)), ("mend", "b"), ("fail", "a", "flush"), ("cut", "a"),
           ("disconnect", "a", None, 300), ("write", "a", (240, 8, False), 0, 121331039), ("heal", "b", None, 1),
           ("write", "a", (1, 8, False), 1, 66104642), ("flush", "a", None, 15, 554662885),
           ("write", "b", (240, 2, False), 0, 3493640135), ("up", "a"), ("primary", "a", None, 40, 1406771998))),
    Found("lost-writes-told-to-nobody",
          "a kernel peer detached with --force; the Primary's flush failed, and was answered so: nothing is promised "
          "(the oracle)",
          {"batch": 0.3, "blocks": 40, "offer_ordered": False},
          (("write", "a", (0, 1, False)), ("fail", "a", "flush", 15), ("detach_force", "b"), ("up", "b"),
           ("write", "b", (169, 1, False), 300), ("flush", "a", None, 300))),
    Found("attach-crossed-a-lost-disk",
          "told to be the target, a disk failed before its metadata said so, and was attached again while the "
          "Primary's failed, too: it was UpToDate, began a generation, was refused, and overwrote the Primary's disk",
          {"batch": 0.3, "blocks": 16, "slow_ms": 30},
          (("write", "b", (56, 8, False), 40), ("write", "a", (78, 8, False), 2, 639492790),
           ("invalidate_remote", "a", None, 15, 3488191078), ("fail", "a", "flush", 8, 2962827375),
           ("cut", "b", None, 8, 1753718609), ("write", "a", (98, 8, False), 2), ("up", "b", None, 5),
           ("fuse", "a", (13, False), 3), ("fail", "b", "meta", 15, 3539323622),
           ("fail", "a", "meta", 15, 2261759055), ("up", "a", None, 2))),
    Found("given-up-in-the-middle-of-writes",
          "a read failed while writes were on their way: the disk was given up, they were answered, the metadata told "
          "nothing, and the peer died before its new generation was durable",
          {"batch": 0.3, "blocks": 40, "slow_ms": 2},
          (("write", "b", (24, 40, False), 0, 2859587289), ("attach", "a", None, 2), ("write", "a", (317, 3, False)),
           ("fail_once", "a", ("read", 8, True), 2), ("read", "a", (24, 16, False), 5, 3416593264),
           ("kill", "s", None, 300))),
    Found("no-changes-but-the-only-copy",
          "split brain: the node that had the last write of a Primary whose disk had failed counted as unchanged",
          {"after_sb_0pri": "discard-zero-changes", "blocks": 16, "created": True, "protocol": "A",
           "start": "secondary"},
          (("mend", "p", None, 0, 1358618083), ("fail_once", "p", ("write", -10, True)),
           ("write", "p", (0, 1, False), 20), ("up", "p", None, 300), ("primary", "a"))),
    Found("answered-while-its-data-is-given-up",
          "a write held back for its generation was answered by a Primary that the policy had just demoted",
          {"after_sb_0pri": "discard-older-primary", "after_sb_2pri": "call-pri-lost-after-sb", "blocks": 40,
           "connect_int_ms": 500, "max_in_flight_bytes": 20000, "ping_int_ms": 3000, "slow_ms": 30},
          (("primary", "a", None, 2), ("write", "b", (216, 8, False), 0, 1298604777),
           ("write", "a", (256, 1, False), 15), ("write", "b", (184, 40, False)), ("write", "a", (184, 8, False)),
           ("zero", "a", (24, 8, True), 15), ("forget", "b", None, 40), ("write", "b", (160, 8, False), 5),
           ("primary", "b"), ("write", "b", (5, 8, False)), ("mend", "p", None, 0, 4271783396))),
    Found("failed-while-being-detached",
          "a write failed on a disk that was being detached, was answered with the peer's copy, and the metadata told "
          "nothing yet",
          {"batch": 0.3, "blocks": 40, "slow_ms": 2},
          (("slow", "p", 30), ("write", "p", (72, 8, False)), ("up", "s", None, 300), ("zero", "p", (77, 2, False)),
           ("detach_force", "p"), ("write", "p", (72, 8, False), 5, 1302977042), ("write", "p", (5, 8, False)),
           ("cut", "b", None, 8), ("fail_once", "a", ("write", None, False), 8), ("kill", "a", None, 40))),
    Found("flush-and-metadata-failed",
          "a Primary's flush failed, and so did the metadata that would tell so, while the cable was cut; what was "
          "lost showed only after its death: nothing on the disk can know (the oracle)",
          {"blocks": 16},
          (("write", "b", (69, 8, False), 8), ("fail_once", "a", ("meta", 5, True)), ("write", "a", (96, 32, False), 8),
           ("write", "b", (64, 40, False)), ("fail", "a", "flush"), ("cut", "b"), ("flush", "b"),
           ("invalidate", "a", None, 15), ("kill", "a"))),
    Found("outdated-primary-and-a-consistent-peer",
          "a Primary told to be the target is Outdated; its source died, and was only Consistent, with fencing: the "
          "Primary's role made it the source of blocks that only the peer had",
          {"batch": 0.05, "blocks": 16, "delay_ms": 1, "fencing": "resource-and-stonith", "on_io_error": "pass_on",
           "slow_ms": 2},
          (("primary", "p"), ("slow", "s", 30), ("invalidate", "p", None, 20),
           ("write", "p", (16, 8, False), 5, 1099632605), ("flush", "p", None, 0, 214735968),
           ("fail_once", "s", ("write", 3, False)), ("write", "p", (0, 40, False), 5, 4105702598),
           ("write", "p", (48, 8, False), 5, 983523047), ("write", "a", (48, 8, False), 8, 4202393882))),
    Found("told-to-a-flush-from-before-the-answer",
          "A: a write was answered, then lost with disk and connection; the flush that failed for it was handed in "
          "before that answer, the one after it was answered",
          {"batch": 0.05, "blocks": 2064, "on_no_data_accessible": "suspend-io", "ping_int_ms": 3000,
           "protocol": "A"},
          (("slow", "p", 2000), ("write", "p", (11440, 40, False), 0, 468491796), ("power", "s"), ("flush", "p"),
           ("fail", "a", "flush"), ("wait", "a", None, 4000, 2608285997), ("up", "b"),
           ("read", "b", (6213, 1, False), 40), ("flush", "a"))),
    Found("failed-here-while-it-stood-in-the-line",
          "pass_on: a write failed here while it waited to be sent again; when the peer was fenced it was answered, "
          "and stood on no disk",
          {"blocks": 40, "delay_ms": 1, "fencing": "resource-and-stonith", "offer_ordered": False,
           "on_io_error": "pass_on", "slow_ms": 2},
          (("write", "p", (297, 1, False), 5), ("fail_once", "s", ("write", 5, False)),
           ("write", "p", (225, 8, False), 0, 1196138296), ("write", "p", (0, 8, False), 0, 3040078118),
           ("flush", "p", None, 1, 1814945289), ("fail_once", "p", ("write", None, False), 20))),
    Found("marked-by-a-failed-read-and-not-told",
          "pass_on: a read that failed while the bitmaps crossed marked its blocks here only; a write to them was no "
          "news then, and the target ended without it",
          {"blocks": 16, "on_io_error": "pass_on"},
          (("mend", "p"), ("primary", "p"), ("slow", "p", 300), ("write", "p", (61, 2, False), 0, 3827945574),
           ("disconnect", "s", None, 2), ("read", "p", (72, 40, False)), ("connect", "s"),
           ("write", "b", (93, 2, True)), ("fail_once", "a", ("read", None, True)), ("wait", "b", None, 700))),
    Found("a-failed-fua-passed-on",
          "pass_on: the flush of a trim with FUA failed and counted as a failed write: the disk stayed, without what "
          "had been answered before",
          {"blocks": 16, "on_io_error": "pass_on"},
          (("down", "a", None, 4000), ("primary", "b", None, 15), ("fail_once", "b", ("flush", None, False)),
           ("read", "b", (56, 40, False)), ("trim", "a", (120, 8, False)), ("trim", "a", (56, 2, True)),
           ("write", "a", (21, 8, False), 0, 4052885573),
           ("crowd", "p", ("secondary", (), (("write", (37, 16, False)),)), 100, 923525156))),
    Found("source-with-a-dead-primarys-writes",
          "a resync cleared the marks of a dead Primary's writes; its source had never flushed them and lost power",
          {"batch": 0.6, "blocks": 2, "connect_int_ms": 500, "delay_ms": 1},
          (("primary", "b"), ("power", "a"), ("mend", "p", None, 0, 234861928), ("write", "p", (8, 1, False)),
           ("write", "p", (8, 8, False), 15), ("cut", "p"), ("fail_once", "p", ("flush", -10, True)),
           ("flush", "p"), ("wait", "p", None, 330), ("heal", "p"), ("up", "p"), ("slow", "s", 2),
           ("kill", "s", None, 60), ("up", "s", None, 60, 1143774226), ("pause", "a", None, 0, 2095460097),
           ("disconnect", "s", None, 5), ("power", "s"))),
    Found("source-that-fails-its-flush-too-late",
          "the same; the source failed the flush at the end of the resync, and died of it",
          {"batch": 0.6, "blocks": 2064, "cram_hmac_alg": "sha256", "delay_ms": 15, "max_in_flight_bytes": 20000,
           "ping_int_ms": 700, "start": "secondary"},
          (("power", "s", None, 0, 3929289952), ("up", "s", None, 20, 3503796576), ("primary", "b"),
           ("mend", "p", None, 0, 2784929380), ("read", "p", (368, 40, False), 2),
           ("write", "p", (16504, 8, False), 2, 466220663), ("read", "p", (7440, 40, False)),
           ("write", "p", (7440, 16, False), 5, 1509455922), ("cut_one_way", "p"),
           ("fail_once", "p", ("flush", -30, False)), ("flush", "p"), ("wait", "p", None, 60), ("power", "p"),
           ("heal", "p"), ("up", "p"), ("fail_once", "a", ("flush", 0, True)),
           ("write", "b", (6464, 8, False), 4000))),
    Found("the-repair-hides-what-was-written-alone",
          "A source that missed the end of its resync and wrote on alone, meets its target again and takes the end "
          "for heard of; both lose power before the resync that would send its writes over, and the target is "
          "promoted: it is a split brain.",
          {"blocks": 2064, "slow_share": 1.0, "slow_ms": 30, "batch": 0.05},
          (("invalidate", "s", None, 0, 223219960), ("wait", "s", None, 20), ("kill", "a"), ("mend", "p"), ("kill",
           "p"), ("primary", "s"), ("wait", "p"), ("up", "a"), ("up", "b", None, 300), ("write", "a", (2784, 8,
           False)), ("slow", "s", 2000), ("kill", "s", None, 60), ("crowd", "p", ("secondary", (("read", (16505, 1,
           False)), ("write", (13392, 8, False))), (("flush", None), ("flush", None), ("zero", (14209, 1, False)))),
           60), ("power", "p"), ("up", "p"), ("up", "s", None, 0, 3640277217), ("connect", "s", None, 0,
           3081952929), ("secondary", "a", None, 1), ("repair", "a", None, 1), ("write", "b", (8816, 8, False), 300,
           4191148934), ("power", "s"), ("up", "s", None, 8, 2534350454), ("power", "b"), ("write", "a", (8816, 40,
           False), 40), ("primary", "a"))),
    Found("refused-and-good-again",
          "A Secondary whose disk fails a write (pass_on) tells the Primary so and loses power before its metadata "
          "says it: it comes back UpToDate and is promoted, and what the Primary answered without it is gone.",
          {"on_io_error": "pass_on", "blocks": 40, "batch": 0.3},
          (("write", "a", (121, 8, False), 5, 669724162), ("fail_once", "s", ("write", None, False)), ("write",
           "p", (185, 1, False)), ("write", "p", (312, 8, False)), ("flush", "p"), ("write", "p", (121, 8, False),
           5, 3299126663), ("power", "s"), ("up", "s", None, 300), ("primary", "b"), ("write", "a", (8, 40, True)),
           ("kill", "a"))),
    Found("demoted-but-its-disk-says-primary",
          "Demoted, a node consents to the promotion of its peer and loses power before its metadata tells that it "
          "is no Primary: both have crashed then, and it overwrote its peer.",
          {"offer_ordered": False, "ping_int_ms": 700, "max_in_flight_bytes": 20000, "blocks": 2, "delay_ms": 1,
           "slow_share": 0.0, "slow_ms": 30, "start": "secondary", "batch": 0.6},
          (("primary", "a"), ("write", "b", (8, 8, False), 40), ("detach", "p", None, 60), ("write", "p", (1, 2,
           False)), ("wait", "p", None, 60, 424092727), ("write", "p", (0, 1, False)), ("write", "p", (1, 8,
           False)), ("write", "p", (1, 8, False)), ("write", "p", (0, 1, False)), ("write", "p", (13, 3, False)),
           ("write", "p", (1, 2, False), 5), ("write", "p", (8, 8, False)), ("write", "b", (0, 16, False)), ("mend",
           "p", None, 0, 350865244), ("primary", "p"), ("slow", "p", 300), ("zero", "p", (0, 16, False)),
           ("secondary", "p", None, 300), ("primary", "s", None, 0, 2316263037), ("up", "a", None, 40), ("write",
           "a", (8, 8, False), 0, 2600597130), ("fuse", "b", (8, False), 2), ("up", "b", None, 3, 2803098320),
           ("fuse", "a", (1, True)), ("flush", "a", None, 1, 4260014944), ("write", "a", (0, 1, False), 8))),
    Found("given-up-by-order-and-good-again",
          "a Primary was invalidated; its source died before the resync began, came back without its disk at first, "
          "and the Outdated disk was UpToDate: of the same generation, it was the source when that disk was there",
          {"batch": 0.3, "blocks": 16, "max_in_flight_bytes": 20000},
          (("primary", "p"), ("slow", "s", 300), ("write", "p", (9, 1, False), 2, 828534495),
           ("invalidate", "p", None, 20), ("zero", "p", (0, 40, False), 2, 1953081010), ("write", "p", (112, 1, False)),
           ("fail_once", "s", ("write", 1, False)),
           ("crowd", "a", ("secondary", (), (("write", (8, 40, False)), ("write", (32, 8, False)))), 100),
           ("up", "s"))),
    Found("given-up-by-order-and-attached-again",
          "the same, with a detach and an attach in between",
          {"batch": 0.3, "blocks": 16},
          (("primary", "p"), ("slow", "s", 300), ("write", "p", (9, 1, False), 2, 828534495),
           ("invalidate", "p", None, 20), ("zero", "p", (0, 40, False), 2, 1953081010), ("write", "p", (112, 1, False)),
           ("read", "p", (9, 8, False)), ("fail_once", "s", ("write", 1, False)), ("detach_force", "p"),
           ("crowd", "a", ("secondary", (), (("write", (8, 40, False)), ("write", (32, 8, False)))), 100),
           ("up", "s"))),
    Found("told-before-its-metadata-says-so",
          "pass_on: a Secondary told of a failed write, lost power before its metadata said so, came back as good as "
          "before and was promoted without what the Primary had answered alone",
          {"batch": 0.3, "blocks": 2064, "cram_hmac_alg": "sha256", "delay_ms": 1, "on_io_error": "pass_on",
           "slow_ms": 2, "slow_share": 1.0},
          (("zero", "p", (0, 8, False)), ("write", "p", (16504, 1, False)), ("down", "s", None, 60),
           ("zero", "p", (4696, 40, False), 0, 2935845205), ("flush", "p", None, 0, 2987105292),
           ("zero", "p", (4696, 1, False), 2), ("up", "s", None, 60, 2630660535),
           ("zero", "p", (4696, 8, False), 0, 3253779434), ("write", "p", (4696, 1, False), 2, 1184529666),
           ("zero", "p", (4701, 1, False), 1, 1558381162), ("fail_once", "s", ("write", 5, True), 2), ("detach", "s"),
           ("write", "b", (1, 8, False)), ("up", "b", None, 15), ("kill", "a"), ("primary", "b"))),
    Found("written-before-the-log-counts",
          "a Primary without a disk wrote to a peer whose metadata did not yet say that its activity log counts: "
          "killed, that one knew of no difference",
          {"offer_ordered": False, "blocks": 40, "slow_ms": 30},
          (("fail_once", "b", ("flush", None, True)), ("write", "b", (56, 8, False)), ("write", "b", (312, 8,
           False)), ("write", "b", (229, 8, False), 15), ("write", "b", (0, 8, False), 1, 3553629843), ("down",
           "a"), ("wait", "a", None, 100, 1261518247), ("primary", "b", None, 17), ("write", "p", (293, 8, False),
           1), ("kill", "a", None, 0, 1))),
    Found("promoted-on-what-no-barrier-covered",
          "a Primary died between an answer on the peer's copy and the barrier; promoted again in mid-resync it "
          "answered a flush, and of that write no barrier spoke any more",
          {"blocks": 2064, "delay_ms": 1, "sndbuf_bytes": 3000, "slow_share": 1.0, "slow_ms": 2, "batch": 0.3},
          (("fail_once", "p", ("flush", None, False)), ("write", "p", (4344, 2, False)), ("flush", "p"), ("wait",
           "p", None, 60), ("kill", "p", None, 3, 1696690746), ("up", "a"), ("write", "a", (3392, 8, False), 40,
           1802274537), ("primary", "a"), ("wait", "a", None, 300, 301105393), ("flush", "p", None, 0, 1905835526),
           ("detach_force", "p"), ("write", "p", (13101, 8, False)), ("write", "p", (12968, 8, False)), ("read",
           "p", (11272, 2, False), 5), ("zero", "p", (16504, 8, False)), ("fail_once", "s", ("read", 0, True),
           20))),
    Found("promoted-without-a-disk-on-what-no-barrier-covered",
          "a Primary without a disk was killed before the barrier, and promoted again: a power loss of the peer took "
          "what had been answered, after a flush",
          {"blocks": 16, "slow_share": 0.0},
          (("fail", "a", "meta"), ("write", "a", (24, 8, False), 300), ("primary", "a", None, 300),
           ("write", "a", (8, 8, False), 40), ("kill", "a"), ("up", "a", None, 300), ("primary", "a", None, 300),
           ("flush", "a", None, 100), ("power", "b"))),
    Found("flushed-by-a-node-that-was-left",
          "a flush on a node that still took itself for connected made durable what the peer, promoted without it, "
          "had answered (the oracle)",
          {"blocks": 40},
          (("primary", "p"), ("power", "s"), ("up", "s", None, 60), ("primary", "b", None, 2), ("up", "a", None,
           15), ("write", "b", (176, 8, False), 3, 2483534499), ("flush", "p", None, 0, 1156482808), ("write", "a",
           (61, 8, False), 3), ("power", "b"))),
    Found("sent-again-out-of-order",
          "a kernel peer as the last copy lost the connection while the second sending of an unanswered write waited "
          "for that of an answered, older one: the next time the older one went out last, and lay on top",
          {"batch": 0.05, "blocks": 16, "cram_hmac_alg": "sha256", "delay_ms": 1, "offer_ordered": False,
           "on_no_data_accessible": "suspend-io", "slow_ms": 30},
          (("write", "p", (32, 8, True), 0, 1949973468), ("invalidate", "p", None, 60), ("write", "p", (0, 40, False)),
           ("down", "b"), ("fail_once", "s", ("write", None, True)), ("flush", "p", None, 4000), ("up", "s"),
           ("wait", "b", None, 12000))),
    Found("mark-of-a-failed-write-cleared-by-an-older-ack",
          "pass_on: a source failed a write that its target has; the ack of what the target had got before cleared its "
          "mark",
          {"batch": 0.3, "blocks": 40, "created": True, "on_io_error": "pass_on", "slow_share": 1.0},
          (("zero", "p", (0, 8, False), 5), ("kill", "s", None, 2), ("up", "s", None, 0, 1264464245),
           ("fail_once", "s", ("write", None, True), 2), ("write", "p", (185, 2, False)),
           ("fail_once", "s", ("write", 0, False), 0, 3244550185), ("repair", "s"),
           ("write", "b", (312, 8, False), 1, 3182609194), ("write", "a", (1, 8, False), 8, 563940195),
           ("write", "a", (0, 8, False), 40, 468402200), ("flush", "p", None, 5), ("write", "p", (0, 8, False)),
           ("fail_once", "p", ("write", None, True)), ("wait", "p", None, 60))),
    Found("flush-failed-while-being-detached",
          "an application's flush failed during a detach, whose own flush then found all in order: attached again, the "
          "disk lacked what no mark told of",
          {"blocks": 16, "slow_ms": 30},
          (("wait", "a", None, 300), ("write", "a", (64, 8, False), 20, 159), ("write", "a", (0, 8, False), 60, 159),
           ("fail_once", "a", ("flush", None, False)), ("flush", "a", None, 0, 159),
           ("detach", "a", None, 300, 1159))),
    Found("overtook-older-ones-in-the-line",
          "kernel peer, suspend-io: sent again, a write waited for an older one to its block when the connection "
          "broke; at the thaw it went out before that one, which then lay on top of it",
          {"blocks": 16, "offer_ordered": False, "on_no_data_accessible": "suspend-io"},
          (("primary", "b"), ("write", "p", (120, 8, False)), ("detach", "p"), ("zero", "p", (97, 1, False)),
           ("write", "p", (97, 1, True)), ("attach", "p", None, 60), ("flush", "p"), ("write", "p", (0, 1, True)),
           ("write", "p", (96, 8, True), 1), ("read", "p", (72, 40, False)),
           ("fail_once", "s", ("write", 5, True), 8, 3197137011), ("fail_once", "s", ("write", None, False)),
           ("read", "p", (97, 8, False)), ("up", "s"), ("heal", "a"), ("trim", "a", (0, 8, False)),
           ("up", "b", None, 40))),
    Found("overtaken-within-a-wake-up",
          "a write begun because another was answered was written here before older ones of the same wake-up, and "
          "lay under them",
          {"batch": 0.05, "blocks": 16, "connect_int_ms": 500, "cram_hmac_alg": "sha256", "delay_ms": 15,
           "fencing": "resource-only", "ping_int_ms": 3000, "slow_ms": 30},
          (("write", "b", (0, 16, False)), ("repair", "a"), ("write", "a", (97, 2, True)), ("wait", "b"), ("write",
           "a", (72, 2, False)), ("mend", "p"), ("primary", "p"), ("write", "p", (0, 1, False), 0, 3746299821),
           ("write", "p", (72, 8, False), 0, 1052387422), ("invalidate", "p", None, 20), ("write", "p", (73, 8,
           False), 0, 1647940747), ("write", "p", (0, 2, False)), ("write", "p", (37, 2, False)), ("wait", "p"),
           ("write", "p", (0, 8, False)), ("write", "p", (120, 8, False)), ("crowd", "b", (None, (("write", (0, 8,
           False)),), (("write", (101, 8, False)), ("write", (96, 8, True)), ("write", (121, 7, False))))), ("fuse",
           "b", (3, True)), ("write", "b", (73, 2, False)), ("wait", "b", None, 4000), ("write", "b", (125, 3,
           False)), ("fail", "a", "flush"), ("wait", "b"), ("detach", "a"), ("connect", "b"), ("repair", "b"),
           ("write", "b", (72, 2, True)), ("read", "a", (0, 1, False)), ("fail", "b", "write"), ("write", "b", (73,
           8, False), 40), ("flush", "b"))),
    Found("attached-again-while-the-peer-was-told-to-discard",
          "a Primary's disk failed and was attached again between its invalidate-remote and the peer's yes: the order "
          "called it UpToDate, without what was answered with the peer's copy",
          {"batch": 0.3, "blocks": 40},
          (("fail", "a", "flush"), ("read", "b", (280, 1, False)), ("cut_one_way", "a"),
           ("invalidate_remote", "a", None, 0, 1249883368), ("write", "b", (312, 8, True), 100, 3929328916))),
    Found("older-write-acked-after-a-newer-one-was-refused",
          "a target's disk was detached by force; of two writes to a block the newer one was refused, then the older "
          "one acknowledged as in sync: that cleared the newer one's mark",
          {"batch": 0.3, "blocks": 40, "delay_ms": 15, "slow_share": 0.0},
          (("write", "p", (0, 8, False), 5, 1516810169), ("invalidate_remote", "p", None, 60, 4166133178),
           ("zero", "p", (5, 8, True), 0, 3940983408), ("flush", "p", None, 0, 2480160475),
           ("write", "p", (200, 8, False)), ("write", "p", (0, 1, False), 5, 4285894498),
           ("wait", "p", None, 8, 2554824777), ("write", "p", (0, 40, False), 2, 3681247001), ("detach_force", "s"),
           ("flush", "p", None, 5), ("write", "p", (205, 1, False)))),
)  # fmt: skip


@pytest.mark.parametrize("found", FOUND, ids=lambda f: f.name)
def test_stays_mended(found: Found) -> None:
    """The schedule that once failed keeps every promise."""
    failure = play(History(found.setup, tuple(Event(*event) for event in found.events)))
    assert failure is None, f"{found.what}\n{failure.text}"


def test_a_refused_request_is_not_tried_in_every_wake_up() -> None:
    """Without a peer the last copy is asked again after connect-int, whatever else happens; then it is answered."""
    events = [("power", "b", None, 60_000), ("fail", "a", "write"), ("write", "a", (0, 8, False), 100)]
    events += [("read", "a", (16, 8, False), 100), ("power", "b", None, 100)] * 50
    setup = {"blocks": 16, "on_io_error": "pass_on", "on_no_data_accessible": "suspend-io", "connect_int_ms": 3000}
    player = Player(History(setup, tuple(Event(*event) for event in events)))
    player.begin()
    for number, event in enumerate(player.history.events):
        player.event(number, event)
    a = player.sim.a
    assert 2 <= a.said["io-error-on-last-copy"] <= 5
    assert player.oracle.pending
    player.event(0, Event("repair", "a", None, 3000))
    assert not player.oracle.pending
    player.finish()


def test_a_peer_that_cannot_be_told_of_lost_writes_stays_up_to_date() -> None:
    """A disk that it would take for the source is refused before it begins to be the target."""
    events = [("write", "a", (104, 2, False), 15), ("kill", "a"), ("fail", "a", "flush"), ("up", "a", None, 20)]
    events += [("repair", "a", None, 100), ("attach", "a", None, 100), ("attach", "a", None, 100)]
    player = Player(History({"blocks": 40, "offer_ordered": False}, tuple(Event(*event) for event in events)))
    player.begin()
    a, b = player.sim.a, player.sim.b
    for number, event in enumerate(player.history.events):
        player.event(number, event)
        assert b.state.disk == Disk.UP_TO_DATE
    assert a.resource.reasons[-1]["rule"] == "own-attach-aborted"
    assert a.state.conn == Conn.CONNECTED
