# SPDX-License-Identifier: GPL-2.0-or-later
"""replblock: a replicated block device that speaks DRBD 8.4, without a kernel module."""

__version__ = "0.1.0"
