# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: one process per resource that gives the core sockets, timers, a disk, doors and a control socket."""
