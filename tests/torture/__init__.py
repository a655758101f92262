# SPDX-License-Identifier: GPL-2.0-or-later
"""Real faults on real processes, and an account of every acknowledgement. See docs/torture.md."""
