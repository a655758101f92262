# SPDX-License-Identifier: GPL-2.0-or-later
"""drbd.conf: the 8.3 and 8.4 grammars, typed values, one node's view of a resource.

    configuration = load("/etc/drbd.conf")
    view = configuration.resources["r0"].view("alpha")
    view.net["timeout"]          # 60, in 0.1 s
"""

from __future__ import annotations

from .checks import check
from .dialect import detect
from .dump import dump
from .errors import ConfigError
from .files import STDIN, STDIN_NAME, Files, Finder, Reader, default_paths, find_files, read_file
from .model import Address, Configuration, Device, HostSection, MetaDisk, Resource
from .options import TABLE, Option, Value
from .parser import Parser
from .values import Setting
from .views import NodeView, VolumeView, global_options, unused_notes

__all__ = [
    "Address", "ConfigError", "Configuration", "Device", "HostSection", "MetaDisk", "NodeView", "Option", "Resource",
    "Setting", "TABLE", "Value", "VolumeView", "default_paths", "dump", "find_default", "global_options", "load",
    "loads", "unused_notes",
]


def load(path: str, reader: Reader = read_file, finder: Finder = find_files,
         dialect: str | None = None) -> Configuration:
    """Read, parse and check the configuration at `path` ("-": standard input) and all it includes.

    reader: path -> bytes, raising OSError; finder: include pattern -> paths that match. dialect "8.3" or "8.4" skips
    the detection (see dialect.py). Raises ConfigError, and nothing else, for whatever the files hold.
    """
    files = Files(reader, finder, dialect)
    statements = files.statements(path)
    found, why = (dialect, "as asked for") if dialect is not None else detect(path, statements)
    configuration = Configuration(STDIN_NAME if path == STDIN else path, found, why, files=files.read)
    Parser(configuration).parse(statements)
    check(configuration)
    return configuration


def loads(text: str | bytes, name: str = "drbd.conf", dialect: str | None = None) -> Configuration:
    """The same from text; it can include nothing but what patterns fail to match."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text

    def reader(path: str) -> bytes:
        if path == name:
            return data
        raise FileNotFoundError(2, "No such file or directory", path)

    return load(name, reader, lambda pattern: [], dialect)


def find_default(exists: Reader = read_file) -> str:
    """The first file of default_paths() that can be read. Raises ConfigError naming them if there is none."""
    for path in default_paths():
        try:
            exists(path)
        except OSError:
            continue
        return path
    raise ConfigError(default_paths()[-1], 0, "no configuration found; looked for " + ", ".join(default_paths()))
