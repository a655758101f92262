# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment: its drbd.conf and its Heartbeat script as they stand, on two machines dados and backup.

/dev/sda1 is a loop device in each machine's /dev, so not even `disk` is changed; ext3 on /dev/drbd0, /home from fstab.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import PAIRS
from tests.e2e.namespaces import Space, device_number, loop_device, two_spaces
from tests.e2e.pair import MIB, ROOT, Node, Pair, make_pair
from tests.e2e.waiting import wait_until

CASE_CONF = ROOT / "tests" / "conf" / "corpus" / "case-8.3.conf"
CASE_SCRIPT = Path(__file__).parent / "case" / "resource.d-drbd"
DISK_BYTES = 320 * MIB
FSTAB = "/dev/drbd0 /home ext3 noauto,acl 0 0\n"
HOME = "/home"
#: A discard of everything, or inode tables everywhere, would make the whole activity log hot.
MKFS = ("mkfs.ext3", "-q", "-F", "-b", "4096", "-E", "nodiscard")

pytestmark = [pytest.mark.root, pytest.mark.netns]


class Shop(Pair):
    """dados is `a`, backup is `b`."""

    spaces: tuple[Space, Space]
    scripts: dict[str, Path]

    def script(self, node: Node, word: str) -> str:
        done = node.run("bash", str(self.scripts[node.name]), word)
        assert done.code == 0, f"{node.name}: drbd {word}: {done}"
        return done.out + done.err


def adapted_script(node: Node) -> Path:
    """The case's script; only the paths of its tools are this machine's."""
    tool = node.directory / "drbdadm"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m replblock.cli.main "$@"\n')
    tool.chmod(0o755)
    text = CASE_SCRIPT.read_text()
    for name, path in (("DRBDADM", str(tool)), ("MODPROBE", "/bin/true"), ("MOUNT", "/bin/mount"),
                       ("UMOUNT", "/bin/umount")):  # fmt: skip
        before = f'{name}="/sbin/{"drbdadm" if name == "DRBDADM" else name.lower()}"'
        assert before in text
        text = text.replace(before, f'{name}="{path}"', 1)
    script = node.directory / "drbd"
    script.write_text(text)
    return script


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    """Both machines with disks and metadata, nothing up."""
    with ExitStack() as stack:
        pair = stack.enter_context(make_pair())
        nodes = []
        more = []
        for node, name in zip(pair.nodes, ("dados", "backup")):
            node.name = name
            node.config.write_bytes(CASE_CONF.read_bytes())
            (node.directory / "fstab").write_text(FSTAB)
            with node.disk.open("wb") as file:
                file.truncate(DISK_BYTES)
            loop = stack.enter_context(loop_device(node.disk))
            major, minor = device_number(loop)
            node.env["BACKING"] = loop
            more.append(f"mknod /dev/sda1 b {major} {minor}\nmount --bind {node.config} /etc/drbd.conf\n"
                        f"mount --bind {node.directory}/fstab /etc/fstab")
            nodes.append(node)
        spaces = stack.enter_context(two_spaces(pair.directory, more=(more[0], more[1])))
        stack.callback(pair.clean_up)           # before the machines go
        for node, space in zip(nodes, spaces):
            node.enter = space.enter
        made = Shop(nodes[0], nodes[1], pair.directory)
        made.spaces = spaces
        made.scripts = {node.name: adapted_script(node) for node in nodes}
        request.node.stash.setdefault(PAIRS, []).append(made)
        for node in nodes:
            node.do("create-md", "r0")
        yield made


