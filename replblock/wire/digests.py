# SPDX-License-Identifier: GPL-2.0-or-later
"""The digests DRBD can be configured with, under the names the kernel gives them, and the HMAC of its log-in.

Used for data-integrity-alg, verify-alg, csums-alg and cram-hmac-alg. A digest is the raw output of the kernel's
algorithm; crc32c is the usual inverted CRC-32C, stored little-endian.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from replblock.wire.limits import MAX_DIGEST_BYTES

Buffer = bytes | bytearray | memoryview
Digest = Callable[[Buffer], bytes]


def _crc_function() -> Callable[[Buffer], int]:
    try:
        from crc32c import crc32c
    except ImportError:                         # 25 times slower, but Debian packages it
        import crcmod.predefined

        function: Callable[[Buffer], int] = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
        return function
    return crc32c


def _crc32c() -> Digest:
    crc = _crc_function()
    return lambda data: crc(data).to_bytes(4, "little")


def _hashed(name: str) -> Callable[[], Digest]:
    def make() -> Digest:
        constructor = getattr(hashlib, name)
        return lambda data: bytes(constructor(data, usedforsecurity=False).digest())

    return make


# DRBD's name -> (size in bytes, maker of the function). Every name but crc32c may also stand in cram-hmac-alg.
_KNOWN: Final[dict[str, tuple[int, Callable[[], Digest]]]] = {
    "crc32c": (4, _crc32c),
    "md5": (16, _hashed("md5")),
    "sha1": (20, _hashed("sha1")),
    "sha224": (28, _hashed("sha224")),
    "sha256": (32, _hashed("sha256")),
    "sha384": (48, _hashed("sha384")),
    "sha512": (64, _hashed("sha512")),
    "sha3-224": (28, _hashed("sha3_224")),
    "sha3-256": (32, _hashed("sha3_256")),
    "sha3-384": (48, _hashed("sha3_384")),
    "sha3-512": (64, _hashed("sha3_512")),
}
assert max(size for size, _ in _KNOWN.values()) <= MAX_DIGEST_BYTES

ALGORITHMS: Final = tuple(_KNOWN)
CHECKSUMS: Final = frozenset({"crc32c"})
"""Algorithms that find accidents only: never to be trusted as proof that two blocks are equal (csums-alg)."""


def _row(alg: str) -> tuple[int, Callable[[], Digest]]:
    try:
        return _KNOWN[alg]
    except KeyError:
        raise ValueError(f"unknown digest algorithm '{alg}'; known are {', '.join(ALGORITHMS)}") from None


def digest(alg: str) -> Digest:
    """The function from data to its digest; ValueError for an unknown name. Look it up once, not for every block."""
    return _row(alg)[1]()


def digest_size(alg: str) -> int:
    """Bytes of a digest; 0 for the empty name (none configured)."""
    return _row(alg)[0] if alg else 0


def known(alg: str) -> bool:
    """Is it a digest that can be computed here?"""
    return alg in _KNOWN


def proves_equality(alg: str) -> bool:
    """Can two blocks with the same digest be taken for equal? Not by one that is unknown here, or finds accidents."""
    return alg in _KNOWN and alg not in CHECKSUMS


def hmac_response(alg: str, secret: str | bytes, challenge: Buffer) -> bytes:
    """The answer to a P_AUTH_CHALLENGE: HMAC over the whole challenge, keyed with the shared secret without a NUL."""
    if alg in CHECKSUMS:
        raise ValueError(f"'{alg}' is no cryptographic digest and cannot be a cram-hmac-alg")
    _row(alg)
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, challenge, alg.replace("-", "_")).digest()
