# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of ways to break the product fits the product, and the simulator still notices the grossest of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sim.mutate import ROOT, apply, try_one
from tests.sim.mutations import MUTATIONS

GROSS = ("alone-not-marked", "barrier-ack-before-the-flush", "stale-side-is-the-source")
ENOUGH_SEEDS = 400


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_is_to_be_changed_stands_there_once(mutation) -> None:  # type: ignore[no-untyped-def]
    """And what comes out is still Python."""
    for name, before, after in mutation.edits:
        text = (ROOT / "replblock" / name).read_text(encoding="utf-8")
        assert text.count(before) == 1
        compile(text.replace(before, after), name, "exec")


def test_names_are_unique() -> None:
    """There are enough of them, too."""
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 50


@pytest.mark.parametrize("name", GROSS)
def test_it_is_noticed(name: str) -> None:
    """All of them, and how many seeds it takes: make mutants."""
    mutation = next(m for m in MUTATIONS if m.name == name)
    result = try_one(mutation, random.SystemRandom().randrange(1 << 32), ENOUGH_SEEDS)
    assert result.caught, f"{name} survived {ENOUGH_SEEDS} seeds: {mutation.breaks}"


def test_a_mutation_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Nothing is tried with an unchanged product by mistake."""
    with pytest.raises(ValueError, match="stands 0 times"):
        apply(MUTATIONS[0]._replace(before="no such line"), tmp_path)
