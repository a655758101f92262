# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells a supervisor (systemd, sd_notify(3)) that the engine is ready, how it is, and that its loop still turns."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Says nothing where nobody listens. Takes the variables out: a handler's script is not the service."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ, pid: int | None = None) -> None:
        found = {name: environment.pop(name, "") for name in VARIABLES}
        self._address = found["NOTIFY_SOCKET"]
        self._status = ""
        self.watchdog_ms = 0
        """How often `alive` is due; 0: nobody watches. Half the limit, as sd_watchdog_enabled(3) advises."""
        for_us = found["WATCHDOG_PID"] in ("", str(os.getpid() if pid is None else pid))
        if self._address and for_us and found["WATCHDOG_USEC"].isdigit():
            self.watchdog_ms = int(found["WATCHDOG_USEC"]) // 2000

    @property
    def supervised(self) -> bool:
        """Somebody will start the next engine if this one fails."""
        return bool(self._address)

    def ready(self) -> None:
        self._say("READY=1")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def alive(self) -> None:
        self._say("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; said again only if it changed."""
        if text != self._status:
            self._status = text
            self._say(f"STATUS={text}")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a supervisor that does not listen must not stop the loop
                sock.sendto(text.encode(), address)
        except OSError:
            pass
