# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules of the handshake that no history of two replblock nodes reaches, and why they stand there all the same."""

from __future__ import annotations

NEVER: dict[str, str] = {
    "redirected-primary":
        "The safety rules turn a direction round only for the node that was told to connect with --discard-my-data, "
        "which is refused to a Primary and forgotten at promotion; the target of blocks left over is a Secondary, or "
        "Outdated, where rr-conflict has no say. The rule is the net below rules that are added later.",
}  # fmt: skip
