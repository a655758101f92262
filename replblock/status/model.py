# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of one resource: which keys, which types, what they mean.

The keys are those of `drbdsetup status --json` (DRBD 9), with the state names of `drbdsetup`; what DRBD has no key
for starts with `replblock-`. The tables below are the definition: `resource()`, `device()` and the others fill in
their defaults, `validate()` checks a dictionary against them. Sizes are in KiB and counters since the last attach,
as `drbdsetup` shows them, unless the name ends in another unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SCHEMA = "replblock/1"

ROLES = ("Unknown", "Primary", "Secondary")
DISKS = ("Diskless", "Attaching", "Failed", "Negotiating", "Inconsistent", "Outdated", "DUnknown", "Consistent",
         "UpToDate")
CONNECTIONS = ("StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure",
               "ProtocolError", "TearDown", "Connecting", "Connected")
REPLICATIONS = ("Off", "Established", "StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID",
                "SyncSource", "SyncTarget", "VerifyS", "VerifyT", "PausedSyncS", "PausedSyncT", "Ahead", "Behind")
ORDERINGS = ("none", "drain", "flush", "barrier")
PAUSES = ("user", "peer", "dependency")
CONGESTIONS = ("-", "d", "b", "n", "a")
COMPRESSIONS = ("off", "lz4", "only-here", "only-peer")

#: The copy of `drbdsetup` for the 8.4 module knows one peer and calls it so.
PEER_NAME = "peer"

Status = Mapping[str, Any]


