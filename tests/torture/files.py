# SPDX-License-Identifier: GPL-2.0-or-later
"""The application as a file system: ext3 on the replicated device, files written, fsynced, renamed into place.

Files are numbered; the number of each one whose fsync and rename came back stands in a log outside of both nodes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.waiting import wait_until
from tests.torture.faults import AWAY
from tests.torture.life import Life, own_disk
from tests.torture.nodes import Node
from tests.torture.oracle import Violation

MOUNT_POINT = "/mnt"
SLOTS = 200
ENOUGH_S = 5        # beyond it one file will do: each of the hundred writes behind one may wait for a slow disk
MKFS = ("mkfs.ext3", "-q", "-F", "-b", "4096", "-E", "nodiscard", "/dev/drbd0")
NOT_HERE = ("narrow",)

CONTENT = """
import random
def content(number):
    return b"file %d\\n" % number + random.Random(number).randbytes(number * 7919 % 30000)
"""
_WORDS: dict[str, object] = {}
exec(CONTENT, _WORDS)

WRITER = CONTENT + f"""
import os, sys, time
directory, log, number, pace = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
os.makedirs(directory, exist_ok=True)
where = os.open(directory, os.O_RDONLY)
with open(log, "a") as acknowledged:
    while True:
        name = os.path.join(directory, str(number % {SLOTS}))
        with open(name + ".new", "wb") as out:
            out.write(content(number))
            out.flush()
            os.fsync(out.fileno())
        os.rename(name + ".new", name)
        os.fsync(where)
        with open(os.path.join(directory, "..", "noise" + str(number % 8)), "wb") as out:      # promised to nobody
            out.write(os.urandom(200000))
        acknowledged.write(f"{{number}}\\n")
        acknowledged.flush()
        number += 1
        time.sleep(pace)
"""

READER = CONTENT + """
import json, os, sys
directory, found = sys.argv[1], {}
for name in os.listdir(directory) if os.path.isdir(directory) else []:
    if not name.endswith(".new"):
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        number = int(data.split(b"\\n")[0][5:] or 0) if data.startswith(b"file ") else -1
        found[name] = number if data == content(number) else -1
