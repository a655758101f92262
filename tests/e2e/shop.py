# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment as a fixture: two machines dados and backup, with its drbd.conf as it stands.

/dev/sda1 is a loop device in each machine's /dev, so not even `disk` is changed; ext3 on /dev/drbd0, /home from fstab.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.namespaces import Space, device_number, loop_device, two_spaces
from tests.e2e.pair import MIB, ROOT, Node, Pair, make_pair

CASE_CONF = ROOT / "tests" / "conf" / "corpus" / "case-8.3.conf"
CASE_SCRIPT = Path(__file__).parent / "case" / "resource.d-drbd"
DISK_BYTES = 320 * MIB
FSTAB = "/dev/drbd0 /home ext3 noauto,acl 0 0\n"
HOME = "/home"
#: A discard of everything, or inode tables everywhere, would make the whole activity log hot.
MKFS = ("mkfs.ext3", "-q", "-F", "-b", "4096", "-E", "nodiscard")


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


@contextmanager
def make_shop(remember: Callable[[Pair], None] = lambda pair: None) -> Iterator[Shop]:
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
        remember(made)
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


def same_data(shop: Shop) -> None:
    """Read through the loop devices: a block device's cache is not the file's."""
    shop.settle()
    pieces = zip(*(node.data(Path(node.env["BACKING"])) for node in shop.nodes))
    for number, (mine, theirs) in enumerate(pieces):
        assert mine == theirs, f"the nodes differ in MiB {number}"
