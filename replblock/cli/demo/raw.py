# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's data without root: the same over NBD; the file system is made in a file and copied onto the device."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sysconfig
from pathlib import Path

from replblock.cli.demo.mounted import command, tree_files
from replblock.cli.demo.nodes import DemoError, Node

RECORD_BYTES = 65536
WRITER = """
import hashlib, os
offset, log = {offset}, {log!r}
size = h.get_size()
with open(log, "a") as acknowledged:
    for number in range((size - offset) // {record}):
        data = os.urandom({record})
        h.pwrite(data, offset + number * {record})
        h.flush()
        acknowledged.write("%06d %s\\n" % (number, hashlib.sha256(data).hexdigest()))
        acknowledged.flush()
"""


class RawImage:
    """An ext3 image on the first part of the device, records of a writer behind it."""

    what = "over NBD, without mounting"

    def __init__(self, directory: Path, image_bytes: int) -> None:
        for program in ("nbdcopy", "nbdsh", "mke2fs", "e2fsck"):
            if shutil.which(program) is None and not Path("/sbin", program).exists():
                raise DemoError(f"{program} is missing; run: make setup")
        self.directory = directory
        self.log = directory / "acknowledged"
        self.image = directory / "image"
        self.image_bytes = image_bytes
        self._writer: subprocess.Popen[bytes] | None = None

    def prepare(self, node: Node) -> str:
        """Nothing to do yet: the file system comes with the tree."""
        return "no file system is mounted without root; data goes over NBD"

    def enter(self, node: Node) -> None:
        """NBD clients connect when they need to."""

    def leave(self, node: Node) -> None:
        """And leave by themselves."""

    def write_tree(self, node: Node, name: str) -> tuple[int, int]:
        """An ext3 image with the tree in it, copied onto the device with a flush; (files, bytes)."""
        root = Path(sysconfig.get_path("stdlib"))
        tree = self.directory / "tree" / name
        count = total = 0
        for path in tree_files():
            copy = tree / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            count += 1
            total += copy.stat().st_size
        self.image.unlink(missing_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(self.image_bytes)
        mke2fs = shutil.which("mke2fs") or "/sbin/mke2fs"
        command(mke2fs, "-q", "-t", "ext3", "-b", "4096", "-d", str(self.directory / "tree"), str(self.image))
        command("nbdcopy", "--flush", str(self.image), node.uri())
        return count, total

    def _read_back(self, node: Node) -> Path:
        copy = self.directory / "read-back"
        copy.unlink(missing_ok=True)
        command("nbdcopy", node.uri(), str(copy))
        return copy

    def check_tree(self, node: Node) -> int:
        """The image is on the device, byte for byte."""
        with open(self.image, "rb") as image, open(self._read_back(node), "rb") as copy:
            while block := image.read(1 << 20):
                if copy.read(len(block)) != block:
                    raise DemoError("the device does not hold what was written")
        return sum(1 for path in (self.directory / "tree").rglob("*") if path.is_file())

    def start_writer(self, node: Node) -> None:
        """Records behind the image, each flushed, noted outside when the flush was acknowledged."""
        script = WRITER.format(offset=self.image_bytes, log=str(self.log), record=RECORD_BYTES)
        self._writer = subprocess.Popen(
            ["nbdsh", "-u", node.uri(), "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def acknowledged(self) -> int:
        """How many records the writer has flushed."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def stop_writer(self) -> None:
        """End the writer, if it has not failed by itself."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(10)

    def abandon(self, node: Node) -> None:
        """Nothing is mounted."""

    def repair(self, node: Node) -> str:
        """Check the file system on the device."""
        copy = self._read_back(node)
        with open(copy, "r+b") as file:
            file.truncate(self.image_bytes)
        command(shutil.which("e2fsck") or "/sbin/e2fsck", "-fn", str(copy))
        return "file system clean"

    def check_acknowledged(self, node: Node) -> int:
        """Every record whose flush had returned is there."""
        lines = self.log.read_text().splitlines()
        with open(self._read_back(node), "rb") as copy:
            for line in lines:
                number, checksum = line.split()
                copy.seek(self.image_bytes + int(number) * RECORD_BYTES)
                if hashlib.sha256(copy.read(RECORD_BYTES)).hexdigest() != checksum:
                    raise DemoError(f"record {number}: its flush had returned, but the data is not there")
        return len(lines)

    def clean(self) -> None:
        """The writer ends."""
        self.stop_writer()
