# SPDX-License-Identifier: GPL-2.0-or-later
"""Roles, disk and connection states, generations and split-brain policies: named rules, pure functions.

    names        Role, Disk, Conn with DRBD's numbers and spellings
    packed       State and its 32-bit form (P_STATE), masks, the swap of view
    codes        SS_* codes, configuration errors, texts, exit codes
    sanitizing   what a wanted state becomes
    transitions  what is refused, what needs the peer's consent (and sanitize, for one import)
    generations  the four generation identifiers and what each event does to them
    uuids        the comparison table of the handshake
    splitbrain   after-sb-0pri, -1pri, -2pri, rr-conflict
    policies     from comparison to decision, with DRBD's own result beside ours
    safety       the rules on top: what DRBD's tables would do and we do not
    peer         what the peer's P_STATE does to us
    requests     answers to P_STATE_CHG_REQ
    attach       disk state from metadata flags and back, crash recovery, which wait applies
    losses       lost peer, lost disk, fencing: who mints a new generation, when
    promotion    remedies for a refused promotion
    handlers     which handlers a state change calls
    text         DRBD's log lines
    describe     every named rule with its one-sentence explanation

Nothing here does I/O, reads a clock or draws a random number.
"""
