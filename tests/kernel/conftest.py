# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair of guests as a fixture. Where no guest can start the tests are skipped; the reason says what is missing.

Tests marked `long` run with REPLBLOCK_KERNEL_TESTS=all only: `make kernel-test`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.kernel.boot import NoGuest
from tests.kernel.crm import Cluster
from tests.kernel.mixed import MixedPair, mixed_pair
from tests.kernel.network import NetworkError
from tests.kernel.pair import Pair, two_guests, two_machines
from tests.kernel.shop import Node, Shop
from tests.kernel.timeline import rows, table

ALL = os.environ.get("REPLBLOCK_KERNEL_TESTS") == "all"
PAIRS: pytest.StashKey[list[Pair]] = pytest.StashKey()
FAILED: pytest.StashKey[bool] = pytest.StashKey()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.get_closest_marker("long") and not ALL]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two configured guests with blank disks; `@pytest.mark.machines(memory_mib=128)` makes them otherwise."""
    marker = request.node.get_closest_marker("machines")
    made = two_machines(lambda pair: request.node.stash.setdefault(PAIRS, []).append(pair),
                        **(marker.kwargs if marker else {}))  # fmt: skip
    try:
        pair = made.__enter__()
    except (NoGuest, NetworkError) as reason:
        pytest.skip(str(reason))
    try:
        yield pair
    finally:
        made.__exit__(None, None, None)


@pytest.fixture(scope="module", params=["replblock-primary", "kernel-primary"])
def mixed_guests(request: pytest.FixtureRequest) -> Iterator[MixedPair]:
    """dados, the first Primary, is one of the two, backup the other; they serve all the tests of a module."""
    made = mixed_pair("dados" if request.param == "replblock-primary" else "backup")
    try:
        pair = made.__enter__()
    except (NoGuest, NetworkError) as reason:
        pytest.skip(str(reason))
    try:
        yield pair
    finally:
        made.__exit__(None, None, None)


@pytest.fixture
def mixed(request: pytest.FixtureRequest, mixed_guests: MixedPair) -> Iterator[MixedPair]:
    """replblock and the kernel's DRBD with blank disks; after a failed test they begin anew."""
    request.node.stash.setdefault(PAIRS, []).append(mixed_guests)
    yield mixed_guests
    if request.node.stash.get(FAILED, False):
        mixed_guests.begin_again()


@pytest.fixture
def supermarket(request: pytest.FixtureRequest) -> Iterator[Shop]:
    """The two machines of the model deployment, with ext3 on the device and everything down.

    `@pytest.mark.machines(kernel_drbd=True)`: with the guests' own DRBD, to compare.
    """
    marker = request.node.get_closest_marker("machines")
    wanted = dict(marker.kwargs) if marker else {}
    kernel_drbd = wanted.pop("kernel_drbd", False)
    made = two_guests(**{"memory_mib": 384, **wanted})
    try:
        guests = made.__enter__()
    except (NoGuest, NetworkError) as reason:
        pytest.skip(str(reason))
    try:
        shop = Shop([Node(guest) for guest in guests])
        request.node.stash.setdefault(PAIRS, []).append(shop)
        for node in (shop.dados, shop.backup):
            node.kernel_drbd = kernel_drbd
            if kernel_drbd and node.guest.run("test", "-e", "/proc/drbd").code:
                pytest.skip("no DRBD in the guests' kernel")
        shop.furnish()
        shop.first_day()
        yield shop
    finally:
        made.__exit__(None, None, None)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The two machines of a Pacemaker cluster, which is not started; `@pytest.mark.cluster(fencing="resource-only",
    properties="stonith-enabled=false")` configures it otherwise.
    """
    marker = request.node.get_closest_marker("cluster")
    options = {"fencing": "resource-and-stonith", "properties": "", "resync_rate": "2G",
               **(marker.kwargs if marker else {})}  # fmt: skip
    made = two_guests(memory_mib=512)
    try:
        guests = made.__enter__()
    except (NoGuest, NetworkError) as reason:
        pytest.skip(str(reason))
    try:
        cluster = Cluster(guests, options["properties"])
        request.node.stash.setdefault(PAIRS, []).append(cluster)
        try:
            cluster.first_day(options["fencing"], options["resync_rate"])
            yield cluster
        finally:
            cluster.close()
    finally:
        made.__exit__(None, None, None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
        for pair in item.stash.get(PAIRS, []):
            report.sections += pair.sections()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if rows:
        terminalreporter.section("take-overs, seconds after the fault")
        for line in table():
            terminalreporter.write_line(line)
