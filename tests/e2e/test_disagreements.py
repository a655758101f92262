# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes that do not go together: one clear line on both, nothing half-changed, and the way out works."""

from __future__ import annotations

import os

import nbd
import pytest

from tests.e2e.pair import MIB, Node, Pair
from tests.e2e.waiting import wait_until
from tests.meta.tools import INTERNAL, drbdmeta

DISK_BYTES = 32 * MIB


def both_up(pair: Pair) -> None:
    for node in pair.nodes:
        node.do("up", "r0")


def parted(pair: Pair, rule: str, *words: str) -> str:
    """Wait until a node said why and both stopped; nobody keeps trying. Returns the line."""
    def said() -> str:
        lines = [line for node in pair.nodes for line in node.log().splitlines() if f" {rule}:" in line]
        return next((line for line in lines if all(word in line for word in words)), "")
    line = wait_until(said, f"{rule} with {words} in a log")
    wait_until(lambda: any("StandAlone" in node.state() for node in pair.nodes), "a node StandAlone")
    return line


@pytest.mark.parametrize(
    ("mine", "theirs", "rule", "words"),
    [
        ({"protocol": "A"}, {"protocol": "C"}, "settings-differ", ("protocol", "A", "C")),
        ({"after-sb-0pri": "discard-zero-changes"}, {}, "settings-differ",
         ("after-sb-0pri", "discard-zero-changes", "disconnect")),
        ({"data-integrity-alg": "crc32c"}, {"data-integrity-alg": "md5"}, "settings-differ",
         ("data-integrity-alg", "crc32c", "md5")),
        ({"verify-alg": "md5"}, {"verify-alg": "sha1"}, "settings-differ", ("verify-alg", "md5", "sha1")),
        ({"cram-hmac-alg": "sha1", "shared-secret": "one"}, {"cram-hmac-alg": "sha1", "shared-secret": "two"},
         "auth-failed", ("shared-secret",)),
        ({"cram-hmac-alg": "sha1", "shared-secret": "one"}, {}, "auth-unexpected", ("cram-hmac-alg",)),
        ({}, {"cram-hmac-alg": "sha1", "shared-secret": "one"}, "auth-unexpected", ("cram-hmac-alg",)),
    ],
    ids=["protocol", "after-sb-0pri", "integrity", "verify-alg", "secret", "secret-here-only", "secret-there-only"],
)
def test_settings_that_differ(
    pair: Pair, mine: dict[str, object], theirs: dict[str, object], rule: str, words: tuple[str, ...]
) -> None:
    """The option is named in log and status; made equal, the nodes connect without a restart."""
    pair.make_disks(DISK_BYTES)
    pair.configure((pair.a,), net=mine)
    pair.configure((pair.b,), net=theirs)
    both_up(pair)
    parted(pair, rule, *words)
    for node in pair.nodes:
        assert "Inconsistent" in node.state() and "Secret" not in node.state()
        for line in node.log().splitlines():
            assert " one" not in line and " two" not in line, f"the secret stands in the log: {line}"
    said = "".join(node.why() for node in pair.nodes)
    assert rule in said and all(word in said for word in words)
    reasons = [len([line for line in node.log().splitlines() if f" {rule}:" in line]) for node in pair.nodes]
    assert all(count <= 2 for count in reasons), reasons
    pair.configure(net=theirs)
    for node in pair.nodes:
        node.do("adjust", "r0")
    for node in pair.nodes:
        node.wait_state("Established")


def test_connect_takes_the_options_of_now(pair: Pair) -> None:
    """The way out that the refusal names: make them equal, then connect, as with drbdadm."""
    pair.make_disks(DISK_BYTES)
    pair.configure((pair.a,), net={"cram-hmac-alg": "sha1", "shared-secret": "right"})
    pair.configure((pair.b,), net={"cram-hmac-alg": "sha1", "shared-secret": "wrong"})
    both_up(pair)
    parted(pair, "auth-failed")
    pair.configure(net={"cram-hmac-alg": "sha1", "shared-secret": "right"})
    for node in pair.nodes:
        if "StandAlone" not in node.state():
            node.do("disconnect", "r0")
        node.do("connect", "r0")
    for node in pair.nodes:
        node.wait_state("Established")


def test_a_smaller_peer_of_a_fresh_device_decides_the_size(pair: Pair) -> None:
    pair.a.make_disk(48 * MIB)
    pair.b.make_disk(32 * MIB)
    pair.clean()
    sizes = {node.device["size"] for node in pair.nodes}
    assert len(sizes) == 1 and sizes.pop() < 32 * 1024
    pair.a.do("primary", "r0")
    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    assert handle.get_size() == pair.a.device["size"] * 1024
    handle.pwrite(os.urandom(MIB), handle.get_size() - MIB)
    handle.shutdown()
    pair.assert_same_data()


