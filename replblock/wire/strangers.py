# SPDX-License-Identifier: GPL-2.0-or-later
"""Names what somebody who is no DRBD peer seems to speak, from the first bytes he sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from replblock.wire.headers import MAGIC_80, MAGIC_95, MAGIC_100

_HTTP: Final = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC", b"TRAC", b"PRI ")


def _starts(*openings: bytes) -> Callable[[bytes], bool]:
    """As far as both go: one byte of an opening is already enough to speak of it."""
    return lambda seen: any(seen[: len(opening)] == opening[: len(seen)] for opening in openings)


def _is_text(seen: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in seen)


_KNOWN: Final[tuple[tuple[str, Callable[[bytes], bool]], ...]] = (
    ("all zeros", lambda seen: not any(seen)),
    ("an HTTP request", _starts(*_HTTP)),
    ("an HTTP answer", _starts(b"HTTP/")),
    ("an SSH greeting", _starts(b"SSH-")),
    ("a TLS ClientHello", lambda seen: _starts(b"\x16\x03")(seen) and (len(seen) < 6 or seen[5] == 1)),
    ("a TLS record", lambda seen: seen[:1] in (b"\x14", b"\x15", b"\x16", b"\x17") and seen[1:2] in (b"", b"\x03")),
    ("an NBD greeting", _starts(b"NBDMAGIC")),
    ("an SMB packet", lambda seen: seen[4:8] in (b"\xffSMB", b"\xfeSMB")),
    ("a PROXY protocol line", _starts(b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")),
    ("a DRBD header of protocol 100", _starts(MAGIC_100.to_bytes(4, "big"))),
    ("a DRBD header of protocol 95", _starts(MAGIC_95.to_bytes(2, "big"))),
    ("a DRBD header of protocol 80", _starts(MAGIC_80.to_bytes(4, "big"))),
    ("text", _is_text),
)


def looks_like(seen: bytes) -> str:
    """What the bytes look like, as words that fit after "looks like"; never empty."""
    return next((name for name, matches in _KNOWN if matches(seen)), "no protocol known here")
