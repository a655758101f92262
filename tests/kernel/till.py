#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""A till of the supermarket: a third machine that writes files to the share and reads them back, all the time.

Nothing but Python's own library. Its arguments: the address, the share, smbclient, a directory for its own use. It says
one line for each attempt: when it ended, ok or failed, the checksum and the name of the file on the share. A file that
it says ok of was synced by the server before the server answered.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time

PORT = 445
CONNECT_S, PATIENCE_S, PAUSE_S = 0.3, 5, 0.1


def reachable(address: str) -> bool:
    """smbclient itself would wait for seconds before it tries again."""
    try:
        socket.create_connection((address, PORT), CONNECT_S).close()
    except OSError:
        return False
    return True


def put_and_get(address: str, share: str, smbclient: str, place: str, name: str) -> bool:
    try:
        done = subprocess.run(
            [smbclient, f"//{address}/{share}", "-N", "-s", "/dev/null", "-t", str(PATIENCE_S), "-c",
             f"put {place}/sent {name}; get {name} {place}/got"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=2 * PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(address: str, share: str, smbclient: str, place: str) -> None:
    number = 0
    while True:
        number += 1
        data = os.urandom(4000 + number % 1000)
        with open(f"{place}/sent", "wb") as file:
            file.write(data)
        name = f"till{number}"
        ok = False
        if reachable(address) and put_and_get(address, share, smbclient, place, name):
            with open(f"{place}/got", "rb") as file:
                ok = file.read() == data
        print(time.time(), "ok" if ok else "failed", hashlib.sha256(data).hexdigest(), name, flush=True)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
