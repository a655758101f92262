# SPDX-License-Identifier: GPL-2.0-or-later
"""One resource as a machine without I/O: events in, actions out, nothing of its own but rules."""
