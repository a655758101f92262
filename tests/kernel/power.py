# SPDX-License-Identifier: GPL-2.0-or-later
"""The power switch that STONITH turns: a plug for each guest, and a fence agent that asks for one to be pulled."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.kernel.guest import Guest
from tests.kernel.network import CABLES, OUTSIDE, Network

PORT = 23
ADDRESS = f"{CABLES['control']}.{OUTSIDE}"
AGENT_PATH = "/usr/sbin/fence_plug"

#: Speaks as Pacemaker's fencer wants it: words on standard input, an exit code.
AGENT = f"""#!/usr/bin/python3 -I
import socket, sys
given = dict(line.strip().split("=", 1) for line in sys.stdin if "=" in line)
action = given.get("action", given.get("option", "reboot"))
if action == "metadata":
    print('''<?xml version="1.0" ?>
<resource-agent name="fence_plug" shortdesc="The power switch of the tests">
<longdesc>Pulls the plug of a guest.</longdesc>
<parameters>
<parameter name="port" unique="0" required="1"><getopt mixed="-n, --plug=[name]"/><content type="string"/>
<shortdesc lang="en">the guest</shortdesc></parameter>
</parameters>
<actions><action name="off"/><action name="reboot"/><action name="monitor"/><action name="status"/>
<action name="list"/><action name="metadata"/></actions>
</resource-agent>''')
    sys.exit(0)
if action in ("monitor", "list"):
    sys.exit(0)
with socket.create_connection(("{ADDRESS}", {PORT}), 10) as link:
    link.sendall(f"{{action}} {{given.get('port', given.get('plug', ''))}}\\n".encode())
    said = link.makefile().readline().strip()
print(said)
sys.exit({{"ok": 0, "on": 0, "off": 2}}.get(said, 1))
"""


class Pulled(NamedTuple):
    """One use of the switch by a cluster."""

    at: float
    name: str


class PowerSwitch:
    """All power cuts go through it: two at a time would be one too many for `Guest`."""

    def __init__(self, network: Network, guests: Sequence[Guest]) -> None:
        self._guests = {guest.name: guest for guest in guests}
        self._hand = threading.Lock()
        self._listener = network.listen((ADDRESS, PORT))
        self.pulled: list[Pulled] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def cut(self, guest: Guest) -> float:
        """Somebody trips over the cable. When it was."""
        with self._hand:
            guest.kill()
            return time.time()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                link.settimeout(10)
                link.sendall(self._turn(link.makefile().readline().split()).encode() + b"\n")

    def _turn(self, words: list[str]) -> str:
        if len(words) != 2 or words[1] not in self._guests:
            return "what?"
        action, guest = words[0], self._guests[words[1]]
        with self._hand:
            if action == "status":
                return "on" if guest.is_on else "off"
            if action not in ("off", "reboot"):
                return "what?"
            guest.kill()
            self.pulled.append(Pulled(time.time(), guest.name))
            return "ok"
