#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry to the benchmark; `make bench`, or `.venv/bin/python bench/run.py --quick`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.main import main  # noqa: E402

sys.exit(main())
