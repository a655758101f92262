# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms import downward only, and the pure ones touch no clock, socket, thread, randomness or file.

The table is the one of docs/architecture.md. A new room must be entered here before it can be imported.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Room → what it may import of ours, as module prefixes below `replblock.`. Its own modules and the version are free.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "state": frozenset(),
    "wire": frozenset(),
    "meta": frozenset(),
    "conf": frozenset(),
    "nbd": frozenset(),
    "device": frozenset(),
    "cluster": frozenset(),
    "status": frozenset({"state"}),
    "core": frozenset({"state", "wire", "meta"}),
    "engine": frozenset({"core", "state", "wire", "meta", "nbd", "device", "status", "conf", "paths"}),
    "cli": frozenset({"engine.client", "engine.launch", "conf", "status", "meta", "paths", "cluster"}),
    "nbdkit_plugin": frozenset({"engine"}),
    "paths": frozenset(),
}

# The modules of the engine that replctl uses: how to start one and how to talk to it. They stay free of the rest of it.
CLIENT_SIDE = ("engine.client", "engine.launch")

PURE = ("core", "state", "wire", "meta", "conf", "nbd")

IMPURE_MODULES = frozenset({
    "_thread", "asyncio", "concurrent", "fcntl", "mmap", "multiprocessing", "queue", "random", "sched", "secrets",
    "select", "selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "threading", "time", "uuid",
})
PURE_OF_OS = frozenset({"path", "fspath", "sep", "strerror", "PathLike"})
READS_FILES = frozenset({"conf"})   # its default reader; everything else gets bytes handed in


class Import(NamedTuple):
    module: str     # absolute and dotted; for `from a import b` it is a.b
    line: int


def imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """Every import anywhere in the tree, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)


def room_of(module: str) -> str | None:
    """The room a dotted name lies in; None if it is not ours (or only the package with its version)."""
    parts = module.split(".")
    if parts[0] == "nbdkit_plugin":
        return "nbdkit_plugin"
    if parts[0] != "replblock" or len(parts) == 1 or parts[1] == "__version__":
        return None
    return parts[1]


def wrong_arrows(source: str, package: str, room: str) -> list[str]:
    """The imports of this source text that run against the arrows of its room."""
    wrong = []
    for module, line in imports(ast.parse(source), package):
        target = room_of(module)
        if target is None or target == room:
            continue
        dotted = module.removeprefix("replblock.")
        if not any(dotted == allowed or dotted.startswith(allowed + ".") for allowed in MAY_IMPORT[room]):
            wrong.append(f"line {line}: {room} may not import {module}")
    return wrong


def impurities(source: str, package: str, room: str) -> list[str]:
    """What this source text takes from the world outside by itself."""
    tree = ast.parse(source)
    found = []
    for module, line in imports(tree, package):
        top, _, rest = module.partition(".")
        if top in IMPURE_MODULES:
            found.append(f"line {line}: import of {module}")
        if top == "os" and rest and rest.split(".")[0] not in PURE_OF_OS:
            found.append(f"line {line}: from os import {rest}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr not in PURE_OF_OS:
                found.append(f"line {node.lineno}: os.{node.attr}")
            if node.value.id in ("datetime", "date") and node.attr in ("now", "today", "utcnow"):
                found.append(f"line {node.lineno}: {node.value.id}.{node.attr}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("print", "input") or (node.func.id == "open" and room not in READS_FILES):
                found.append(f"line {node.lineno}: {node.func.id}()")
    return found


def modules(room: str) -> list[Path]:
    if room == "nbdkit_plugin":
        return sorted((ROOT / room).rglob("*.py"))
    single = ROOT / "replblock" / f"{room}.py"
    return [single] if single.exists() else sorted((ROOT / "replblock" / room).rglob("*.py"))


def findings(room: str, check: Callable[[str, str, str], list[str]]) -> list[str]:
    found = []
    for path in modules(room):
        relative = path.relative_to(ROOT)
        package = ".".join(relative.parent.parts)
        found += [f"{relative}: {text}" for text in check(path.read_text(), package, room)]
    return found


def test_every_room_stands_in_the_table() -> None:
    children = [path for path in (ROOT / "replblock").iterdir() if path.is_dir() or path.suffix == ".py"]
    there = {path.stem for path in children if not path.name.startswith(("_", "."))}
    unknown = {name for name in there if name not in MAY_IMPORT}
    assert not unknown, f"rooms without a row in MAY_IMPORT: {sorted(unknown)}"


def test_the_table_has_no_cycle() -> None:
    """Whatever a room may import can never import it back, by any detour."""

    def below(room: str, seen: tuple[str, ...] = ()) -> None:
        assert room not in seen, f"cycle: {' → '.join((*seen, room))}"
        for target in MAY_IMPORT[room]:
            below(target.split(".")[0], (*seen, room))

    for room in MAY_IMPORT:
        below(room)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_run_downward(room: str) -> None:
    wrong = findings(room, wrong_arrows)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", CLIENT_SIDE)
def test_the_clients_side_of_the_engine_stands_alone(name: str) -> None:
    """replctl starts fast and works beside any engine: asking one must not load one."""
    path = ROOT / "replblock" / (name.replace(".", "/") + ".py")
    if not path.exists():
        pytest.skip(f"no {path.name} yet")
    found = {m for m, _ in imports(ast.parse(path.read_text()), "replblock.engine") if room_of(m)}
    others = {m for m in found if not m.removeprefix("replblock.").startswith((*CLIENT_SIDE, "conf", "paths"))}
    assert not others, f"{name} imports {sorted(others)}"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_touch_nothing(room: str) -> None:
    found = findings(room, impurities)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("state", "import replblock.core.machine"),
        ("wire", "from replblock import state"),
        ("core", "from ..engine import loop"),
        ("core", "def f():\n    from replblock.conf.options import X"),
        ("cli", "from replblock.engine import loop"),
        ("status", "from replblock.state import names\nfrom replblock.wire import commands"),
    ],
)
def test_the_checker_sees_a_wrong_arrow(room: str, source: str) -> None:
    assert len(wrong_arrows(source, f"replblock.{room}", room)) == 1


def test_the_checker_accepts_right_arrows() -> None:
    lines = ["from . import b", "from ..state.names import Role", "import replblock.wire.packets", "import replblock",
             "from replblock import __version__"]
    assert not wrong_arrows("\n".join(lines), "replblock.core", "core")


@pytest.mark.parametrize(
    "source",
    ["import time", "from random import random", "import os\nos.write(1, b'')", "from os import pread", "open('x')",
     "def f():\n    import threading as t", "from datetime import datetime\ndatetime.now()"],
)
def test_the_checker_sees_an_impurity(source: str) -> None:
    assert len(impurities(source, "replblock.core", "core")) == 1
