# SPDX-License-Identifier: GPL-2.0-or-later
"""Two small machines on this one: network namespaces joined by a cable, each with a /dev and a /run of its own.

A namespace lives as long as its holder, a `cat` on a pipe of ours: it ends when we do, however we end. Loop devices
are one for the whole kernel: so that both machines can have the same device name, each has one set aside beforehand.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81
FIRST_LOOP = 200            # away from those that a node on the machine itself takes
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "loop-control")

_SETUP = """set -e
mount --make-rprivate /
mkdir -p {directory}/dev
mount -t tmpfs -o mode=755 tmpfs {directory}/dev
for name in {devices}; do
    cp -a /dev/$name {directory}/dev/$name
done
mkdir {directory}/dev/pts {directory}/dev/shm
ln -s /proc/self/fd {directory}/dev/fd
mount --rbind {directory}/dev /dev
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/replblock-devices
mknod /dev/loop{loop} b 7 {loop}
echo -n {name} > /run/replblock-devices/loop{loop}
ip link set lo up
{more}
echo ready
exec cat
"""


def call(*command: str) -> str:
    """A command that must succeed; its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


class Space:
    """One machine. `enter` goes before commands that are to run in it."""

    def __init__(self, directory: Path, more: str = "", name: str = "/dev/drbd0") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.loop = new_loop()
        script = _SETUP.format(directory=directory, devices=" ".join(DEVICES), loop=self.loop, name=name, more=more)
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,      # ^C is for us: we take it down in order
        )  # fmt: skip
        assert self.holder.stdout is not None and self.holder.stderr is not None
        if self.holder.stdout.readline() != "ready\n":
            raise AssertionError(f"no namespace: {self.holder.stderr.read()}")
        self.enter = ["nsenter", "--net", "--mount", "--root", "--wd", "--target", str(self.holder.pid)]

    def run(self, *command: str) -> str:
        return call(*self.enter, *command)

    def link(self, up: bool) -> None:
        """Plug the cable in, or pull it."""
        self.run("ip", "link", "set", "eth0", "up" if up else "down")

    def close(self) -> None:
        """What is mounted goes, lazily, then the loop device, then the holder."""
        for line in Path(f"/proc/{self.holder.pid}/mounts").read_text().splitlines():
            if line.startswith("/dev/drbd"):
                subprocess.run([*self.enter, "umount", "-l", line.split()[1]], timeout=20, check=False)
        if Path(f"/sys/block/loop{self.loop}/loop/backing_file").exists():
            subprocess.run(["losetup", "-d", f"/dev/loop{self.loop}"], timeout=20, check=False)
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait(timeout=20)
        for pipe in (self.holder.stdout, self.holder.stderr):
            assert pipe is not None
            pipe.close()
        with contextlib.suppress(OSError):      # the product has removed it already at a clean end
            _loop_control(LOOP_CTL_REMOVE, self.loop)


def _loop_control(request: int, index: int) -> None:
    with open("/dev/loop-control", "rb") as control:
        fcntl.ioctl(control, request, index)


def new_loop() -> int:
    """A loop device that nobody had."""
    for index in range(FIRST_LOOP, FIRST_LOOP + 500):
        with contextlib.suppress(FileExistsError):
            _loop_control(LOOP_CTL_ADD, index)
            return index
    raise AssertionError("no free loop device")


def plug(one: Space, two: Space, addresses: tuple[str, str]) -> None:
    """A cable between two machines; eth0 on both."""
    call("ip", "link", "add", f"rb{one.holder.pid}", "type", "veth", "peer", "name", f"rb{two.holder.pid}")
    for space, address in zip((one, two), addresses):
        call("ip", "link", "set", f"rb{space.holder.pid}", "netns", str(space.holder.pid))
        space.run("ip", "link", "set", f"rb{space.holder.pid}", "name", "eth0")
        space.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    for space in (one, two):
        space.link(True)


@contextlib.contextmanager
def two_spaces(
    directory: Path, addresses: tuple[str, str] = ("10.0.0.1", "10.0.0.2"), more: tuple[str, str] = ("", "")
) -> Iterator[tuple[Space, Space]]:
    """Two machines with these addresses, gone afterwards. `more`: shell commands for the making of each."""
    spaces: list[Space] = []
    try:
        for index in (0, 1):
            spaces.append(Space(directory / f"space{index}", more[index]))
        plug(spaces[0], spaces[1], addresses)
        yield spaces[0], spaces[1]
    finally:
        for space in spaces:
            space.close()


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """A loop device over a file."""
    device = call("losetup", "--find", "--show", str(file)).strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=False, timeout=20, capture_output=True)


def device_number(device: str) -> tuple[int, int]:
    number = os.stat(device).st_rdev
    return os.major(number), os.minor(number)
