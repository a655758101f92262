# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics in the text format of Prometheus, under the names of drbd-reactor; what it has no name for is replblock_."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replblock.status.model import COMPRESSIONS, CONNECTIONS, DISKS, REPLICATIONS, ROLES, SCHEMA, Status, compression
from replblock.status.progress import VERIFYING, Sync, rates

BYTES_PER_KIB = 1024
_Labels = dict[str, str]


class Metric(NamedTuple):
    name: str
    kind: str                       # gauge or counter
    help: str


class Sample(NamedTuple):
    metric: str
    labels: _Labels
    value: float


METRICS: tuple[Metric, ...] = (
    Metric("replblock_info", "gauge", "Always 1; the schema of the status"),
    Metric("drbd_resource_role", "gauge", "1 for the role the resource has"),
    Metric("drbd_resource_suspended", "gauge", "1 while application I/O is frozen"),
    Metric("drbd_connection_state", "gauge", "1 for the state the connection is in"),
    Metric("drbd_connection_congested", "gauge", "1 while the data socket is full"),
    Metric("drbd_connection_apinflight_bytes", "gauge", "Application writes on their way to the peer"),
    Metric("drbd_connection_rsinflight_bytes", "gauge", "Resync data on its way"),
    Metric("replblock_connection_attempts", "gauge", "Connection attempts since it was last connected"),
    Metric("replblock_connection_compression_state", "gauge", "1 for what is compressed on the connection"),
    Metric("replblock_connection_payload_sent_bytes_total", "counter", "Data sent on connections with compression"),
    Metric("replblock_connection_compressed_sent_bytes_total", "counter", "What was sent for it"),
    Metric("replblock_connection_payload_received_bytes_total", "counter", "Data received with compression"),
    Metric("replblock_connection_compressed_received_bytes_total", "counter", "What came for it"),
    Metric("drbd_device_state", "gauge", "1 for the state the disk is in"),
    Metric("drbd_device_size_bytes", "gauge", "Size of the device"),
    Metric("drbd_device_open", "gauge", "1 while somebody has the device open"),
    Metric("drbd_device_read_bytes_total", "counter", "Read from the disk"),
    Metric("drbd_device_written_bytes_total", "counter", "Written to the disk"),
    Metric("drbd_device_alwrites_total", "counter", "Activity log transactions"),
    Metric("drbd_device_bmwrites_total", "counter", "Bitmap blocks written"),
    Metric("drbd_device_upperpending", "gauge", "Requests of the application not yet completed"),
    Metric("drbd_device_lowerpending", "gauge", "Requests at the disk"),
    Metric("drbd_device_alsuspended", "gauge", "1 while the activity log has nothing to add"),
    Metric("drbd_device_quorum", "gauge", "Always 1: two nodes have no quorum"),
    Metric("replblock_device_in_sync_timestamp_seconds", "gauge", "When both disks were last equal"),
    Metric("drbd_peerdevice_outofsync_bytes", "gauge", "What differs, at most, from the peer"),
    Metric("drbd_peerdevice_sent_bytes", "counter", "Sent for this volume"),
    Metric("drbd_peerdevice_received_bytes", "counter", "Received for this volume"),
    Metric("replblock_peerdevice_replication_state", "gauge", "1 for the state replication is in"),
    Metric("replblock_peerdevice_disk_state", "gauge", "1 for the state the peer's disk is in"),
    Metric("replblock_resync_done_ratio", "gauge", "Share of a running or paused resync that is done"),
    Metric("replblock_resync_rate_bytes", "gauge", "Bytes a second of a running resync"),
    Metric("replblock_verify_done_ratio", "gauge", "Share of a running verify that is done"),
)


def render(statuses: Iterable[Status]) -> str:
    """Every metric with its samples; metrics without samples are left out."""
    found: dict[str, list[Sample]] = {}
    everything = [Sample("replblock_info", {"schema": SCHEMA}, 1)]
    for status in statuses:
        everything += samples(status)
    for sample in everything:
        found.setdefault(sample.metric, []).append(sample)
    lines = []
    for metric in METRICS:
        if metric.name in found:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [_line(sample) for sample in found[metric.name]]
    return "\n".join(lines) + "\n"


