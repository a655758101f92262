# SPDX-License-Identifier: GPL-2.0-or-later
"""`status`: the text of drbdadm 9 on the 8.4 module, with its `--verbose` and `--statistics`, wrapped at 80 columns.

With `--verbose` lines of our own follow those of DRBD: what stands behind a volume, and why things are as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from replblock.status.model import Status, compression, suspensions
from replblock.status.progress import human_kib
from replblock.status.words import ratio

COLUMNS = 80
SYNCING = frozenset({"SyncSource", "SyncTarget", "VerifyS", "VerifyT", "PausedSyncS", "PausedSyncT"})


class Page:
    """Words put one after the other, on a new line where the width is used up."""

    def __init__(self, columns: int = COLUMNS) -> None:
        self._columns = columns
        self._lines: list[str] = []
        self._line = ""

    def put(self, indent: int, *words: str) -> None:
        for word in words:
            if self._line and len(self._line) + 1 + len(word) > self._columns:
                self.end()
            self._line += " " * indent + word if not self._line else " " + word

    def end(self) -> None:
        """Finish the line, if one was begun."""
        if self._line:
            self._lines.append(self._line)
        self._line = ""

    def line(self, text: str) -> None:
        """A line of its own, not wrapped."""
        self.end()
        self._lines.append(text)

    def __str__(self) -> str:
        return "\n".join([*self._lines, self._line])


def render(statuses: Iterable[Status], *, verbose: bool = False, statistics: bool = False,
           columns: int = COLUMNS) -> str:
    """All resources, a blank line after each."""
    page = Page(columns)
    for status in statuses:
        _resource(page, status, verbose, statistics)
        if verbose:
            _ours(page, status)
        page.line("")
    return str(page)


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def suspended(status: Status) -> str:
    """`no`, or who froze the I/O: `user,no-data`."""
    return ",".join(suspensions(status)) or "no"


def percent_done(out_of_sync_kib: int, size_kib: int) -> str:
    """`done:` of a resync: what is in sync, of the whole device."""
    return f"{100 * (1 - out_of_sync_kib / size_kib):.2f}" if size_kib else "100.00"


def _resource(page: Page, status: Status, verbose: bool, statistics: bool) -> None:
    page.put(0, status["name"], f"role:{status['role']}")
    if verbose or suspended(status) != "no":
        page.put(4, f"suspended:{suspended(status)}")
    page.end()
    if verbose and statistics:
        page.put(4, f"write-ordering:{status['write-ordering']}")
        page.end()
    numbered = verbose or len(status["devices"]) != 1 or status["devices"][0]["volume"] != 0
    for device in status["devices"]:
        _device(page, device, numbered, verbose, statistics)
    for connection in status["connections"]:
        _connection(page, connection, verbose)
        if verbose or statistics or connection["connection-state"] == "Connected":
            sizes = {device["volume"]: device["size"] for device in status["devices"]}
            for item in connection["peer_devices"]:
                _peer_device(page, item, sizes.get(item["volume"], 0), numbered, verbose, statistics)


def _device(page: Page, device: Status, numbered: bool, verbose: bool, statistics: bool) -> None:
    if numbered:
        page.put(2, f"volume:{device['volume']}")
    if verbose:
        page.put(2, f"minor:{device['minor']}")
    page.put(2, f"disk:{device['disk-state']}")
    if statistics:
        page.end()
        if verbose:
            page.put(6, f"size:{device['size']}")
        page.put(6, f"read:{device['read']}", f"written:{device['written']}")
        if verbose:
            page.put(6, *(f"{name}:{device[name]}"
                          for name in ("al-writes", "bm-writes", "upper-pending", "lower-pending")),
                     f"al-suspended:{yes_no(device['replblock-al-suspended'])}")
    if verbose or device["replblock-blocked"] != "no":
        page.put(6, f"blocked:{device['replblock-blocked']}")
    page.end()


def _connection(page: Page, connection: Status, verbose: bool) -> None:
    connected = connection["connection-state"] == "Connected"
    page.put(2, connection["name"])
    if verbose or not connected:
        page.put(6, f"connection:{connection['connection-state']}")
    if verbose or connected:
        page.put(6, f"role:{connection['peer-role']}")
    if verbose or connection["congested"]:
        page.put(6, f"congested:{yes_no(connection['congested'])}")
    page.end()


def _peer_device(page: Page, item: Status, size_kib: int, numbered: bool, verbose: bool, statistics: bool) -> None:
    if numbered:
        page.put(4, f"volume:{item['volume']}")
    if verbose or item["replication-state"] != "Off":
        page.put(4 if not numbered else 8, f"replication:{item['replication-state']}")
    page.put(4 if not numbered else 8, f"peer-disk:{item['peer-disk-state']}")
    if item["replication-state"] in SYNCING:
        page.put(8, f"done:{percent_done(item['out-of-sync'], size_kib)}")
    if verbose or item["resync-suspended"] != "no":
        page.put(8, f"resync-suspended:{item['resync-suspended']}")
    page.end()
    if statistics:
        page.put(8, f"received:{item['received']}", f"sent:{item['sent']}")
        if verbose or item["out-of-sync"]:
            page.put(8, f"out-of-sync:{item['out-of-sync']}")
        if verbose:
            page.put(8, f"pending:{item['pending']}", f"unacked:{item['unacked']}")
        page.end()


def _ours(page: Page, status: Status) -> None:
    """Our own lines, after those of DRBD: what stands behind each volume, and which rules led here."""
    for device in status["devices"]:
        _behind(page, device)
    for connection in status["connections"]:
        if connection["connection-state"] != "Connected":
            attempts, error = connection["replblock-attempts"], connection["replblock-last-error"]
            page.line(f"  attempts:{attempts}" + (f"  last error: {error}" if error else ""))
        _compression(page, compression(connection))
        for item in connection["peer_devices"]:
            if item["out-of-sync"]:
                page.line(f"  volume:{item['volume']} differs from the peer in at most "
                          f"{human_kib(item['out-of-sync'])}")
    if status["replblock-last-error"]:
        page.line(f"  last error: {status['replblock-last-error']}")
    for item in status["replblock-why"]:
        page.line(f"  why: {item['text']} (rule {item['rule']})")
    for option in status["replblock-unused-options"]:
        page.line(f"  without effect here: {option}")


_ONE_SIDED = {"only-here": "configured here, not at the peer: nothing is compressed",
              "only-peer": "configured at the peer, not here: nothing is compressed"}


def _compression(page: Page, table: Status) -> None:
    """Nothing where nobody asked for it, and nothing ever was."""
    state = table["state"]
    if state in _ONE_SIDED:
        page.line(f"  compression: {_ONE_SIDED[state]}")
    if state == "lz4" or table["sent-bytes"] or table["received-bytes"]:
        page.put(2, f"compression:{state}")
        for way in ("sent", "received"):
            payload, travelled = (human_kib(table[f"{way}-{what}"] // 1024) for what in ("payload-bytes", "bytes"))
            page.put(6, f"{way}: {payload} as {travelled} ({ratio(table, way):.2f})")
        page.end()


def _behind(page: Page, device: Status) -> None:
    """What stands behind a volume; empty values are left out."""
    named = {"device": device["replblock-device"], "attached-as": device["replblock-kernel-device"],
             "nbd": device.get("replblock-nbd", ""), "backing-disk": device["replblock-disk"],
             "meta-disk": device["replblock-meta-disk"], "io": device["replblock-io"],
             "barriers": device["replblock-barriers"], "uuids": ":".join(device["replblock-uuids"]),
             "last-in-sync": ""}
    if device["replblock-in-sync-since-ms"] is not None:
        moment = datetime.fromtimestamp(device["replblock-in-sync-since-ms"] / 1000, UTC)
        named["last-in-sync"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    page.put(2, f"volume:{device['volume']}")
    page.put(6, *(f"{name}:{value}" for name, value in named.items() if value))
    page.end()
