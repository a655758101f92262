# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to start a guest, whatever its kernel runs in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.kernel.network import Network

INSIDE = Path(__file__).with_name("inside.py")


class NoGuest(Exception):
    """Why no guest can start here, and what would help."""


class Boot(NamedTuple):
    """What a kernel is to be started with."""

    number: int                     # 1, 2 …: of the guest, and of its addresses
    memory_mib: int
    disk: Path
    directory: Path                 # the guest's own, for what its monitor leaves lying about
    network: Network
    words: Mapping[str, str]        # guest.WORD=VALUE, for inside.py


class Kernel(Protocol):
    """A way to start guests."""

    @property
    def text(self) -> str: ...
    def command(self, boot: Boot) -> list[str]: ...


def mac(number: int, cable: int) -> str:
    return f"52:54:00:00:{number:02x}:{cable:02x}"