print(json.dumps(found))
"""


class FileLife(Life):
    """One life with ext3 on the device. Needs root, namespaces, and FUSE or kernel nbd."""

    what = "ext3"
    attach_kind = "auto"
    written: subprocess.Popen[bytes] | None = None
    mounted: Node | None = None

    # ---- the application

    @property
    def log(self) -> Path:
        return self.pair.directory / "files"

    def acknowledged(self) -> int:
        """Files up to this number were acknowledged."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def start(self) -> None:
        made = self.primary.run(*MKFS)
        assert made.code == 0, made
        self.mount()
        self.begin()

    def mount(self) -> None:
        done = self.primary.run("mount", "-t", "ext3", "/dev/drbd0", MOUNT_POINT)
        if done.code:
            raise Violation(f"{self.primary.name}: the file system cannot be mounted: {done.err}")
        self.mounted = self.primary

    def begin(self) -> None:
        command = [sys.executable, "-c", WRITER, f"{MOUNT_POINT}/written", str(self.log), str(self.acknowledged()),
                   "0.005"]  # fmt: skip
        self.written = subprocess.Popen([*self.primary.enter, *command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip

    def end(self) -> None:
        written, self.written = self.written, None
        if written is not None:
            written.kill()
            _, said = written.communicate(timeout=60)
            if b"Error" in said and self.primary.running():
                raise Violation(f"{self.primary.name}: the file system failed its writer: {said.decode()}")

    def some(self) -> None:
        if self.written is None:
            return
        before = self.acknowledged()
        goal, enough = before + self.rng.randrange(3, 60), time.monotonic() + ENOUGH_S

        def look() -> bool:
            assert self.written is not None
            if self.written.poll() is not None:
                self.end()
                raise Violation("the writer ended")
            return self.acknowledged() >= (goal if time.monotonic() < enough else before + 1)

        wait_until(look, lambda: f"files are written on {self.primary.name} in {self.primary.state()}", 60)
        self.pair.follow()

    def leave(self) -> None:
        """Unmount, in good order or from a device that is dead."""
        self.end()
        node, self.mounted = self.mounted, None
        if node is not None:
            done = node.run("umount", MOUNT_POINT)
            if done.code:
                node.run("umount", "-l", MOUNT_POINT)

    # ---- judging

    def resume(self, node: Node, promise: str) -> None:
        """Be primary there; the file system is whole, and the files are there: all, or (A) all but the last ones."""
        self.promote(node)
        checked = node.run("e2fsck", "-fp", "/dev/drbd0")
        if checked.code not in (0, 1):
            raise Violation(f"{node.name}: e2fsck -fp: {checked}")
        checked = node.run("e2fsck", "-fn", "/dev/drbd0")
        if checked.code:
            raise Violation(f"{node.name}: e2fsck -fn after a repair: {checked}")
        self.mount()
        self.check_files(promise)
        self.begin()

    def check_files(self, promise: str) -> None:
        read = self.primary.run(sys.executable, "-c", READER, f"{MOUNT_POINT}/written")
        assert read.code == 0, read
        found = {int(name): number for name, number in json.loads(read.out).items()}
        last = self.acknowledged() - 1
        newest = max(found.values(), default=-1)
        if promise == "prefix" and newest < last:
            self.note(f"the last {last - newest} files are lost, as protocol {self.pair.protocol} allows")
            last = newest
        for slot, number in found.items():
            if number < 0 or number % SLOTS != slot:
                raise Violation(f"file {slot} holds what nobody wrote there ({number})")
        for number in range(max(0, last - SLOTS + 1), last + 1):
            if found.get(number % SLOTS, -1) < number:
                raise Violation(f"file {number} was fsynced and renamed, now there is {found.get(number % SLOTS)}; "
                                f"newest {newest}, acknowledged up to {self.acknowledged() - 1}")  # fmt: skip
        lines = "".join(f"{number}\n" for number in range(max(newest, last) + 1))
        self.log.write_text(lines)      # what is there now is what counts from here on

    # ---- what happens

    def lose_primary(self, how: str) -> None:
        node = self.primary
        if how == "power":
            self.power(node)
        else:
            node.kill_9()
        node.clean_up()
        self.leave()

    def primary_returns(self, how: str) -> None:
        node = self.primary
        if own_disk(node) != "UpToDate":
            self.note("not now: its own disk is not good")
            return
        self.lose_primary("power" if how == "power" else "kill")
        self.up(node)
        self.resume(node, "all")

    def take_over(self) -> None:
        old, new = self.primary, self.secondary
        how = self.rng.choice(("kill", "power"))
        self.note(f"primary {old.name} is lost: {how}")
        self.lose_primary(how)
        self.pair.wait_gone(new)
        if old.generation() != int(new.device["replblock-uuids"][0], 16) & ~1:
            self.note(f"{old.name} had moved on alone: it returns instead")
            self.up(old)
            self.resume(old, "all")
            return
        self.resume(new, "prefix" if self.pair.protocol == "A" else "all")
        self.some()
        self.up(old)

    def both(self) -> None:
        how = self.rng.choice(("kill", "power"))
        self.note(f"both are lost: {how}")
        old, other = self.primary, self.secondary
        self.lose_primary(how)
        if how == "power":
            self.power(other)
        else:
            other.kill_9()
        new = old
        if self.pair.protocol == "C" and old.generation() == other.generation() and self.rng.random() < 0.5:
            self.note(f"{other.name} takes over")
            new = other
        self.up(new)
        self.resume(new, "all")
        self.some()
        self.up(self.secondary)

    def swap(self) -> None:
        self.note("swap of roles")
        self.leave()
        self.pair.settle()
        self.insist(self.primary, "secondary", "r0")
        self.resume(self.secondary, "all")

    def away(self) -> None:
        fault = self.rng.choice([one for one in AWAY if one.name not in NOT_HERE])
        self.note(f"secondary {self.secondary.name}: {fault.name}")
        undo = fault.begin(self)
        self.some()
        if self.rng.random() < 0.3:
            self.note("meanwhile the primary dies and returns")
            self.primary_returns(self.rng.choice(("kill", "power")))
            self.some()
        self.note(f"undo {fault.name}")
        undo()

    def step(self) -> None:
        what = self.rng.choice((self.away, self.away, self.away, self.take_over, self.take_over, self.both, self.swap))
        self.note(f"== {what.__name__} (primary {self.primary.name})")
        what()
        for node in self.pair.nodes:
            node.fault()
        self.heal(*self.pair.nodes)
        for node in self.pair.nodes:
            node.wait_state("Established UpToDate/UpToDate", 120)
        self.some()
        self.reckon()

    def reckon(self) -> None:
        """At rest: the file system is unmounted, so nothing moves, and both disks are the same."""
        self.leave()
        self.pair.assert_same_data()
        self.resume(self.primary, "all")

    def goes_on(self) -> bool:
        return self.written is not None and self.written.poll() is None

    def finish(self) -> None:
        self.leave()
        for node in (self.primary, self.secondary):
            node.do("down", "r0")
        for node in self.pair.nodes:
            node.medium.follow()
            node.medium.check()

    def summary(self) -> str:
        return f"{self.acknowledged()} files fsynced"

    def abandon(self) -> None:
        try:
            for node in self.pair.nodes:
                node.clean_up()
            self.leave()
        except (Violation, subprocess.TimeoutExpired):
            pass