def write_file(node: Node, name: str, size_bytes: int) -> str:
    """A file in /home, fsynced, its directory too; its checksum."""
    content = os.urandom(size_bytes)
    script = "import os,sys\nname = sys.argv[1]\nos.makedirs(os.path.dirname(name), exist_ok=True)\n" \
             "fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)\ndata = sys.stdin.buffer.read()\n" \
             "assert os.write(fd, data) == len(data)\nos.fsync(fd)\n" \
             "os.fsync(os.open(os.path.dirname(name), os.O_RDONLY))"
    done = subprocess.run([*node.enter, "/usr/bin/python3", "-c", script, f"{HOME}/{name}"], input=content,
                          capture_output=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return hashlib.sha256(content).hexdigest()


def checksums(node: Node, names: list[str]) -> dict[str, str]:
    done = node.run("sh", "-c", f"cd {HOME} && sha256sum {' '.join(names)}")
    assert done.code == 0, done
    return {line.split()[1]: line.split()[0] for line in done.out.splitlines()}


def crash(node: Node) -> None:
    """The machine dies: engine first (so that nothing leaves in good order), then what hung on it."""
    node.kill()
    node.clean_up()
    left = node.run("umount", "-l", HOME)
    assert left.code == 0, left


@pytest.mark.slow
def test_the_whole_story(shop: Shop) -> None:
    dados, backup = shop.a, shop.b
    threads = [threading.Thread(target=node.do, args=("up", "all")) for node in shop.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for node in shop.nodes:
        node.wait_state("Established Inconsistent/Inconsistent")
    assert dados.device["replblock-disk"] == "/dev/sda1"

    # first sync and file system; 8.3's own words for the forced promotion
    dados.do("--", "--overwrite-data-of-peer", "primary", "all")
    made = dados.run(*MKFS, "/dev/drbd0")
    assert made.code == 0, made
    dados.do("wait-sync", "--wfc-timeout=60", "r0")
    assert dados.do("role", "r0") == "Primary/Secondary\n"
    dados.do("secondary", "all")

    # Heartbeat starts the service on dados, uses it, moves it to backup and back
    assert "Starting all DRBD devices: Done." in shop.script(dados, "start")
    assert "/dev/drbd0 /home ext3" in dados.run("cat", "/proc/mounts").out
    wanted = {f"tills/{number}": write_file(dados, f"tills/{number}", 20_000 + 977 * number) for number in range(20)}
    held = dados.refused("secondary", "all", code=11)
    assert "Device is held open by someone" in held
    shop.script(dados, "stop")
    assert dados.do("role", "r0") == "Secondary/Secondary\n"
    shop.script(backup, "start")
    assert checksums(backup, list(wanted)) == wanted
    wanted["office/a"] = write_file(backup, "office/a", 300_000)
    shop.script(backup, "stop")
    shop.script(dados, "start")

    # dados dies in mid-write
    noise = subprocess.Popen(
        [*dados.enter, "sh", "-c", f"while :; do for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of={HOME}/noise$i"
         " bs=64k count=4 conv=notrunc,fsync; done; done"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        before = dados.device["replblock-counters"]["ns"]
        wait_until(lambda: dados.device["replblock-counters"]["ns"] > before + 3000, "writing on dados")
        wanted["last"] = write_file(dados, "last", 123_456)
        crash(dados)
    finally:
        noise.kill()
        noise.wait()
    backup.wait_state("Connecting")

    # backup takes over
    backup.do("primary", "all")
    checked = backup.run("e2fsck", "-p", "/dev/drbd0")
    assert checked.code in (0, 1), checked
    checked = backup.run("e2fsck", "-f", "-n", "/dev/drbd0")
    assert checked.code == 0, checked
    shop.script(backup, "start")
    assert checksums(backup, list(wanted)) == wanted
    wanted["after"] = write_file(backup, "after", 54_321)

    # dados comes back as it is: up, resync of what differs, nothing else
    dados.do("up", "all")
    dados.do("wait-connect", "--wfc-timeout=30", "r0")
    dados.do("wait-sync", "--wfc-timeout=60", "r0")
    for node in shop.nodes:
        node.wait_state("Established UpToDate/UpToDate")
    log = dados.log()
    assert "activity-log-replayed" in log
    received = dados.device["replblock-counters"]["nr"]
    size = dados.device["size"]
    assert 0 < received < size * 2 // 3, f"{received} KiB received of a device of {size} KiB"
    assert backup.do("role", "r0") == "Primary/Secondary\n"
    assert checksums(backup, list(wanted)) == wanted
    shop.script(backup, "stop")
    same_data(shop)
    shop.script(dados, "start")
    assert checksums(dados, list(wanted)) == wanted
    shop.script(dados, "stop")
    for node in shop.nodes:
        node.do("down", "all")
        assert node.run("test", "-e", "/dev/drbd0").code == 1, "the device's name outlived down"


def same_data(shop: Shop) -> None:
    """Read through the loop devices: a block device's cache is not the file's."""
    shop.settle()
    pieces = zip(*(node.data(Path(node.env["BACKING"])) for node in shop.nodes))
    for number, (mine, theirs) in enumerate(pieces):
        assert mine == theirs, f"the nodes differ in MiB {number}"


@pytest.mark.slow
def test_a_pulled_cable(shop: Shop) -> None:
    """The file system goes on alone, and only what was written meanwhile is sent when the cable is back."""
    dados, backup = shop.a, shop.b
    for node in shop.nodes:
        node.do("up", "all")
    for node in shop.nodes:
        node.do("wait-connect", "--wfc-timeout=30", "r0")
    dados.do("primary", "--force", "r0")
    dados.do("wait-sync", "--wfc-timeout=60", "r0")
    assert dados.run(*MKFS, "/dev/drbd0").code == 0
    assert dados.run("mount", HOME).code == 0
    first = write_file(dados, "before", 100_000)
    for space in shop.spaces[:1]:
        space.link(False)
    dados.wait_state("Primary Connecting")
    backup.wait_state("Secondary Connecting")
    alone = write_file(dados, "alone", 200_000)
    before = backup.device["replblock-counters"]["nr"]
    shop.spaces[0].link(True)
    dados.wait_state("Established UpToDate/UpToDate")
    backup.wait_state("Established UpToDate/UpToDate")
    received = backup.device["replblock-counters"]["nr"] - before
    assert 200 <= received < 8 * 1024
    assert dados.run("umount", HOME).code == 0
    same_data(shop)
    shop.swap(dados)
    assert backup.run("mount", HOME).code == 0
    assert checksums(backup, ["before", "alone"]) == {"before": first, "alone": alone}
    assert backup.run("umount", HOME).code == 0
