# SPDX-License-Identifier: GPL-2.0-or-later
"""DRBD 8.4's UUID comparison a second time, as one chain of ifs in the order of its rule numbers.

Written apart from the table in replblock.state.uuids, on purpose in another manner, so that a slip in one shows.
"""

from __future__ import annotations

OFFSET = 0x0001000000000000
M = (1 << 64) - 1


def uuid_compare(s, p, s_crashed, p_crashed, s_primary, p_primary, rc, version=101, wsame=True):
    """(result, DRBD rule number) for generations s, p = (C, B, H0, H1); result None: peer too old."""
    sc, sb, sh0, sh1 = (u & ~1 for u in s)
    pc, pb, ph0, ph1 = (u & ~1 for u in p)
    if sc == 4 and pc == 4:
        return 0, 10
    if sc in (4, 0) and pc != 4:
        return -2, 20
    if sc != 4 and pc in (4, 0):
        return 2, 30
    if sc == pc:
        if pb == 0 and sb != 0:
            if version < 91:
                return None, 34 if (sb, sh0) == (ph0, ph1) else 36
            return 1, 34 if (sb, sh0) == (ph0, ph1) else 36
        if sb == 0 and pb != 0:
            if version < 91:
                return None, 35 if (sh0, sh1) == (pb, ph0) else 37
            return -1, 35 if (sh0, sh1) == (pb, ph0) else 37
        if not s_crashed and not p_crashed:
            return 0, 40
        if s_primary or p_primary:
            if not wsame:
                return None, 41
            if s_primary and p_primary:
                return -100, 41
            return (1 if s_primary else -1), 41
        if s_crashed and p_crashed:
            return (-1 if rc else 1), 40
        return (1 if s_crashed else -1), 40
    if sc == pb:
        return -1, 50
    if sc == ph0:
        lost = (ph0 + OFFSET) & M == pb if version >= 96 else sh0 == ph1
        if lost:
            return (None if version < 91 else -1), 51
    if sc in (ph0, ph1):
        return -2, 60
    if sb == pc:
        return 1, 70
    if sh0 == pc:
        lost = (sh0 + OFFSET) & M == sb if version >= 96 else sh1 == ph0
        if lost:
            return (None if version < 91 else 1), 71
    if pc in (sh0, sh1):
        return 2, 80
    if sb == pb and sb != 0:
        return 100, 90
    if any(a == b for a in (sh0, sh1) for b in (ph0, ph1)):
        return -100, 100
    return -1000, 100


def asb0(policy, self1, peer1, ch_self, ch_peer, rc):
    """after-sb-0pri as one chain; -100 = no decision."""
    if policy in ("discard-younger-primary", "discard-older-primary"):
        younger = policy == "discard-younger-primary"
        if (self1, peer1) == (0, 1):
            return -1 if younger else 1
        if (self1, peer1) == (1, 0):
            return 1 if younger else -1
    if policy in ("discard-younger-primary", "discard-older-primary", "discard-zero-changes"):
        if ch_self == 0 and ch_peer == 0:
            return -1 if rc else 1
        if ch_peer == 0:
            return 1
        if ch_self == 0:
            return -1
        if policy == "discard-zero-changes":
            return -100
    if policy in ("discard-younger-primary", "discard-older-primary", "discard-least-changes"):
        if ch_self == ch_peer:
            return -1 if rc else 1
        return -1 if ch_self < ch_peer else 1
    return {"discard-local": -1, "discard-remote": 1}.get(policy, -100)


def asb(n, p0, p1, p2, i_primary, *facts, can_demote=True):
    """The policy for n Primaries."""
    zero = asb0(p0, *facts)
    if n == 0:
        return zero
    policy = p1 if n == 1 else p2
    if policy == "violently-as0p":
        return zero
    if policy == "call-pri-lost-after-sb":
        return -100 if zero == -1 and i_primary and not can_demote else zero
    if n == 1 and policy == "consensus":
        return zero if (zero == -1 and not i_primary) or (zero == 1 and i_primary) else -100
    if n == 1 and policy == "discard-secondary":
        return 1 if i_primary else -1
    return -100


def handshake(hg, disk, pdisk, i_primary, n, my_discard, peer_discard, always, rr, policies, facts, can_demote=True):
    """DRBD's sync handshake: (result, refused)."""
    INCONSISTENT, CONSISTENT = 4, 7
    if hg == -1000:
        return hg, True
    if (disk == INCONSISTENT < pdisk) or (pdisk == INCONSISTENT < disk):
        full = hg == -100 or abs(hg) == 2
        hg = (1 if disk > INCONSISTENT else -1) * (2 if full else 1)
    demoted = False
    if hg == 100 or (hg == -100 and always):
        ambiguous = hg == -100
        hg = asb(n, *policies, i_primary, *facts, can_demote=can_demote)
        policy = policies[n] if n else ""
        if abs(hg) < 100:
            demoted = policy == "call-pri-lost-after-sb" and hg == -1 and i_primary
            hg *= 2 if ambiguous else 1
    if hg == -100 and my_discard != peer_discard:
        hg = -1 if my_discard else 1
    if hg == -100:
        return hg, True
    if hg > 0 and disk <= INCONSISTENT:
        return hg, True
    if hg < 0 and i_primary and not demoted and disk >= CONSISTENT and rr != "violently":
        return hg, True
    return hg, False
