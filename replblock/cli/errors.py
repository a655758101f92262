# SPDX-License-Identifier: GPL-2.0-or-later
"""How a command ends without success: an exit code and sentences, the clear one first.

Exit codes are drbdadm's and drbdsetup's: 1 usage, 5 time-out or "lower than outdated", 10 configuration or refused,
11 state change refused, 17 no access to UpToDate data, 20 could not run.
"""

from __future__ import annotations

USAGE = 1
TIMEOUT = 5
REFUSED = 10
STATE = 11
NO_GOOD_DATA = 17
CANNOT = 20


class Stop(Exception):
    """Ends the command: `lines` go to stderr, the process exits with `exit_code`."""

    def __init__(self, exit_code: int, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.exit_code = exit_code
        self.lines = lines


def nearest(word: str, known: list[str]) -> str:
    """" (did you mean 'X'?)" for the known word most like `word`, or nothing."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.6 if len(word) > 3 else 0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
