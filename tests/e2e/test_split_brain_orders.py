# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator may order about data: discard-my-data, outdate, invalidate; and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.splits import leave, meet, on_disk, said, settled, split, up, view, wait_view
from tests.engine.nodes import Node

Pair = tuple[Node, Node]
Engines = Callable[..., Pair]


@pytest.mark.parametrize("loser", [0, 1])
def test_discard_my_data_is_obeyed_in_its_direction(engines: Engines, loser: int) -> None:
    pair = engines()
    split(pair, (3, 1), primaries=())
    meet(pair, discard=pair[loser])
    settled(pair)
    assert on_disk(pair[0]) == on_disk(pair[1]) and on_disk(pair[0]).startswith(pair[1 - loser].host.encode())
    assert all("discard-my-data" in said(node) for node in pair)


def test_discard_my_data_on_both_decides_nothing(engines: Engines) -> None:
    pair = engines()
    split(pair, (3, 1), primaries=())
    for node in pair:
        node.do("connect", discard_my_data=True)
    for node in pair:
        wait_view(node, conn="StandAlone", disk="UpToDate")
    assert [on_disk(node)[:5] for node in pair] == [b"alpha", b"beta."]


def test_discard_my_data_is_not_for_a_primary(engines: Engines) -> None:
    alpha, beta = pair = engines()
    split(pair, (3, 1), primaries=[alpha])
    found = alpha.ask("connect", discard_my_data=True)
    assert found["exit_code"] == 10 and "(123) --discard-my-data not allowed when primary." in found["lines"][0]
    assert view(alpha).conn == "StandAlone"
    meet(pair, discard=beta)
    settled(pair)
    assert on_disk(beta).startswith(b"alpha")


def test_outdate_forbids_promotion_and_survives_a_restart(engines: Engines) -> None:
    pair = beta, alpha = engines()
    assert beta.ask("outdate")["exit_code"] == 11, "connected"
    leave(pair)
    beta.do("outdate")
    assert view(beta).disk == "Outdated"
    for _ in range(2):
        found = beta.ask("primary")
        assert found["exit_code"] == 17 and "(-2)" in found["lines"][0] and view(beta).role == "Secondary"
        beta.kill()
        beta.start()
        beta.do("attach")
        assert view(beta).disk == "Outdated"
    alpha.do("primary")
    found = alpha.ask("outdate")
    assert found["exit_code"] == 17 and view(alpha).disk == "UpToDate", found
    meet(pair)
    settled(pair)


def test_invalidate(engines: Engines) -> None:
    """Of a StandAlone Secondary: Inconsistent, outdate says 5; the peer brings everything."""
    alpha, beta = pair = engines()
    split(pair, (3, 1), primaries=())
    beta.do("invalidate")
    assert view(beta).disk == "Inconsistent" and beta.ask("outdate")["exit_code"] == 5
    beta.kill()
    meet([alpha])
    up(beta)
    settled(pair)
    assert on_disk(beta).startswith(b"alpha")
