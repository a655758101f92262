# SPDX-License-Identifier: GPL-2.0-or-later
"""The share of the fuzzing that every run of the tests does: the corpus, what once crashed, and new inputs from a seed.

The campaign is `make fuzz`; see docs/fuzzing.md.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.fuzz.mutate import CORPUS, CRASHES, inputs_of, stream
from tests.fuzz.targets import TARGETS

KEPT = [(name, kind) for name in TARGETS for kind in (CORPUS, CRASHES)]
PARTS = 4
SEED = os.environ.get("FUZZ_SEED") or os.urandom(4).hex()


@pytest.mark.parametrize(("target", "folder"), KEPT, ids=[f"{name}-{kind.name}" for name, kind in KEPT])
def test_what_is_kept(target: str, folder: Path) -> None:
    """Every seed, and every input that once was a defect."""
    for name, data in inputs_of(folder, target):
        try:
            TARGETS[target].run(data)
        except Exception as problem:
            problem.add_note(f"input {folder.name}/{target}/{name}")
            raise


def test_every_folder_has_its_target() -> None:
    folders = {path.name for kind in (CORPUS, CRASHES) for path in kind.iterdir()}
    assert folders <= set(TARGETS)
    assert all(inputs_of(CORPUS, name) for name in TARGETS)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("target", TARGETS)
def test_new_inputs(target: str, part: int, tmp_path: Path) -> None:
    """Other ones in each run; a failure leaves its input, to be kept in tests/fuzz/crashes."""
    pool = [data for kind in (CORPUS, CRASHES) for _, data in inputs_of(kind, target)]
    share = TARGETS[target].share // PARTS
    seed = int(SEED, 16) * PARTS + part
    for number, data in enumerate(itertools.islice(stream(seed, pool), share)):
        try:
            TARGETS[target].run(data)
        except Exception as problem:
            kept = tmp_path / "input"
            kept.write_bytes(data)
            problem.add_note(f"input {number} of FUZZ_SEED={SEED}, kept as {kept}: {data[:200].hex()}")
            raise
