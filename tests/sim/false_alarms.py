# SPDX-License-Identifier: GPL-2.0-or-later
"""The shortest schedules in which the oracle, and not the product, was wrong: no alarm there.

A row is a name, what was wrong, settings, and events as (kind, node, argument, wait in ms, salt).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Found(NamedTuple):
    name: str
    what: str
    setup: dict[str, Any]
    events: tuple[tuple[Any, ...], ...]


FALSE_ALARMS = (
    Found("died-before-its-promotion-was-answered",
          "a promotion that nothing durable was left of made the other node's power loss count (the oracle)",
          {"blocks": 16, "fencing": "resource-and-stonith", "sndbuf_bytes": 3000},
          (("write", "a", (96, 16, False)), ("write", "a", (121, 7, False), 40), ("kill", "a", None, 2),
           ("force", "b", None, 1), ("kill", "a", None, 15), ("kill", "b", None, 0, 4132284883))),
    Found("target-that-was-never-written",
          "the oracle: a target without power before its disk says Inconsistent comes back whole",
          {"blocks": 2064, "slow_ms": 30},
          (("cut", "a"), ("kill", "a"), ("write", "b", (16504, 8, False), 8), ("up", "a", None, 0, 1048838004),
           ("heal", "a", None, 40, 115760308), ("write", "b", (5, 8, False), 40, 2342373885), ("power", "b"))),
    Found("acknowledged-by-a-disk-that-failed",
          "the oracle: an acknowledgement that was read late, of a peer whose disk failed a flush since",
          {"blocks": 2, "protocol": "B"},
          (("fuse", "a", (1, True)), ("write", "b", (8, 8, False), 1500), ("primary", "b"), ("mend", "b"),
           ("detach", "b"), ("write", "a", (13, 3, False), 5), ("stall", "b", 7000), ("fail", "a", "flush", 8),
           ("primary", "a", None, 700))),
    Found("dead-with-its-failed-flush",
          "a Primary that died in the moment in which a flush failed lost what a power loss would have taken (the "
          "oracle)",
          {"al_extents": 2, "blocks": 2064},
          (("write", "b", (16504, 1, False), 1500), ("write", "a", (8968, 8, False), 15), ("write", "a", (0, 8, False)),
           ("fail", "a", "write"), ("fuse", "a", (0, False)), ("wait", "a", None, 4000))),
    Found("ordered-before-it-was-carried-out",
          "an invalidate-remote that was on its way was forgotten when the peer told something else (the oracle)",
          {"batch": 0.3, "blocks": 16, "max_in_flight_bytes": 20000},
          (("fail", "a", "flush"), ("write", "a", (125, 3, False), 40), ("pause", "a", None, 0, 3975341124),
           ("invalidate_remote", "a"), ("write", "a", (0, 40, False)), ("flush", "b", None, 5),
           ("write", "a", (109, 8, False), 15, 997949711))),
    Found("dead-in-the-wake-up-of-its-promotion",
          "a promotion that nobody was told of made the other node's power loss count (the oracle)",
          {"blocks": 2, "connect_int_ms": 500},
          (("write", "a", (0, 1, False), 40), ("kill", "a", None, 0, 312507088), ("fuse", "b", (8, False)),
           ("wait", "a", None, 1500, 2834260397), ("primary", "b"), ("power", "a"))),
    Found("diskless-on-the-peers-copy",
          "protocol A: promoted without its disk, a node goes on with the peer's copy; what only that disk had is "
          "given up as if the peer had been promoted (the oracle)",
          {"blocks": 16, "delay_ms": 15, "fencing": "resource-only", "protocol": "A", "rr_conflict": "violently"},
          (("write", "b", (93, 1, False), 8), ("kill", "a"), ("fail", "a", "meta"), ("up", "a"),
           ("wait", "a", None, 300), ("primary", "a", None, 5), ("write", "a", (93, 8, False), 15), ("power", "b"))),
    Found("flush-failed-without-the-peer",
          "protocol A: a disk that failed a flush without its peer has lost what a power loss would have taken; it "
          "holds no prefix (the oracle)",
          {"batch": 0.3, "blocks": 40, "ping_int_ms": 700, "protocol": "A", "slow_ms": 30, "slow_share": 0.0,
           "start": "secondary"},
          (("primary", "b"), ("mend", "a", None, 0, 2175049601), ("write", "b", (41, 8, False), 15, 3068010625),
           ("write", "a", (40, 8, False)), ("stall", "b", 7000), ("wait", "b", None, 4000), ("down", "a"),
           ("fail", "a", "flush", 300), ("up", "a", None, 40, 1217721623), ("primary", "a"))),
    Found("good-in-memory-only",
          "both lost power before the metadata of a target said that its resync had ended: it is the target again, and "
          "the source had lost what nobody had flushed (the oracle)",
          {"blocks": 16, "delay_ms": 1, "sndbuf_bytes": 3000},
          (("primary", "a"), ("write", "a", (121, 7, False)), ("write", "a", (1, 1, False)), ("invalidate", "a"),
           ("disconnect", "b", None, 40), ("power", "a"), ("power", "b"))),
    Found("acknowledged-by-a-peer-without-power",
          "an ack that was on its way when the peer lost power: gone there like those that had been read before, and "
          "then this node's disk failed, too (the oracle)",
          {"blocks": 16, "ping_int_ms": 3000},
          (("fuse", "a", (8, True)), ("wait", "b"), ("write", "b", (72, 2, False), 12000), ("mend", "b"),
           ("primary", "b"), ("fail", "b", "read", 40), ("write", "a", (104, 1, False), 40), ("fuse", "a", (5, True)),
           ("write", "b", (120, 8, False)), ("write", "b", (85, 16, False), 1),
           ("write", "a", (72, 1, False), 40, 3290306449), ("read", "a", (104, 1, False)))),
    Found("under-way-when-the-secondary-died",
          "protocol A: a Secondary was killed and promoted; of the writes since the last flush it had a later one, and "
          "one before it was still under way to its disk (the oracle)",
          {"blocks": 16, "delay_ms": 15, "protocol": "A", "slow_ms": 30},
          (("write", "a", (125, 3, False), 0, 158807055), ("primary", "p", None, 40),
           ("write", "p", (125, 3, False), 0, 2716609122), ("flush", "p", None, 5, 433289453),
           ("zero", "p", (120, 8, False), 0, 1612851500), ("write", "p", (5, 8, False), 5, 4151919421),
           ("cut", "p", None, 20, 598979135), ("kill", "s"), ("up", "b", None, 300), ("primary", "b"))),
    Found("dead-before-its-promotion-was-seen",
          "killed in the middle of the change to Primary, which nobody knew of and whose generation was not on disk; "
          "it made the other node's power loss count (the oracle)",
          {"blocks": 2, "connect_int_ms": 500},
          (("write", "a", (0, 1, False), 40), ("kill", "a", None, 0, 312507088), ("fuse", "b", (8, False)),
           ("wait", "a", None, 1500, 2834260397), ("primary", "b"), ("wait", "a", None, 300), ("power", "a"))),
)  # fmt: skip
