# SPDX-License-Identifier: GPL-2.0-or-later
"""All targets by name: a function of bytes that raises only where the product is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.fuzz import target_conf, target_control, target_core, target_meta, target_wire


class Target(NamedTuple):
    """share: inputs in one run of the tests, together a few seconds; rooms: where coverage guides the campaign."""

    run: Callable[[bytes], None]
    share: int
    rooms: tuple[str, ...]


TARGETS: dict[str, Target] = {
    "wire-decoder": Target(target_wire.decoder, 6000, ("replblock.wire",)),
    "wire-typed": Target(target_wire.typed, 6000, ("replblock.wire",)),
    "wire-bitmap": Target(target_wire.bitmap, 6000, ("replblock.wire",)),
    "handshake": Target(target_core.handshake, 700, ("replblock.core", "replblock.state", "replblock.wire")),
    "connected": Target(target_core.connected, 900, ("replblock.core", "replblock.state", "replblock.wire")),
    "meta-superblock": Target(target_meta.superblock, 6000, ("replblock.meta",)),
    "meta-gi": Target(target_meta.gi, 6000, ("replblock.meta",)),
    "meta-activity": Target(target_meta.activity, 3000, ("replblock.meta",)),
    "meta-bitmap": Target(target_meta.bits, 2000, ("replblock.meta",)),
    "meta-image": Target(target_meta.image, 2000, ("replblock.meta",)),
    "conf": Target(target_conf.conf, 500, ("replblock.conf",)),
    "control": Target(target_control.control, 1000, ("replblock.engine.control", "replblock.engine.verbs",
                                                     "replblock.core.admin", "replblock.core.roles")),
}
