# SPDX-License-Identifier: GPL-2.0-or-later
"""The real plugin; while the file RUN/slow exists, every data write takes as many seconds as it says."""

import os
import time
from pathlib import Path
from typing import Any

from nbdkit_plugin import replblock as plugin
from nbdkit_plugin.replblock import *  # noqa: F403 - nbdkit looks for its callbacks here

_pwrite = os.pwrite


def slow_pwrite(fd: int, data: Any, offset: int) -> int:
    switch = Path(plugin.options["run"], "slow")
    if switch.exists():
        time.sleep(float(switch.read_text()))
    return _pwrite(fd, data, offset)


os.pwrite = slow_pwrite
