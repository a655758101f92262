# SPDX-License-Identifier: GPL-2.0-or-later
"""Through which door the clients of a test come in, where the test does not choose one itself."""

import os

SOCKETS = {"nbdkit": "nbd", "direct": "direct"}
"""Door → ending of its socket in the run directory."""
DOOR = os.environ.get("REPLBLOCK_TEST_DOOR", "nbdkit")
