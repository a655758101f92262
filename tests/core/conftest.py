# SPDX-License-Identifier: GPL-2.0-or-later
"""Worlds hold large disks in reference cycles: what the tests left behind goes when it has become much."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

MUCH_PAGES = 40_000
_kept_pages = 0


@pytest.fixture(autouse=True)
def worlds_go() -> Iterator[None]:
    global _kept_pages
    yield
    if _resident_pages() > _kept_pages + MUCH_PAGES:
        gc.collect()
        _kept_pages = _resident_pages()


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
