# SPDX-License-Identifier: GPL-2.0-or-later
"""From drbd.conf to core.settings.Settings: one row per field, with the conversion of the unit.

The view has resolved every default already: those of DRBD 8.4, or for a file in 8.3 style those of 8.3 (al-extents 127,
ko-count 0, on-io-error pass_on, use-rle off, c-plan-ahead 0).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replblock.conf import Address, ConfigError, NodeView
from replblock.core.settings import Settings
from replblock.engine.network import Addresses
from replblock.engine.tls import CA, CERTIFICATE, KEY, Tls, TlsProblem

Convert = Callable[[Any], Any]

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def same(value: Any) -> Any:
    return value


def tenths_to_ms(value: int) -> int:
    return value * 100


def seconds_to_ms(value: int) -> int:
    return value * 1000


def text(value: Any) -> str:
    return "" if value is None else str(value)


#   field of Settings            section    option                        conversion
TABLE: tuple[tuple[str, str, str, Convert], ...] = (
    ("protocol",                 "net",     "protocol",                   text),
    ("timeout_ms",               "net",     "timeout",                    tenths_to_ms),
    ("connect_int_ms",           "net",     "connect-int",                seconds_to_ms),
    ("ping_int_ms",              "net",     "ping-int",                   seconds_to_ms),
    ("ping_timeout_ms",          "net",     "ping-timeout",               tenths_to_ms),
    ("ko_count",                 "net",     "ko-count",                   same),
    ("max_epoch_size",           "net",     "max-epoch-size",             same),
    ("max_buffers",              "net",     "max-buffers",                same),
    ("allow_two_primaries",      "net",     "allow-two-primaries",        bool),
    ("cram_hmac_alg",            "net",     "cram-hmac-alg",              text),
    ("shared_secret",            "net",     "shared-secret",              text),
    ("after_sb_0pri",            "net",     "after-sb-0pri",              text),
    ("after_sb_1pri",            "net",     "after-sb-1pri",              text),
    ("after_sb_2pri",            "net",     "after-sb-2pri",              text),
    ("always_asbp",              "net",     "always-asbp",                bool),
    ("rr_conflict",              "net",     "rr-conflict",                text),
    ("data_integrity_alg",       "net",     "data-integrity-alg",         text),
    ("csums_alg",                "net",     "csums-alg",                  text),
    ("csums_after_crash_only",   "net",     "csums-after-crash-only",     bool),
    ("verify_alg",               "net",     "verify-alg",                 text),
    ("use_rle",                  "net",     "use-rle",                    bool),
    ("socket_check_timeout_ms",  "net",     "socket-check-timeout",       tenths_to_ms),
    ("size_sectors",             "disk",    "size",                       same),
    ("on_io_error",              "disk",    "on-io-error",                text),
    ("fencing",                  "disk",    "fencing",                    text),
    ("disk_flushes",             "disk",    "disk-flushes",               bool),
    ("md_flushes",               "disk",    "md-flushes",                 bool),
    ("al_extents",               "disk",    "al-extents",                 same),
    ("al_updates",               "disk",    "al-updates",                 bool),
    ("resync_rate_kib",          "disk",    "resync-rate",                same),
    ("c_plan_ahead",             "disk",    "c-plan-ahead",               same),
    ("c_delay_target",           "disk",    "c-delay-target",             same),
    ("c_fill_target_sectors",    "disk",    "c-fill-target",              same),
    ("c_max_rate_kib",           "disk",    "c-max-rate",                 same),
    ("c_min_rate_kib",           "disk",    "c-min-rate",                 same),
    ("discard_zeroes_if_aligned", "disk",   "discard-zeroes-if-aligned",  bool),
    ("rs_discard_granularity",   "disk",    "rs-discard-granularity",     same),
    ("on_no_data_accessible",    "options", "on-no-data-accessible",      text),
    ("compression",            "replblock", "compression",                text),
    ("wfc_timeout_s",            "startup", "wfc-timeout",                same),
    ("degr_wfc_timeout_s",       "startup", "degr-wfc-timeout",           same),
    ("outdated_wfc_timeout_s",   "startup", "outdated-wfc-timeout",       same),
)  # fmt: skip


def settings_of(view: NodeView, volume: int) -> Settings:
    """Everything the core acts on, for one volume of this node."""
    sections = {
        "net": view.net, "disk": view.disk(volume), "options": view.options, "startup": view.startup,
        "replblock": view.replblock,
    }  # fmt: skip
    values = {field: convert(sections[section][option]) for field, section, option, convert in TABLE}
    chosen = view.volumes[volume]
    return Settings(
        resource=view.resource,
        node=view.host_name,
        peer_node=view.peer.names[0] if view.peer.names else str(view.peer.address),
        own_address=str(view.me.address),
        peer_address=str(view.peer.address),
        volume=volume,
        minor=chosen.minor,
        device=chosen.device,
        disk_path=chosen.disk,
        handlers=frozenset(handlers_of(view)),
        **values,
    )


def handlers_of(view: NodeView) -> dict[str, str]:
    """Name → shell command of the handlers that are configured."""
    return {name: str(command) for name, command in view.handlers.items() if command}


def addresses_of(view: NodeView) -> Addresses:
    """Where to listen and whom to dial. Raises ConfigError for a family that sockets do not speak."""
    own, peer = _address(view, view.me.address, "own"), _address(view, view.peer.address, "peer's")
    if own.family != peer.family:
        text = f"resource {view.resource}: the own address is {own.family}, the peer's {peer.family}"
        raise ConfigError(view.me.file, view.me.line, text)
    family = FAMILIES[own.family]
    return Addresses(
        family=family,
        own=_normal(family, own.host),
        own_port=own.port,
        peer=_normal(family, peer.host),
        peer_port=peer.port,
        sndbuf_bytes=_number(view.net["sndbuf-size"]),
        rcvbuf_bytes=_number(view.net["rcvbuf-size"]),
    )


def nbd_port_of(view: NodeView, volume: int) -> Addresses | None:
    """Where the direct door is to be found by TCP: volume N on the port N above the one that is configured."""
    found = view.replblock["nbd-listen"]
    if not isinstance(found, Address):
        return None
    return Addresses(FAMILIES[found.family], found.host, found.port + volume, "", 0)


def tls_of(view: NodeView) -> Tls | None:
    """How the link is encrypted. Raises ConfigError where what that needs is not there."""
    where = view.explicit("replblock", "tls")
    if not view.replblock["tls"] or where is None:
        return None
    directory = view.replblock["tls-certificates"]
    if not directory:
        text = f"'tls yes' needs tls-certificates, a directory with {CA}, {CERTIFICATE} and {KEY}"
        raise ConfigError(where.file, where.line, text)
    tls = Tls(Path(str(directory)), (*view.peer.names, _address(view, view.peer.address, "peer's").host))
    try:
        tls.context(server=True)
    except TlsProblem as problem:
        at = view.explicit("replblock", "tls-certificates") or where
        raise ConfigError(at.file, at.line, str(problem)) from problem
    return tls


def handler_environment(view: NodeView, volume: int, config_path: str, run_dir: str) -> dict[str, str]:
    """What drbdadm gives a handler, and what a replctl needs that the handler calls."""
    chosen, peer = view.volumes[volume], view.peer.address
    return {
        "DRBD_RESOURCE": view.resource,
        "DRBD_VOLUME": str(volume),
        "DRBD_MINOR": str(chosen.minor),
        "DRBD_LL_DISK": chosen.disk,
        "DRBD_CONF": config_path,
        "DRBD_PEER": view.peer.names[0] if view.peer.names else "",
        "DRBD_PEERS": " ".join(view.peer.names),
        "DRBD_PEER_AF": peer.family if peer is not None else "",
        "DRBD_PEER_ADDRESS": peer.host if peer is not None else "",
        "REPLBLOCK_HOST": view.host_name,
        "REPLBLOCK_RUN": run_dir,
    }


def is_ours(address: str) -> bool:
    """Whether this machine has an address (for floating sections): whether a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _address(view: NodeView, address: Address | None, whose: str) -> Address:
    if address is None or address.family not in FAMILIES:
        family = address.family if address is not None else "none"
        text = f"resource {view.resource}: the {whose} address must be ipv4 or ipv6, not {family}"
        raise ConfigError(view.me.file, view.me.line, text)
    return address


def _normal(family: socket.AddressFamily, host: str) -> str:
    """The way accept() spells it."""
    return socket.inet_ntop(family, socket.inet_pton(family, host.partition("%")[0]))


def _number(value: Any) -> int:
    return int(value or 0)
