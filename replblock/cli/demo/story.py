# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's plot, step by step, and its cleaning up."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from replblock.cli.demo.mounted import MountedFiles
from replblock.cli.demo.nodes import RESOURCE, DemoError, Node, make_nodes
from replblock.cli.demo.raw import RawImage
from replblock.cli.demo.timeline import Timeline, rate, size

DISK_BYTES = 512 << 20
IMAGE_BYTES = 256 << 20
WRITTEN_BEFORE_THE_CRASH = 120
PATIENCE_S = 60.0


def can_mount() -> bool:
    """Root, and a kernel that gives us a block device: nbd, or FUSE and loop."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext3") is None:
        return False
    fuse = shutil.which("nbdfuse") is not None and os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control")
    return fuse or os.path.exists("/sys/module/nbd")


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def tell() -> int:
    """Run the demo. Exit code 0, 1 when something went wrong, 130 when interrupted."""
    timeline = Timeline()
    directory = Path(tempfile.mkdtemp(prefix="replblock-demo-"))
    nodes: tuple[Node, ...] = ()
    data: MountedFiles | RawImage | None = None
    keep = False
    before = {number: signal.signal(number, _interrupted) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        mounted = can_mount()
        nodes = make_nodes(directory, "auto" if mounted else "none", DISK_BYTES)
        data = MountedFiles(directory) if mounted else RawImage(directory, IMAGE_BYTES)
        _play(timeline, nodes[0], nodes[1], data)
        return 0
    except DemoError as error:
        keep = True
        timeline.say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        timeline.say("interrupted: cleaning up")
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if data is not None:
            data.clean()
        for node in nodes:
            node.stop()
        if keep:
            print(f"the nodes' logs are kept: {directory}/dados/r0.log {directory}/backup/r0.log", file=sys.stderr)
            for name in ("dados.disk", "backup.disk", "image", "read-back"):
                (directory / name).unlink(missing_ok=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(timeline: Timeline, dados: Node, backup: Node, data: MountedFiles | RawImage) -> None:
    _first_sync(timeline, dados, backup, data)
    _use_and_swap(timeline, dados, backup, data)
    _crash_and_take_over(timeline, dados, backup, data)
    _return(timeline, dados, backup, data)
    _end(timeline, dados, backup, data)


def _first_sync(timeline: Timeline, dados: Node, backup: Node, data: MountedFiles | RawImage) -> None:
    timeline.say(f"two nodes on this machine, dados and backup, {size(DISK_BYTES)} each, protocol B; {data.what}")
    for node in (dados, backup):
        node.replctl("create-md", "--force", RESOURCE)
        node.replctl("up", RESOURCE)
    dados.replctl("wait-connect", RESOURCE, "--wfc-timeout", "30")
    timeline.say(f"create-md and up on both; connected: {dados.replctl('cstate', RESOURCE).strip()}, "
                 f"{dados.replctl('dstate', RESOURCE).strip()}")
    began = time.monotonic()
    dados.replctl("primary", "--force", RESOURCE)
    timeline.say(f"primary --force on dados after {time.monotonic() - began:.2f} s; the initial sync runs")
    kib = dados.follow_sync(timeline)
    took = time.monotonic() - began
    timeline.say(f"initial sync done: {size(kib * 1024)} in {took:.1f} s ({rate(kib * 1024, took)}); "
                 f"{dados.replctl('dstate', RESOURCE).strip()}")


def _use_and_swap(timeline: Timeline, dados: Node, backup: Node, data: MountedFiles | RawImage) -> None:
    timeline.head("use: " + data.prepare(dados))
    began = time.monotonic()
    files, count_bytes = data.write_tree(dados, "first")
    took = time.monotonic() - began
    timeline.say(f"{files} files, {size(count_bytes)} written and flushed in {took:.1f} s ({rate(count_bytes, took)}), "
                 "on both disks")
    timeline.head("planned swap of roles")
    began = time.monotonic()
    data.leave(dados)
    dados.replctl("secondary", RESOURCE)
    backup.replctl("primary", RESOURCE)
    data.enter(backup)
    timeline.say(f"dados let go, backup took over: {backup.replctl('role', RESOURCE).strip()} "
                 f"after {time.monotonic() - began:.2f} s")
    timeline.say(f"{data.check_tree(backup)} files compared by checksum on backup: identical")
    files, count_bytes = data.write_tree(backup, "second")
    timeline.say(f"{files} more files, {size(count_bytes)}, written on backup")


def _crash_and_take_over(timeline: Timeline, dados: Node, backup: Node, data: MountedFiles | RawImage) -> None:
    timeline.head("crash: a writer on backup fsyncs file after file ...")
    data.start_writer(backup)
    end = time.monotonic() + PATIENCE_S
    while data.acknowledged() < WRITTEN_BEFORE_THE_CRASH:
        if time.monotonic() > end:
            raise DemoError(f"the writer got no further than {data.acknowledged()} files in {PATIENCE_S:g} s")
        time.sleep(0.01)
    pid = backup.pid
    began = time.monotonic()
    backup.kill()
    timeline.say(f"kill -9 of backup's process {pid} in mid-write")
    dados.replctl("primary", RESOURCE)
    timeline.say(f"dados is Primary {time.monotonic() - began:.2f} s after the crash: "
                 f"{dados.replctl('dstate', RESOURCE).strip()}")
    timeline.say(f"fsck: {data.repair(dados)}")
    data.enter(dados)
    timeline.say(f"in use again {time.monotonic() - began:.2f} s after the crash")
    data.stop_writer()
    timeline.say(f"{data.check_acknowledged(dados)} writes had been acknowledged before the crash: all there, "
                 "byte for byte")
    timeline.say(f"{data.check_tree(dados)} older files compared by checksum: identical")


def _return(timeline: Timeline, dados: Node, backup: Node, data: MountedFiles | RawImage) -> None:
    timeline.head("the crashed node comes back")
    began = time.monotonic()
    data.abandon(backup)
    backup.replctl("up", RESOURCE)
    kib = backup.follow_sync(timeline)
    timeline.say(f"backup is UpToDate again after {time.monotonic() - began:.2f} s: {size(kib * 1024)} of "
                 f"{size(DISK_BYTES)} were copied, what the activity log and the bitmap had marked")


def _end(timeline: Timeline, dados: Node, backup: Node, data: MountedFiles | RawImage) -> None:
    timeline.head("the end")
    usable = int(dados.status()["devices"][0]["size"]) * 1024
    data.leave(dados)
    dados.replctl("secondary", RESOURCE)
    for node in (dados, backup):
        node.replctl("down", RESOURCE)
    with open(dados.disk, "rb") as here, open(backup.disk, "rb") as there:
        left = usable
        while left:
            block = here.read(min(1 << 20, left))
            if block != there.read(len(block)):
                raise DemoError("the two disks differ")
            left -= len(block)
    timeline.say(f"both nodes down in good order; {size(usable)} compared: the two disks are identical")
    print(
        "\nNext: two real machines. Copy drbd.conf.example to /etc/drbd.conf on both, set disk and address; on both"
        "\n  replctl create-md r0 && replctl up r0"
        "\nand on one of them"
        "\n  replctl primary --force r0 && mkfs.ext3 /dev/drbd0 && mount /dev/drbd0 /mnt"
        "\nSee what goes on with: replctl status --verbose --statistics; and README.md"
    )
