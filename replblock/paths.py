# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the pieces of this installation lie: the plugin file for nbdkit, and the path its Python must search."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import replblock

USUAL_RUN = Path("/run/replblock")
LASTING = Path("/var/lib/replblock")
PLUGIN = Path("nbdkit_plugin") / "replblock.py"


def import_root() -> Path:
    """The directory that holds the package `replblock`: the checkout, or site-packages."""
    return Path(replblock.__file__).resolve().parent.parent


def plugin_path() -> Path:
    """The file to hand to `nbdkit python`; it travels beside the package, in a checkout as when installed.

    Raises FileNotFoundError with both the place and the way out when the installation is not whole.
    """
    path = import_root() / PLUGIN
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the nbdkit plugin is missing; install replblock again (make setup)")
    return path


def last_size_path(run_dir: Path, resource: str, volume: int) -> Path:
    """Where it is kept how large a disk was when it was last in use: beside the run directory if that is not /run's."""
    lasting = LASTING if run_dir == USUAL_RUN else run_dir
    return lasting / f"{resource}.{volume}.disk-size"


def python_path() -> str:
    """The value of PYTHONPATH with which nbdkit's Python finds us and our libraries.

    nbdkit embeds the system's Python, which knows nothing of a virtual environment and reads no `.pth` file in a
    directory that PYTHONPATH names: so the checkout is named itself. The plugin's own directory must stay out: it
    holds a `replblock.py` that would hide the package.
    """
    places = [str(import_root()), sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    return ":".join(dict.fromkeys(places))
