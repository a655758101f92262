# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that cannot be used, and disks that fail while in use: one clear line, nothing lost or half-changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbd
import pytest

from tests.e2e.namespaces import call
from tests.e2e.pair import MIB, Node, Pair
from tests.e2e.waiting import wait_until
from tests.meta.tools import INTERNAL, drbdmeta

DISK_BYTES = 32 * MIB


def refused_up(node: Node, number: int, *words: str) -> None:
    """`up` fails with exit code 10 and DRBD's number; the reason is in the first lines; nothing is left running."""
    said = node.refused("up", "r0", code=10)
    assert f"Failure: ({number})" in said.splitlines()[0], said
    for word in words:
        assert word in said, said
    assert not node.alive()
    assert "Traceback" not in said + node.log()


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_disk(pair: Pair) -> None:
    refused_up(pair.a, 104, "Can not open backing device", str(pair.a.disk), "no such file")
    said = pair.a.try_("create-md", "r0")
    assert said.code != 0 and str(pair.a.disk) in said.err


def test_something_that_is_no_disk(pair: Pair) -> None:
    pair.a.disk.mkdir()
    refused_up(pair.a, 104, "neither a block device nor a file")


def test_a_disk_without_metadata(pair: Pair) -> None:
    pair.a.make_disk(DISK_BYTES, metadata=False)
    before = checksum(pair.a.disk)
    refused_up(pair.a, 119, "No valid meta-data signature found", "replctl create-md r0")
    assert checksum(pair.a.disk) == before


@pytest.mark.parametrize("version", ["v07", "v09"])
def test_metadata_of_another_version(pair: Pair, version: str) -> None:
    """Written by drbdmeta itself: named in the refusal, and left as it is."""
    pair.a.make_disk(256 * MIB if version == "v07" else DISK_BYTES, metadata=False)     # v07 takes 128 MiB
    more = ["1"] if version == "v09" else []
    done = drbdmeta(pair.a.disk, INTERNAL, "create-md", *more, version=version)
    assert done.exit_code == 0, done
    before = checksum(pair.a.disk)
    refused_up(pair.a, 119, {"v07": "v07", "v09": "DRBD 9"}[version])
    assert checksum(pair.a.disk) == before


def test_a_disk_that_is_too_small(pair: Pair) -> None:
    pair.a.make_disk(64 * 1024, metadata=False)
    said = pair.a.try_("create-md", "r0")
    assert said.code != 0 and "small" in said.err, said
    before = checksum(pair.a.disk)
    assert pair.a.try_("up", "r0").code == 10
    assert checksum(pair.a.disk) == before


def test_a_disk_that_became_shorter(pair: Pair) -> None:
    """Internal metadata was at the end: it is gone, and nothing is invented in its place."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    pair.a.do("down", "r0")
    os.truncate(pair.a.disk, DISK_BYTES - MIB)
    refused_up(pair.a, 119)


def test_a_size_that_the_disk_does_not_have(pair: Pair) -> None:
    pair.make_disks(DISK_BYTES)
    pair.configure((pair.a,), disk={"size": "1G"})
    refused_up(pair.a, 111, "size")


def test_a_disk_in_use(pair: Pair) -> None:
    """Another engine on the same disk: the second is refused, the first does not notice."""
    pair.make_disks(DISK_BYTES)
    pair.clean()
    other = Node("alfa", pair.directory / "again", pair.a.address)
    other.run_dir.mkdir(parents=True)
    other.config.write_text(pair.a.config.read_text())
    try:
        refused_up(other, 114, "in use")
    finally:
        other.clean_up()
    assert "Established UpToDate/UpToDate" in pair.a.state()
    said = pair.a.try_("create-md", "--force", "r0")
    assert said.code != 0 and "is configured" in said.err


@contextmanager
def read_only_loop(path: Path) -> Iterator[str]:
    device = call("losetup", "--find", "--show", "--read-only", str(path)).strip()
    try:
        yield device
    finally:
        call("losetup", "-d", device)


@pytest.mark.root
def test_a_read_only_disk(pair: Pair) -> None:
    pair.make_disks(DISK_BYTES)
    with read_only_loop(pair.a.disk) as device:
        text = pair.a.config.read_text().replace(f"disk {pair.a.disk};", f"disk {device};")
        pair.a.config.write_text(text)
        refused_up(pair.a, 104, device, "read-only")


@contextmanager
def small_file_system(directory: Path, size_bytes: int) -> Iterator[Path]:
    directory.mkdir()
    call("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True, timeout=20)


def on_small_disk(pair: Pair, node: Node, directory: Path) -> None:
    """The node's disk becomes a sparse file that promises more than there is."""
    small = directory / "disk"
    for one in pair.nodes:
        one.config.write_text(one.config.read_text().replace(f"disk {node.disk};", f"disk {small};"))
    with small.open("wb") as file:
        file.truncate(DISK_BYTES)
    node.do("create-md", "r0")


