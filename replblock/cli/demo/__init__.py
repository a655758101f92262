# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl demo`: two nodes on this machine, a file system between them, a swap, a crash, a take-over, a return."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replblock.cli.run import Run


def demo(run: Run) -> int:
    """Show everything on real input and clean up; an interrupt cleans up too."""
    from replblock.cli.demo.story import tell

    return tell()
