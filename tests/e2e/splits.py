# SPDX-License-Identifier: GPL-2.0-or-later
"""Real pairs of engines, and real split brains: both nodes wrote alone on top of the same data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbd

from tests.engine.conftest import wait_for
from tests.engine.nodes import Node, nodes

KIB = 1024
BLOCK = 4 * KIB
DISK_BYTES = 8 << 20
QUICK = "connect-int 1; ping-int 1; ping-timeout 30;"


class View(NamedTuple):
    """What one node says about itself and its peer."""

    conn: str
    role: str
    disk: str
    peer_disk: str


def view(node: Node) -> View:
    status = node.status()
    links = status["connections"]
    conn = links[0]["connection-state"] if links else "StandAlone"
    there = links[0]["peer_devices"][0]["peer-disk-state"] if links else "DUnknown"
    if conn == "Connected":
        conn = links[0]["peer_devices"][0]["replication-state"]
    return View(conn, status["role"], status["devices"][0]["disk-state"], there)


def wait_view(node: Node, **wanted: str) -> None:
    """Wait until all these words are said; the message of a failure has the log."""
    try:
        words = wanted.items()
        wait_for(lambda: all(getattr(view(node), key) == word for key, word in words), f"{node.host}: {wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}; is {view(node)}\n{node.log()}") from None


def up(node: Node) -> None:
    node.start()
    node.do("attach")
    node.do("connect")


@contextmanager
def clean_pair(
    port: Callable[[], int], net: str = "", net_beta: str | None = None, disk: str = "", handlers: str = "",
    protocol: str = "C",
) -> Iterator[tuple[Node, Node]]:
    """alpha and beta, connected, Secondary and UpToDate without a resync (all zeroes)."""
    with tempfile.TemporaryDirectory(prefix="rb-sb-") as name:
        directory = Path(name)
        disk = "resync-rate 1G; c-plan-ahead 0; c-min-rate 0;" + disk
        with nodes(directory, port, net=QUICK + net, disk=disk, handlers=handlers,
                   size_bytes=DISK_BYTES, protocol=protocol) as pair:
            if net_beta is not None:
                text = pair[0].config.read_text()
                assert net in text
                pair[1].config = directory / "beta.conf"
                pair[1].config.write_text(text.replace(net, net_beta))
            for node in pair:
                up(node)
            for node in pair:
                wait_view(node, conn="Established")
            pair[0].do("new_current_uuid", clear_bitmap=True)
            for node in pair:
                wait_view(node, conn="Established", disk="UpToDate", peer_disk="UpToDate")
            yield pair


def door(node: Node) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_unix(str(node.socket))
    return handle


def write(node: Node, blocks: int = 1, text: str = "") -> None:
    """So many blocks of the node's own, from the start of the device; flushed, and nobody holds the device any more."""
    handle = door(node)
    for number in range(blocks):
        handle.pwrite((text or node.host).encode().ljust(BLOCK, b"."), number * BLOCK)
    handle.flush()
    handle.shutdown()
    # the door's thread may need a moment to see that its client has left: until then the node cannot be demoted
    wait_for(lambda: not node.status()["replblock-generations"]["here"]["in-use"], f"{node.host}: the device is closed")


def secondary(node: Node) -> None:
    """Demotion may find the door's thread before it has seen that its client has left."""
    wait_for(lambda: node.ask("secondary")["exit_code"] == 0, f"{node.host} secondary")


def on_disk(node: Node, size: int = BLOCK) -> bytes:
    with open(node.disk, "rb") as file:
        return file.read(size)


def leave(pair: Sequence[Node]) -> None:
    for node in pair:
        if view(node).conn != "StandAlone":
            node.ask("disconnect", force=True)
        wait_view(node, conn="StandAlone")


def split(pair: tuple[Node, Node], blocks: tuple[int, int], primaries: Sequence[Node]) -> None:
    """alpha was Primary when they parted, beta became so later; both write; both are StandAlone at the end.

    So many blocks each; (0, n): only the generation moved on here. `primaries` stay Primary.
    """
    alpha, beta = pair
    alpha.do("primary")
    beta.do("disconnect")
    wait_view(beta, conn="StandAlone")
    leave(pair)
    beta.do("primary", force=True)
    for node, count in zip(pair, blocks):
        if count:
            write(node, count)
        if node not in primaries:
            secondary(node)


def meet(pair: Sequence[Node], discard: Node | None = None) -> None:
    for node in pair:
        node.do("connect", **({"discard_my_data": True} if node is discard else {}))


def attempts(node: Node) -> int:
    """How often this node began a handshake, by its log."""
    return node.log().count("version-agreed")


def said(node: Node) -> str:
    """What status says about how it came to this."""
    return "\n".join(f"{w['rule']}: {w['text']}" for w in node.status()["replblock-why"])


def settled(pair: tuple[Node, Node]) -> None:
    for node in pair:
        wait_view(node, conn="Established", disk="UpToDate", peer_disk="UpToDate")
