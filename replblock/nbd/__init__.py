# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's side of NBD (nbd/doc/proto.md) as machines that touch nothing: bytes in, requests and bytes out."""
