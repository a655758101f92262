# SPDX-License-Identifier: GPL-2.0-or-later
"""DRBD's log lines about states and generations, as people grep for them."""

from __future__ import annotations

from replblock.state.generations import Generations
from replblock.state.packed import State
from replblock.state.uuids import Verdict

_NAMED = ("role", "peer", "conn", "disk", "pdsk")
_FLAGS = ("aftr_isp", "peer_isp", "user_isp")


def state_change(old: State, new: State) -> str:
    """`peer( Unknown -> Secondary ) conn( WFReportParams -> Connected )`: what changed, in DRBD's order; or ""."""
    parts = [
        f"{name}( {getattr(old, name).label} -> {getattr(new, name).label} )"
        for name in _NAMED if getattr(old, name) != getattr(new, name)
    ]
    parts += [
        f"{name}( {int(getattr(old, name))} -> {int(getattr(new, name))} )"
        for name in _FLAGS if getattr(old, name) != getattr(new, name)
    ]
    if old.suspended != new.suspended:
        parts.append(f"susp( {int(old.suspended)} -> {int(new.suspended)} )")
    return " ".join(parts)


def generations_line(who: str, generations: Generations, bits: int, flags: int) -> str:
    """`self C:B:H0:H1 bits:N flags:F` as in the log of a handshake; who = "self" or "peer"."""
    return f"{who} {generations} bits:{bits} flags:{flags:X}"


def verdict_line(verdict: Verdict) -> str:
    """`uuid_compare()=R by rule N`"""
    return f"uuid_compare()={verdict.drbd_result} by rule {verdict.number}"


def pausing(state: State) -> str:
    """`user,peer`: who wants no resync now, in drbdsetup's words; or ""."""
    words = (("user", state.user_isp), ("peer", state.peer_isp), ("dependency", state.aftr_isp))
    return ",".join(word for word, on in words if on)


def pair(mine: str, peers: str) -> str:
    """`Primary/Secondary`, `UpToDate/DUnknown`: as role, dstate and /proc/drbd print both sides."""
    return f"{mine}/{peers}"
