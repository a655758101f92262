# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests against published test values and a second implementation; the log-in against the values of RFC 2202."""

from __future__ import annotations

import builtins
import hashlib
import shutil
import subprocess

import crcmod.predefined
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.wire import auth, digests
from replblock.wire.commands import Cmd
from replblock.wire.errors import NotAgreed

SECOND_CRC = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


def test_crc32c_check_value() -> None:
    """0xe3069283 is the published check value of CRC-32C; DRBD stores it with the low byte first."""
    assert digests.digest("crc32c")(b"123456789").hex() == "839206e3"
    assert digests.digest("crc32c")(bytes(32)).hex() == "aa36918a"       # RFC 3720, B.4


@given(st.binary(max_size=5000), st.integers(0, 16))
def test_crc32c_second_opinion(data, skip) -> None:
    view = memoryview(data)[skip:]
    assert digests.digest("crc32c")(view) == SECOND_CRC(bytes(view)).to_bytes(4, "little")


def test_crc32c_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "crc32c":
            raise ImportError(name)
        return real(name, *args, **kwargs)      # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    fallback = digests.digest("crc32c")
    monkeypatch.undo()
    for data in (b"", b"123456789", bytes(4096), memoryview(b"abc" * 1000)[5:]):
        assert fallback(data) == digests.digest("crc32c")(data)


@pytest.mark.parametrize("alg", digests.ALGORITHMS)
def test_sizes(alg: str) -> None:
    function = digests.digest(alg)
    assert len(function(b"abc")) == digests.digest_size(alg)
    assert function(bytearray(b"abc")) == function(memoryview(b"xabc")[1:]) == function(b"abc")


@pytest.mark.parametrize("alg", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"])
def test_coreutils_agree(alg: str) -> None:
    tool = shutil.which(f"{alg}sum")
    assert tool is not None
    data = bytes(range(256)) * 16
    said = subprocess.run([tool], input=data, capture_output=True, check=True).stdout.split()[0].decode()
    assert digests.digest(alg)(data).hex() == said


@pytest.mark.parametrize(
    "call", [digests.digest, digests.digest_size, lambda alg: digests.hmac_response(alg, "s", b"c")]
)
def test_unknown_names(call) -> None:
    with pytest.raises(ValueError, match="unknown digest algorithm 'sha9'; known are crc32c, md5, sha1"):
        call("sha9")


def test_none_configured() -> None:
    assert digests.digest_size("") == 0


def test_hmac_values_of_rfc_2202() -> None:
    assert digests.hmac_response("sha1", "Jefe", b"what do ya want for nothing?").hex() == (
        "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")
    assert digests.hmac_response("md5", b"\x0b" * 16, b"Hi There").hex() == "9294727a3638bb1c13f48ef8158bfc9d"


@pytest.mark.parametrize("alg", [alg for alg in digests.ALGORITHMS if alg not in digests.CHECKSUMS])
def test_hmac_by_its_definition(alg: str) -> None:
    def raw(data: bytes) -> bytes:
        return hashlib.new(alg, data).digest()

    block_bytes = hashlib.new(alg).block_size
    for secret in ("s", "x" * 64, "k" * 200):
        key = (secret.encode() if len(secret) <= block_bytes else raw(secret.encode())).ljust(block_bytes, b"\0")
        inner, outer = (bytes(byte ^ pad for byte in key) for pad in (0x36, 0x5C))
        assert digests.hmac_response(alg, secret, memoryview(b"c" * 64)) == raw(outer + raw(inner + b"c" * 64))


def test_no_checksum_guards_a_log_in() -> None:
    with pytest.raises(ValueError, match="'crc32c' is no cryptographic digest"):
        digests.hmac_response("crc32c", "s", b"c")


# ---- the log-in ----

MINE, PEERS = bytes(range(64)), bytes(range(1, 65))


def test_a_log_in() -> None:
    auth.check_challenge(MINE, PEERS)
    response = digests.hmac_response("sha256", "secret", MINE)
    assert auth.check_response("sha256", "secret", MINE, memoryview(response)) is None
    assert auth.expect_challenge("sha256", Cmd.AUTH_CHALLENGE) is None
    assert auth.expect_challenge("", Cmd.PROTOCOL) is None


@pytest.mark.parametrize("tail", [b"", b"more"])
def test_a_reflected_challenge(tail: bytes) -> None:
    with pytest.raises(NotAgreed, match="our own challenge back"):
        auth.check_challenge(MINE, memoryview(MINE + tail))


@pytest.mark.parametrize(
    ("response", "option"),
    [
        (digests.hmac_response("sha256", "other", MINE), "shared-secret"),
        (digests.hmac_response("sha256", "secret", PEERS), "shared-secret"),
        (digests.hmac_response("sha1", "secret", MINE), "cram-hmac-alg"),
    ],
)
def test_a_failed_log_in_names_the_option(response: bytes, option: str) -> None:
    wrong = auth.check_response("sha256", "secret", MINE, response)
    assert wrong is not None and wrong.option == option and "secret" not in wrong.mine_text


@pytest.mark.parametrize(
    ("alg", "cmd", "words"),
    [("sha1", Cmd.PROTOCOL, "cram-hmac-alg differs: sha1 here, the peer has none (it sent P_PROTOCOL)"),
     ("", Cmd.AUTH_CHALLENGE, "cram-hmac-alg differs: none here, the peer has set")],
)
def test_only_one_node_wants_a_log_in(alg: str, cmd: int, words: str) -> None:
    wrong = auth.expect_challenge(alg, cmd)
    assert wrong is not None and wrong.sentence == words
