# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration to settings: every field has its row, units are converted, defaults are the dialect's."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from replblock.conf import ConfigError, loads
from replblock.conf.options import TABLE as OPTIONS
from replblock.core.settings import Settings
from replblock.engine import mapping
from replblock.engine.mapping import addresses_of, handler_environment, handlers_of, settings_of

HOSTS = """
    on alpha {{ device /dev/drbd3; disk /dev/sda7; address {a}; meta-disk internal; }}
    on beta {{ device /dev/drbd3; disk /dev/sdb1; address {b}; meta-disk internal; }}
"""
PLAIN = HOSTS.format(a="10.0.0.1:7788", b="10.0.0.2:7789")

OURS = {
    "resource", "node", "peer_node", "own_address", "peer_address", "volume", "minor", "device", "disk_path",
    "max_in_flight_bytes", "offer_ordered", "offer_features", "version_min", "version_max", "handlers",
}  # fmt: skip
"""Fields that no single option sets."""


def view(body: str, hosts: str = PLAIN, host: str = "beta", dialect: str | None = None):  # type: ignore[no-untyped-def]
    return loads(f"resource r0 {{ {body} {hosts} }}", dialect=dialect).resources["r0"].view(host)


def test_every_field_of_the_settings_comes_from_one_place() -> None:
    mapped = [row[0] for row in mapping.TABLE]
    assert len(set(mapped)) == len(mapped)
    assert set(mapped) | OURS == {field.name for field in dataclasses.fields(Settings)}
    known = {(option.section, option.name) for option in OPTIONS}
    assert {(section, option) for _, section, option, _ in mapping.TABLE} <= known


def test_defaults_of_an_84_file_are_those_of_the_settings() -> None:
    """Settings documents DRBD 8.4's defaults; the table of options holds them too."""
    made, plain = settings_of(view(""), 0), Settings()
    for field, *_ in mapping.TABLE:
        assert getattr(made, field) == getattr(plain, field), field


def test_defaults_of_an_83_file_are_83s() -> None:
    made = settings_of(view("protocol C;", dialect="8.3"), 0)
    assert (made.al_extents, made.ko_count, made.on_io_error, made.use_rle, made.c_plan_ahead) == (
        127, 0, "pass_on", False, 0,
    )  # fmt: skip


def test_units() -> None:
    made = settings_of(
        view("net { timeout 42; connect-int 7; ping-int 3; ping-timeout 11; socket-check-timeout 4; }"
             "disk { resync-rate 100M; size 1G; c-fill-target 24k; } startup { wfc-timeout 9; }"),
        0,
    )  # fmt: skip
    assert (made.timeout_ms, made.connect_int_ms, made.ping_int_ms) == (4200, 7000, 3000)
    assert (made.ping_timeout_ms, made.socket_check_timeout_ms) == (1100, 400)
    assert (made.resync_rate_kib, made.size_sectors, made.c_fill_target_sectors) == (100 << 10, 2 << 20, 48)
    assert made.wfc_timeout_s == 9


def test_who_is_who() -> None:
    made = settings_of(view('handlers { fence-peer "/bin/fence"; }'), 0)
    assert (made.resource, made.node, made.peer_node, made.minor) == ("r0", "beta", "alpha", 3)
    assert (made.own_address, made.peer_address) == ("10.0.0.2:7789", "10.0.0.1:7788")
    assert (made.device, made.disk_path) == ("/dev/drbd3", "/dev/sdb1")
    assert made.handlers == {"fence-peer"}


def test_addresses_are_spelled_as_accept_spells_them() -> None:
    where = addresses_of(view("net { sndbuf-size 512k; }"))
    assert (where.family, where.own, where.own_port, where.peer, where.peer_port) == (
        socket.AF_INET, "10.0.0.2", 7789, "10.0.0.1", 7788,
    )  # fmt: skip
    assert (where.sndbuf_bytes, where.rcvbuf_bytes) == (512 << 10, 0)
    where = addresses_of(view("", HOSTS.format(a="ipv6 [fd00:0:0::1]:7788", b="ipv6 [FD00::2]:7788")))
    assert (where.family, where.own, where.peer) == (socket.AF_INET6, "fd00::2", "fd00::1")


@pytest.mark.parametrize("hosts", [
    HOSTS.format(a="sdp 10.0.0.1:7788", b="sdp 10.0.0.2:7788"),
    HOSTS.format(a="10.0.0.1:7788", b="ipv6 [fd00::2]:7788"),
])  # fmt: skip
def test_families_that_cannot_be_are_refused_with_file_and_line(hosts: str) -> None:
    with pytest.raises(ConfigError, match=r"drbd\.conf:\d+: .*address"):
        addresses_of(view("", hosts))


def test_a_handler_gets_what_drbdadm_gives_it() -> None:
    found = view('handlers { pri-lost "p"; split-brain "s"; }')
    assert handlers_of(found) == {"pri-lost": "p", "split-brain": "s"}
    environment = handler_environment(found, 0, "/etc/drbd.conf", "/run/replblock")
    assert {key: value for key, value in environment.items() if key.startswith("DRBD_")} == {
        "DRBD_RESOURCE": "r0", "DRBD_VOLUME": "0", "DRBD_MINOR": "3", "DRBD_LL_DISK": "/dev/sdb1",
        "DRBD_CONF": "/etc/drbd.conf", "DRBD_PEER": "alpha", "DRBD_PEERS": "alpha", "DRBD_PEER_AF": "ipv4",
        "DRBD_PEER_ADDRESS": "10.0.0.1",
    }  # fmt: skip
