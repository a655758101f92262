# SPDX-License-Identifier: GPL-2.0-or-later
"""v08 metadata on disk: superblock, bitmap, activity log, and the offline operations on them.

Formats only: a block device comes in as an object (``blockdev.BlockDevice``), randomness as a callable.
"""
