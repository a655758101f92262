# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node knows about its resources, as one plain dictionary, and every text that is made from it.

`model` says which keys there are; each other module turns a list of such dictionaries into text and does nothing
else: no files, no clock, no sockets.
"""

from __future__ import annotations
