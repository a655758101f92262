# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

EXIT_TIMEOUT = 5
EXIT_CONFIG = 10
EXIT_UNKNOWN = 20


class Answer(NamedTuple):
    """Exit code, lines for stderr (the error sentence first), data for the caller."""

    exit_code: int = 0
    lines: list[str] = []
    data: dict[str, Any] = {}


Reply = Callable[[Answer], None]
