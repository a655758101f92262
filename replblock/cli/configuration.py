# SPDX-License-Identifier: GPL-2.0-or-later
"""dump, dump-xml: the configuration as it was understood, as drbdadm prints it."""

from __future__ import annotations

from replblock.cli.errors import CANNOT, Stop
from replblock.cli.run import Run


def dump(run: Run) -> int:
    """Everything, or the named resources; with --drbd without our own sections."""
    from replblock.conf import dump as render

    names = [target.resource for target in run.targets()] if run.names and "all" not in run.names else None
    text = render(run.configuration, run.host, run.addresses, without_ours="--drbd" in run.options, resources=names)
    print(text, end="")
    return 0


def dump_xml(run: Run) -> int:
    """Not there."""
    raise Stop(CANNOT, "dump-xml is not supported yet", f"as text: replctl dump {' '.join(run.names)}".rstrip())
