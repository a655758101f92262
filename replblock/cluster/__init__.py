# SPDX-License-Identifier: GPL-2.0-or-later
"""What other programs run or read: resource scripts, units. Files only; they call `replctl` and import nothing."""
