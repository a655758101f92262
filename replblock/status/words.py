# SPDX-License-Identifier: GPL-2.0-or-later
"""The single words: `role`, `cstate`, `dstate`, and the blocks of `sh-status` for shells to eval.

DRBD 8.4 has one connection state where drbdsetup's text has two (connection, replication): `views()` joins them and
lays the three levels of the status side by side, one view per volume, for all renderings in 8.4's own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from replblock.status.model import Status
from replblock.status.progress import BLOCK_KIB, VERIFYING, Sync, done_permille

UNCONFIGURED = "Unconfigured"

#: drbdsetup's words for states that DRBD 8.4 itself calls otherwise.
CONNECTION_WORDS = {"Connecting": "WFConnection"}
REPLICATION_WORDS = {"Off": "WFReportParams", "Established": "Connected"}


class View(NamedTuple):
    """One volume with its resource and its peer, in the words of DRBD 8.4."""

    resource: Status
    device: Status
    peer_device: Status | None
    cstate: str
    role: str
    peer_role: str
    disk: str
    peer_disk: str

    @property
    def configured(self) -> bool:
        """A minor without disk and network counts as unconfigured, whoever created it."""
        return (self.cstate, self.disk, self.role) != ("StandAlone", "Diskless", "Secondary")

    @property
    def pauses(self) -> frozenset[str]:
        """Who paused the resync: of user, peer, dependency."""
        if self.peer_device is None or self.peer_device["resync-suspended"] == "no":
            return frozenset()
        return frozenset(self.peer_device["resync-suspended"].split(","))

    @property
    def sync(self) -> Sync | None:
        """The resync or verify of this volume, running or paused."""
        table = None if self.peer_device is None else self.peer_device["replblock-sync"]
        return None if table is None else Sync.of(table)


def ratio(compression: Status, way: str) -> float:
    """How much data one byte on the wire stood for; way: sent or received."""
    travelled: int = compression[f"{way}-bytes"]
    return compression[f"{way}-payload-bytes"] / travelled if travelled else 1.0


def cstate(connection: Status | None, peer_device: Status | None) -> str:
    """The one connection state of DRBD 8.4."""
    if connection is None:
        return "StandAlone"
    state: str = connection["connection-state"]
    if state != "Connected":
        return CONNECTION_WORDS.get(state, state)
    replication = "Off" if peer_device is None else peer_device["replication-state"]
    return REPLICATION_WORDS.get(replication, replication)


def views(status: Status) -> Iterator[View]:
    """The volumes of one resource."""
    link = next(iter(status["connections"]), None)
    there: dict[int, Any] = {} if link is None else {item["volume"]: item for item in link["peer_devices"]}
    for device in status["devices"]:
        other = there.get(device["volume"])
        yield View(
            status, device, other, cstate(link, other), status["role"],
            "Unknown" if link is None else link["peer-role"], device["disk-state"],
            "DUnknown" if other is None else other["peer-disk-state"])


def roles(status: Status) -> list[str]:
    """`role`: one line per volume, `Primary/Secondary`."""
    return [f"{v.role}/{v.peer_role}" if v.configured else UNCONFIGURED for v in views(status)]


def cstates(status: Status) -> list[str]:
    """`cstate`: one line per volume."""
    return [v.cstate if v.configured else UNCONFIGURED for v in views(status)]


def dstates(status: Status) -> list[str]:
    """`dstate`: one line per volume, `UpToDate/Inconsistent`."""
    return [f"{v.disk}/{v.peer_disk}" if v.configured else UNCONFIGURED for v in views(status)]


class Place(NamedTuple):
    """What the configuration says about a resource, for `sh-status`, which shows resources that are down too."""

    name: str
    file: str
    line: int
    volumes: tuple[tuple[int, int], ...]      # (volume, minor)


def sh_status(places: Iterable[Place], statuses: Iterable[Status], *, version: str = "9.22.0",
              config_file: str = "/etc/drbd.conf") -> str:
    """`sh-status`: assignments to eval; each volume ends by calling `_sh_status_process`."""
    running = {status["name"]: status for status in statuses}
    lines = [f"_drbd_version={version}", "_drbd_api=1", f"_config_file={config_file}", "", ""]
    for place in places:
        lines += [f"_conf_res_name={place.name}", f"_conf_file_line={place.file}:{place.line}", "",
                  "_stacked_on=", "_stacked_on_device=", "_stacked_on_minor="]
        shown = {view.device["volume"]: view for view in views(running[place.name])} if place.name in running else {}
        for volume, minor in place.volumes:
            lines += [f"_conf_volume={volume}", *_volume(minor, shown.get(volume)), "", "_sh_status_process", "", ""]
    return "\n".join([*lines, ""])


def resynced_permille(view: View, sync: Sync) -> int:
    """A verify counts as resynced as far as it found nothing, which is what DRBD 8.4 reports."""
    if view.cstate in VERIFYING:
        return done_permille(view.device["replblock-counters"]["oos"] // BLOCK_KIB, sync.total_blocks)
    return sync.done_permille


_EMPTY = ("_cstate=Unconfigured", "_role=", "_peer=", "_disk=", "_pdsk=", "_flags_susp=", "_flags_aftr_isp=",
          "_flags_peer_isp=", "_flags_user_isp=", "_resynced_percent=")


def _volume(minor: int, view: View | None) -> list[str]:
    if view is None:
        return [f"_minor={minor}", "_res_name=", "_volume=-1", "_known=NA # not available or not yet created", "",
                *_EMPTY]
    head = [f"_minor={minor}", f"_res_name={view.resource['name']}", f"_volume={view.device['volume']}"]
    if not view.configured:
        return [*head, "_known=Unconfigured", "", *_EMPTY]
    flags = {"susp": view.resource["suspended"], "aftr_isp": "dependency" in view.pauses,
             "peer_isp": "peer" in view.pauses, "user_isp": "user" in view.pauses}
    percent = "" if view.sync is None else f"{resynced_permille(view, view.sync) / 10:.1f}"
    return [*head, "_known=Configured", "",
            f"_cstate={view.cstate}", f"_role={view.role}", f"_peer={view.peer_role}", f"_disk={view.disk}",
            f"_pdsk={view.peer_disk}", "",
            *(f"_flags_{name}={'1' if on else ''}" for name, on in flags.items()), "",
            f"_resynced_percent={percent}"]
