# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration of one resource as the core wants it: typed, resolved, units in the names."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option the core acts on. Defaults are DRBD 8.4's (drbd.conf manual)."""

    resource: str = "r0"
    node: str = "here"
    peer_node: str = "peer"
    own_address: str = ""
    """ADDRESS:PORT as configured; decides which of two crossing connections stays."""
    peer_address: str = ""
    volume: int = 0
    minor: int = 0
    device: str = "/dev/drbd0"
    disk_path: str = ""

    # net
    protocol: str = "C"
    timeout_ms: int = 6000
    connect_int_ms: int = 10000
    ping_int_ms: int = 10000
    ping_timeout_ms: int = 500
    ko_count: int = 7
    max_epoch_size: int = 2048
    max_buffers: int = 2048
    allow_two_primaries: bool = False
    cram_hmac_alg: str = ""
    shared_secret: str = ""
    after_sb_0pri: str = "disconnect"
    after_sb_1pri: str = "disconnect"
    after_sb_2pri: str = "disconnect"
    always_asbp: bool = False
    rr_conflict: str = "disconnect"
    data_integrity_alg: str = ""
    csums_alg: str = ""
    csums_after_crash_only: bool = False
    verify_alg: str = ""
    use_rle: bool = True
    socket_check_timeout_ms: int = 0

    # disk
    size_sectors: int = 0
    on_io_error: str = "detach"
    fencing: str = "dont-care"
    disk_flushes: bool = True
    md_flushes: bool = True
    al_extents: int = 1237
    al_updates: bool = True
    resync_rate_kib: int = 250
    c_plan_ahead: int = 20
    """0.1 s."""
    c_delay_target: int = 10
    """0.1 s."""
    c_fill_target_sectors: int = 100
    c_max_rate_kib: int = 102400
    c_min_rate_kib: int = 250
    """Beside the application a resync goes on at this rate; 0: as fast as it can."""
    discard_zeroes_if_aligned: bool = True
    rs_discard_granularity: int = 0
    """Where a resync brings zeroes, holes may be punched (DRBD: in pieces of so many bytes)."""

    # options
    on_no_data_accessible: str = "io-error"

    # startup
    wfc_timeout_s: int = 0
    degr_wfc_timeout_s: int = 0
    outdated_wfc_timeout_s: int = 0

    # ours
    compression: str = "none"
    """`lz4`: offer the feature bit that lets two replblock nodes compress what they send."""
    max_in_flight_bytes: int = 64 << 20
    offer_ordered: bool = True
    """Offer the feature bit that lets two replblock nodes use order-only epochs."""
    offer_features: int = 0b1111
    """TRIM, THIN_RESYNC, WSAME (32-byte limits tail), WZEROES as a kernel node offers them."""
    version_min: int = 86
    version_max: int = 101
    handlers: frozenset[str] = field(default_factory=frozenset)
    """Names of the handlers that are configured."""