def samples(status: Status) -> Iterator[Sample]:
    """All numbers of one resource."""
    base = {"name": status["name"]}
    yield from _states("drbd_resource_role", base, "drbd_resource_role", ROLES, status["role"])
    yield Sample("drbd_resource_suspended", base, status["suspended"])
    for device in status["devices"]:
        yield from _device(base, device)
    for link in status["connections"]:
        ends = {**base, "conn_name": link["name"], "peer_node_id": str(link["peer-node-id"])}
        yield from _states("drbd_connection_state", ends, "drbd_connection_state", CONNECTIONS,
                           link["connection-state"])
        yield Sample("drbd_connection_congested", ends, link["congested"])
        yield Sample("drbd_connection_apinflight_bytes", ends, link["ap-in-flight"])
        yield Sample("drbd_connection_rsinflight_bytes", ends, link["rs-in-flight"])
        yield Sample("replblock_connection_attempts", ends, link["replblock-attempts"])
        table = compression(link)
        yield from _states("replblock_connection_compression_state", ends, "state", COMPRESSIONS, table["state"])
        for way in ("sent", "received"):
            yield Sample(f"replblock_connection_payload_{way}_bytes_total", ends, table[f"{way}-payload-bytes"])
            yield Sample(f"replblock_connection_compressed_{way}_bytes_total", ends, table[f"{way}-bytes"])
        for item in link["peer_devices"]:
            yield from _peer_device(ends, item)


def _device(base: _Labels, device: Status) -> Iterator[Sample]:
    labels = {**base, "volume": str(device["volume"]), "minor": str(device["minor"])}
    yield from _states("drbd_device_state", labels, "drbd_device_state", DISKS, device["disk-state"])
    yield Sample("drbd_device_size_bytes", labels, device["size"] * BYTES_PER_KIB)
    yield Sample("drbd_device_open", labels, device["open"])
    yield Sample("drbd_device_read_bytes_total", labels, device["read"] * BYTES_PER_KIB)
    yield Sample("drbd_device_written_bytes_total", labels, device["written"] * BYTES_PER_KIB)
    yield Sample("drbd_device_alwrites_total", labels, device["al-writes"])
    yield Sample("drbd_device_bmwrites_total", labels, device["bm-writes"])
    yield Sample("drbd_device_upperpending", labels, device["upper-pending"])
    yield Sample("drbd_device_lowerpending", labels, device["lower-pending"])
    yield Sample("drbd_device_alsuspended", labels, device["replblock-al-suspended"])
    yield Sample("drbd_device_quorum", labels, device["quorum"])
    if device["replblock-in-sync-since-ms"] is not None:
        yield Sample("replblock_device_in_sync_timestamp_seconds", labels,
                     device["replblock-in-sync-since-ms"] / 1000)


def _peer_device(ends: _Labels, item: Status) -> Iterator[Sample]:
    labels = {**ends, "volume": str(item["volume"])}
    yield Sample("drbd_peerdevice_outofsync_bytes", labels, item["out-of-sync"] * BYTES_PER_KIB)
    yield Sample("drbd_peerdevice_sent_bytes", labels, item["sent"] * BYTES_PER_KIB)
    yield Sample("drbd_peerdevice_received_bytes", labels, item["received"] * BYTES_PER_KIB)
    yield from _states("replblock_peerdevice_replication_state", labels, "state", REPLICATIONS,
                       item["replication-state"])
    yield from _states("replblock_peerdevice_disk_state", labels, "state", DISKS, item["peer-disk-state"])
    if item["replblock-sync"] is None:
        return
    sync = Sync.of(item["replblock-sync"])
    verifying = item["replication-state"] in VERIFYING
    ratio = 1 - sync.left_blocks / sync.total_blocks if sync.total_blocks else 1.0
    yield Sample("replblock_verify_done_ratio" if verifying else "replblock_resync_done_ratio", labels, ratio)
    if not verifying:
        yield Sample("replblock_resync_rate_bytes", labels, rates(sync).speed_kib_s * BYTES_PER_KIB)


def _states(metric: str, labels: _Labels, label: str, words: tuple[str, ...], current: str) -> Iterator[Sample]:
    """One sample per possible state, 1 for the current one: a change is then visible as two series."""
    return (Sample(metric, {**labels, label: word}, word == current) for word in words)


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
    return f"{sample.metric}{{{labels}}} {float(sample.value):.10g}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
