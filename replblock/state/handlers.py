# SPDX-License-Identifier: GPL-2.0-or-later
"""Which handlers a state change calls. Those of the handshake itself (split-brain, pri-lost…) stand in its Decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replblock.state.losses import calls_fence_peer
from replblock.state.names import VERIFYING, Conn, Disk
from replblock.state.packed import State
from replblock.state.transitions import primary_without_data

HANDLERS = (
    "pri-on-incon-degr", "pri-lost-after-sb", "pri-lost", "initial-split-brain", "split-brain", "fence-peer",
    "unfence-peer", "local-io-error", "before-resync-target", "after-resync-target", "before-resync-source",
    "out-of-sync",
)
ALIASES: dict[str, str] = {"outdate-peer": "fence-peer"}

# These run before the state changes; any other exit code than those listed stops the resync (connection dropped).
BLOCKING: dict[str, tuple[int, ...]] = {"before-resync-target": (0,), "before-resync-source": (0, 3)}

_TARGETS = (Conn.SYNC_TARGET, Conn.PAUSED_SYNC_T)
_SOURCES = (Conn.SYNC_SOURCE, Conn.PAUSED_SYNC_S)


class Step(NamedTuple):
    """A state change and what the handlers depend on besides."""

    old: State
    new: State
    fencing: str = "dont-care"
    on_io_error: str = "detach"
    io_error: bool = False              # the disk failed by an I/O error, not by `detach`
    out_of_sync_bits: int = 0           # found by the online verify that just ended
    all_up_to_date: bool = True         # every volume of the resource is UpToDate on both nodes


class HandlerRule(NamedTuple):
    """A handler and when it is called."""

    name: str
    when: Callable[[Step], bool]
    explain: str


RULES: tuple[HandlerRule, ...] = (
    HandlerRule("local-io-error",
                lambda s: s.io_error and s.on_io_error == "call-local-io-error"
                and s.new.disk == Disk.FAILED != s.old.disk,
                "An I/O error made the disk fail and on-io-error is call-local-io-error."),
    HandlerRule("pri-on-incon-degr",
                lambda s: primary_without_data(s.new) and not primary_without_data(s.old),
                "A Primary lost its last UpToDate data."),
    HandlerRule("fence-peer", lambda s: calls_fence_peer(s.old, s.new, s.fencing),
                "A Primary lost its peer and fencing is configured."),
    HandlerRule("before-resync-target",
                lambda s: s.new.conn in _TARGETS and s.old.conn not in _TARGETS,
                "This node is about to become the target of a resync."),
    HandlerRule("before-resync-source",
                lambda s: s.new.conn in _SOURCES and s.old.conn not in _SOURCES,
                "This node is about to become the source of a resync."),
    HandlerRule("after-resync-target",
                lambda s: s.old.conn in _TARGETS and s.new.conn == Conn.CONNECTED and s.new.disk >= Disk.INCONSISTENT,
                "A resync to this node ended."),
    HandlerRule("out-of-sync",
                lambda s: s.old.conn in VERIFYING and s.new.conn == Conn.CONNECTED and s.out_of_sync_bits > 0,
                "An online verify found differences."),
    HandlerRule("unfence-peer",
                lambda s: s.fencing != "dont-care" and s.old.conn in _SOURCES and s.new.conn == Conn.CONNECTED
                and s.new.disk == Disk.UP_TO_DATE and s.new.pdsk == Disk.UP_TO_DATE and s.all_up_to_date,
                "A resync from this node ended and every volume is UpToDate on both nodes."),
)


def handlers_for(
    old: State,
    new: State,
    *,
    fencing: str = "dont-care",
    on_io_error: str = "detach",
    io_error: bool = False,
    out_of_sync_bits: int = 0,
    all_up_to_date: bool = True,
) -> tuple[str, ...]:
    """Names of the handlers this change calls, in order. Those in BLOCKING run before the change takes effect."""
    step = Step(old, new, fencing, on_io_error, io_error, out_of_sync_bits, all_up_to_date)
    return tuple(rule.name for rule in RULES if rule.when(step))
