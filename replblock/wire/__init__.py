# SPDX-License-Identifier: GPL-2.0-or-later
"""The DRBD 8.4 wire format, protocols 86 to 101: bytes to typed packets and back, without sockets.

commands: the table of packets; headers: the three header forms; packets: the bodies; stream: the incremental decoder;
agreement: what two nodes must have in common; bitmap_code: the bitmap exchange; digests, auth: check sums and log-in.
"""
