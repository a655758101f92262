# SPDX-License-Identifier: GPL-2.0-or-later
"""The shape of the tree: small modules, a licence line in each, nothing that belongs to somebody's own machine."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MAX_MODULE_LINES = 450
NOT_OURS = {"__pycache__", "build", "dist", "results"}
SPDX = "SPDX-License-Identifier: GPL-2.0-or-later"
# Put together from pieces, so that this file does not contain them.
FORBIDDEN = re.compile("|".join(map(re.escape, ("/wor" + "k/", "share" + "d/", "fact" + "s §", "/op" + "t/"))))


def files() -> Iterator[Path]:
    """All files of the tree, those not yet committed included; caches, results and the virtual environment left out."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f == ".ci" or not (f.startswith(".") or f in NOT_OURS or ".egg-" in f)]
        yield from (Path(folder, name) for name in names if not name.endswith((".pyc", ".swp", ".git")))


def text(path: Path) -> str | None:
    """The file's text, None if it is not text (captures, images)."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def is_program(path: Path) -> bool:
    """Whether it holds code; an empty package marker does not."""
    if not path.stat().st_size:
        return False
    executable = path.stat().st_mode & stat.S_IXUSR
    return path.suffix in (".py", ".sh") or bool(executable and path.read_bytes().startswith(b"#!"))


def test_modules_are_small() -> None:
    long = {p: len((text(p) or "").splitlines()) for p in files() if p.suffix == ".py"}
    too_long = sorted((f"{n:5} {p.relative_to(ROOT)}" for p, n in long.items() if n > MAX_MODULE_LINES), reverse=True)
    assert not too_long, f"over {MAX_MODULE_LINES} lines; one job a file:\n" + "\n".join(too_long)


def test_programs_carry_the_licence_line() -> None:
    def has_line(path: Path) -> bool:
        return any(SPDX in line for line in (text(path) or "").splitlines()[:3])

    bare = sorted(str(p.relative_to(ROOT)) for p in files() if is_program(p) and not has_line(p))
    assert not bare, f"the first three lines lack {SPDX!r}: {bare}"


def test_nothing_points_outside_the_tree() -> None:
    found = []
    for path in files():
        for number, line in enumerate((text(path) or "").splitlines(), 1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r}")
    assert not found, "\n".join(found)


def test_the_licence_is_whole() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Version 2, June 1991" in licence and "END OF TERMS AND CONDITIONS" in licence
