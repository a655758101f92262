# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair as a fixture; its logs stand in the report of a failed test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.pair import Pair, make_pair
from tests.e2e.shop import Shop, make_shop
from tests.e2e.splits import clean_pair
from tests.engine.nodes import Node

PAIRS: pytest.StashKey[list[Pair]] = pytest.StashKey()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two configured nodes without disks."""
    with make_pair(lambda made: request.node.stash.setdefault(PAIRS, []).append(made)) as made:
        yield made


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    """The model deployment's two machines, disks and metadata there, nothing up."""
    with make_shop(lambda made: request.node.stash.setdefault(PAIRS, []).append(made)) as made:
        yield made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def engines() -> Iterator[Callable[..., tuple[Node, Node]]]:
    """engines(options of splits.clean_pair): two bare engines in sync, gone after the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[Node, Node]:
            return stack.enter_context(clean_pair(_free_port, **options))

        yield make


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        for pair in item.stash.get(PAIRS, []):
            report.sections += pair.sections()
