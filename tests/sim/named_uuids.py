# SPDX-License-Identifier: GPL-2.0-or-later
"""A history for every rule of the UUID comparison."""

from __future__ import annotations

from replblock.meta.superblock import Flag
from tests.sim.named import Named

GOOD = Flag.CONSISTENT | Flag.WAS_UP_TO_DATE | Flag.AL_CLEAN
FRESH = {"created": True, "start": "secondary"}
IDLE = {"start": "secondary"}
TWO = {"allow_two_primaries": True}
DIVERGED = "write a 1, cut a, primary b, write b 5, secondary a, secondary b"
MOVED_TWICE = "cut a, write a 1, disconnect a, new_uuid a, connect a"
FROZEN = {"fencing": "resource-and-stonith", "fence_exit": 1}
"""A Primary without its peer freezes, in its old generation, because fencing never succeeds."""

UUIDS = (
    Named(("both-just-created",), "wait a @500", "Connected", FRESH),
    Named(("i-just-created", "peer-just-created"), "cut a, force a, write a 1, heal a", "a", FRESH),
    Named(("same-generation",), "write a 1, secondary a, disconnect a, connect a", "Connected"),
    Named(("i-crashed", "peer-crashed"), "write a 1, write a 5 @0, kill a @5, up a", "a"),
    Named(("both-crashed",), "primary b, write a 1, write b 5, power a @0, power b @0, up a @0, up b", "one", TWO),
    Named(("peer-moved-on", "i-moved-on"), "write a 1, cut a, write a 5, heal a", "a"),
    Named(("peer-moved-on-far", "i-moved-on-far"), f"{MOVED_TWICE}, heal a", "a"),
    Named(("both-moved-on", "split-brain-found", "after-split-brain-policy", "split-brain-unresolved",
           "after-sb-0pri disconnect: policy-disconnect"),
          f"{DIVERGED}, heal a", "StandAlone", {}, ("Split-Brain detected", "Split-Brain detected")),
    Named(("common-ancestor",), f"{MOVED_TWICE}, primary b, write b 5, secondary a, heal a", "StandAlone", {},
          ("Split-Brain detected", "Split-Brain detected")),
    Named(("unrelated", "unrelated-data-refused"),
          "cut a, force a, force b, write a 1, write b 5, disconnect a, disconnect b, new_uuid a, new_uuid a, "
          "new_uuid a, secondary a, connect a, connect b, heal a",
          "StandAlone", FRESH, ("Unrelated data", "Unrelated data"), afterwards="kill b, blank b, connect a, up b"),
    Named(("source-missed-the-end", "target-peer-missed-the-end"),
          "cut a, write a 1, fuse a {k}, heal a, up a", "a", tries=120),
    Named(("peer-missed-the-start", "i-missed-the-start"),
          "write a 1, secondary a, fuse b {k}, invalidate_remote a, up b", "a", tries=60),
    Named(("i-lost-the-start", "peer-lost-the-start"),
          "cut a, write a 1, fuse b {k}, heal a, up b", "a", tries=90),
    Named(("needs-protocol-91",),
          "cut a, write a 1, fuse b {k}, heal a, up b", "StandAlone a",
          {"version_max": 90, "offer_features": 0, "offer_ordered": False},
          ("Unrelated data", ""), tries=90, afterwards="kill b, blank b, connect a, up b"),
    Named(("crash-i-am-primary", "crash-peer-is-primary"), "primary b, write a 1, write b 5, kill b, up b", "a",
          {**TWO, **FROZEN}),
    Named(("needs-rule-41-feature",), "primary b, write a 1, write b 5, kill b, up b", "StandAlone",
          {**TWO, **FROZEN, "offer_features": 0}, ("Unrelated data", "Unrelated data"),
          afterwards="kill b, blank b, connect a, up b"),
    Named(("crash-but-both-primary",), "primary a, primary b, heal a", "StandAlone", {**TWO, **IDLE},
          ("Split-Brain detected", "Split-Brain detected"),
          prepared="two nodes promoted apart begin new generations, unless the bitmaps are in use already",
          disks=(((0x5550, 0x4440, 0, 0), GOOD | Flag.CRASHED_PRIMARY), ((0x5550, 0x4440, 0, 0), GOOD))),
)
