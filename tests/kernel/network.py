# SPDX-License-Identifier: GPL-2.0-or-later
"""The cables between the guests: bridges and taps in a network namespace of our own.

The namespace has no name and lives as long as its holder, a `cat` on a pipe of ours: however we end, it ends. So the
names in it are always the same, and two runs never meet.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading

CLONE_NEWNET = 0x40000000
OUTSIDE = 254               # the host number of the third machine, which is us

#: cable: (network, what for); the guest's interface has the cable's name
CABLES = {"eth0": "10.0.0", "eth1": "192.168.0", "control": "10.99.0"}


class NetworkError(Exception):
    """Why there can be no such network here."""


class Network:
    """One tap per guest and cable, named after both: `1eth0`."""

    def __init__(self, guests: int = 2) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready && exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            raise NetworkError(f"no network namespace: {self._holder.stderr.read().strip()}")
        self.enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        commands = ["link set lo up"]
        for cable, net in CABLES.items():
            commands += [f"link add br{cable} type bridge", f"address add {net}.{OUTSIDE}/24 dev br{cable}",
                         f"link set br{cable} up"]  # fmt: skip
            for number in range(1, guests + 1):
                tap = self.tap(number, cable)
                commands += [f"tuntap add {tap} mode tap", f"link set {tap} master br{cable}", f"link set {tap} up"]
        try:
            self._ip(commands)
        except NetworkError:
            self.close()
            raise

    def _ip(self, commands: list[str]) -> None:
        done = subprocess.run([*self.enter, "ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True,
                              capture_output=True)  # fmt: skip
        if done.returncode:
            raise NetworkError(f"the guests' network cannot be made: {done.stderr.strip()}")

    def tap(self, number: int, cable: str) -> str:
        return f"{number}{cable}"

    def plug(self, number: int, cable: str, in_: bool) -> None:
        """Plug the guest's cable in, or pull it: at the bridge, a tap that is set down never comes back to a guest."""
        tap = self.tap(number, cable)
        self._ip([f"link set {tap} " + (f"master br{cable}" if in_ else "nomaster")])

    def connect(self, address: tuple[str, int], timeout_s: float) -> socket.socket:
        """A TCP connection from inside the namespace."""
        link = self._socket()
        try:
            link.settimeout(timeout_s)
            link.connect(address)
        except BaseException:
            link.close()
            raise
        return link

    def listen(self, address: tuple[str, int]) -> socket.socket:
        """Ours is the third machine: a service of it."""
        listener = self._socket()
        try:
            listener.bind(address)
            listener.listen()
        except BaseException:
            listener.close()
            raise
        return listener

    def _socket(self) -> socket.socket:
        """A TCP socket inside the namespace: a thread goes there and makes it; it stays there."""
        made: list[socket.socket] = []

        def make() -> None:
            descriptor = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None).setns(descriptor, CLONE_NEWNET) == 0:
                    made.append(socket.socket())
            finally:
                os.close(descriptor)

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        if not made:
            raise NetworkError("the network namespace cannot be entered")
        return made[0]

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(timeout=20)
        for pipe in (self._holder.stdout, self._holder.stderr):
            assert pipe is not None
            pipe.close()
