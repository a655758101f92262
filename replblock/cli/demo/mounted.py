# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's data as root: ext3 on the device, a real tree of files, a writer that fsyncs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from replblock.cli.demo.nodes import DemoError, Node

MAX_FILES = 4000
MAX_TREE_BYTES = 100 << 20

WRITER = """
import hashlib, os, sys
directory, log = sys.argv[1:]
os.makedirs(directory, exist_ok=True)
with open(log, "a") as acknowledged:
    for number in range(100000):
        data = os.urandom(4096 + number % 7 * 9000)
        path = os.path.join(directory, f"file{number:06}")
        with open(path, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        acknowledged.write(f"{number:06} {hashlib.sha256(data).hexdigest()}\\n")
        acknowledged.flush()
"""


def command(*words: str, fine: tuple[int, ...] = (0,)) -> str:
    """Run a program; its output. Raises DemoError with what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        raise DemoError(f"{' '.join(words)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout + done.stderr


def tree_files() -> Iterator[Path]:
    """A real tree: Python's own library, as far as it goes."""
    root = Path(sysconfig.get_path("stdlib"))
    total = count = 0
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and "site-packages" not in path.parts:
            total += path.stat().st_size
            count += 1
            if total > MAX_TREE_BYTES or count > MAX_FILES:
                return
            yield path


class MountedFiles:
    """ext3 on the replicated device."""

    what = "ext3, mounted"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "acknowledged"
        self._mounts: dict[str, Path] = {}
        self._checksums: dict[str, str] = {}
        self._writer: subprocess.Popen[bytes] | None = None

    def _point(self, node: Node) -> Path:
        return self.directory / f"mnt-{node.name}"

    def prepare(self, node: Node) -> str:
        """A file system on the device."""
        command("mkfs.ext3", "-q", "-b", "4096", node.device)
        self.enter(node)
        return f"mkfs.ext3 {node.device} and mount"

    def enter(self, node: Node) -> None:
        """Mount on this node."""
        point = self._point(node)
        point.mkdir(exist_ok=True)
        command("mount", "-t", "ext3", node.device, str(point))
        self._mounts[node.name] = point

    def leave(self, node: Node) -> None:
        """Unmount on this node."""
        point = self._mounts.pop(node.name, None)
        if point is not None:
            command("umount", str(point))

    def write_tree(self, node: Node, name: str) -> tuple[int, int]:
        """Copy the tree onto the device and sync; (files, bytes)."""
        target = self._point(node) / name
        root = Path(sysconfig.get_path("stdlib"))
        count = total = 0
        for path in tree_files():
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            count += 1
            total += copy.stat().st_size
            self._checksums[str(copy.relative_to(self._point(node)))] = hashlib.sha256(copy.read_bytes()).hexdigest()
        fd = os.open(target, os.O_RDONLY)
        command("sync", "-f", str(target))
        os.close(fd)
        return count, total

    def check_tree(self, node: Node) -> int:
        """Every file of every tree, by checksum; how many."""
        point = self._point(node)
        for name, checksum in self._checksums.items():
            path = point / name
            if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
                raise DemoError(f"{path}: not what was written")
        return len(self._checksums)

    def start_writer(self, node: Node) -> None:
        """A process that writes files, fsyncs each, and notes outside of the device what was acknowledged."""
        target = str(self._point(node) / "written")
        self._writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, target, str(self.log)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def acknowledged(self) -> int:
        """How many files the writer has fsynced."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def stop_writer(self) -> None:
        """End the writer, if it has not failed by itself."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(10)

    def abandon(self, node: Node) -> None:
        """The device under this mount is gone."""
        point = self._mounts.pop(node.name, None)
        if point is not None:
            command("umount", str(point), fine=(0, 1, 32))
            if os.path.ismount(point):
                command("umount", "-l", str(point), fine=(0, 1, 32))

    def repair(self, node: Node) -> str:
        """Replay the journal and check, as after any crash."""
        said = command("e2fsck", "-fp", node.device, fine=(0, 1))
        return "journal replayed, file system clean" if "journal" in said else "file system clean"

    def check_acknowledged(self, node: Node) -> int:
        """Every file whose fsync had returned is there, byte for byte."""
        lines = self.log.read_text().splitlines()
        for line in lines:
            number, checksum = line.split()
            path = self._point(node) / "written" / f"file{number}"
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
                raise DemoError(f"{path}: fsync had returned, but the data is not there")
        return len(lines)

    def clean(self) -> None:
        """Nothing stays mounted."""
        self.stop_writer()
        for point in list(self._mounts.values()):
            for patience_s in (0.2, 0.5, 1.0):
                if os.path.ismount(point) and subprocess.run(["umount", point], capture_output=True).returncode:
                    time.sleep(patience_s)  # an interrupted command may still be on its way out
            if os.path.ismount(point):
                subprocess.run(["umount", "-l", point], capture_output=True, check=False)
        self._mounts.clear()
