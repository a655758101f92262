# SPDX-License-Identifier: GPL-2.0-or-later
"""A private authority and its certificates, made by OpenSSL's own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path

DAYS = "2"


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Authority:
    """Signs what a node needs in its `tls-certificates`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.key, self.certificate = self.directory / "ca-key.pem", self.directory / "ca-cert.pem"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", DAYS,
                 "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate)  # fmt: skip

    def node(self, name: str, *, alternative: str = "", days: str = DAYS, folder: str = "") -> Path:
        """A directory with ca-cert.pem, cert.pem and key.pem; `alternative`: as `DNS:…` or `IP:…`."""
        place = self.directory / (folder or name)
        place.mkdir()
        extensions = place / "extensions"
        extensions.write_text(f"subjectAltName={alternative or f'DNS:{name}'}\n")
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-subj", f"/CN={name}", "-keyout", place / "key.pem", "-out", place / "request.pem")  # fmt: skip
        _openssl("x509", "-req", "-in", place / "request.pem", "-CA", self.certificate, "-CAkey", self.key,
                 "-CAcreateserial", "-days", days, "-extfile", extensions, "-out", place / "cert.pem")  # fmt: skip
        (place / "ca-cert.pem").write_bytes(self.certificate.read_bytes())
        return place
