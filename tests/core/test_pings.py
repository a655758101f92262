# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever waits for a ping's ack wants everything handled that the peer had sent on that connection before."""

from __future__ import annotations

from .world import MIB, World


def test_a_ping_on_its_way_proves_nothing_about_what_came_after_it() -> None:
    """Its ack may have left the peer already: who comes later waits for the ack of another one."""
    world = World(1, size_bytes=16 * MIB).pair()
    links = world.a.resource.links
    heard: list[str] = []
    links.ping(lambda: heard.append("first"))
    links.ping(lambda: heard.append("second"))
    world.run_until(lambda: bool(heard))
    assert heard == ["first"]
    world.run_until(lambda: len(heard) == 2)
    assert heard == ["first", "second"]
