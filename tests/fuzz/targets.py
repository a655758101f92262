# SPDX-License-Identifier: GPL-2.0-or-later
"""All targets by name: a function of bytes that raises only where the product is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.fuzz import target_conf, target_control, target_core, target_lz4, target_meta, target_nbd, target_wire


class Target(NamedTuple):
    """share: inputs in one run of the tests; all together a few seconds."""

    run: Callable[[bytes], None]
    share: int


TARGETS: dict[str, Target] = {
    "wire-decoder": Target(target_wire.decoder, 6000),
    "wire-typed": Target(target_wire.typed, 6000),
    "wire-bitmap": Target(target_wire.bitmap, 6000),
    "wire-lz4": Target(target_lz4.envelope, 4000),
    "handshake": Target(target_core.handshake, 400),
    "connected": Target(target_core.connected, 480),
    "compressed": Target(target_lz4.peer, 240),
    "meta-superblock": Target(target_meta.superblock, 6000),
    "meta-gi": Target(target_meta.gi, 6000),
    "meta-activity": Target(target_meta.activity, 1600),
    "meta-bitmap": Target(target_meta.bits, 1200),
    "meta-image": Target(target_meta.image, 1000),
    "conf": Target(target_conf.conf, 500),
    "control": Target(target_control.control, 600),
    "nbd": Target(target_nbd.nbd, 1200),
}