def write_all(node: Node, mib: int) -> bytes:
    """MiB after MiB through the door; every write must succeed, and be read back."""
    handle = nbd.NBD()
    handle.connect_uri(node.uri)
    content = os.urandom(mib * MIB)
    for at in range(0, len(content), MIB // 4):
        handle.pwrite(content[at:at + MIB // 4], at)
    handle.flush()
    for at in range(0, len(content), MIB):
        assert handle.pread(MIB, at) == content[at:at + MIB], f"MiB {at // MIB} is not what was written"
    handle.shutdown()
    return content


@pytest.mark.root
@pytest.mark.parametrize("protocol", ["A", "C"])
def test_a_full_file_system_under_the_primary(pair: Pair, protocol: str) -> None:
    """ENOSPC → on-io-error detach: the application goes on through the peer and loses nothing."""
    pair.configure(net={"protocol": protocol})
    with small_file_system(pair.directory / "small", 12 * MIB) as directory:
        on_small_disk(pair, pair.a, directory)
        pair.b.make_disk(DISK_BYTES)
        pair.clean()
        pair.a.do("primary", "r0")
        content = write_all(pair.a, 24)
        pair.a.wait_state("Primary Connected Established Diskless/UpToDate")
        assert "No space left on device" in pair.a.why()
        errors = [line for line in pair.a.log().splitlines() if "No space left" in line]
        assert len(errors) <= 3, errors
        assert pair.a.do("dstate", "r0") == "Diskless/UpToDate\n"
        assert b"".join(pair.b.data())[:24 * MIB] == content
        wait_until(lambda: pair.a.try_("secondary", "r0").code == 0, "demotion")
        pair.b.do("primary", "r0")
        assert "UpToDate/Diskless" in pair.b.state()
        # a larger disk: fresh metadata, a full sync, and all is well
        call("mount", "-o", f"remount,size={64 * MIB}", str(directory))
        pair.a.do("down", "r0")
        pair.a.do("create-md", "--force", "r0")
        pair.a.do("up", "r0")
        pair.settle()
        assert b"".join(pair.a.data(directory / "disk"))[:24 * MIB] == content
        pair.a.do("down", "r0")


@pytest.mark.root
def test_a_full_file_system_under_the_secondary(pair: Pair) -> None:
    """The secondary detaches; the primary does not even slow down, and knows what the peer lacks."""
    with small_file_system(pair.directory / "small", 12 * MIB) as directory:
        on_small_disk(pair, pair.b, directory)
        pair.a.make_disk(DISK_BYTES)
        pair.clean()
        pair.a.do("primary", "r0")
        content = write_all(pair.a, 24)
        pair.a.wait_state("Primary Connected Established UpToDate/Diskless")
        assert "No space left on device" in pair.b.why()
        assert b"".join(pair.a.data())[:24 * MIB] == content
        call("mount", "-o", f"remount,size={64 * MIB}", str(directory))
        pair.b.do("attach", "r0")
        pair.settle()
        assert b"".join(pair.b.data(directory / "disk"))[:24 * MIB] == content
        pair.b.do("down", "r0")


@pytest.mark.root
def test_both_file_systems_full(pair: Pair) -> None:
    """No data anywhere: the application gets an error, not silence; what was flushed before stands."""
    with small_file_system(pair.directory / "small", 12 * MIB) as one, \
            small_file_system(pair.directory / "small2", 12 * MIB) as two:
        for node, directory in ((pair.a, one), (pair.b, two)):
            on_small_disk(pair, node, directory)
        pair.clean()
        pair.a.do("primary", "r0")
        handle = nbd.NBD()
        handle.connect_uri(pair.a.uri)
        content = os.urandom(4 * MIB)
        handle.pwrite(content, 0)
        handle.flush()
        with pytest.raises(nbd.Error) as failure:
            for at in range(4, 30):
                handle.pwrite(os.urandom(MIB), at * MIB)
        assert failure.value.errnum in (5, 28)
        assert pair.a.alive() and pair.b.alive()
        handle.shutdown()
        for directory in (one, two):
            assert (directory / "disk").read_bytes()[:4 * MIB] == content
        pair.a.do("down", "r0")
        pair.b.do("down", "r0")
