# SPDX-License-Identifier: GPL-2.0-or-later
"""The real plugin with a verb that makes a thread of the engine raise what nobody expects."""

from typing import Any

from nbdkit_plugin import replblock as plugin  # noqa: F401
from nbdkit_plugin.replblock import *  # noqa: F403 - nbdkit looks for its callbacks here
from replblock.engine.verbs import VERBS


def crash(engine: Any, args: dict[str, Any], client: Any) -> None:
    if args["where"] == "loop":
        raise ZeroDivisionError("in the loop")
    engine.side.put(lambda: 1 // 0)


VERBS["crash"] = crash