def test_a_smaller_peer_of_a_device_in_use_is_refused(pair: Pair) -> None:
    """A replaced disk that is too small: the device never shrinks under its data."""
    pair.make_disks(48 * MIB)
    pair.clean()
    pair.a.do("primary", "r0")
    size = pair.a.device["size"]
    pair.b.do("down", "r0")
    pair.b.make_disk(32 * MIB)
    pair.b.do("up", "r0")
    parted(pair, "peer-too-small", "too small", str(size))
    assert pair.a.device["size"] == size and "Primary" in pair.a.state() and "UpToDate" in pair.a.state()
    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    handle.pwrite(bytes(512), handle.get_size() - 512)
    handle.shutdown()
    pair.b.do("down", "r0")
    pair.b.make_disk(48 * MIB)
    pair.b.do("up", "r0")
    if "StandAlone" in pair.a.state():
        pair.a.do("connect", "r0")
    pair.assert_same_data()


def alone(node: Node, text: bytes) -> None:
    """Primary, a write, Secondary."""
    node.do("primary", "r0")
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    handle.pwrite(text.ljust(4096, b"."), 0)
    handle.shutdown()
    wait_until(lambda: node.try_("secondary", "r0").code == 0, "demotion")


def first_block(node: Node) -> bytes:
    return next(node.data())[:4096]


def test_unrelated_data(pair: Pair) -> None:
    """Initialised independently: DRBD's own words, both data sets whole; create-md on one of them is the way out."""
    pair.make_disks(DISK_BYTES)
    for node, digit in zip(pair.nodes, "19"):
        generations = ":".join((digit + "0").ljust(15, letter) + "0" for letter in "abc")       # with a past of its own
        done = drbdmeta(node.disk, INTERNAL, "set-gi", generations.replace(":", ":0:", 1) + ":1:1")
        assert done.exit_code == 0, done
        node.do("up", "r0")
        node.do("disconnect", "r0")
        alone(node, node.name.encode())
        node.do("down", "r0")
    both_up(pair)
    parted(pair, "unrelated-data-refused", "Unrelated data", "replctl create-md")
    assert first_block(pair.a).startswith(b"alfa.") and first_block(pair.b).startswith(b"beta.")
    pair.b.do("down", "r0")
    pair.b.do("create-md", "--force", "r0")
    pair.b.do("up", "r0")
    if "StandAlone" in pair.a.state():
        pair.a.do("connect", "r0")
    pair.assert_same_data()
    assert first_block(pair.b).startswith(b"alfa.")


def test_split_brain_waits_for_the_operator(pair: Pair) -> None:
    """Both wrote alone: nobody discards anything by itself; discard-my-data on one resolves it, in its direction."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    for node in pair.nodes:
        node.do("disconnect", "r0")
    for node in pair.nodes:
        node.do("primary", "r0")
        handle = nbd.NBD()
        handle.connect_uri(node.uri)
        handle.pwrite(node.name.encode().ljust(4096, b"."), 0)
        handle.pwrite(os.urandom(65536), MIB if node is pair.a else 2 * MIB)
        handle.shutdown()
        wait_until(lambda node=node: node.try_("secondary", "r0").code == 0, "demotion")  # type: ignore[misc]
    for node in pair.nodes:
        node.do("connect", "r0")
    parted(pair, "split-brain-unresolved", "nothing was discarded", "--discard-my-data")
    assert first_block(pair.a).startswith(b"alfa.") and first_block(pair.b).startswith(b"beta.")
    for node in pair.nodes:
        if "StandAlone" not in node.state():
            node.do("disconnect", "r0")
    pair.a.do("connect", "--discard-my-data", "r0")
    pair.b.do("connect", "r0")
    pair.assert_same_data()
    assert first_block(pair.a).startswith(b"beta.")


@pytest.mark.parametrize("which", ["primary", "secondary"])
def test_invalidate_after_a_skipped_first_sync(pair: Pair, which: str) -> None:
    """The target ends in its source's generation: if both crash now, neither takes the other for a fresh disk."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("primary", "r0")
    (pair.a if which == "primary" else pair.b).do("invalidate", "r0")
    handle = nbd.NBD()
    handle.connect_uri(pair.a.uri)
    handle.pwrite(b"kept".ljust(4096, b"."), 0)
    handle.flush()
    pair.assert_same_data()
    for node in pair.nodes:
        node.kill()
    both_up(pair)
    pair.assert_same_data()
    assert "just-created" not in pair.a.log().rpartition("engine-up")[2]
    assert first_block(pair.a).startswith(b"kept.")
