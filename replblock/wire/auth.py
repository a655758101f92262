# SPDX-License-Identifier: GPL-2.0-or-later
"""The log-in by challenge and response (cram-hmac-alg, shared-secret), as checks on what the peer sent.

Both nodes send a challenge and answer the other's; without cram-hmac-alg neither does.
"""

from __future__ import annotations

import hmac

from replblock.wire.agreement import Disagreement
from replblock.wire.commands import Cmd, packet_name
from replblock.wire.digests import Buffer, digest_size, hmac_response
from replblock.wire.errors import NotAgreed
from replblock.wire.limits import CHALLENGE_BYTES


def expect_challenge(alg: str, cmd: int) -> Disagreement | None:
    """Judge the first packet after the agreed features: a challenge comes exactly if the peer has a cram-hmac-alg."""
    challenged = cmd == Cmd.AUTH_CHALLENGE
    if challenged == bool(alg):
        return None
    return Disagreement("cram-hmac-alg", alg or "none", "set" if challenged else f"none (it sent {packet_name(cmd)})")


def check_challenge(mine: Buffer, peers: Buffer) -> None:
    """Raise NotAgreed if the peer only reflects our own challenge, which would let it reflect the answer too."""
    if hmac.compare_digest(bytes(mine[:CHALLENGE_BYTES]), bytes(peers[:CHALLENGE_BYTES])):
        raise NotAgreed("P_AUTH_CHALLENGE: the peer sent our own challenge back", Cmd.AUTH_CHALLENGE)


def check_response(alg: str, secret: str | bytes, my_challenge: Buffer, response: Buffer) -> Disagreement | None:
    """None if the peer knows the secret; else the option that seems to differ."""
    if len(response) != digest_size(alg):
        return Disagreement("cram-hmac-alg", alg, f"one of {len(response)} bytes")
    if not hmac.compare_digest(hmac_response(alg, secret, my_challenge), bytes(response)):
        return Disagreement("shared-secret", "not shown", f"another one, or cram-hmac-alg is not {alg} there")
    return None
