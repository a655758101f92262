# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents say of the tree is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted((ROOT / "docs").glob("*.md")) + [ROOT / "README.md"]


def exists(name: str) -> bool:
    """A file or folder of that name below tests/, or a pattern that matches one."""
    path = name.removeprefix("tests/")
    return any((ROOT / "tests").rglob(path)) or (ROOT / name).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(document: Path) -> None:
    """Files, folders and functions."""
    text = document.read_text(encoding="utf-8")
    missing = []
    for word in re.findall(r"`((?:tests/[\w/.*]+|test_[\w.*]+)(?:::\w+)?)`", text):
        file, _, function = word.partition("::")
        name = re.sub(r"/[A-Z]+.*", "", file).rstrip("/")  # TARGET and the like stand for any
        if name.startswith("test_") and not name.endswith(".py"):
            name, function = "tests", name
        if not exists(name):
            missing.append(word)
        elif function:
            places = (
                [ROOT / name] if (ROOT / name).is_dir() else list((ROOT / "tests").rglob(name.removeprefix("tests/")))
            )
            files = [f for place in places for f in (place.rglob("*.py") if place.is_dir() else [place])]
            if not any(f"def {function}(" in f.read_text(encoding="utf-8") for f in files):
                missing.append(word)
    assert not missing, f"{document.name} names what is not there: {missing}"


def test_every_invariant_names_its_tests() -> None:
    """Ten rows, none of them empty."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", (ROOT / "docs/invariants.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 11))
    assert all("tests/" in tests for _, _, tests in rows)
