# SPDX-License-Identifier: GPL-2.0-or-later
"""All doors of one resource as one: what demotion, status and the device's keeper ask of them."""

from __future__ import annotations

from typing import Protocol


class AnyDoor(Protocol):
    """A way in for NBD clients."""

    @property
    def clients(self) -> int:
        """Open connections."""

    def shut(self, reason: str) -> bool:
        """Refuse new connections from now on; False if there are open ones."""

    def reopen(self) -> None:
        """Let them in again."""


class Doors:
    """Several doors; one that is open is enough for the device to be in use."""

    def __init__(self, *doors: AnyDoor) -> None:
        self._doors = doors

    @property
    def clients(self) -> int:
        return sum(door.clients for door in self._doors)

    def shut(self, reason: str) -> bool:
        return all([door.shut(reason) for door in self._doors])

    def reopen(self) -> None:
        for door in self._doors:
            door.reopen()
