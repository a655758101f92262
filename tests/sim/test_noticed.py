# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest rules: a schedule for each notices when it is broken, whatever the product's timing has become since.

A schedule hangs on milliseconds. Where it has become blind as it stands, other seeds of chance are tried with it; if
none of them notices either, find another one (docs/simulation.md says how).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.sim.mutate import apply, noticing
from tests.sim.mutations import MUTATIONS

NOTICED_BY = {
    "target-by-order-not-saved-before-an-answer": "answered-before-its-disk-said-outdated",
    "crashed-since-the-end-not-known": "crashed-target-of-a-source-that-did-not-hear",
    "promotion-flushes-after-its-new-generation": "generation-of-a-promotion-that-failed",
    "generation-before-the-data-it-speaks-of": "generation-before-its-data",
    "answers-to-an-older-resync-taken": "answer-from-before-the-detach",
    "attach-heard-of-before-it-is-refused": "kernel-heard-of-a-refused-disk",
    "heard-of-refused-and-gone": "kernel-heard-of-a-disk-that-had-lost-writes-refused",
    "failure-while-detaching-not-told": "failed-under-a-detach-and-unheard",
    "given-up-in-the-middle-of-writes": "read-failed-under-writes",
    "last-copy-counts-as-unchanged": "last-write-of-a-failing-disk-uncounted",
    "answered-while-its-data-goes": "held-write-of-a-loser",
    "ahead-by-order-unnamed": "answered-ahead-of-a-peer-that-was-ordered-away",
    "outdated-crash-is-the-source": "crashed-while-outdated-and-the-source-when-the-other-one-was-outdated-too",
    "frozen-when-its-disk-goes": "frozen-when-its-disk-went",
    "answered-unheard": "attach-unheard-of",
    "demoted-and-its-log-counts-no-more": "demoted-by-a-policy-without-a-flush",
    "worse-target-says-nothing": "target-that-is-worse-without-its-source",
    "crash-remembered-for-ever": "crash-of-before-the-resync",
    "agreed-before-it-is-for-good": "promoted-on-a-copy-that-forgot-it",
}
ENOUGH_SEEDS = 40


@pytest.mark.parametrize("name", NOTICED_BY)
def test_its_schedule_notices(name: str) -> None:
    """And the unchanged product passes: test_once_failed.py."""
    mutation = next(m for m in MUTATIONS if m.name == name)
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        apply(mutation, Path(directory))
        how = noticing(directory, NOTICED_BY[name], ENOUGH_SEEDS)
    assert how, f"{NOTICED_BY[name]} is blind to {name}: {mutation.breaks}"
