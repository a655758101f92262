# SPDX-License-Identifier: GPL-2.0-or-later
"""replctl, whose `up` starts the plugin with the logged disk."""

from __future__ import annotations

import sys
from pathlib import Path

from replblock import paths
from replblock.cli.main import main

paths.plugin_path = lambda: Path(__file__).with_name("plugin.py")

if __name__ == "__main__":
    sys.exit(main())