class Key(NamedTuple):
    """One row of a table: a key, how its value looks, what stands there if nobody says otherwise."""

    name: str
    check: Callable[[Any], bool]
    expected: str
    default: Any
    meaning: str


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _one_of(words: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: value in words


def _pauses(value: Any) -> bool:
    return value == "no" or (isinstance(value, str) and set(value.split(",")) <= set(PAUSES))


def _marks(value: Any) -> bool:
    return isinstance(value, list) and all(len(mark) == 2 and all(_number(part) for part in mark) for mark in value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _table(value: Any) -> bool:
    return isinstance(value, dict)


WHY: tuple[Key, ...] = (
    Key("rule", _text, "text", "", "name of the rule, as in the log, `explain` and the rule's test"),
    Key("text", _text, "text", "", "one sentence for the operator"),
    Key("time-ms", _number_or_none, "number or none", None, "Unix time when it was decided, in milliseconds"),
)

SYNC: tuple[Key, ...] = (
    Key("rs_total_blocks", _number, "number", 0, "4 KiB blocks to go through when it began"),
    Key("rs_left_blocks", _number, "number", 0, "blocks left (verify: not yet compared)"),
    Key("rs_failed_blocks", _number, "number", 0, "blocks that could not be written; they stay out of sync"),
    Key("marks", _marks, "list of [t_ms, left_blocks]", [], "the last 8 at least 3 s apart, oldest first"),
    Key("want_kib_s", _number, "number", 0, "rate the controller asks for"),
    Key("started_ms", _number, "number", 0, "clock of the engine when it began"),
    Key("paused_ms", _number, "number", 0, "how long of that it was paused"),
    Key("now_ms", _number, "number", 0, "clock of the engine when this status was made"),
)

COUNTERS: tuple[Key, ...] = (
    Key("ns", _number, "number", 0, "KiB sent to the peer"),
    Key("nr", _number, "number", 0, "KiB received"),
    Key("dw", _number, "number", 0, "KiB written to the disk"),
    Key("dr", _number, "number", 0, "KiB read from the disk"),
    Key("al", _number, "number", 0, "activity log transactions written"),
    Key("bm", _number, "number", 0, "bitmap blocks written"),
    Key("lo", _number, "number", 0, "requests at the disk now"),
    Key("pe", _number, "number", 0, "requests to the peer that wait for an answer"),
    Key("ua", _number, "number", 0, "requests of the peer not yet answered"),
    Key("ap", _number, "number", 0, "requests of the application not yet completed"),
    Key("ep", _number, "number", 1, "epochs open"),
    Key("oos", _number, "number", 0, "KiB out of sync"),
)

PEER_DEVICE: tuple[Key, ...] = (
    Key("volume", _number, "number", 0, "number of the volume"),
    Key("replication-state", _one_of(REPLICATIONS), "a replication state", "Off", "see REPLICATIONS"),
    Key("peer-disk-state", _one_of(DISKS), "a disk state", "DUnknown", "disk of the peer"),
    Key("peer-client", _flag, "true or false", False, "the peer is diskless on purpose"),
    Key("resync-suspended", _pauses, "no, or user,peer,dependency", "no", "who paused the resync"),
    Key("received", _number, "number", 0, "KiB"),
    Key("sent", _number, "number", 0, "KiB"),
    Key("out-of-sync", _number, "number", 0, "KiB"),
    Key("pending", _number, "number", 0, "requests"),
    Key("unacked", _number, "number", 0, "requests"),
    Key("replblock-sync", lambda value: value is None or _table(value), "none or a SYNC table", None,
        "inputs of the progress, while a resync or a verify runs or is paused"),
)

COMPRESSION: tuple[Key, ...] = (
    Key("state", _one_of(COMPRESSIONS), "off, lz4, only-here or only-peer", "off",
        "of this connection; only-here, only-peer: one node wants it, so nothing is; off: nobody does, or no peer"),
    Key("sent-payload-bytes", _number, "number", 0, "data of writes, resync and reads sent on such connections"),
    Key("sent-bytes", _number, "number", 0, "what was sent for it; `--json` has both ratios beside"),
    Key("received-payload-bytes", _number, "number", 0, "the same of what came"),
    Key("received-bytes", _number, "number", 0, "what came for it"),
)

CONNECTION: tuple[Key, ...] = (
    Key("peer-node-id", _number, "number", 0, "always 0: there is one peer"),
    Key("name", _text, "text", PEER_NAME, "name of the connection"),
    Key("connection-state", _one_of(CONNECTIONS), "a connection state", "Connecting", "see CONNECTIONS"),
    Key("congested", _flag, "true or false", False, "the data socket is full"),
    Key("peer-role", _one_of(ROLES), "a role", "Unknown", "role of the peer"),
    Key("tls", _flag, "true or false", False, "the streams are encrypted"),
    Key("ap-in-flight", _number, "number", 0, "bytes of application writes not yet durable at the peer"),
    Key("rs-in-flight", _number, "number", 0, "bytes of resync on their way"),
    Key("paths", _list, "list", [], "this_host, remote_host (address, port, family), established"),
    Key("peer_devices", _list, "list of peer devices", [], "one per volume"),
    Key("replblock-peer-host", _text, "text", "", "name of the peer in the configuration"),
    Key("replblock-attempts", _number, "number", 0, "connection attempts since it was last connected"),
    Key("replblock-last-error", _text, "text", "", "why the last attempt or connection ended"),
    Key("replblock-agreed-version", _number, "number", 0, "protocol version, 0 before agreement"),
    Key("replblock-features", _number, "number", 0, "feature bits agreed upon"),
    Key("replblock-compression", _table, "a COMPRESSION table", {}, "whether data is compressed, and what that saved"),
)

DEVICE: tuple[Key, ...] = (
    Key("volume", _number, "number", 0, "number of the volume"),
    Key("minor", _number, "number", 0, "minor number in the configuration"),
    Key("disk-state", _one_of(DISKS), "a disk state", "Diskless", "see DISKS"),
    Key("client", _flag, "true or false", False, "diskless on purpose"),
    Key("open", _flag, "true or false", False, "somebody has the device open"),
    Key("quorum", _flag, "true or false", True, "always true: two nodes have no quorum"),
    Key("size", _number, "number", 0, "KiB agreed upon"),
    Key("read", _number, "number", 0, "KiB"),
    Key("written", _number, "number", 0, "KiB"),
    Key("al-writes", _number, "number", 0, "transactions"),
    Key("bm-writes", _number, "number", 0, "blocks"),
    Key("upper-pending", _number, "number", 0, "requests"),
    Key("lower-pending", _number, "number", 0, "requests"),
    Key("replblock-blocked", _one_of(("no", "upper", "lower", "upper,lower")), "no, upper, lower", "no",
        "which queue waits"),
    Key("replblock-al-suspended", _flag, "true or false", False, "every bit is set: the log has nothing to add"),
    Key("replblock-congestion", _one_of(CONGESTIONS), "one of -dbna", "-", "fifth flag of /proc/drbd"),
    Key("replblock-counters", _table, "a COUNTERS table", {}, "the second line of /proc/drbd"),
    Key("replblock-device", _text, "text", "", "device name in the configuration"),
    Key("replblock-kernel-device", _text, "text", "", "kernel device or NBD URI behind that name, while attached"),
    Key("replblock-nbd", _text, "text", "", "NBD URI of the TCP port, while somebody listens there"),
    Key("replblock-disk", _text, "text", "", "path of the backing disk"),
    Key("replblock-meta-disk", _text, "text", "internal", "where the metadata stands"),
    Key("replblock-io", _one_of(("buffered", "direct")), "buffered or direct", "buffered", "how the disk is written"),
    Key("replblock-barriers", _one_of(("on", "off")), "on or off", "on", "whether flushes reach the disk"),
    Key("replblock-uuids", _texts, "list of hexadecimal numbers", [], "current, bitmap, history 0, history 1"),
    Key("replblock-in-sync-since-ms", _number_or_none, "number or none", None,
        "Unix time when both disks were last equal, in milliseconds"),
)

RESOURCE: tuple[Key, ...] = (
    Key("schema", _one_of((SCHEMA,)), SCHEMA, SCHEMA, "version of these tables"),
    Key("name", _text, "text", "", "name of the resource"),
    Key("node-id", _number, "number", 0, "always 0"),
    Key("role", _one_of(ROLES), "a role", "Secondary", "see ROLES"),
    Key("suspended", _flag, "true or false", False, "application I/O is frozen"),
    Key("suspended-user", _flag, "true or false", False, "by suspend-io"),
    Key("suspended-no-data", _flag, "true or false", False, "no UpToDate data can be reached"),
    Key("suspended-fencing", _flag, "true or false", False, "until the peer is fenced"),
    Key("suspended-quorum", _flag, "true or false", False, "never"),
    Key("force-io-failures", _flag, "true or false", False, "never"),
    Key("write-ordering", _one_of(ORDERINGS), "a write ordering", "flush", "how epochs reach the disk"),
    Key("devices", _list, "list of devices", [], "one per volume"),
    Key("connections", _list, "list of connections", [], "empty while there is no network configuration"),
    Key("replblock-protocol", _one_of(("A", "B", "C")), "A, B or C", "C", "when a write is complete"),
    Key("replblock-last-error", _text, "text", "", "the last thing that went wrong on this node"),
    Key("replblock-why", _list, "list of {rule, text}", [], "the decisions that led to this state, newest last"),
    Key("replblock-generations", lambda value: value is None or _table(value), "none or a table", None,
        "both data sets as this node knows them: what `explain` works from (status/explain.py)"),
    Key("replblock-degraded-start", _flag, "true or false", False,
        "was Primary without a peer when it went down: degr-wfc-timeout applies"),
    Key("replblock-unused-options", _texts, "list of texts", [], "options that were accepted but do nothing here"),
)


def _fill(table: tuple[Key, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """A dictionary with every key of the table. Raises KeyError for one that the table does not have."""
    names = {key.name for key in table}
    values: dict[str, Any] = {}
    for word, value in given.items():
        name = word if word in names else word.replace("_", "-")
        if name not in names:
            raise KeyError(f"{word}: no such key in the status; see replblock.status.model")
        values[name] = value
    return {key.name: values.get(key.name, _fresh(key.default)) for key in table}


def _fresh(default: Any) -> Any:
    return type(default)(default) if isinstance(default, (list, dict)) else default


def resource(**given: Any) -> dict[str, Any]:
    """A resource; `resource(name="r0", suspended_user=True, replblock_protocol="A")`: underscores become hyphens.

    `suspended` follows from its four reasons.
    """
    made = _fill(RESOURCE, given)
    made["suspended"] = made["suspended"] or bool(suspensions(made))
    return made


def device(**given: Any) -> dict[str, Any]:
    """A volume of this node. Counters that are not given follow from the values of drbdsetup beside them."""
    made = _fill(DEVICE, given)
    known = {"dw": made["written"], "dr": made["read"], "al": made["al-writes"], "bm": made["bm-writes"],
             "lo": made["lower-pending"], "ap": made["upper-pending"]}
    made["replblock-counters"] = counters(**{**known, **made["replblock-counters"]})
    return made


def connection(**given: Any) -> dict[str, Any]:
    made = _fill(CONNECTION, given)
    made["replblock-compression"] = compression(made)
    return made


def compression(link: Status) -> dict[str, Any]:
    """The COMPRESSION table of a connection; an engine from before it, still running, has none."""
    return _fill(COMPRESSION, link.get("replblock-compression", {}))


def peer_device(**given: Any) -> dict[str, Any]:
    return _fill(PEER_DEVICE, given)


def counters(**given: Any) -> dict[str, Any]:
    return _fill(COUNTERS, given)


def sync(**given: Any) -> dict[str, Any]:
    return _fill(SYNC, given)


def why(rule: str, text: str) -> dict[str, Any]:
    return _fill(WHY, {"rule": rule, "text": text})


def suspensions(status: Status) -> list[str]:
    """Why I/O is frozen, in the order and the words of drbdsetup."""
    return [word for word in ("user", "no-data", "fencing", "quorum") if status[f"suspended-{word}"]]


def example(name: str = "r0", volumes: int = 1, first_minor: int = 0, *, role: str = "Secondary",
            peer_role: str = "Secondary", disk: str = "UpToDate", peer_disk: str = "UpToDate",
            replication: str = "Established", connected: str = "Connected", size_kib: int = 65496,
            syncing: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """A plausible resource of `volumes` equal volumes, for tests and documentation.

    `connected=""` is a resource without a network configuration; any state but Connected forgets the peer.
    """
    here = [device(volume=number, minor=first_minor + number, disk_state=disk, size=size_kib,
                   replblock_device=f"/dev/drbd{first_minor + number}", replblock_disk=f"/dev/vg0/{name}-{number}")
            for number in range(volumes)]
    links = []
    if connected:
        if connected != "Connected":
            peer_role, peer_disk, replication, syncing = "Unknown", "DUnknown", "Off", None
        there = [peer_device(volume=number, replication_state=replication, peer_disk_state=peer_disk,
                             replblock_sync=None if syncing is None else sync(**syncing),
                             out_of_sync=0 if syncing is None else 4 * syncing["rs_left_blocks"])
                 for number in range(volumes)]
        links = [connection(connection_state=connected, peer_role=peer_role, peer_devices=there)]
        for mine, other in zip(here, there):
            mine["replblock-counters"]["oos"] = other["out-of-sync"]
    return resource(name=name, role=role, devices=here, connections=links, **given)


def validate(status: Any) -> list[str]:
    """What is wrong with the status of one resource: a sentence per mistake, nothing if it is right."""
    if not isinstance(status, dict):
        return ["the status of a resource must be a table"]
    where = str(status.get("name", "?"))
    found = _check(where, RESOURCE, status)
    for item in _items(status, "replblock-why"):
        found += _check(f"{where} replblock-why", WHY, item)
    for item in _items(status, "devices"):
        place = f"{where}/{item.get('volume', '?')}" if isinstance(item, dict) else where
        found += _check(place, DEVICE, item)
        if isinstance(item, dict) and isinstance(item.get("replblock-counters"), dict):
            found += _check(f"{place} replblock-counters", COUNTERS, item["replblock-counters"])
    for link in _items(status, "connections"):
        found += _check(f"{where} connection", CONNECTION, link)
        if isinstance(link, dict) and isinstance(link.get("replblock-compression"), dict):
            found += _check(f"{where} replblock-compression", COMPRESSION, link["replblock-compression"])
        for item in _items(link, "peer_devices") if isinstance(link, dict) else ():
            found += _check(f"{where} peer device", PEER_DEVICE, item)
            if isinstance(item, dict) and isinstance(item.get("replblock-sync"), dict):
                found += _check(f"{where} replblock-sync", SYNC, item["replblock-sync"])
    return found


def _items(status: Mapping[str, Any], name: str) -> list[Any]:
    value = status.get(name)
    return value if isinstance(value, list) else []


def _check(where: str, table: tuple[Key, ...], values: Any) -> list[str]:
    if not isinstance(values, dict):
        return [f"{where}: a table was expected, not {values!r}"]
    found = [f"{where}: {name}: not a key of the status" for name in values if name not in {key.name for key in table}]
    for key in table:
        if key.name not in values:
            found.append(f"{where}: {key.name} is missing")
        elif not key.check(values[key.name]):
            found.append(f"{where}: {key.name}: {key.expected} was expected, not {values[key.name]!r}")
    return found
