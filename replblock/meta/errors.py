# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be wrong with metadata, as sentences an operator can act on."""
from __future__ import annotations

from collections.abc import Sequence


class MetadataError(Exception):
    """One line that says what was seen; ``advice`` holds commands or steps that help, one a line.

    ``rule`` is the stable name of the check that failed (for logs, explain and tests), ``exit_code`` what
    drbdmeta answers in the same situation.
    """

    def __init__(self, text: str, *, rule: str, advice: Sequence[str] = (), exit_code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.rule = rule
        self.advice = tuple(advice)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return "\n  ".join((self.text, *self.advice))


class NoMetadata(MetadataError):
    """Nothing of version v08 stands where the superblock should be."""


class NeedsConfirmation(MetadataError):
    """Something would be replaced that may still be wanted: go on with ``confirmed=True`` (or ``force=True``)."""


class WouldDamage(MetadataError):
    """A recognised file system, container or partition table would be damaged: go on only with ``force=True``."""
