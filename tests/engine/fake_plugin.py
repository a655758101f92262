# SPDX-License-Identifier: GPL-2.0-or-later
"""The real plugin with an unreplicated core in place of the real one."""

from typing import Any

from nbdkit_plugin import replblock as plugin
from nbdkit_plugin.replblock import *  # noqa: F403 - nbdkit looks for its callbacks here
from tests.engine.fakes import UnreplicatedCore


def fake(settings: Any, loop: Any) -> Any:
    return UnreplicatedCore(settings, loop)


plugin.boot.make_core = fake
