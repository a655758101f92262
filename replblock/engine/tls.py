# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may be the peer of an encrypted link: certificates of one private authority, on both sides.

Files of the directory `tls-certificates`: `ca-cert.pem` (the authority), `cert.pem` and `key.pem` (this node). A node
proves with its certificate that it is the one named `on NAME`, or that it has the address configured there. All three
are read anew for every connection: a renewed certificate needs no restart.
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Any, NamedTuple

CA, CERTIFICATE, KEY = "ca-cert.pem", "cert.pem", "key.pem"


class TlsProblem(Exception):
    """One sentence for the operator."""


class Tls(NamedTuple):
    """What a connection needs to become an encrypted one."""

    directory: Path
    peer_names: tuple[str, ...]
    """The peer's node name and its address: its certificate must be for one of them."""

    def context(self, server: bool) -> ssl.SSLContext:
        """TLS 1.3, the peer has to show a certificate, too. Raises TlsProblem."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # both sides look at the names themselves: see `expect_peer`
        context.verify_mode = ssl.CERT_REQUIRED
        path = self.directory / CA
        try:
            context.load_verify_locations(path)
            path = self.directory / CERTIFICATE
            with path.open("rb"):
                pass
            path = self.directory / KEY
            with path.open("rb"):
                pass
            context.load_cert_chain(self.directory / CERTIFICATE, path, password=lambda: "")  # nobody types one
        except ssl.SSLError as error:
            raise TlsProblem(f"{path}: not usable: {error.reason or error}") from error
        except OSError as error:
            raise TlsProblem(f"{path}: {error.strerror or error}") from error
        return context

    def expect_peer(self, certificate: dict[str, Any] | None) -> None:
        """Raises TlsProblem if it was made for somebody else."""
        shown = names_of(certificate or {})
        if not {_normal(name) for name in shown} & {_normal(name) for name in self.peer_names}:
            wanted, found = " or ".join(self.peer_names), ", ".join(shown) or "nobody"
            raise TlsProblem(f"the peer's certificate is for {found}, not for {wanted}")


def names_of(certificate: dict[str, Any]) -> list[str]:
    """The subject's alternative names; an old one without any has its common name."""
    names = [str(name) for _, name in certificate.get("subjectAltName", ())]
    if not names:
        parts = [pair for relative in certificate.get("subject", ()) for pair in relative]
        names = [str(value) for key, value in parts if key == "commonName"]
    return names


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")
