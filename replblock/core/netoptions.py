# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the connection that change while it stands: told to the peer, or agreed anew by reconnecting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from replblock.core.settings import Settings
from replblock.state.names import Conn
from replblock.wire import agreement
from replblock.wire.commands import Cmd
from replblock.wire.errors import ProtocolError
from replblock.wire.handshake import Protocol

if TYPE_CHECKING:
    from replblock.core.resource import Resource

TOLD_SINCE_VERSION = 100
TOLD = ("protocol", "after_sb_0pri", "after_sb_1pri", "after_sb_2pri", "allow_two_primaries")
"""P_PROTOCOL_UPDATE carries them and the peer adopts them. It does not yet adopt data-integrity-alg on both ways."""
SHARED = (
    *TOLD, "data_integrity_alg", "cram_hmac_alg", "shared_secret", "verify_alg", "csums_alg", "compression",
    "peer_address", "own_address",
)  # fmt: skip

RATE = ("resync_rate_kib", "c_plan_ahead", "c_delay_target", "c_fill_target_sectors", "c_max_rate_kib")


def change(r: Resource, settings: Settings) -> None:
    """New settings while running."""
    old, r.settings = r.settings, settings
    r.links.rendezvous.settings = settings
    if any(getattr(old, name) != getattr(settings, name) for name in RATE):
        r.sync.target.settings_changed()
        r.sync.verify.source.settings_changed()
    changed = {name for name in SHARED if getattr(old, name) != getattr(settings, name)}
    link = r.links.link
    if changed and link is None:
        if r.state.conn == Conn.WF_CONNECTION:
            r.links.stop()
            r.links.seek()
    elif changed and link is not None:
        if changed <= set(TOLD) and link.version >= TOLD_SINCE_VERSION and r.state.conn >= Conn.CONNECTED:
            r.links.send_connection(Cmd.PROTOCOL_UPDATE, r.handshake.own_protocol().pack(link.version))
            r.why("notice", "settings-told", f"changed while connected, and told the peer: {_words(changed)}")
        else:
            r.links.drop(Conn.NETWORK_FAILURE, "settings-changed", "the settings changed: connecting anew", "notice")
    r.primary.disk_changed()


def on_update(r: Resource, body: memoryview) -> None:
    """P_PROTOCOL_UPDATE: the peer's operator changed these; they hold here, too, until this node is adjusted."""
    theirs = Protocol.unpack(body)
    after_sb = [agreement.mirrored_after_sb(n) for n in (theirs.after_sb_0p, theirs.after_sb_1p, theirs.after_sb_2p)]
    names = agreement.AFTER_SB_NAMES
    if theirs.protocol not in agreement.PROTOCOL_NAMES or any(n >= len(names) for n in after_sb):
        raise ProtocolError("options of the connection that nobody knows", Cmd.PROTOCOL_UPDATE)
    if theirs.integrity_alg != r.settings.data_integrity_alg:
        text = "the peer changed data-integrity-alg: make it equal here, and run: replctl adjust " + r.settings.resource
        r.links.drop(Conn.NETWORK_FAILURE, "settings-differ", text)
        return
    old = r.settings
    r.settings = replace(
        old,
        protocol=agreement.PROTOCOL_NAMES[theirs.protocol],
        after_sb_0pri=names[after_sb[0]],
        after_sb_1pri=names[after_sb[1]],
        after_sb_2pri=names[after_sb[2]],
        allow_two_primaries=bool(theirs.two_primaries),
    )
    r.links.rendezvous.settings = r.settings
    changed = {name for name in TOLD if getattr(old, name) != getattr(r.settings, name)}
    if changed:
        text = f"the peer was adjusted, and this node follows: {_words(changed)}; change its configuration, too"
        r.why("notice", "settings-adopted", text)
    r.primary.disk_changed()


def _words(names: set[str]) -> str:
    return ", ".join(name.replace("_", "-") for name in sorted(names))
