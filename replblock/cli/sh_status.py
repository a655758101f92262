# SPDX-License-Identifier: GPL-2.0-or-later
"""sh-status: every configured resource, up or down, for a shell to eval."""

from __future__ import annotations

import sys

from replblock.cli.control import status_of
from replblock.cli.errors import Stop
from replblock.cli.run import Run


def print_all(run: Run) -> int:
    """Print one block per volume. Resource names are ignored, as by drbdadm."""
    from replblock.status.words import Place, sh_status

    if run.names:
        print("This command will ignore resource names!", file=sys.stderr)
    places, statuses = [], []
    for name, view in run.views.items():
        volumes = tuple((number, volume.minor) for number, volume in sorted(view.volumes.items()))
        resource = run.configuration.resources[name]
        places.append(Place(name, resource.file, resource.line, volumes))
        if run.is_up(name):
            try:
                statuses.append(status_of(run, name))
            except Stop:  # it went down in between
                pass
    print(sh_status(places, statuses, config_file=run.config_path), end="")
    return 0


