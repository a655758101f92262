# SPDX-License-Identifier: GPL-2.0-or-later
"""The first words on a fresh pair of connections: what each node speaks, and proof that it knows the secret.

Order and contents: DRBD 8.4 wire format, features and authentication.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.core.link import Link
from replblock.state.names import Conn
from replblock.wire import agreement, flags
from replblock.wire.auth import check_response, expect_challenge
from replblock.wire.commands import Cmd
from replblock.wire.digests import hmac_response
from replblock.wire.errors import ProtocolError
from replblock.wire.handshake import Features
from replblock.wire.headers import pack_packet

if TYPE_CHECKING:
    from replblock.core.resource import Resource

CHALLENGE_BYTES = 64


class Greeting:
    """`begin` when the connections are there; `done` is called when the peer may hear everything else."""

    def __init__(self, resource: Resource, done: Callable[[], None]) -> None:
        self._r = resource
        self._done = done
        self._offered = Features()
        self._challenge = b""
        self._peer_answered = False
        self._we_answered = False

    # --- features ---

    def begin(self, link: Link) -> None:
        """Send our features; the peer does the same."""
        r = self._r
        self._peer_answered = self._we_answered = False
        s = r.settings
        offered = s.offer_features | (flags.FEATURE_ORDERED if s.offer_ordered else 0)
        offered |= flags.FEATURE_LZ4 if s.compression == "lz4" else 0
        if s.data_integrity_alg:
            offered &= ~flags.FEATURE_WZEROES  # a kernel expects a digest with P_ZEROES that nobody sends
        self._offered = Features(s.version_min, offered, s.version_max)
        r.host.send(link.data, [pack_packet(0, Cmd.CONNECTION_FEATURES, self._offered.pack())])
        r.host.timer("handshake", self._patience_ms())

    def _patience_ms(self) -> int:
        return max(4 * self._r.settings.ping_timeout_ms, self._r.settings.timeout_ms)

    def on_features(self, body: memoryview) -> None:
        """P_CONNECTION_FEATURES of the peer."""
        r = self._r
        theirs = Features.unpack(body)
        version, features = agreement.agree(self._offered, theirs)
        r.host.log("info", "version-agreed", f"Handshake successful: Agreed network protocol version {version}")
        link = r.links.link
        assert link is not None
        link.version, link.features = version, features
        r.links.compression.begin(theirs.feature_flags)
        if r.settings.cram_hmac_alg:
            self._challenge = r.host.random_bytes(CHALLENGE_BYTES)
            r.links.send_connection(Cmd.AUTH_CHALLENGE, self._challenge)
        else:
            self._done()
        r.links.agreed(version, features)

    # --- authentication ---

    def on_challenge(self, body: memoryview) -> None:
        """P_AUTH_CHALLENGE: answer with the keyed digest of it."""
        r = self._r
        alg = r.settings.cram_hmac_alg
        if not alg:
            text = "the peer wants authentication (cram-hmac-alg), this node has none configured"
            self._refuse("auth-unexpected", text)
            return
        challenge = bytes(body)
        if not 64 <= len(challenge) <= 128 or challenge[:64] == self._challenge[:64]:
            text = "the peer's authentication challenge is not acceptable (reflected or bad length)"
            self._refuse("auth-reflected", text)
            return
        r.links.send_connection(Cmd.AUTH_RESPONSE, hmac_response(alg, r.settings.shared_secret, challenge))
        self._we_answered = True
        self._authenticated()

    def on_response(self, body: memoryview) -> None:
        """P_AUTH_RESPONSE: the peer proves that it knows the secret."""
        r = self._r
        alg = r.settings.cram_hmac_alg
        if not alg or not self._challenge:
            raise ProtocolError("P_AUTH_RESPONSE without a challenge", Cmd.AUTH_RESPONSE)
        if check_response(alg, r.settings.shared_secret, self._challenge, body) is not None:
            self._refuse(
                "auth-failed",
                f"Authentication of peer failed: the shared-secret (or cram-hmac-alg {alg}) differs between the nodes; "
                f"make them equal and run: replctl connect {r.settings.resource}",
            )
            return
        self._peer_answered = True
        self._authenticated()

    def _authenticated(self) -> None:
        if self._we_answered and self._peer_answered:
            self._r.host.log("info", "peer-authenticated", "Peer authenticated using the shared secret")
            self._done()

    @property
    def authenticated(self) -> bool:
        """False while packets other than the authentication's are not acceptable."""
        return not self._r.settings.cram_hmac_alg or (self._we_answered and self._peer_answered)

    def _refuse(self, rule: str, text: str) -> None:
        self._r.links.drop(Conn.DISCONNECTING, rule, text, "error")

    def not_authenticated(self, cmd: int) -> None:
        """The peer goes on as if nothing had to be proved: it has no cram-hmac-alg, or another idea of the protocol."""
        r = self._r
        difference = expect_challenge(r.settings.cram_hmac_alg, cmd)
        if self._we_answered or difference is None:
            raise ProtocolError(f"P_{Cmd(cmd).name} before the authentication was done", cmd)
        advice = f"make it equal on both nodes and run: replctl adjust {r.settings.resource}"
        self._refuse("auth-missing", f"{difference.sentence}; {advice}")
